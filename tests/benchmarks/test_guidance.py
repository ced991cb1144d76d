"""The guidance benchmark: metrics by hand, extractors, samples with equal noise, gradients and their cost."""

from __future__ import annotations

import argparse
import json
import math
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.error import URLError

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from benchmarks.guidance import __main__ as guidance
from benchmarks.guidance import features, sampling
from benchmarks.guidance.features import (
    Features,
    all_metrics,
    features_of,
    frechet_distance,
    inception_score,
    manifold_metrics,
    open_extractor,
)
from benchmarks.guidance.gradients import REFERENCE, accuracy, alignment, cost
from benchmarks.tables.guidance import guidance_training
from diffaug_transforms import ScoreNetwork
from diffaug_transforms.classifiers import build_model, load_classifier
from diffaug_transforms.guidance import (
    DenoiseAugmentedClassifier,
    NoisyClassifier,
    classifier_guide,
    load_guidance_classifier,
)
from diffaug_transforms.robustness.evaluation.batches import draw_noise
from diffaug_transforms.score import diffuse, space_timesteps
from diffaug_transforms.score.sampling import sample
from tests.guidance.guidance_encoders import tiny_encoder

from .conftest import CLASSES

CPU = torch.device("cpu")
METADATA = "guidance_classifier.json"


def whitened(number: int, width: int) -> Tensor:
    """Features of mean 0 and covariance 1, exactly, float64."""
    drawn = torch.randn(number, width, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    drawn = drawn - drawn.mean(0)
    return drawn @ torch.linalg.cholesky(torch.linalg.inv(drawn.T.cov()))


def test_frechet_distance_of_known_gaussians():
    """N(0, 1) and N(m, D^2) on the axes: ||m||^2 + sum (d - 1)^2."""
    real = whitened(50, 3)
    assert frechet_distance(real, real) == pytest.approx(0, abs=1e-6)
    m, d = torch.tensor([1.0, -2.0, 0.0]), torch.tensor([1.0, 3.0, 0.5])
    assert frechet_distance(real, real * d + m) == pytest.approx(5 + 4 + 0.25, abs=1e-6)
    # In float32 the means' squares, 1e10, would swallow covariances of 1. Fewer images than features work too.
    assert frechet_distance(real + 1e5, real + 1e5 + 1) == pytest.approx(3, abs=1e-3)
    assert frechet_distance(torch.eye(3, 8), torch.eye(3, 8) + 1) == pytest.approx(8, abs=1e-4)


def test_frechet_distance_of_covariances_that_do_not_commute():
    """tr (C C')^1/2 of 2x2 matrices is sqrt(tr C C' + 2 sqrt(det C C'))."""
    real = whitened(40, 2)
    first, second = real @ torch.tensor([[2.0, 0.0], [1.0, 1.0]]).double(), real * torch.tensor([1.0, 3.0])
    c, other = first.T.cov(), second.T.cov()
    product = c @ other
    root = math.sqrt(product.trace() + 2 * math.sqrt(product.det()))
    assert frechet_distance(first, second) == pytest.approx(float(c.trace() + other.trace()) - 2 * root, abs=1e-6)


def test_inception_scores_by_hand():
    assert inception_score(torch.full((6, 4), 0.25)) == pytest.approx(1)
    assert inception_score(torch.eye(4).repeat(3, 1)) == pytest.approx(4)
    # p = (0.9, 0.1) and (0.1, 0.9): KL to (0.5, 0.5) is log 2 - H(0.9).
    entropy = -0.9 * math.log(0.9) - 0.1 * math.log(0.1)
    assert inception_score(torch.tensor([[0.9, 0.1], [0.1, 0.9]])) == pytest.approx(2 * math.exp(-entropy))
    # Parts of 5000: one of score 4, and a rest of score 1, which counts as much.
    rest = torch.full((100, 4), 0.25)
    assert inception_score(torch.cat([torch.eye(4).repeat(1250, 1), rest])) == pytest.approx(2.5)


def test_manifold_metrics_by_hand(capfd):
    """On a line, k = 1. Real 0 1 2 10, so radii 1 1 1 8; generated 0.5 3.5 20, radii 3 3 16.5."""
    real, generated = (torch.tensor(values)[:, None] for values in ([0.0, 1.0, 2.0, 10.0], [0.5, 3.5, 20.0]))
    found = manifold_metrics(real, generated, nearest_k=1)
    # 0.5 is in the balls of 0 and 1, 3.5 in that of 10, 20 in none.
    assert found["precision"] == pytest.approx(2 / 3)
    assert found["density"] == pytest.approx((2 + 1 + 0) / 3)
    # 0, 1 and 2 are in the ball of 0.5; 10 in that of 20.
    assert found["recall"] == 1
    # The nearest of 0 and of 1 is 0.5, of 10 it is 3.5, at 6.5 < 8; of 2 it is at 1.5 > 1.
    assert found["coverage"] == pytest.approx(3 / 4)
    assert capfd.readouterr().out == ""
    with pytest.raises(ValueError, match=r"nearest_k must be in 1...28 for sets of 30 images. Got 29"):
        manifold_metrics(whitened(30, 4), whitened(30, 4), nearest_k=29)


def test_the_neighbours_of_openais_evaluator_and_of_prdcs_paper():
    real, generated = whitened(60, 3), whitened(50, 3) + 1
    found, three, five = (manifold_metrics(real, generated, k) for k in (None, 3, 5))
    assert found == {name: (three if name in ("precision", "recall") else five)[name] for name in found}
    assert three["recall"] != five["recall"]


def test_all_metrics_takes_manifolds_of_equal_size():
    real = Features(whitened(40, 3), whitened(40, 2), torch.eye(5).repeat(8, 1))
    generated = Features(real.pooled[:20] + 1, real.spatial[:20] * 2, real.probabilities[:20])
    found = all_metrics(real, generated, nearest_k=2)
    expected = manifold_metrics(real.pooled[:20], generated.pooled, nearest_k=2)
    assert {name: found[name] for name in expected} == expected
    assert found["sfid"] == pytest.approx(frechet_distance(real.spatial, generated.spatial))
    assert found["inception_score"] == pytest.approx(5)


def test_the_features_of_a_classifier(classifiers, samples):
    extractor = open_extractor(str(classifiers[0]), CPU)
    found = features_of(extractor, samples, batch_size=3)
    assert (extractor.name, extractor.layer, extractor.classes) == ("cifar_resnet-8 (baseline)", "3", CLASSES)
    model, images = load_classifier(classifiers[0]).model, (samples.float() / 255 - 0.5) / 0.5
    with torch.no_grad():
        assert torch.allclose(found.spatial, model[:4](images)[:, :7].flatten(1), atol=1e-5)
        assert torch.allclose(found.pooled, model[:8](images), atol=1e-5)
        assert torch.allclose(found.probabilities, model(images).softmax(1), atol=1e-5)
    assert features.last_stage_but_one(build_model("resnet18", 10), CPU) == "layer3"
    assert features.last_stage_but_one(build_model("airbench94", 10), CPU) == "groups.2"


def test_inception_takes_openais_layers(monkeypatch, samples):
    """Random weights show which layers are taken; torch-fidelity holds its own to be the original's."""
    from torch_fidelity import feature_extractor_inceptionv3 as fidelity

    made: list[Any] = []
    monkeypatch.setattr(fidelity, "load_state_dict_from_url", lambda *args, **kwargs: {})
    monkeypatch.setattr(fidelity.FeatureExtractorInceptionV3, "load_state_dict", lambda self, _: made.append(self))
    extractor = open_extractor("inception", CPU)
    with torch.inference_mode():
        found = extractor.extract(samples[:1])
    assert (found.pooled.shape, found.spatial.shape) == ((1, 2048), (1, 7 * 17 * 17))
    assert torch.allclose(found.probabilities, (found.pooled @ made[0].fc.weight.T).softmax(1), atol=1e-6)

    def offline(*args: object, **kwargs: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr(fidelity, "load_state_dict_from_url", offline)
    with pytest.raises(OSError, match="no route to host.* pass inception@FILE"):
        open_extractor("inception", CPU)


def test_what_extractors_refuse():
    with pytest.raises(ValueError, match="extractor must be .* or a classifier's folder or name. Got 'vgg'"):
        open_extractor("vgg", CPU)
    with pytest.raises(ValueError, match="must have stages of maps, as ResNets have. Got Sequential"):
        features.last_stage_but_one(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()), CPU)


def write_guidance(folder: Path, network: Path | None = None, **metadata: object) -> Path:
    """A random classifier: noisy, or denoise-augmented if a network is given; with the metadata in its JSON."""
    if network is None:
        NoisyClassifier(tiny_encoder(num_classes=10), classes=CLASSES).save_pretrained(folder)
    else:
        DenoiseAugmentedClassifier(tiny_encoder(0.2, num_classes=10), network, classes=CLASSES).save_pretrained(folder)
    kept = json.loads((folder / METADATA).read_text())
    (folder / METADATA).write_text(json.dumps(kept | metadata))
    return folder


def arguments(**given: Any) -> argparse.Namespace:
    options = {"network": "mine", "method": "ddim", "steps": 2, "seed": 0, "scales": [0, 2], "cfg_scales": []}
    return argparse.Namespace(**{**options, "partial_scales": [], "batch_size": 2, **given})


def test_opening_classifiers(tmp_path, classes_network, network_folder):
    noisy = write_guidance(tmp_path / "noisy", arguments={"seed": 3}, images=70, seconds=1.5)
    opened = sampling.open_guidance(str(noisy), "mine", CPU)
    parameters = sum(p.numel() for p in tiny_encoder(num_classes=10).parameters())
    expected = {"recipe": "noisy", "seed": 3, "parameters": parameters, "images_seen": 70, "seconds": 1.5}
    assert opened.fields == expected
    augmented = write_guidance(tmp_path / "augmented", network_folder)
    metadata = json.loads((augmented / METADATA).read_text())
    (augmented / METADATA).write_text(json.dumps({**metadata, "network": None}))
    other = sampling.open_guidance(str(augmented), str(network_folder), CPU)
    assert (other.fields["recipe"], other.fields["seed"]) == ("denoise-augmented", 0)
    assert other.digest != opened.digest
    assert {name: c.through_network for name, c in other.by_derivative.items()} == {"total": True, "partial": False}
    configs = sampling.make_configs([opened, other], classes_network, arguments(partial_scales=[5], cfg_scales=[3]))
    found = [(c.fields["recipe"], c.fields["mode"], c.fields["scale"], c.cfg_scale) for c in configs]
    guided = [("noisy", "total", 2, None), ("denoise-augmented", "total", 2, None)]
    guided.append(("denoise-augmented", "partial", 5, None))
    assert found == [("unguided", "", 0, None), *guided, ("classifier-free", "", 3, 3)]


def test_the_curve_of_a_training_goes_on_from_its_start(tmp_path):
    def accuracies(*points: tuple[int, float]) -> list[dict[str, float]]:
        return [{"step": step, "test_accuracy": value} for step, value in points]

    start = write_guidance(tmp_path / "start", arguments={"steps": 10, "seed": 3}, images=1000)
    known: dict[str, Any] = {"steps": 4, "seed": 3, "init": str(start)}
    noisy = write_guidance(tmp_path / "a", arguments=known, images=400, curve=accuracies((2, 30.0), (4, 31.0)))
    assert [(p["images_seen"], p["value"]) for p in sampling.learning_curve(str(noisy))] == [(1200, 30), (1400, 31)]
    write_guidance(start, arguments={"steps": 10, "seed": 3}, images=1000, curve=accuracies((5, 20.0), (10, 25.0)))
    known["form"] = "denoise-augmented"
    other = write_guidance(tmp_path / "b", arguments=known, images=400, curve=accuracies((4, 33.0)))
    records = guidance.of_training([str(noisy), str(other), str(tmp_path / "file.pt")])
    assert [r["recipe"] for r in records] == [*["their start"] * 2, "noisy", "noisy", "denoise-augmented"]
    assert {r["seed"] for r in records} == {3}
    millions = [{**r, "images_seen": 10_000 * r["images_seen"]} for r in records]
    assert guidance_training(pd.DataFrame(millions)).splitlines() == [
        "| classifier | 5.00 M | 10.00 M | 12.00 M | 14.00 M |",
        "| --- | --- | --- | --- | --- |",
        "| their start | 20.0 | 25.0 |  |  |",
        "| noisy |  |  | 30.0 | 31.0 |",
        "| denoise-augmented |  |  |  | 33.0 |",
    ]


def test_samples_are_the_librarys(classes_network):
    """Each kind against a plain call: no label, a guide, or the network's own labels; one noise for each place."""
    network, places, steps = classes_network, [12, 13], space_timesteps(1000, 2, "leading")
    classifier = NoisyClassifier(tiny_encoder(num_classes=10)).requires_grad_(False)
    noise = draw_noise(places, 2, (3, 16, 16), seed=0)[0] * network.schedule.noise_scale[500]
    labels = torch.tensor([2, 3])
    free = ScoreNetwork(network.unet, network.schedule, null_class=10, guidance_scale=3.0)
    guide = classifier_guide(classifier, labels, 2000.0, schedule=network.schedule)
    by_hand = {
        "unguided": sample(network, noise, steps, method="ddim"),
        "noisy": sample(network, noise, steps, method="ddim", guide=guide),
        "free": sample(free, noise, steps, method="ddim", labels=labels),
    }
    configs = {
        "unguided": sampling.SamplingConfig({"scale": 0.0}, "a"),
        "noisy": sampling.SamplingConfig({"scale": 2000.0}, "b", classifier),
        "free": sampling.SamplingConfig({"scale": 3.0}, "c", cfg_scale=3.0),
    }
    for name, config in configs.items():
        found = sampling.draw_samples(config, network, places, 10, arguments())
        expected = ((by_hand[name].clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        assert (found.int() - expected.int()).abs().max() <= 1
        alone = sampling.draw_samples(config, network, places[1:], 10, arguments())
        assert (found[1:].int() - alone.int()).abs().max() <= 1
    assert (by_hand["unguided"] - by_hand["noisy"]).abs().mean() > 0.01
    assert network.guidance_scale == 1


def test_samples_are_kept(tmp_path, classes_network, monkeypatch):
    drawn: list[list[int]] = []

    def draw(config: object, network: object, places: list[int], classes: int, args: object) -> Tensor:
        drawn.append(places)
        return torch.tensor(places, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 2, 2)

    monkeypatch.setattr(sampling, "draw_samples", draw)
    every = partial(sampling.all_samples, [sampling.SamplingConfig({}, "mine")], classes_network, 10)
    images, seconds = every(arguments(samples=4, work=tmp_path))["mine"]
    assert (images[:, 0, 0, 0].tolist(), seconds > 0) == ([0, 1, 2, 3], True)
    images, _ = every(arguments(samples=6, work=tmp_path))["mine"]
    assert images[:, 0, 0, 0].tolist() == list(range(6))
    every(arguments(samples=2, steps=3, work=tmp_path))
    every(arguments(samples=10, work=tmp_path), slice(1, None, 2))
    assert drawn == [[0, 1], [2, 3], [4, 5], [0, 1], [6, 7]]


def test_accuracy_over_time(classes_network):
    """A classifier that knows the brightness of early times only."""

    def classifier(x_t: Tensor, timesteps: Tensor) -> Tensor:
        brightness = x_t.mean((1, 2, 3)) * (timesteps < 500)
        return torch.stack([-brightness, brightness], dim=1)

    labels = torch.arange(200) % 2
    images = (255 * labels).to(torch.uint8)[:, None, None, None].expand(-1, 3, 16, 16)
    found = list(accuracy(classifier, classes_network, images, labels, 0, 64))  # type: ignore[arg-type]
    value = {r["quarter"]: r["value"] for r in found}
    assert value[1] == 100
    assert value[3] == pytest.approx(50, abs=20)  # always the first class
    assert sum(r["n"] for r in found[1:]) == found[0]["n"] == 200
    assert value[0] == pytest.approx(sum(r["value"] * r["n"] for r in found[1:]) / 200, abs=1e-3)


def test_alignment_with_the_networks_own_gradient(classes_network, schedule):
    """A classifier whose gradient is a known multiple of the network's: cosine -1, and that multiple."""
    network, t = classes_network, 300
    images = torch.randint(256, (2, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    labels, timesteps = torch.tensor([4, 7]), torch.tensor([t, t])
    x_t = diffuse(images.float() / 127.5 - 1, timesteps, draw_noise([0, 1], 1, (3, 16, 16), seed=5)[0], schedule)
    own = network.score(x_t, timesteps, labels) - network.score(x_t, timesteps)

    def classifier(x: Tensor, timesteps: Tensor) -> Tensor:
        """log p of the label is -0.5 x own: the others' logits make up for the normalisation."""
        log_p = -0.5 * ((x - x_t) * own).sum((1, 2, 3)) - 1
        rest = torch.log1p(-log_p.exp()) - torch.tensor(9.0).log()
        return torch.where(torch.arange(10) == labels[:, None], log_p[:, None], rest[:, None])

    found = list(alignment(classifier, network, images, labels, [t], seed=5))  # type: ignore[arg-type]
    assert {r["metric"]: r["value"] for r in found} == pytest.approx({"score_cosine": -1, "norm_ratio": 0.5}, abs=1e-3)
    unlabelled: Any = SimpleNamespace(null_class=None)
    assert list(alignment(classifier, unlabelled, images, labels, [t], seed=5)) == []  # type: ignore[arg-type]


def test_costs_are_multiples_of_the_partial_derivatives():
    def run(size: int) -> Tensor:
        return torch.ones(size) + 1

    gradients = {REFERENCE: lambda: run(250_000), "denoise-augmented, total": lambda: run(750_000)}
    found = {(r["recipe"], r["metric"]): r["value"] for r in cost(gradients, 5, 3, CPU)}
    assert found["denoise-augmented, total", "memory_ratio"] == pytest.approx(3, rel=0.01)
    assert found[REFERENCE, "time_ratio"] == 1
    assert found["denoise-augmented, total", "peak_bytes"] == pytest.approx(6e6 / 5, rel=0.01)


def test_the_script_from_end_to_end(tmp_path, run, monkeypatch, cifar10, classifiers, network_folder):
    folders = [write_guidance(tmp_path / "noisy"), write_guidance(tmp_path / "augmented", network_folder)]
    options: list[object] = ["--data", cifar10, "--network", network_folder, "--classifier", *folders]
    options += ["--extractor", classifiers[0], "--samples", 10, "--batch-size", 5, "--scales", 0, 1]
    options += ["--cfg-scales", 2, "--steps", 2, "--nearest-k", 2, "--timesteps", 100, 600, "--cost-images", 2]
    options += ["--rounds", 2, "--work", tmp_path / "work"]
    monkeypatch.setattr("sys.argv", ["", *map(str, options), "--share", "1", "2"])
    guidance.main()
    assert len(list((tmp_path / "work").glob("*/00005-00009.pt"))) == 5
    records = run(guidance, *options)
    kinds = {(r["recipe"], r["mode"], r["scale"]) for r in records if r["metric"] == "fid"}
    guided = {("noisy", "total", 1), ("denoise-augmented", "total", 1), ("denoise-augmented", "partial", 1)}
    assert kinds == {("real images", "", 0), ("unguided", "", 0), ("classifier-free", "", 2), *guided}
    assert {r["timestep"] for r in records if r["metric"] == "score_cosine"} == {100, 600}
    assert {r["recipe"] for r in records if r["mode"] == "cost"} >= {"network call", REFERENCE}
    assert (tmp_path / "out.png").stat().st_size > 10_000
    assert (tmp_path / "out_gradients.png").stat().st_size > 10_000
    for folder in folders:  # what it opened, and left as it was
        assert load_guidance_classifier(folder).classes == list(CLASSES)
