"""The benchmarks' own arithmetic: by hand, and on oracles whose answers are known."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from benchmarks import certify, denoising, ensemble_rules, gradients, imagenet_cost, jacobian, throughput, train_cifar10
from benchmarks.gpu_hour import adm256
from benchmarks.gpu_hour import classifier as resnet
from benchmarks.harness.tables import frame
from benchmarks.tables import cost
from diffaug_transforms import DiffAugEnsemble, ScoreNetwork
from diffaug_transforms.robustness import DDA, DenoisedSmoothing
from diffaug_transforms.robustness.evaluation.batches import Batch, draw_noise
from diffaug_transforms.robustness.evaluation.modes import adapted_images
from diffaug_transforms.score import Denoiser
from diffaug_transforms.transforms import AnytimeEnsemble
from tests.conftest import GaussianOracle, tiny_unet
from tests.contracts import draw, images
from tests.mixture_oracle import MixtureOracle

from .conftest import CLASSES


def linear_classifier(size: int = 8, classes: int = 5) -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * size * size, classes)).eval()


def test_psnr_by_hand():
    # A mean squared error of 0.04 on the [-1, 1] scale, peak 2: 10 log10(4 / 0.04) = 20 dB.
    truth = torch.zeros(1, 3, 4, 4)
    assert denoising.psnr(truth + 0.2, truth).item() == pytest.approx(20, abs=1e-4)


def test_operations_and_peak_bytes_by_hand():
    class OneConvolution(nn.Conv2d):
        def eps(self, x_t: Tensor, timesteps: Tensor) -> Tensor:
            return self(x_t)

    # 2 * 3 * 3 * 3 * 8 operations for each of 16 * 16 pixels.
    layer = OneConvolution(3, 8, 3, padding=1)
    assert throughput.unet_flops(layer, torch.rand(1, 3, 16, 16)) == 2 * 27 * 8 * 256  # type: ignore[arg-type]
    assert imagenet_cost.count_operations(lambda: layer(torch.rand(1, 3, 16, 16))) == 2 * 27 * 8 * 256

    def run() -> None:
        first = torch.empty(1000, device="meta")  # 4000 bytes
        second = first + 1  # 8000 together
        del first
        third = second.view(10, 100) * 2  # the view costs nothing: 8000 again
        del second, third

    assert imagenet_cost.count_peak_bytes(run) == 8000


def test_both_baselines_are_diffusers_step(schedule):
    """The batched arithmetic against one call of diffusers' ``step`` for each image, with the same draws."""
    from diffusers import DDPMScheduler

    torch.manual_seed(0)
    network, x = ScoreNetwork(tiny_unet(), schedule), images(16)
    seed = torch.random.get_rng_state()
    t, noise = torch.randint(1000, (len(x),)), torch.randn_like(x)
    scheduler = DDPMScheduler(1000)
    x_t = scheduler.add_noise(2 * x - 1, noise, t)
    with torch.no_grad():
        eps = network.unet(x_t, t).sample
    steps = [scheduler.step(e[None], int(s), noisy[None]) for e, s, noisy in zip(eps, t, x_t)]
    expected = (torch.cat([step.pred_original_sample for step in steps]) + 1) / 2

    def answer(recipe: Callable[[], Tensor]) -> Tensor:
        torch.random.set_rng_state(seed)
        return recipe()

    assert torch.allclose(answer(throughput.plain_recipe(network, x)), expected, atol=1e-5)
    assert torch.allclose(answer(throughput.authors_way(network, x, torch.float32)), expected, atol=1e-4)
    halved = answer(throughput.authors_way(network, x, torch.bfloat16)) - expected
    assert 1e-5 < halved.abs().mean() < 0.02
    assert network.dtype == torch.float32


def test_the_cost_of_a_step_is_a_ratio_to_the_one_without_diffaug():
    runs = {
        "no DiffAug": [{"seconds_per_step": s, "peak_bytes": 100} for s in (1.0, 2.0, 9.0)],
        "in the loop": [{"seconds_per_step": s, "peak_bytes": 150} for s in (7.0, 8.0, 9.0)],
    }
    args = argparse.Namespace(model="m", size=None, network="n", batch_size=None, rounds=3, steps=1)
    values = {(r["method"], r["metric"]): r["value"] for r in throughput.step_records(args, runs)}
    assert values["in the loop", "time_ratio"] == 4
    assert values["in the loop", "memory_ratio"] == 1.5


@pytest.mark.parametrize(
    ("part", "images"),
    [(imagenet_cost.UNET, 180_000), (imagenet_cost.UNET_GRADIENT, 60_000), (imagenet_cost.CLASSIFIER, 90_000_000)],
)
def test_hours_by_hand(part, images):
    # 50 TFLOP/s for the network: 180,000 calls of 1 TFLOP in 3600 s; 25 TFLOP/s for the classifier.
    operations = {imagenet_cost.UNET: 1e12, imagenet_cost.UNET_GRADIENT: 3e12, imagenet_cost.CLASSIFIER: 1e9}
    rates = {"rates": "assumed", "peak_tflops": 100.0, "utilisation": 0.5, "classifier_utilisation": 0.25}
    speeds = imagenet_cost.operations_per_second(rates, operations)
    assert imagenet_cost.hours({part: images}, operations, speeds) == pytest.approx(1)


@pytest.mark.parametrize(
    ("part", "images"),
    [
        (imagenet_cost.UNET, 180_000),  # 50 images a second
        (imagenet_cost.UNET_256, 120_000),  # 1.5 times the operations at the same rate
        (imagenet_cost.UNET_GRADIENT, 60_000),
        (imagenet_cost.CLASSIFIER, 3_600_000),
        (imagenet_cost.TRAINING, 360_000),
    ],
)
def test_hours_by_measured_rates(tmp_path, part, images):
    rates = imagenet_cost.measured_rates(write_gpu_hour(tmp_path))
    assert rates == {
        "rates": "measured",
        "gpu": "A GPU",
        "unet_images_per_second": 50.0,
        "unet_batch_size": 32,
        "classifier_images_per_second": 1000.0,
        "classifier_batch_size": 64,
        "training_images_per_second": 100.0,
        "training_batch_size": 64,
    }
    operations = {imagenet_cost.UNET: 1e12, imagenet_cost.UNET_256: 1.5e12, imagenet_cost.UNET_GRADIENT: 3e12}
    operations |= {imagenet_cost.CLASSIFIER: 8e9, imagenet_cost.TRAINING: 24e9}
    speeds = imagenet_cost.operations_per_second(rates, operations)
    assert imagenet_cost.hours({part: images}, operations, speeds) == pytest.approx(1)


def write_gpu_hour(folder: Path, **fields: object) -> Path:
    """A small file as benchmarks.gpu_hour writes it; ``fields`` stand in every record."""
    speeds = [(adm256.EAGER, 16, 40.0), (adm256.EAGER, 32, 50.0), (adm256.COMPILED, 32, 90.0)]
    speeds += [(resnet.INFERENCE, 64, 1000.0), (resnet.TRAINING, 64, 100.0)]
    common = {"metric": "images_per_second", "device": "cuda:0", "tiny": False}
    records = [{**common, "method": name, "batch_size": batch, "value": value} for name, batch, value in speeds]
    records.append({**common, "method": adm256.EAGER, "metric": "matmul_share", "batch_size": 32, "value": 0.5})
    path = folder / "gpu_hour.json"
    path.write_text(json.dumps({"device": "A GPU", "records": [{**r, **fields} for r in records]}))
    return path


def test_rates_are_measured_only_by_a_whole_run_on_a_gpu(tmp_path):
    assert imagenet_cost.measured_rates(tmp_path / "gpu_hour.json") is None
    assert imagenet_cost.measured_rates(write_gpu_hour(tmp_path, tiny=True)) is None
    assert imagenet_cost.measured_rates(write_gpu_hour(tmp_path, device="cpu")) is None
    assert imagenet_cost.measured_rates(write_gpu_hour(tmp_path, method=adm256.EAGER)) is None  # the part of ResNet-50


def test_samples_are_of_the_labels_asked_for(null_conditional):
    def synthesize(labels: Tensor) -> Tensor:
        return train_cifar10.synthesize(null_conditional, labels, 3, torch.Generator().manual_seed(0))

    labels = torch.tensor([0, 1, 0])
    first = synthesize(labels)
    assert (first.shape, first.dtype) == ((3, 3, 16, 16), torch.uint8)
    assert torch.equal(first, synthesize(labels))
    assert not torch.equal(first, synthesize(labels + 1))


def test_known_classes_are_six_and_linked(tmp_path):
    for part in ("images/train", "images/test", "images_diffaug"):
        for name in CLASSES:
            (tmp_path / part / name).mkdir(parents=True)
            (tmp_path / part / name / "0.png").touch()
    folder = train_cifar10.link_known_classes(tmp_path, 6, seed=1)
    known = train_cifar10.known_classes(6, seed=1)
    assert len(known) == 6
    assert known != train_cifar10.known_classes(6, seed=0)
    assert sorted(path.parent.name for path in folder.glob("images/train/*/0.png")) == known
    assert train_cifar10.link_known_classes(tmp_path, 6, seed=1) == folder


def test_adapted_images_are_kept(tmp_path, oracle, schedule):
    dda = DDA(ScoreNetwork(oracle, schedule), start_timestep=50)
    images = torch.randint(256, (3, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))

    def adapted(number: int, depends: str = "") -> Tensor:
        batch = Batch(images[:number], torch.zeros(number), [4, 9, 5][:number], {})
        return adapted_images(dda, batch, tmp_path, seed=0, depends=depends)

    first = adapted(2)
    expected = dda.adapt(images[:2] / 255, draw_noise([4, 9], len(dda.timesteps) - 1, (3, 8, 8), 0))
    assert torch.allclose(first, expected, atol=0.51 / 255)
    dda.guidance_scale = 0  # what is kept is not made again
    assert torch.equal(adapted(3)[:2], first)
    assert sorted(path.name[:6] for path in tmp_path.iterdir()) == ["00004-", "00005-", "00009-"]
    assert not torch.equal(adapted(2, "other weights"), first)


def test_the_replay_is_the_anytime_ensemble(oracle, schedule):
    classifier = linear_classifier()
    classifier[1].weight.data *= 8
    steps = (0, 10, 10, 40, 80, 160)
    ensemble = DiffAugEnsemble(classifier, ScoreNetwork(oracle, schedule), timesteps=steps, dtype=torch.float32)
    images = torch.rand(64, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    noise = draw(5, 64, 3, 8, 8)
    log_p = ensemble.classify(ensemble.views(images, noise)).detach().log_softmax(dim=-1)
    for confidence, min_views in ((None, 2), (0.9, 2), (0.7, 3)):
        prediction = AnytimeEnsemble(ensemble, confidence=confidence, min_views=min_views).predict(images, noise)
        answers, calls = ensemble_rules.replay(log_p, steps, confidence, min_views)
        assert torch.equal(prediction.log_probabilities.argmax(dim=1), answers)
        assert torch.equal(prediction.network_calls, calls)
        assert 0 < calls.float().mean() < 5


def test_weights_by_hand():
    def accuracies(*views: tuple[float, float]) -> dict[str, float]:
        log_p = torch.tensor(views)[:, None].log()
        records = ensemble_rules.judge(log_p, torch.tensor([0]), tuple(range(len(views))))
        return {r["method"].removeprefix("weights, "): r["value"] for r in records if r["metric"] == "accuracy"}

    assert accuracies((0.9, 0.1), (0.4, 0.6), (0.4, 0.6))["mean"] == 100  # 1.7 against 1.3
    found = accuracies((0.9, 0.1), *[(0.3, 0.7)] * 4)
    assert found["mean"] == 0  # 2.1 against 2.9
    assert found["1 / entropy"] == 0  # 1 / 0.325 and 1 / 0.611: 4.73 against 4.89
    assert found["exp(-3 entropy)"] == 100  # 0.377 and 0.160: 0.531 against 0.486


def test_votes_are_those_of_the_library():
    classifier, image = linear_classifier(32, 10).requires_grad_(False), torch.rand(3, 32, 32)
    noise = draw(5, 3, 32, 32)
    smoothed = DenoisedSmoothing(classifier, "cifar10", 0.5)
    votes = certify.count_votes(smoothed, {"mine": classifier}, image, [noise[:3], noise[3:]])
    assert votes == {"mine": smoothed.counts(image, [noise]).tolist()}


def test_simulated_certificates_fail_no_more_than_promised():
    args = argparse.Namespace(n0=20, n=100, classes=10, seed=0, simulations=20_000)
    records = [r for p in (0.5, 0.6, 0.9) for r in certify.simulate(p, 0.05, args)]
    failed = [r for r in records if r["metric"] == "failed"]
    assert all(0.01 < r["value"] <= 0.05 + 4 * r["standard_error"] for r in failed)


def test_a_classifier_with_the_networks_own_gradient_has_score_cosine_1(null_conditional, schedule):
    """Its log-odds at x_t grow along s(x_t, y) - s(x_t), the gradient of log p_t(y | x_t)."""
    network, t, noise, labels = null_conditional, 300, draw(4, 3, 16, 16), torch.tensor([0, 1, 1, 0])
    x_t, timesteps = gradients.noisy_images(network, images(16), t, noise)
    own = network.score(x_t, timesteps, labels) - network.score(x_t, timesteps)
    found = gradients.label_gradient(network, x_t, timesteps, labels)
    assert torch.equal(found, own)

    def classifier(seen: Tensor) -> Tensor:  # of the noisy image, on [0, 1] and not shrunk
        log_odds = (((2 * seen - 1) * schedule.signal_scale[t] - x_t) * own).sum((1, 2, 3))
        return torch.stack([-log_odds, log_odds], 1) * (2 * labels[:, None] - 1)

    noisy = gradients.open_modes(Denoiser(network, differentiable=True), images(16), t, noise)["noisy"]
    _, of_log_probability = gradients.gradients_of(classifier, noisy, labels)  # type: ignore[arg-type]
    cosines = gradients.score_cosine(of_log_probability, found)["score_cosine"]
    assert torch.allclose(cosines, torch.ones(4), atol=1e-4)


def test_gradients_of_each_mode(schedule):
    """Of a linear classifier on a Gaussian, whose denoiser scales every change by one known factor."""
    t, network = 100, ScoreNetwork(GaussianOracle(schedule), schedule)
    denoiser = Denoiser(network, differentiable=True, dtype=torch.float32)
    classifier, images, noise = linear_classifier(), 0.3 + 0.4 * torch.rand(3, 3, 8, 8), draw(3, 3, 8, 8)
    modes = gradients.open_modes(denoiser, images, t, noise)
    abar = float(schedule.alphas_cumprod.double()[t])
    assert torch.allclose(modes["noisy"].seen, images + ((1 - abar) / abar) ** 0.5 / 2 * noise, atol=1e-5)
    assert torch.equal(modes["partial"].images, modes["total"].seen)
    labels = torch.tensor([0, 1, 2])
    found = {name: gradients.gradients_of(classifier, mode, labels) for name, mode in modes.items()}
    rows = classifier[1].weight[classifier(modes["partial"].seen).argmax(dim=1)].reshape(3, 3, 8, 8)
    assert torch.allclose(found["partial"][0], rows, atol=1e-6)
    factor = abar * 0.04 / (abar * 0.04 + 1 - abar)  # d pred_x0 / d x_0; no value here is clipped
    assert torch.allclose(found["total"][0], factor * rows, atol=1e-5)
    assert torch.allclose(gradients.vjp(rows, modes["total"]), found["total"][0], atol=1e-6)


def test_alignments_by_hand():
    """x = (1, 0) has mean 0.5, so x less it is (0.5, -0.5): cosine 0.6 with (3, 4), 0.1 / sqrt(0.5) without it."""
    x, g = torch.tensor([1.0, 0.0]).reshape(1, 1, 1, 2), torch.tensor([3.0, 4.0]).reshape(1, 1, 1, 2)
    values = {name: value.item() for name, value in gradients.alignments(x, g).items()}
    assert values == pytest.approx({"alignment": 0.6, "cosine": 0.6, "centred_cosine": 0.1 / 0.5**0.5})
    assert gradients.score_cosine(-g, x)["score_cosine"].item() == pytest.approx(-0.6)


OPTIONS = argparse.Namespace(vectors=4, seed=0, leading_images=2, iterations=4)


def test_theorem_1_on_a_mixture_of_gaussians(schedule):
    """Its posterior has more than one variance, and differs from image to image."""
    oracle = MixtureOracle(schedule)
    drawn = torch.multinomial(oracle.weights, 4000, replacement=True, generator=torch.Generator().manual_seed(0))
    x_0 = oracle.means[drawn] + oracle.variances[drawn].sqrt()[:, None] * draw(4000, 12).double()
    network, noise = ScoreNetwork(oracle, schedule), draw(4000, 3, 2, 2, seed=1)
    arguments = network, x_0.float().reshape(-1, 3, 2, 2), 250, noise, OPTIONS
    found = {r["metric"]: r for r in jacobian.of_random(*arguments)}
    assert found["asymmetry"]["value"] < 1e-4
    assert abs(found["mse_ratio"]["value"] - 1) < 4 * found["mse_ratio"]["standard_error"] < 0.15
    leading = {(r["metric"], r.get("rank")): r for r in jacobian.of_leading(*arguments)}
    assert leading["asymmetry", None]["value"] < 1e-4
    assert leading["singular_value", 1]["value"] > leading["singular_value", 5]["value"] > 0


@pytest.mark.parametrize(
    ("matrix", "asymmetry"), [(((0, 1), (0, 0)), 2**0.5), (((0, 1), (-1, 0)), 2), (((0, 1), (1, 0)), 0)]
)
def test_asymmetry_by_hand(schedule, matrix, asymmetry):
    """pred_x0 = M x_t on one-pixel images of two channels."""

    class Matrix(nn.Module):
        config = SimpleNamespace(in_channels=2, sample_size=1)

        def forward(self, x_t: Tensor, timesteps: Tensor, labels: Tensor | None = None) -> Tensor:
            return torch.einsum("ij,bjhw->bihw", torch.tensor(matrix, dtype=torch.float32), x_t)

    network = ScoreNetwork(Matrix(), schedule, prediction_type="sample")
    found, *_ = jacobian.of_random(network, draw(3, 2, 1, 1), 100, draw(3, 2, 1, 1, seed=1), OPTIONS)
    assert found["value"] == pytest.approx(asymmetry, abs=1e-5)


@pytest.mark.parametrize(
    ("options", "rates", "said"),
    [
        ([], "measured", "Rates **measured** on one A GPU, bfloat16, 224 pixels, in images a second: 50 by the U-Net"),
        (["--assumed", "--gpu", "X", "--utilisation", "0.5"], "assumed", "Rates **assumed** for X of 312 TFLOP/s"),
        (["--measured", "no_such_file.json"], "assumed", "Rates **assumed** for A100 SXM of 312 TFLOP/s"),
    ],
)
def test_imagenet_costs_of_small_networks(tmp_path, run, monkeypatch, options, rates, said):
    small = nn.Sequential(nn.Conv2d(3, 4, 7, 32), nn.Flatten(), nn.LazyLinear(5))
    small(torch.rand(1, 3, 224, 224))
    monkeypatch.setattr(imagenet_cost, "build_classifier", lambda: small.to("meta", torch.bfloat16))
    monkeypatch.setattr(imagenet_cost, "build_unet", lambda: tiny_unet().to("meta", torch.bfloat16))
    records = run(imagenet_cost, "--measured", write_gpu_hour(tmp_path), *options)
    assert {r["metric"] for r in records} == {"flop_per_image", "hours", "bytes", "disk_bytes"}
    assert all(r["value"] > 0 for r in records)
    assert {r["rates"] for r in records if r["metric"] == "hours"} == {rates}
    monkeypatch.setattr(cost, "frame", lambda script, **wanted: frame(records, **wanted))
    assert cost.imagenet_hours().startswith(said)
