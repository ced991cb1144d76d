"""Every public call on pretended devices: no two devices meet, the host waits for the device only so often.

``SYNCS`` is the table. Each number is how often the host waits in one call after the first, which loads and moves the
network. A change that makes it smaller lowers the number here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import CMStochasticIterativeScheduler
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torchvision import tv_tensors

from diffaug_transforms import AugMix, DeepAugment, DiffAug, DiffAugEnsemble, Purify, ScoreNetwork, compose_with
from diffaug_transforms.classifiers import NormalizedClassifier
from diffaug_transforms.guidance import DenoiseAugmentedClassifier, NoisyClassifier, classifier_guide
from diffaug_transforms.robustness import (
    DDA,
    DenoisedSmoothing,
    OODDetector,
    correct,
    gradient_alignment,
    input_gradient,
    jacobian_vector_product,
    leading_directions,
    posterior_covariance,
    vector_jacobian_product,
)
from diffaug_transforms.score import Denoiser, NoiseSchedule, views_over_time
from diffaug_transforms.score.sampling import sample
from diffaug_transforms.transforms import AnytimeEnsemble, SelfEnsemble, ViewsLoss, estimate_sigma
from tests.conftest import tiny_unet
from tests.guidance.guidance_encoders import tiny_encoder
from tests.pretend_device import PretendedDevices
from tests.transforms.deepaugment_files import random_weights

#: How often the host waits for the device in one call.
SYNCS = {
    "DiffAug, uint8": 0,
    "DiffAug, float": 0,
    "DiffAug, tv_tensors.Image": 0,
    "DiffAug, float, generator of the CPU": 0,
    "DiffAug, float, p=0.5": 0,
    "DiffAug, float, default timesteps": 0,
    "DiffAug, float, one timestep": 0,
    "DiffAug, float, labels on the device": 0,
    "DiffAug, float, labels in a list": 0,
    "Denoiser": 0,
    "DiffAug, a denoiser of any size": 0,
    "Denoiser, consistency model": 0,
    "DiffAugEnsemble, S given": 0,
    "DiffAugEnsemble, S given, normalize": 0,
    "DiffAugEnsemble, default S": 0,
    "AnytimeEnsemble, 10 views": 4,
    "AnytimeEnsemble, confidence": 8,
    "SelfEnsemble of DiffAug": 0,
    "Purify, uint8": 0,
    "Purify, float": 0,
    "Purify, one sigma": 0,
    "Purify, sigmas given": 0,
    "estimate_sigma, uint8": 0,
    "estimate_sigma, float": 0,
    "DenoisedSmoothing": 0,
    "DenoisedSmoothing, votes of 1 part": 1,
    "DenoisedSmoothing, votes of 4 parts": 1,
    "DenoisedSmoothing.certify, 1 and 2 parts": 4,
    "DenoisedSmoothing.predict, 2 parts": 2,
    "DDA": 0,
    "OODDetector, msp": 0,
    "OODDetector, scale": 0,
    "OODDetector, react": 0,
    "NormalizedClassifier, uint8": 0,
    "NormalizedClassifier, float": 0,
    "AugMix, 4 images": 0,
    "Noise2Net, 4 images": 0,
    "EDSR, 2 images and networks": 0,
    "CAE, 2 images and networks": 0,
    "compose_with, Noise2Net and DiffAug": 0,
    "ScoreNetwork": 0,
    "ScoreNetwork.eps": 0,
    "ScoreNetwork.score": 0,
    "ScoreNetwork.posterior": 0,
    "ScoreNetwork, labels": 0,
    "sample, ancestral, 4 steps": 0,
    "sample, DDIM, 4 steps": 0,
    "classifier_guide, 2 steps": 0,
    "DenoiseAugmentedClassifier": 0,
    "jacobian_vector_product": 0,
    "vector_jacobian_product": 0,
    "posterior_covariance": 0,
    "leading_directions, 1 iteration": 1,
    "views_over_time": 0,
    "ViewsLoss": 0,
    "input_gradient": 2,
    "correct": 5,
}

Place = torch.device
F32 = {"dtype": torch.float32}
STEPS = (0, 20, 40, 60)
PRETRAINED_DRAWS = {"network_seed": [1, 2], "feature_seed": [3, 4]}


def network(place: Place, num_classes: int | None = None) -> ScoreNetwork:
    """A tiny network on a device, as one that is loaded by name is after its first image. It has no null class."""
    unet = tiny_unet(num_class_embeds=num_classes)
    return ScoreNetwork(unet, NoiseSchedule.named("linear")).requires_grad_(False).eval().to(place)


def floats(place: Place, seed: int = 0) -> Tensor:
    return torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(seed)).to(place)


def pixels(place: Place) -> Tensor:
    return (floats(torch.device("cpu")) * 255).byte().to(place)


def linear(place: Place) -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 12), nn.ReLU(), nn.Linear(12, 7)).eval().to(place)


def timesteps(place: Place) -> Tensor:
    return torch.tensor([5, 300, 700, 999]).to(place)


def labels(place: Place) -> Tensor:
    return torch.tensor([0, 3, 1, 4]).to(place)


def diffaug(images: Callable[[Place], Tensor], **options: Any) -> Callable[[Place], Any]:
    def build(place: Place) -> Any:
        augment, batch = DiffAug(network(place), **{"timesteps": range(100), **F32, **options}), images(place)
        return lambda: augment(batch)

    return build


def tv_image(place: Place) -> Tensor:
    return tv_tensors.Image(pixels(place))


def conditional_diffaug(as_list: bool) -> Callable[[Place], Any]:
    def build(place: Place) -> Any:
        augment, batch = DiffAug(network(place, 5), conditional=True, **F32), floats(place)
        classes = [0, 3, 1, 4] if as_list else labels(place)
        return lambda: augment(batch, classes)[0]

    return build


def seeded_diffaug(place: Place) -> Any:
    """The draws are made on the host."""
    augment, batch = DiffAug(network(place), timesteps=range(100), generator=torch.Generator(), **F32), floats(place)

    def call() -> Tensor:
        augment.generator.manual_seed(0)
        return augment(batch)

    return call


def denoiser(place: Place) -> Any:
    engine, batch, noise, steps = Denoiser(network(place), **F32), floats(place), floats(place, 1), timesteps(place)
    return lambda: engine(batch, steps, noise)


def diffaug_of_denoiser(place: Place) -> Any:
    convolution = nn.Conv2d(3, 3, 3, padding=1).requires_grad_(False).to(place)
    wrapped = WithSigma(convolution)
    net = ScoreNetwork.from_denoiser(wrapped, image_size=None, sigma_range=(0, 1))
    augment, batch = DiffAug(net, **F32), floats(place)
    return lambda: augment(batch)


class WithSigma(nn.Module):
    def __init__(self, convolution: nn.Module) -> None:
        super().__init__()
        self.convolution = convolution

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        return x + sigma.reshape(-1, 1, 1, 1) * self.convolution(x)


def consistency(place: Place) -> Any:
    net = ScoreNetwork.from_diffusers(tiny_unet(), CMStochasticIterativeScheduler()).to(place)
    engine, batch, noise = Denoiser(net, **F32), floats(place), floats(place, 1)
    steps = torch.tensor([5, 300, 700, 900]).to(place)
    return lambda: engine(batch, steps, noise)


def ensemble(**options: Any) -> Callable[[Place], Any]:
    def build(place: Place) -> Any:
        robust, batch = DiffAugEnsemble(linear(place), network(place), **F32, **options), floats(place)
        return lambda: robust(batch)

    return build


def anytime(**options: Any) -> Callable[[Place], Any]:
    def build(place: Place) -> Any:
        whole, batch = DiffAugEnsemble(linear(place), network(place), timesteps=range(0, 100, 10), **F32), floats(place)
        return lambda: AnytimeEnsemble(whole, **options).predict(batch)

    return build


def self_ensemble(place: Place) -> Any:
    adapt = DiffAug(network(place), timesteps=30, **F32)
    robust, batch = SelfEnsemble(linear(place), adapt), floats(place)
    return lambda: robust(batch)


def purify(images: Callable[[Place], Tensor], **options: Any) -> Callable[[Place], Any]:
    def build(place: Place) -> Any:
        transform, batch = Purify(network(place), **F32, **options), images(place)
        return lambda: transform(batch)

    return build


def noise_levels(images: Callable[[Place], Tensor]) -> Callable[[Place], Any]:
    def build(place: Place) -> Any:
        batch = images(place)
        return lambda: estimate_sigma(batch)

    return build


def smoothing(call: Callable[[DenoisedSmoothing, Tensor], Any], max_batch: int = 8) -> Callable[[Place], Any]:
    def build(place: Place) -> Any:
        smoothed, batch = (
            DenoisedSmoothing(linear(place), network(place), 0.25, max_batch=max_batch, **F32),
            floats(place),
        )
        return lambda: call(smoothed, batch)

    return build


def dda(place: Place) -> Any:
    adapt, batch = DDA(network(place), num_steps=40, **F32), floats(place)
    return lambda: adapt(batch)


def detector(method: str) -> Callable[[Place], Any]:
    def build(place: Place) -> Any:
        judge, batch = OODDetector(linear(place), method=method).fit(floats(place, 1)), floats(place)
        return lambda: judge(batch)

    return build


def normalized(images: Callable[[Place], Tensor]) -> Callable[[Place], Any]:
    def build(place: Place) -> Any:
        classifier, batch = NormalizedClassifier(linear(place), [0.4, 0.5, 0.6], 0.25).to(place), images(place)
        return lambda: classifier(batch)

    return build


def pretrained(name: str, size: int) -> Callable[[Place], Any]:
    """DeepAugment with random weights, for two images that each draw a network."""

    def build(place: Place) -> Any:
        augment, batch = DeepAugment(name, weights="none", size=size), floats(place)[:2]
        scale = {"image.factor": torch.tensor(255.0), "image.mean": torch.rand(3, 1, 1)} if name == "edsr" else {}
        augment._loaded = {torch.device("cpu"): {**random_weights(name), **scale}}
        seeds = {key: torch.tensor(values) for key, values in PRETRAINED_DRAWS.items()}
        return lambda: augment.transform(batch, seeds)

    return build


def composed(place: Place) -> Any:
    views, batch = compose_with(DeepAugment(), diffaug=DiffAug(network(place), **F32)), pixels(place)
    return lambda: list(views(batch).values())


def transform(made: Callable[[], Any]) -> Callable[[Place], Any]:
    def build(place: Place) -> Any:
        augment, batch = made(), floats(place)
        return lambda: augment(batch)

    return build


def method(name: str, num_classes: int | None = None) -> Callable[[Place], Any]:
    """A method of ScoreNetwork."""

    def build(place: Place) -> Any:
        net, x_t, steps = network(place, num_classes), floats(place), timesteps(place)
        classes = labels(place) if num_classes else None
        return lambda: getattr(net, name)(x_t, steps, classes)

    return build


def sampling(**options: Any) -> Callable[[Place], Any]:
    """Four steps."""

    def build(place: Place) -> Any:
        net, x_t = network(place), floats(place)
        return lambda: sample(net, x_t, (0, 300, 600, 999), **options)

    return build


def guided(place: Place) -> Any:
    """Two steps."""
    net, x_t = network(place), floats(place)
    guide = classifier_guide(NoisyClassifier(tiny_encoder()).to(place), [0, 3, 1, 4], schedule=net.schedule)
    return lambda: sample(net, x_t, (300, 999), guide=guide)


def denoise_augmented(place: Place) -> Any:
    classifier = DenoiseAugmentedClassifier(tiny_encoder(0.1), network(place), **F32).to(place)
    x_t, steps = floats(place), timesteps(place)
    return lambda: classifier(x_t, steps)


def jacobian(product: Callable[..., Tensor]) -> Callable[[Place], Any]:
    def build(place: Place) -> Any:
        net, x_t, vectors, steps = network(place), floats(place), floats(place, 1), timesteps(place)
        return lambda: product(net, x_t, steps, vectors)

    return build


def directions(place: Place) -> Any:
    net, x_t, source = network(place), floats(place)[0], torch.Generator()
    return lambda: leading_directions(net, x_t, 100, k=2, iterations=1, generator=source.manual_seed(0)).singular_values


def views(place: Place) -> Any:
    engine, batch = Denoiser(network(place), **F32), floats(place)
    return lambda: views_over_time(engine, batch, STEPS)


def loss(place: Place) -> Any:
    logits = {name: torch.arange(28.0).reshape(4, 7).sin().to(place) for name in ("clean", "augmix1", "diffaug")}
    targets = labels(place)
    return lambda: ViewsLoss()(logits, targets)


def gradients(place: Place) -> Any:
    classifier, batch, classes = linear(place), floats(place), labels(place)
    return lambda: gradient_alignment(batch, input_gradient(classifier, batch, classes))


def answers(place: Place) -> Any:
    logits, targets = floats(place).flatten(1)[:, :7], labels(place)
    return lambda: correct(logits, targets)


CALLS: dict[str, Callable[[Place], Callable[[], Any]]] = {
    "DiffAug, uint8": diffaug(pixels),
    "DiffAug, float": diffaug(floats),
    "DiffAug, tv_tensors.Image": diffaug(tv_image),
    "DiffAug, float, generator of the CPU": seeded_diffaug,
    "DiffAug, float, p=0.5": diffaug(floats, p=0.5),
    "DiffAug, float, default timesteps": diffaug(floats, timesteps=None),
    "DiffAug, float, one timestep": diffaug(floats, timesteps=30),
    "DiffAug, float, labels on the device": conditional_diffaug(as_list=False),
    "DiffAug, float, labels in a list": conditional_diffaug(as_list=True),
    "Denoiser": denoiser,
    "DiffAug, a denoiser of any size": diffaug_of_denoiser,
    "Denoiser, consistency model": consistency,
    "DiffAugEnsemble, S given": ensemble(timesteps=STEPS),
    "DiffAugEnsemble, S given, normalize": ensemble(timesteps=STEPS, normalize=([0.4, 0.5, 0.6], [0.2, 0.2, 0.2])),
    "DiffAugEnsemble, default S": ensemble(),
    "AnytimeEnsemble, 10 views": anytime(),
    "AnytimeEnsemble, confidence": anytime(confidence=0.99),
    "SelfEnsemble of DiffAug": self_ensemble,
    "Purify, uint8": purify(pixels),
    "Purify, float": purify(floats),
    "Purify, one sigma": purify(floats, sigma=0.1),
    "Purify, sigmas given": purify(floats, sigma=torch.tensor([0.01, 0.1, 0.2, 0.3]), gate=0.05),
    "estimate_sigma, uint8": noise_levels(pixels),
    "estimate_sigma, float": noise_levels(floats),
    "DenoisedSmoothing": smoothing(lambda smoothed, batch: smoothed(batch)),
    "DenoisedSmoothing, votes of 1 part": smoothing(lambda s, batch: s.counts(batch[0], s.draw_noise(batch[0], 8))),
    "DenoisedSmoothing, votes of 4 parts": smoothing(lambda s, batch: s.counts(batch[0], s.draw_noise(batch[0], 32))),
    "DenoisedSmoothing.certify, 1 and 2 parts": smoothing(lambda s, batch: s.certify(batch[0], n0=8, n=16)),
    "DenoisedSmoothing.predict, 2 parts": smoothing(lambda s, batch: s.predict(batch[0], n=16)),
    "DDA": dda,
    "OODDetector, msp": detector("msp"),
    "OODDetector, scale": detector("scale"),
    "OODDetector, react": detector("react"),
    "NormalizedClassifier, uint8": normalized(pixels),
    "NormalizedClassifier, float": normalized(floats),
    "AugMix, 4 images": transform(AugMix),
    "Noise2Net, 4 images": transform(DeepAugment),
    "EDSR, 2 images and networks": pretrained("edsr", 16),
    "CAE, 2 images and networks": pretrained("cae", 16),
    "compose_with, Noise2Net and DiffAug": composed,
    "ScoreNetwork": method("forward"),
    "ScoreNetwork.eps": method("eps"),
    "ScoreNetwork.score": method("score"),
    "ScoreNetwork.posterior": method("posterior"),
    "ScoreNetwork, labels": method("forward", num_classes=5),
    "sample, ancestral, 4 steps": sampling(),
    "sample, DDIM, 4 steps": sampling(method="ddim", eta=0.5),
    "classifier_guide, 2 steps": guided,
    "DenoiseAugmentedClassifier": denoise_augmented,
    "jacobian_vector_product": jacobian(jacobian_vector_product),
    "vector_jacobian_product": jacobian(vector_jacobian_product),
    "posterior_covariance": jacobian(posterior_covariance),
    "leading_directions, 1 iteration": directions,
    "views_over_time": views,
    "ViewsLoss": loss,
    "input_gradient": gradients,
    "correct": answers,
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_stays_on_its_device_and_waits_so_often(name: str) -> None:
    expected = answer_on(torch.device("cpu"), CALLS[name])
    with PretendedDevices() as devices:
        found = answer_on(torch.device("cuda:1"), CALLS[name], devices)
        syncs = Counter(devices.syncs)
        assert {tensor.device for tensor in found} <= {torch.device("cuda:1")}
        for tensor, wanted in zip(found, expected, strict=True):
            assert_close(tensor, wanted)
    assert syncs.total() <= SYNCS[name], f"{syncs.total()} syncs: {dict(syncs)}"


def answer_on(place: Place, build: Callable[[Place], Any], devices: PretendedDevices | None = None) -> list[Tensor]:
    """The tensors in the answer of the second call. The first loads and moves the network. Its syncs are dropped."""
    torch.manual_seed(0)
    call = build(place)
    call()
    if devices is not None:
        devices.syncs.clear()
    torch.manual_seed(0)
    answer = call()
    return [leaf for leaf in tree_leaves(answer) if isinstance(leaf, Tensor)]


def assert_close(found: Tensor, wanted: Tensor) -> None:
    """Equal up to rounding, beside the largest value."""
    found, wanted = found.detach().cpu().double(), wanted.detach().double()
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4 * max(1, wanted.abs().max().item()))
