"""Outputs of version 0.1, for fixed draws in float32: what the rebuilt package computes must equal them.

``tests/reference/outputs.safetensors`` was written by version 0.1 before the rebuild began.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import ScoreSdeVeScheduler
from safetensors.torch import load_file
from torch import Tensor

from diffaug_transforms import DeepAugment, DiffAug, DiffAugEnsemble, ScoreNetwork, load_score_network
from diffaug_transforms.classifiers import load_classifier
from diffaug_transforms.guidance import DenoiseAugmentedClassifier, classifier_guide, load_guidance_classifier
from diffaug_transforms.robustness import (
    CORRUPTIONS,
    DDA,
    OOD_METHODS,
    DenoisedSmoothing,
    OODDetector,
    corrupt,
    gradient_alignment,
    input_gradient,
    jacobian_vector_product,
    leading_directions,
    posterior_covariance,
    vector_jacobian_product,
)
from diffaug_transforms.score import Denoiser, diffuse, space_timesteps, to_signed, views_over_time
from diffaug_transforms.score.sampling import sample
from diffaug_transforms.transforms import RECIPES, AnytimeEnsemble, SelfEnsemble, recipe

from .score.test_adapters import tiny_ncsnpp
from .transforms.deepaugment_files import random_weights

EXPECTED = load_file(Path(__file__).parent / "reference" / "outputs.safetensors")
LABELS = torch.tensor([3, 5, 1, 8])
T = torch.tensor([20, 100, 300, 700])


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=seeded(seed))


NOISE = normal(4, 3, 32, 32, seed=1)


def check(name: str, value: Tensor, tolerance: float = 1e-5) -> None:
    expected = EXPECTED[name]
    torch.testing.assert_close(value.detach().to(expected.dtype), expected, rtol=tolerance, atol=tolerance)


@pytest.fixture(scope="module")
def images8() -> Tensor:
    from torchvision.transforms.v2 import functional

    from diffaug_transforms.images import sample_images

    return torch.stack([functional.pil_to_tensor(image) for image in sample_images().values()])


@pytest.fixture(scope="module")
def images(images8: Tensor) -> Tensor:
    return images8[:4].float() / 255


@pytest.fixture(scope="module")
def denoiser() -> Denoiser:
    return Denoiser("cifar10", dtype=torch.float32)


@pytest.fixture(scope="module")
def network() -> ScoreNetwork:
    return load_score_network("cifar10")


@pytest.fixture(scope="module")
def classifier() -> torch.nn.Module:
    return load_classifier("cifar10-diffaug")


def test_diffaug(denoiser, images, images8):
    augment = DiffAug(denoiser)
    draw = {"timesteps": T, "noise": NOISE}
    check("diffaug", augment.transform(images, draw))
    steps = (augment.transform(images8[:4], draw).int() - EXPECTED["diffaug_uint8"].int()).abs()
    assert steps.max() <= 1  # a value halfway between two steps may round either way
    assert steps.sum() <= 3
    check("diffaug_labels", augment.transform(images, {**draw, "labels": LABELS}))
    padded = {"timesteps": T, "noise": NOISE[..., :30, :29]}
    check("diffaug_padded", augment.transform(images[..., :30, :29], padded))


def test_draws(images):
    params = DiffAug("cifar10", generator=seeded(2), p=0.5).make_params([images])
    for name in ("timesteps", "selected"):
        assert torch.equal(params[name], EXPECTED[f"draw_{name}"])
    assert torch.equal(params["noise"][:1], EXPECTED["draw_noise"])


def test_views_over_time(denoiser, images):
    diffused, denoised = views_over_time(denoiser, images[:2], [50, 400], seed=3)
    check("over_time_diffused", diffused)
    check("over_time_denoised", denoised)


def test_ensembles(denoiser, images, classifier):
    ensemble = DiffAugEnsemble(classifier, denoiser)
    source = seeded(4)
    torch.randint(1000, (36,), generator=source)  # version 0.1 drew timesteps first, and did not use them
    noise = torch.randn(9, 4, 3, 32, 32, generator=source)
    check("ensemble", ensemble(images, noise))
    check("ensemble_views", ensemble.views(images[:1], normal(9, 1, 3, 32, 32, seed=5)))
    prediction = AnytimeEnsemble(ensemble, confidence=0.9).predict(images, noise)
    for name, value in zip(("anytime", "anytime_views", "anytime_calls"), prediction):
        check(name, value)
    check("self_ensemble", SelfEnsemble(classifier, lambda x: x.flip(-1))(images))


def test_adaptation(images):
    dda = DDA("cifar10", num_steps=20, dtype=torch.float32)
    assert dda.timesteps == tuple(EXPECTED["dda_timesteps"].tolist())
    check("dda", dda.adapt(images[:2], normal(len(dda.timesteps), 2, 3, 32, 32, seed=6)[:-1]), 1e-4)


def test_smoothing(denoiser, images, classifier):
    smoothed = DenoisedSmoothing(classifier, denoiser, sigma=0.25)
    noise = normal(16, 3, 32, 32, seed=7)
    assert torch.equal(smoothed.counts(images[0], [noise]), EXPECTED["smoothing_counts"])
    check("smoothing_logits", smoothed.classify(images, noise[:4]), 1e-4)


@pytest.mark.parametrize("method", OOD_METHODS)
def test_ood_scores(method, images, images8, classifier):
    detector = OODDetector(classifier, method=method).fit(images8.float() / 255)
    check(f"ood_{method}", detector(images))


@pytest.mark.parametrize(("method", "eta"), [("ancestral", 0.0), ("ddim", 0.0), ("ddim", 0.7)])
def test_sampling(method, eta, network):
    options = {"method": method, "eta": eta, "labels": LABELS[:2], "noise": list(normal(8, 2, 3, 32, 32, seed=9))}
    images = sample(network, normal(2, 3, 32, 32, seed=8), space_timesteps(1000, 8), **options)
    check(f"sample_{method}_{eta}", images, 1e-4)


def test_guidance(network, denoiser):
    encoder = load_guidance_classifier("cifar10-denoise-augmented").encoder
    classifier = DenoiseAugmentedClassifier(encoder, "cifar10", dtype=torch.float32).eval()
    x_t = normal(2, 3, 32, 32, seed=8)
    check("guidance_logits", classifier(x_t, torch.tensor([50, 500])), 1e-4)
    guide = classifier_guide(classifier, LABELS[:2], 2.0, schedule=network.schedule)
    for method in ("ancestral", "ddim"):
        noise = list(normal(4, 2, 3, 32, 32, seed=9))
        steps = space_timesteps(1000, 4, "leading")
        check(f"guided_{method}", sample(network, x_t, steps, method=method, guide=guide, noise=noise), 2e-4)


def test_network(network, images):
    scaled = load_score_network("cifar10")
    scaled.guidance_scale = 2.5
    x_t = diffuse(to_signed(images), T, NOISE, network.schedule)
    for name, net in (("net", network), ("scaled", scaled)):
        check(f"{name}_pred_x0", net(x_t, T, LABELS), 1e-4)
        check(f"{name}_eps", net.eps(x_t, T, LABELS), 1e-4)
    check("net_score", network.score(x_t, T))
    for name, value in zip(("net_mean", "net_log_variance"), network.posterior(x_t, T)):
        check(name, value)


def test_jacobian(network, images):
    x_t = diffuse(to_signed(images), T, NOISE, network.schedule)
    arguments = (network, x_t[:2], T[:2], NOISE[:2])
    check("jvp", jacobian_vector_product(*arguments), 1e-4)
    check("vjp", vector_jacobian_product(*arguments), 1e-4)
    check("cov", posterior_covariance(*arguments), 1e-4)
    values, directions = leading_directions(network, x_t[0], 20, k=2, iterations=2, generator=seeded(10))
    check("leading_values", values, 1e-3)
    check("leading_directions", directions, 1e-3)


def test_gradients(images, classifier):
    gradient = input_gradient(classifier, images, LABELS)
    check("input_gradient", gradient)
    check("alignment", gradient_alignment(images, gradient, cosine=True))


def test_augmentations(images, tmp_path):
    check("noise2net", DeepAugment(generator=seeded(12))(images))
    for name in ("edsr", "cae"):
        torch.save(random_weights(name), tmp_path / f"{name}.pt")
        augment = DeepAugment(name, weights=tmp_path / f"{name}.pt", size=16, generator=seeded(13))
        views = torch.cat([augment(image) for image in images.split(1)])
        # The first image draws the last part of EDSR's body, which version 0.1 computed in another way.
        torch.testing.assert_close(views[1:], EXPECTED[name][1:], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("corruption_set", ["cifar10-c", "imagenet-c"])
@pytest.mark.parametrize("corruption", [name for name in CORRUPTIONS if name not in ("motion_blur", "snow")])
def test_corruptions(corruption_set, corruption, images8):
    """Version 0.1 rounded motion blur and snow in another way. ``tests/fidelity`` holds all 15."""
    result = corrupt(images8[:1], corruption, 4, corruption_set=corruption_set, seed=7, first=3)
    assert torch.equal(result, EXPECTED[f"{corruption_set}_{corruption}"])


@pytest.mark.parametrize("name", [name for name in RECIPES if "augmix" not in name])
def test_recipes(name, images, classifier, denoiser):
    """AugMix is left out: version 0.1 moved images in another way than Pillow. ``tests/fidelity`` holds it."""
    torch.manual_seed(14)
    views, loss = recipe(name, diffaug=DiffAug(denoiser, timesteps=[30, 90]))
    named = views(images)
    for view, value in named.items():
        check(f"recipe_{name}_{view}", value[:1])
    check(f"recipe_{name}_loss", loss({view: classifier(value) for view, value in named.items()}, LABELS), 1e-4)


def test_variance_exploding():
    network = ScoreNetwork.from_diffusers(tiny_ncsnpp(), ScoreSdeVeScheduler(1000, sigma_min=0.01, sigma_max=50))
    network.requires_grad_(False)
    x_t, t = 0.5 * normal(2, 3, 16, 16, seed=15), torch.tensor([5, 800])
    for name in ("pred_x0", "eps", "score"):
        check(f"ve_{name}", getattr(network, name)(x_t, t), 1e-4)
    for name, value in zip(("ve_mean", "ve_log_variance"), network.posterior(x_t, t)):
        check(name, value)
    noise = list(normal(4, 2, 3, 16, 16, seed=16))
    check("ve_sample", sample(network, x_t * 100, space_timesteps(1000, 4), noise=noise), 1e-3)
    assert network.augment_timesteps == tuple(EXPECTED["ve_augment_timesteps"].tolist())
