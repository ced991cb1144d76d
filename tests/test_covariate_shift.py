"""The covariate-shift benchmark: the same answers in any number of processes, resumed parts, tables by hand."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as F

from diffaug_transforms import ScoreNetwork
from diffaug_transforms.figures import sample_images
from diffaug_transforms.robustness import DDA, corrupt
from diffaug_transforms.score import NoiseSchedule
from diffaug_transforms.score.openai import parse_flags, released_flags, unet_config
from diffaug_transforms.score.unet import OpenAIUNet2DModel

from .benchmark_runs import CLASSES, run, write_classifier, write_dataset

for module in ("accelerate", "cv2", "datasets", "matplotlib"):
    pytest.importorskip(module)

import covariate_shift  # noqa: E402
import ensemble_rules  # noqa: E402
from adapted_images import adapted_images, draw_noise  # noqa: E402
from shift_inputs import device_batches, open_classifier, open_set  # noqa: E402
from shift_tables import shift_table  # noqa: E402


@pytest.fixture(scope="module")
def cifar10(tmp_path_factory) -> str:
    return str(write_dataset(tmp_path_factory.mktemp("cifar10")))


@pytest.fixture
def gaussian(oracle, schedule) -> ScoreNetwork:
    """At 8 pixels its ensemble's ten timesteps are small ones."""
    return ScoreNetwork(oracle, schedule)


def test_the_script_resumes_and_two_processes_say_what_one_says(tmp_path, cifar10, network):
    network.save_pretrained(tmp_path / "network")
    folders = [write_classifier(tmp_path / recipe, recipe, 3) for recipe in ("baseline", "augmix")]
    options = ["--dataset", "cifar10-c", "--data", cifar10, "--network", tmp_path / "network", "--limit", 4]
    options += ["--corruptions", "fog", "contrast", "--batch-size", 3]
    options += ["--keep-probabilities", *(f"--classifier={folder}" for folder in folders)]

    def records(name: str, *launcher: str) -> list[dict[str, object]]:
        output = tmp_path / f"{name}.json"
        run("covariate_shift.py", *options, "--work", tmp_path / name, "--output", output, launcher=launcher)
        return json.loads(output.read_text())["records"]

    two = records("two", "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    assert {r["corruption"] for r in two} == {"clean", "fog", "contrast"}
    assert {r["mode"] for r in two} == {"default", "de", "dda", "dda-se", "view"}
    assert {r["n"] for r in two} == {4}
    part = tmp_path / "two" / "cifar10-c" / "fog-5" / "records.json"
    kept = json.loads(part.read_text())
    kept["records"][0]["value"] = 12345.0
    part.write_text(json.dumps(kept))
    (tmp_path / "two").rename(tmp_path / "one")
    (tmp_path / "one" / "cifar10-c" / "contrast-5" / "records.json").unlink()
    one = records("one")  # fog and clean are kept, contrast is judged anew by one process, on DDA's kept images
    where = [r["value"] for r in one].index(12345.0)
    one[where]["value"] = two[where]["value"]
    key = json.dumps
    assert sorted(map(key, one)) == sorted(map(key, two))
    assert "| baseline | 1 | network |" in (tmp_path / "one.md").read_text()
    assert (tmp_path / "one.png").stat().st_size > 5000
    kept_views = list(ensemble_rules.kept_views(tmp_path / "one" / "cifar10-c" / "fog-5"))
    assert [(name, timesteps, len(labels)) for name, timesteps, _, labels in kept_views] == [
        (str(folder), "network", 4) for folder in folders
    ]


def test_noise_depends_on_the_image_alone():
    together = draw_noise([3, 7], 2, (3, 4, 4), seed=0)
    assert together.shape == (2, 2, 3, 4, 4)
    assert torch.equal(draw_noise([7], 2, (3, 4, 4), seed=0), together[:, 1:])
    assert not torch.equal(draw_noise([7], 2, (3, 4, 4), seed=1), together[:, 1:])


def test_adapted_images_are_kept(tmp_path, gaussian):
    dda = DDA(gaussian, start_timestep=50)
    images = torch.randint(256, (3, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    first = adapted_images(dda, images[:2], [4, 9], tmp_path, seed=0)
    expected = dda.adapt(images[:2] / 255, draw_noise([4, 9], len(dda.timesteps) - 1, (3, 8, 8), 0))
    assert torch.allclose(first, expected, atol=0.51 / 255)
    dda.guidance_scale = 0  # what is kept is not made again
    assert torch.equal(adapted_images(dda, images, [4, 9, 5], tmp_path, seed=0)[:2], first)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00004.png", "00005.png", "00009.png"]


def test_sets_are_published_files_or_made_on_the_fly(tmp_path, cifar10):
    made = open_set("cifar10-c", cifar10, "fog", 5)
    clean = torch.stack([F.pil_to_tensor(image) for image in sample_images().values()])
    assert torch.equal(torch.stack(list(made)), corrupt(clean, "fog", 5, dataset="cifar10-c", seed=0))
    assert made.labels[3] == (CLASSES.index("cat"),)
    assert torch.equal(open_set("cifar10-c", cifar10, "clean", 0)[3], clean[3])
    np.save(tmp_path / "fog.npy", np.full((5, 32, 32, 3), 7, np.uint8))
    np.save(tmp_path / "labels.npy", np.arange(5))
    published = open_set("cifar10-c", str(tmp_path), "fog", 5)
    assert (len(published), published.labels, int(published[0].max())) == (1, [(4,)], 7)


def test_a_test_split_without_labels_gives_way_to_validation(tmp_path):
    import datasets

    for split, label in (("test", -1), ("validation", 3)):
        rows = datasets.Dataset.from_dict({"image": [sample_images()["cat"]], "label": [label]})
        rows.cast_column("image", datasets.Image()).to_parquet(tmp_path / f"{split}-00000-of-00001.parquet")
    assert open_set("imagenet", str(tmp_path), "clean", 0).labels == [(3,)]


def test_imagenet_sets_from_folders(tmp_path):
    for folder in ("val/n01440764", "c/fog/5/n01440764", "r/n01443537"):
        (tmp_path / folder).mkdir(parents=True)
        sample_images()["cat"].resize((300, 300)).save(tmp_path / folder / "a.JPEG")
    val, made = (open_set("imagenet-c", str(tmp_path / "val"), name, 5) for name in ("clean", "contrast"))
    assert (val.labels, val[0].shape) == ([(0,)], (3, 224, 224))
    assert made[0].float().std() < 0.3 * val[0].float().std()
    assert open_set("imagenet-c", str(tmp_path / "c"), "fog", 5).name == "imagenet-c"
    assert open_set("imagenet-r", str(tmp_path / "r"), "clean", 0).classes is not None


def test_classifiers_from_folders_and_files(tmp_path):
    _, fields = open_classifier(str(write_classifier(tmp_path / "a", "augmix", 2)))
    assert fields == {"model": "cifar_resnet-8", "recipe": "augmix", "seed": 2}
    facts = json.loads((tmp_path / "a" / "classifier.json").read_text())
    facts["arguments"]["extra_data"] = "synth"
    (tmp_path / "a" / "classifier.json").write_text(json.dumps(facts))
    assert open_classifier(str(tmp_path / "a"))[1]["recipe"] == "augmix+synth"
    torch.manual_seed(0)
    from torchvision.models import mobilenet_v3_small

    model = mobilenet_v3_small()
    torch.save(model.state_dict(), tmp_path / "mine.pth")
    classifier, fields = open_classifier(f"mobilenet_v3_small@{tmp_path / 'mine.pth'}")
    assert fields == {"model": "mobilenet_v3_small", "recipe": "mine", "seed": 0}
    assert torch.equal(classifier.model.classifier[3].weight, model.classifier[3].weight)


def test_every_image_is_in_one_batch_of_one_process():
    parts = [device_batches(11, 2, rank, 3) for rank in range(3)]
    assert sorted(i for part in parts for batch in part for i in batch) == list(range(11))
    assert max(len(batch) for part in parts for batch in part) == 2


def test_only_parts_of_other_settings_are_judged_again(tmp_path, cifar10, monkeypatch):
    folder = write_classifier(tmp_path / "a", "baseline", 0)
    options = ["--dataset", "cifar10", "--data", cifar10, "--classifier", folder, "--modes", "default"]
    parts = ["--work", tmp_path / "work"]
    judged = []
    original = covariate_shift.evaluate
    monkeypatch.setattr(covariate_shift, "evaluate", lambda *a: judged.append(1) or original(*a))

    def records(*more: object) -> list[dict[str, object]]:
        monkeypatch.setattr(sys, "argv", ["", *map(str, [*options, *parts, *more])])
        return covariate_shift.run(covariate_shift.parse_arguments(), covariate_shift.Accelerator(cpu=True))

    assert {r["n"] for r in records()} == {8}
    assert {r["n"] for r in records()} == {8}
    assert len(judged) == 1
    assert {r["n"] for r in records("--limit", "2")} == {2}
    assert len(judged) == 2


def write_small_adm(folder: Path) -> Path:
    """The paper's network, ADM 256x256 unconditional, with random weights at an eighth of its width."""
    flags = parse_flags(released_flags()["256x256_diffusion_uncond.pt"])
    flags |= {"num_channels": 32, "num_head_channels": 16}
    torch.manual_seed(0)
    unet = OpenAIUNet2DModel(**unet_config(flags))
    network = ScoreNetwork(unet, NoiseSchedule.named("linear", 1000), variance_type="learned_range")
    network.save_pretrained(folder)
    return folder


def test_the_imagenet_path_with_an_adm(tmp_path, monkeypatch):
    """Folders by wnid, a torchvision classifier from a file, the paper's network in shape."""
    from torchvision.models import mobilenet_v3_small

    (tmp_path / "val" / "n01440764").mkdir(parents=True)
    sample_images()["cat"].resize((300, 300)).save(tmp_path / "val" / "n01440764" / "a.JPEG")
    torch.save(mobilenet_v3_small().state_dict(), tmp_path / "mine.pth")
    options = ["--dataset", "imagenet-c", "--data", tmp_path / "val", "--network", write_small_adm(tmp_path / "adm")]
    options += ["--classifier", f"mobilenet_v3_small@{tmp_path / 'mine.pth'}", "--corruptions", "contrast"]
    options += ["--modes", "default", "de", "--work", tmp_path / "work"]
    monkeypatch.setattr(sys, "argv", ["", *map(str, options)])
    records = covariate_shift.run(covariate_shift.parse_arguments(), covariate_shift.Accelerator(cpu=True))
    assert {r["corruption"] for r in records} == {"clean", "contrast"}
    assert {r["timestep"] for r in records if r["mode"] == "view"} == set(range(0, 451, 50))  # the paper's own S
    assert "| mobilenet_v3_small | 1 | network |" in shift_table(records)
