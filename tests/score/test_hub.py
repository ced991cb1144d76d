"""Names, cards, and the real download code against a Hub on the loopback.

huggingface_hub reads HF_ENDPOINT and HF_HOME when it is imported, so each download runs in a Python of its own.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from diffaug_transforms import ScoreNetwork, list_score_networks, load_score_network
from diffaug_transforms.score import hub as hub_module
from diffaug_transforms.score.storage import check_sha256
from tests.hub_server import run_python, serve_hub
from tests.openai_checkpoints import golden

# The client's waits between its retries are skipped; the retries are not.
LOAD = """
import sys, time, torch
time.sleep = lambda seconds: None
from diffaug_transforms import load_score_network
try:
    network = load_score_network({name!r}, **{options!r})
    x_t = torch.linspace(-1, 1, 3 * {size} ** 2).reshape(1, 3, {size}, {size})
    print("SUM", network.eps(x_t, torch.tensor([100])).double().sum().item())
except Exception as error:
    print(type(error).__name__, " ".join(str(error).split()))
"""


def load(name: str, url: str, home: Path, size: int = 16, **options: object) -> str:
    return run_python(LOAD.format(name=name, options=options, size=size), url, home)


def answer(network: ScoreNetwork, size: int = 16) -> float:
    x_t = torch.linspace(-1, 1, 3 * size**2).reshape(1, 3, size, size)
    return network.eps(x_t, torch.tensor([100])).double().sum().item()


DEAD = "http://127.0.0.1:9"


def test_a_repository_is_downloaded_once_and_then_read_from_the_cache(network, tmp_path):
    network.save_pretrained(tmp_path / "repo")
    home = tmp_path / "home"
    with serve_hub({"me/tiny": tmp_path / "repo"}) as hub:
        line = load("me/tiny", hub.url, home)
        assert float(line.removeprefix("SUM ")) == pytest.approx(answer(network), rel=1e-3, abs=1e-2)
        weights = "/me/tiny/resolve/0123456789abcdef0123456789abcdef01234567/unet/diffusion_pytorch_model.safetensors"
        assert f"GET {weights}" in hub.requests
        hub.requests.clear()
        assert load("me/tiny", hub.url, home) == line
        assert f"GET {weights}" not in hub.requests
    assert load("me/tiny", DEAD, home, local_files_only=True) == line


def test_foreign_repositories_are_refused_before_their_weights_are_downloaded(network, tmp_path):
    network.save_pretrained(tmp_path / "repo")
    (tmp_path / "repo" / "model_index.json").write_text(json.dumps({"_class_name": "LDMPipeline", "vqvae": []}))
    with serve_hub({"me/latent": tmp_path / "repo"}) as hub:
        line = load("me/latent", hub.url, tmp_path / "home")
        assert line.startswith("ValueError")
        assert "LDMPipeline with vqvae: not pixel space. A pixel-space UNet2DModel" in line
        assert not any("safetensors" in request for request in hub.requests)


def test_a_truncated_download_is_never_used(network, tmp_path):
    network.save_pretrained(tmp_path / "repo")
    home = tmp_path / "home"
    with serve_hub({"me/tiny": tmp_path / "repo"}) as hub:
        hub.truncate = "diffusion_pytorch_model.safetensors"
        line = load("me/tiny", hub.url, home)
        assert line.startswith("OSError downloading")
        assert "me/tiny" in line
        assert "local path" in line
        hub.truncate = None
        assert load("me/tiny", hub.url, home).startswith("SUM")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("me/missing", {}, "me/missing"),
        ("me/tiny", {"revision": "v9"}, "revision v9"),
        ("imagenet256", {}, "downloading diffusion_openai.pt of deepinv/diffunet"),
        ("ddpm-cifar10", {"local_files_only": True}, "google/ddpm-cifar10-32"),
    ],
)
def test_an_unreachable_hub_says_what_was_tried_and_what_to_do(tmp_path, name, options, message):
    line = load(name, DEAD, tmp_path / "home", **options)
    assert line.startswith("OSError")
    assert message in line
    assert "an embedded network: 'photos'" in line
    assert "HF_HUB_OFFLINE=1" in line


def test_a_repository_that_is_not_there(tmp_path):
    with serve_hub({}) as hub:
        line = load("me/missing", hub.url, tmp_path / "home")
    assert line.startswith("OSError")
    assert "404" in line


def test_a_card_of_an_openai_file(tmp_path):
    """The ImageNet card's path through download and conversion, at 1/8 width with the card's flags overridden."""
    path, flags, _ = golden("adm_256_uncond", tmp_path)
    repo = tmp_path / "repo"
    repo.mkdir()
    path.rename(repo / "diffusion_openai.pt")
    code = f"""
from diffaug_transforms.score import openai
openai.released_flags = lambda: {{"diffusion_openai.pt": {flags!r}}}
""" + LOAD.format(name="imagenet256", options={}, size=32)
    with serve_hub({"deepinv/diffunet": repo}) as hub:
        line = run_python(code, hub.url, tmp_path / "home")
    network = load_score_network(repo / "diffusion_openai.pt", openai_flags=flags)
    assert float(line.removeprefix("SUM ")) == pytest.approx(answer(network, 32), rel=1e-3, abs=1e-2)


def test_push_to_hub(network, tmp_path):
    network.save_pretrained(tmp_path / "expected")
    network.save_pretrained(tmp_path / "source")
    code = f"""
from diffaug_transforms import ScoreNetwork
print(ScoreNetwork.from_pretrained({str(tmp_path / "source")!r}).push_to_hub("me/x", token="hf_secret"))
"""
    with serve_hub({}) as hub:
        address = run_python(code, hub.url, tmp_path / "home")
        assert "/me/x/" in address
        expected = {p.relative_to(tmp_path / "expected").as_posix(): p for p in (tmp_path / "expected").rglob("*.*")}
        assert set(hub.uploaded) == set(expected)
        for name, path in expected.items():
            assert hub.uploaded[name] == path.read_bytes(), name


def test_cards_name_what_is_known():
    cards = list_score_networks()
    assert {"cifar10", "ddpm-cifar10", "imagenet256", "imagenet256-diffusers"} <= set(cards)
    assert cards["imagenet256"].ensemble_timesteps == tuple(range(0, 451, 50))
    assert cards["cifar10"].ensemble_timesteps == (0, 3, 9, 16, 23, 33, 44, 57, 74, 96)
    assert len(cards["cifar10"].augment_timesteps) == 1000


@pytest.mark.parametrize(("name", "size"), [("cifar10", 32), ("photos", 224)])
def test_a_cards_cost_is_that_of_one_call(name, size):
    network = load_score_network(name)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        network.eps(torch.zeros(1, 3, size, size), torch.tensor([100]))
    assert counter.get_total_flops() / 1e9 == pytest.approx(list_score_networks()[name].gflop, rel=1e-3)


def test_the_embedded_network_fits_its_card():
    card = list_score_networks()["cifar10"]
    network = load_score_network("cifar10")
    assert (network.image_size, network.num_timesteps, network.num_classes) == (32, 1000, 10)
    assert network.ensemble_timesteps == card.ensemble_timesteps
    assert network.null_class == 10
    assert sum(p.numel() for p in network.parameters()) <= 8_000_000
    assert load_score_network("cifar10", dtype=torch.float16).dtype == torch.float16


def test_loading_does_not_move_the_callers_seed(network, tmp_path):
    network.save_pretrained(tmp_path / "folder")
    path, flags, _ = golden("iddpm_cifar10_uncond", tmp_path)
    for name, options in (("cifar10", {}), (tmp_path / "folder", {}), (path, {"openai_flags": flags})):
        torch.manual_seed(0)
        load_score_network(name, **options)
        after = torch.rand(3)
        torch.manual_seed(0)
        assert torch.equal(torch.rand(3), after)


def test_a_wrong_sha256_is_refused(monkeypatch):
    cards = {"cifar10": replace(hub_module._cards()["cifar10"], sha256="0" * 64)}
    monkeypatch.setattr(hub_module, "_cards", lambda: cards)
    with pytest.raises(OSError, match="damaged or another file: its SHA-256 is .* expected 0000"):
        load_score_network("cifar10")


def test_sha256_by_hand(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    check_sha256(tmp_path / "abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
    check_sha256(tmp_path / "missing", None)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cifar-10", r"Got 'cifar-10'. Did you mean 'cifar10'.*list_score_networks\(\)"),
        ("imagenet", r"Got 'imagenet'. Did you mean 'imagenet256'"),
        ("./nowhere", "a local folder or an OpenAI .pt file. Got './nowhere'"),
    ],
)
def test_unknown_names(name, message):
    with pytest.raises(ValueError, match=message):
        load_score_network(name)


def test_a_file_that_is_no_checkpoint(tmp_path):
    (tmp_path / "notes.txt").write_text("no network")
    with pytest.raises(ValueError, match=r"OpenAI .pt file. Got the file .*notes\.txt"):
        load_score_network(tmp_path / "notes.txt")
