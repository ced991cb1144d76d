"""The guidance benchmark: ways with equal noise, kept samples, and a run from classifiers to tables and pictures."""

from __future__ import annotations

import argparse
import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from diffaug_transforms import ScoreNetwork
from diffaug_transforms.guidance import (
    DenoiseAugmentedClassifier,
    GuidanceEncoder,
    NoisyClassifier,
    classifier_guide,
    load_guidance_classifier,
)
from diffaug_transforms.guidance.folder import FACTS
from diffaug_transforms.score.sampling import sample, strided_timesteps

from .benchmark_runs import CLASSES, write_classifier, write_dataset
from .conftest import tiny_unet

for module in ("datasets", "matplotlib", "prdc", "torch_fidelity", "torchmetrics"):
    pytest.importorskip(module)

import guidance  # noqa: E402
import guidance_ways  # noqa: E402
from adapted_images import draw_noise  # noqa: E402
from guidance_tables import COLUMNS, guidance_table  # noqa: E402

CPU = torch.device("cpu")


@pytest.fixture
def classes_network(schedule) -> ScoreNetwork:
    """Ten classes and a null class."""
    return ScoreNetwork(tiny_unet(num_class_embeds=11), schedule, null_class=10)


def encoder(denoised_input: bool, seed: int = 0) -> GuidanceEncoder:
    torch.manual_seed(seed)
    blocks: dict[str, Any] = {"layers_per_block": 1, "attention_head_dim": 16, "denoised_input": denoised_input}
    made = GuidanceEncoder(16, 3, 10, (32,), ("AttnDownBlock2D",), **blocks)
    if denoised_input:
        torch.nn.init.normal_(made.conv_in_denoised.weight, std=0.2)
    return made.eval()


def write_guidance(folder: Path, network: Path | None = None, **facts: object) -> Path:
    """A random classifier: noisy, or denoise-augmented where a network is given; with the facts in its JSON."""
    if network is None:
        NoisyClassifier(encoder(False), classes=CLASSES).save_pretrained(folder)
    else:
        DenoiseAugmentedClassifier(encoder(True), network, classes=CLASSES).save_pretrained(folder)
    kept = json.loads((folder / FACTS).read_text())
    (folder / FACTS).write_text(json.dumps(kept | facts))
    return folder


def arguments(**given: Any) -> argparse.Namespace:
    options = {"network": "mine", "method": "ddim", "steps": 2, "seed": 0, "scales": [0, 2], "cfg_scales": []}
    return argparse.Namespace(**{**options, "partial_scales": [], "batch_size": 2, **given})


def test_opening_classifiers(tmp_path, classes_network):
    classes_network.save_pretrained(tmp_path / "network")
    noisy = write_guidance(tmp_path / "noisy", arguments={"seed": 3}, images=70, seconds=1.5, test_accuracy=12.0)
    opened = guidance_ways.open_guidance(str(noisy), "mine", CPU)
    parameters = sum(p.numel() for p in encoder(False).parameters())
    expected = {"recipe": "noisy", "seed": 3, "parameters": parameters, "images_seen": 70, "seconds": 1.5}
    assert opened.fields == expected
    augmented = write_guidance(tmp_path / "augmented", tmp_path / "network")
    facts = json.loads((augmented / FACTS).read_text())
    (augmented / FACTS).write_text(json.dumps({**facts, "network": None}))
    other = guidance_ways.open_guidance(str(augmented), str(tmp_path / "network"), CPU)
    assert (other.fields["recipe"], other.fields["seed"], other.digest != opened.digest) == (
        "denoise-augmented",
        0,
        True,
    )
    assert {name: c.through_network for name, c in other.by_derivative.items()} == {"total": True, "partial": False}
    ways = guidance_ways.make_ways([opened, other], classes_network, arguments(partial_scales=[5], cfg_scales=[3]))
    found = [(way.fields["recipe"], way.fields["mode"], way.fields["scale"], way.label_weight) for way in ways]
    guided = [("noisy", "total", 2, None), ("denoise-augmented", "total", 2, None)]
    partial_way = ("denoise-augmented", "partial", 5, None)
    assert found == [("unguided", "", 0, None), *guided, partial_way, ("classifier-free", "", 3, 3)]


def test_samples_are_the_librarys(classes_network):
    """Each way against a plain call: no label, a guide, or the network's own labels; one noise for each place."""
    network, places, steps = classes_network, [12, 13], strided_timesteps(1000, 2)
    classifier = NoisyClassifier(encoder(False)).requires_grad_(False)
    noise = draw_noise(places, 2, (3, 16, 16), seed=0)[0] * network.schedule.noise_scale[500]
    labels = torch.tensor([2, 3])
    walk = partial(sample, network, noise, steps, method="ddim")
    told = ScoreNetwork(network.unet, network.schedule, null_class=10, label_weight=3.0)
    by_hand = {
        "unguided": walk(),
        "noisy": walk(guide=classifier_guide(classifier, labels, 2000.0, schedule=network.schedule)),
        "free": sample(told, noise, steps, method="ddim", labels=labels),
    }
    ways = {
        "unguided": guidance_ways.Way({"scale": 0.0}, "a"),
        "noisy": guidance_ways.Way({"scale": 2000.0}, "b", classifier),
        "free": guidance_ways.Way({"scale": 3.0}, "c", label_weight=3.0),
    }
    for name, way in ways.items():
        found = guidance_ways.draw_samples(way, network, places, 10, arguments())
        expected = ((by_hand[name].clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        assert (found.int() - expected.int()).abs().max() <= 1
        alone = guidance_ways.draw_samples(way, network, places[1:], 10, arguments())
        assert (found[1:].int() - alone.int()).abs().max() <= 1
    assert (by_hand["unguided"] - by_hand["noisy"]).abs().mean() > 0.01
    assert network.label_weight == 1


def test_samples_are_kept(tmp_path, classes_network, monkeypatch):
    drawn: list[list[int]] = []

    def draw(way: object, network: object, places: list[int], classes: int, args: object) -> Tensor:
        drawn.append(places)
        return torch.tensor(places, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 2, 2)

    monkeypatch.setattr(guidance_ways, "draw_samples", draw)
    way = guidance_ways.Way({}, "mine")
    every = partial(guidance_ways.all_samples, [way], classes_network, 10)
    images, seconds = every(arguments(samples=4, work=tmp_path))["mine"]
    assert (images[:, 0, 0, 0].tolist(), seconds > 0) == ([0, 1, 2, 3], True)
    (tmp_path / "mine" / "00002-00003.pt").unlink()
    images, _ = every(arguments(samples=6, work=tmp_path))["mine"]
    assert images[:, 0, 0, 0].tolist() == list(range(6))
    assert drawn == [[0, 1], [2, 3], [2, 3], [4, 5]]
    every(arguments(samples=2, steps=3, work=tmp_path))
    every(arguments(samples=10, work=tmp_path), slice(1, None, 2))
    assert drawn[4:] == [[0, 1], [6, 7]]


def test_the_script_from_end_to_end(tmp_path, monkeypatch, classes_network):
    classes_network.save_pretrained(tmp_path / "network")
    folders = [write_guidance(tmp_path / "noisy"), write_guidance(tmp_path / "augmented", tmp_path / "network")]
    extractor = write_classifier(tmp_path / "judge", "baseline", 0)
    options = ["--data", write_dataset(tmp_path / "data"), "--network", tmp_path / "network", "--classifier", *folders]
    options += ["--extractor", extractor, "--samples", 10, "--batch-size", 5, "--scales", 0, 1, "--cfg-scales", 2]
    options += ["--steps", 2, "--nearest-k", 2, "--timesteps", 100, 600, "--cost-images", 2, "--repeats", 2]
    options += ["--work", tmp_path / "work", "--output", tmp_path / "out.json"]
    monkeypatch.setattr(sys, "argv", ["", *map(str, options)])
    with monkeypatch.context() as shared:
        shared.setattr(sys, "argv", [*sys.argv, "--share", "1", "2"])
        guidance.main()
    assert len(list((tmp_path / "work").glob("*/00005-00009.pt"))) == 5
    assert not (tmp_path / "out.json").exists()
    guidance.main()
    records = json.loads((tmp_path / "out.json").read_text())["records"]
    table = guidance_table(records)
    names = ["real images", "unguided", "noisy", "denoise-augmented, total", "denoise-augmented, partial"]
    assert [line.split(" | ")[0][2:] for line in table.splitlines()[4:]] == [*names, "classifier-free"]
    assert all(r["extractor"] == "cifar_resnet-8 (judge)" for r in records if r["metric"] in COLUMNS)
    assert {r["timestep"] for r in records if r["metric"] == "score_cosine"} == {100, 600}
    assert {r["recipe"] for r in records if r["mode"] == "cost"} == {"network call", *names[2:]}
    assert (tmp_path / "out.png").stat().st_size > 10_000
    assert (tmp_path / "out_gradients.png").stat().st_size > 10_000
    assert len(list((tmp_path / "work").glob("*/*.pt"))) == 2 * 5
    for folder in folders:  # what it opened, and left as it was
        assert load_guidance_classifier(folder).classes == list(CLASSES)
