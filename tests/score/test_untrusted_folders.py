"""What a folder or repository may not do: run code, choose a class or a path, or fill the memory."""

from __future__ import annotations

import inspect
import json

import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file

from diffaug_transforms import load_score_network
from diffaug_transforms.guidance import load_guidance_classifier
from diffaug_transforms.score.schedulers import SCHEDULERS
from tests.guidance.guidance_encoders import tiny_encoder
from tests.hub_server import run_python, serve_hub

SCHEDULER, UNET = "scheduler/scheduler_config.json", "unet/config.json"


def change(path, **entries):
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def evil_folder(network, folder):
    """A network whose files name a pipeline, and Python beside them that leaves a mark if it is run."""
    network.save_pretrained(folder)
    mark = folder / "it_ran"
    (folder / "evil.py").write_text(f"open({str(mark)!r}, 'w').close()\nclass Evil: pass\n")
    (folder / "model_index.json").write_text(json.dumps({"_class_name": ["evil", "Evil"], "unet": ["evil", "Evil"]}))
    return mark


#: Attributes of diffusers, of modules and of nothing.
CLASSES = ("DiffusionPipeline", "UNet2DModel", "AutoModel", "utils", "__loader__", ["evil", "Evil"], None, 7, "")


@pytest.mark.parametrize("name", CLASSES, ids=repr)
def test_a_file_chooses_no_class_but_a_scheduler(network, tmp_path, name):
    mark = evil_folder(network, tmp_path)
    for folder in (tmp_path, tmp_path / "scheduler"):
        for source in ("evil.py", "model_index.json"):
            (folder / source).write_bytes((tmp_path / source).read_bytes())
    change(tmp_path / SCHEDULER, _class_name=name)
    with pytest.raises(ValueError, match=r"scheduler_config\.json: _class_name must be a scheduler.*Got"):
        load_score_network(tmp_path)
    assert not mark.exists()


@pytest.mark.parametrize("name", CLASSES, ids=repr)
def test_a_file_chooses_no_network_but_a_unet(network, tmp_path, name):
    mark = evil_folder(network, tmp_path)
    if name != "UNet2DModel":
        change(tmp_path / UNET, _class_name=name, auto_map={"AutoModel": "evil.Evil"})
        with pytest.raises(ValueError, match=r"A pixel-space UNet2DModel"):
            load_score_network(tmp_path)
    assert not mark.exists()


def test_a_folders_python_is_not_run(network, tmp_path):
    mark = evil_folder(network, tmp_path)
    load_score_network(tmp_path)
    assert not mark.exists()


@pytest.mark.parametrize("name", ["DiffusionPipeline", "DDPMScheduler"])
def test_a_repositorys_python_is_not_run(network, tmp_path, name):
    mark = evil_folder(network, tmp_path / "repo")
    (tmp_path / "repo" / "scheduler" / "evil.py").write_bytes((tmp_path / "repo" / "evil.py").read_bytes())
    change(tmp_path / "repo" / SCHEDULER, _class_name=name)
    code = """
from diffaug_transforms import load_score_network
try:
    print(load_score_network("me/evil").image_size)
except Exception as error:
    print(type(error).__name__, " ".join(str(error).split()))
"""
    with serve_hub({"me/evil": tmp_path / "repo"}) as hub:
        line = run_python(code, hub.url, tmp_path / "home")
        assert not any(request.endswith(".py") for request in hub.requests)
    assert "must be a scheduler" in line if name == "DiffusionPipeline" else line == "16"
    assert not mark.exists()


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"layers_per_block": 1_000_000}, "layers_per_block must be an integer in 1...16. Got 1000000"),
        ({"block_out_channels": [10**9, 32]}, r"block_out_channels must be a list.*Got \[1000000000, 32\]"),
        ({"block_out_channels": [32] * 1000}, "block_out_channels must be a list of 1...12"),
        ({"block_out_channels": [32, 33]}, "describes no network that can be built"),
        ({"block_out_channels": [32]}, "down_block_types must be as many as block_out_channels, 1"),
        ({"block_out_channels": "3232"}, "block_out_channels must be a list"),
        ({"sample_size": 10**9}, "sample_size must be .* Got 1000000000"),
        ({"sample_size": "any"}, "sample_size must be the side of the training images in pixels.* Got 'any'"),
        ({"sample_size": [16]}, r"sample_size must be .* Got \[16\]"),
        ({"in_channels": 0}, "in_channels must be an integer in 1...64. Got 0"),
        ({"in_channels": True}, "in_channels must be .* Got True"),
        ({"out_channels": 1}, r"out_channels must be in_channels, 3, or twice that.*Got 1"),
        ({"act_fn": "evil.Evil"}, "act_fn must be one of 'silu'.*Got 'evil.Evil'"),
        ({"act_fn": ["silu"]}, "act_fn must be one of"),
        ({"down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"]}, "down_block_types must be"),
        ({"up_block_types": ["UpBlock2D", "__class__"]}, "up_block_types must be"),
        ({"mid_block_type": "UNetMidBlock2DCrossAttn"}, "mid_block_type must be"),
        ({"attention_head_dim": 0}, "attention_head_dim must be .* Got 0"),
        ({"norm_num_groups": 0}, "norm_num_groups must be .* Got 0"),
        ({"norm_eps": float("nan")}, "norm_eps must be .* Got nan"),
        ({"num_class_embeds": 10**12}, "num_class_embeds must be"),
        ({"class_embed_type": "timestep"}, "class_embed_type must be one of None. Got 'timestep'"),
        ({"class_embed_type": "identity"}, "class_embed_type must be one of None. Got 'identity'"),
        ({"time_embedding_type": "learned"}, "describes no network that can be built"),
        ({"num_heads": 0}, "num_heads must be .* Got 0"),
        ({"num_heads": 5}, "the number of heads must divide"),
    ],
    ids=str,
)
def test_a_configurations_values_are_checked_before_anything_is_built(network, tmp_path, entries, message):
    network.save_pretrained(tmp_path)
    change(tmp_path / UNET, **entries)
    with pytest.raises(ValueError, match=rf"unet/config\.json.*{message}"):
        load_score_network(tmp_path)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"num_train_timesteps": 10**9}, "num_train_timesteps must be an integer in 1...100000. Got 1000000000"),
        ({"num_train_timesteps": 0}, "num_train_timesteps must be .* Got 0"),
        ({"beta_start": None}, "beta_start must be a number"),
        ({"beta_end": 1.5}, "beta_end must be a number in .* Got 1.5"),
        ({"beta_schedule": "exp"}, "beta_schedule must be one of 'linear'.* Got 'exp'"),
        ({"trained_betas": [0.1, "b"]}, "trained_betas must be a list"),
        ({"trained_betas": []}, r"trained_betas must be a list.* Got \[\]"),
        ({"prediction_type": "flow_prediction"}, "prediction_type must be one of .* Got 'flow_prediction'"),
        ({"variance_type": "learned"}, "variance_type must be one of .* Got 'learned'"),
        ({"use_flow_sigmas": True}, "use_flow_sigmas must be one of False, or null. Got True"),
        ({"_class_name": "ScoreSdeVeScheduler", "sigma_max": 0.001}, "sigma_min must be below sigma_max"),
        ({"_class_name": "ScoreSdeVeScheduler", "sigma_max": float("inf")}, "sigma_max must be a number"),
        ({"_class_name": "VQDiffusionScheduler"}, "_class_name must be a scheduler with betas"),
    ],
    ids=str,
)
def test_a_schedulers_values_are_checked(network, tmp_path, entries, message):
    network.save_pretrained(tmp_path)
    change(tmp_path / SCHEDULER, **entries)
    with pytest.raises(ValueError, match=rf"scheduler_config\.json: {message}"):
        load_score_network(tmp_path)


def test_a_null_class_of_another_network(null_conditional, tmp_path):
    null_conditional.save_pretrained(tmp_path)
    change(tmp_path / "score_network.json", null_class=2)
    with pytest.raises(ValueError, match=f"{tmp_path}: null_class must be the last of the network's 6 labels. Got 2"):
        load_score_network(tmp_path)


def test_learned_variance_needs_its_channels(network, tmp_path):
    network.save_pretrained(tmp_path)
    change(tmp_path / SCHEDULER, variance_type="learned_range")
    with pytest.raises(ValueError, match="'learned_range' needs 6 out_channels. Got 3"):
        load_score_network(tmp_path)


@pytest.mark.parametrize("name", sorted(SCHEDULERS))
def test_the_table_of_schedulers_has_diffusers_defaults(name):
    parameters = inspect.signature(getattr(diffusers, name).__init__).parameters
    found = tuple(parameters[key].default for key in ("beta_start", "beta_end", "beta_schedule") if key in parameters)
    # DPMSolverSDEScheduler is a stub if its own dependency is missing.
    assert found in (SCHEDULERS[name], ())


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"null_class": "6"}, "null_class must be an integer"),
        ({"guidance_scale": None}, "guidance_scale must be a number"),
        ({"schedule": []}, r"its entries must be some of .* Got \['schedule'\]"),
        ({"prediction_type": "evil"}, "prediction_type must be one of"),
    ],
)
def test_the_networks_own_entries_are_checked(network, tmp_path, entries, message):
    network.save_pretrained(tmp_path)
    change(tmp_path / "score_network.json", **entries)
    with pytest.raises(ValueError, match=rf"score_network\.json: {message}"):
        load_score_network(tmp_path)


@pytest.mark.parametrize("name", ["../outside.safetensors", "/etc/passwd", "x.safetensors", ".", "a/b.safetensors"])
def test_an_index_names_no_file_outside_of_its_folder(network, tmp_path, name):
    network.save_pretrained(tmp_path)
    index = tmp_path / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"conv_in.weight": name}}))
    with pytest.raises(ValueError, match=r"index\.json: weight_map must name files of its folder"):
        load_score_network(tmp_path)


@pytest.mark.parametrize("name", [UNET, SCHEDULER, "score_network.json", "model_index.json"])
def test_damaged_json_names_its_file(network, tmp_path, name):
    network.save_pretrained(tmp_path)
    for content in ("", "{", "[1]", "[" * 100_000):
        (tmp_path / name).write_text(content)
        with pytest.raises(OSError, match=name.replace(".", r"\.")):
            load_score_network(tmp_path)


def test_a_network_with_nan_is_refused(network, tmp_path):
    network.save_pretrained(tmp_path)
    weights = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    state = load_file(weights)
    state["conv_out.bias"][0] = torch.nan
    save_file(state, weights)
    with pytest.raises(OSError, match=r"conv_out\.bias has values that are NaN or infinite"):
        load_score_network(tmp_path)


@pytest.mark.parametrize(
    ("file", "entries", "message"),
    [
        ("encoder/config.json", {"layers_per_block": 10**6}, "layers_per_block must be"),
        ("encoder/config.json", {"sample_size": 10**9}, "sample_size must be"),
        ("encoder/config.json", {"down_block_types": ["Evil"]}, "down_block_types must be"),
        ("encoder/config.json", {"attention_head_dim": 0}, "attention_head_dim must be"),
        ("encoder/config.json", {"sample_size": 15}, "describes no classifier that can be built"),
        ("guidance_classifier.json", {"classes": 3}, "classes must be a list"),
        ("guidance_classifier.json", {"classes": ["a"]}, "classes must be 7 names, one per class. Got 1"),
        ("guidance_classifier.json", {"network": ["evil"]}, "network must be text"),
    ],
)
def test_a_guidance_classifiers_values_are_checked(tmp_path, file, entries, message):
    from diffaug_transforms.guidance import NoisyClassifier

    NoisyClassifier(tiny_encoder()).save_pretrained(tmp_path)
    change(tmp_path / file, **entries)
    with pytest.raises(ValueError, match=rf"{file.replace('.', chr(92) + '.')}.*{message}"):
        load_guidance_classifier(tmp_path)
