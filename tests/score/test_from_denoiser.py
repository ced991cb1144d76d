"""Any denoise(x, sigma) as a network: the Gaussian oracle as one, its range of sigmas, and what users get wrong."""

from __future__ import annotations

import copy
import math
import pickle
import threading

import pytest
import torch
from torch import Tensor, nn

from diffaug_transforms import DiffAug, DiffAugEnsemble, ScoreNetwork
from diffaug_transforms.robustness import DDA, DenoisedSmoothing, jacobian_vector_product, vector_jacobian_product
from diffaug_transforms.score import Denoiser, NoiseSchedule, diffuse
from diffaug_transforms.score.sampling import sample
from tests import contracts
from tests.conftest import GaussianOracle
from tests.contracts import draw

MEAN, VARIANCE = 0.1, 0.04
TIMESTEPS = torch.tensor([0, 50, 300, 900])
ANY = (0, math.inf)


def exact(x: Tensor, sigma: Tensor) -> Tensor:
    """E[x_0 | x] where x_0 is N(MEAN, VARIANCE) for each pixel."""
    return MEAN + VARIANCE / (VARIANCE + sigma.reshape(-1, 1, 1, 1) ** 2) * (x - MEAN)


def by_label(x: Tensor, sigma: Tensor, labels: Tensor) -> Tensor:
    return exact(x, sigma) + 0.1 * labels.reshape(-1, 1, 1, 1)


class Residual(nn.Module):
    """A small convolutional denoiser that mixes float32 sigmas with its weights, as k-diffusion's do."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Conv2d(4, 16, 3, padding=1), nn.Conv2d(16, 3, 3, padding=1)
        self.embed = nn.Linear(1, 16)

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        level = sigma.reshape(-1, 1, 1, 1).expand(-1, 1, *x.shape[2:])
        hidden = self.first(torch.cat([x, level], 1)) + self.embed(sigma[:, None])[..., None, None]
        return exact(x, sigma) + 0.05 * self.last(hidden.relu())


@pytest.fixture
def module() -> Residual:
    return Residual().requires_grad_(False).eval()


@pytest.fixture
def residual(module) -> ScoreNetwork:
    return ScoreNetwork.from_denoiser(module, image_size=16, sigma_range=ANY)


def test_everything_follows_from_the_denoised_image(schedule):
    network = ScoreNetwork.from_denoiser(exact, image_size=8, sigma_range=ANY)
    oracle = GaussianOracle(schedule, MEAN, VARIANCE)
    plain = ScoreNetwork(oracle, schedule)
    assert network.schedule == schedule
    x_t = diffuse(MEAN + VARIANCE**0.5 * draw(4, 3, 8, 8), TIMESTEPS, draw(4, 3, 8, 8, seed=1), schedule)
    torch.testing.assert_close(
        network(x_t, TIMESTEPS).double(), oracle.posterior_mean(x_t, TIMESTEPS), rtol=0, atol=1e-4
    )
    for method in ("eps", "score"):
        ours, theirs = (getattr(one, method)(x_t, TIMESTEPS) for one in (network, plain))
        assert (ours - theirs).norm() < 1e-3 * theirs.norm()
    for ours, theirs in zip(network.posterior(x_t, TIMESTEPS), plain.posterior(x_t, TIMESTEPS)):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)
    steps, noise = range(0, 1000, 100), list(draw(10, 4, 3, 8, 8, seed=2))
    ours, theirs = (sample(one, x_t, steps, noise=noise) for one in (network, plain))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-3)


def test_it_gets_unscaled_images_and_float32_sigmas(schedule):
    seen = []

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        seen.extend([x, sigma])
        return x

    network = ScoreNetwork.from_denoiser(denoise, image_size=8, sigma_range=ANY)
    x_0, noise = draw(4, 3, 8, 8), draw(4, 3, 8, 8, seed=1)
    network(diffuse(x_0, TIMESTEPS, noise, schedule).double(), TIMESTEPS)
    x, sigma = seen
    assert (x.dtype, sigma.dtype, sigma.shape) == (torch.float32, torch.float32, (4,))
    torch.testing.assert_close(sigma, schedule.sigmas[TIMESTEPS])
    torch.testing.assert_close(x, x_0 + sigma.reshape(-1, 1, 1, 1) * noise, rtol=1e-4, atol=1e-4)


def test_labels():
    network = ScoreNetwork.from_denoiser(by_label, image_size=8, sigma_range=ANY, num_classes=5)
    assert (network.num_classes, network.null_class) == (5, None)
    x_t, labels = draw(4, 3, 8, 8), torch.tensor([0, 4, 1, 1])
    plain = ScoreNetwork.from_denoiser(exact, image_size=8, sigma_range=ANY).pred_x0(x_t, TIMESTEPS, clip=False)
    expected = plain + 0.1 * labels.reshape(-1, 1, 1, 1)
    torch.testing.assert_close(network.pred_x0(x_t, TIMESTEPS, labels, clip=False), expected)
    augmented, _ = DiffAug(network, conditional=True)(contracts.images(8), labels)
    assert augmented.shape == (4, 3, 8, 8)
    with pytest.raises(ValueError, match=r"this network needs labels in 0\.\.\.4"):
        DiffAug(network)(contracts.images(8))


@pytest.mark.parametrize("stride", [1, 4])
def test_sides_are_padded_to_the_stride(stride):
    seen = []

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        seen.append(tuple(x.shape[2:]))
        return exact(x, sigma)

    network = ScoreNetwork.from_denoiser(denoise, image_size=None, sigma_range=ANY, stride=stride)
    assert DiffAug(network)(torch.rand(2, 3, 13, 18)).shape == (2, 3, 13, 18)
    assert seen == [(13, 18) if stride == 1 else (16, 20)]


def test_diffaug_keeps_its_contracts(residual):
    def make() -> DiffAug:
        return DiffAug(residual, dtype=torch.float32)

    for dtype in (torch.float32, torch.uint8):
        contracts.check_type_shape_and_range(make, 16, dtype)
    contracts.check_seeds_repeat(make, 16)
    contracts.check_pickles_and_copies(make, 16)
    contracts.check_a_draw(make, 16)


def test_gradients_and_dda(residual):
    x_t, v, w = (draw(2, 3, 16, 16, seed=seed) for seed in range(3))
    t = torch.tensor([300, 600])
    forward, backward = jacobian_vector_product(residual, x_t, t, v), vector_jacobian_product(residual, x_t, t, w)
    assert torch.allclose((w * forward).sum((1, 2, 3)), (backward * v).sum((1, 2, 3)), rtol=1e-3, atol=1e-3)
    assert DDA(residual, num_steps=10)(contracts.images(16, batch=2)).shape == (2, 3, 16, 16)


@pytest.mark.usefixtures("fresh_compiler")
def test_it_compiles_and_exports(residual):
    images, t, noise = contracts.images(16), TIMESTEPS, draw(4, 3, 16, 16)
    for dtype in (torch.float32, torch.bfloat16):
        expected = Denoiser(residual, dtype=dtype)(images, t, noise)
        compiled = torch.compile(Denoiser(residual, dtype=dtype), fullgraph=True, backend="eager")
        torch.testing.assert_close(
            compiled(images, t, noise), expected, rtol=0, atol=1e-2 if dtype.itemsize == 2 else 1e-5
        )
        exported = torch.export.export(Denoiser(residual, dtype=dtype), (images, t, noise))
        torch.testing.assert_close(exported.module()(images, t, noise), expected, rtol=0, atol=1e-2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_in_half_precision_it_runs_under_autocast(residual, module, dtype):
    """Cast weights would not fit its float32 sigmas."""
    images, noise, seen = contracts.images(16), draw(4, 3, 16, 16), []
    expected = Denoiser(residual, dtype=torch.float32)(images, TIMESTEPS, noise)
    denoiser = Denoiser(residual, dtype=dtype)
    ready = denoiser.ready("cpu")
    ready.unet.denoise.last.register_forward_hook(lambda layer, inputs, output: seen.append(output.dtype))
    if dtype == torch.float64:  # autocast has no float64, so weights are cast
        assert ready.dtype == torch.float64
        return
    denoised = denoiser(images, TIMESTEPS, noise)
    assert seen == [dtype]
    assert ready.unet.denoise.last.weight.dtype == torch.float32
    assert torch.equal(ready.unet.denoise.last.weight, module.last.weight)
    torch.testing.assert_close(denoised, expected, rtol=0, atol=0.01)
    assert not torch.equal(denoised, expected)
    residual.to(dtype).float()  # and back
    assert torch.equal(Denoiser(residual, dtype=torch.float32)(images, TIMESTEPS, noise), expected)


def test_it_moves_and_pickles_and_stays_the_users(module):
    network = ScoreNetwork.from_denoiser(module.train(), image_size=16, sigma_range=(0, 1))
    assert network.unet.denoise is module
    x_t, t = draw(2, 3, 16, 16), torch.tensor([3, 200])
    expected = network.pred_x0(x_t, t)
    for other in (pickle.loads(pickle.dumps(network)), copy.deepcopy(network)):
        assert torch.equal(other.pred_x0(x_t, t), expected)
        assert other.schedule.timesteps == network.schedule.timesteps
    DiffAug(network)(contracts.images(16))
    assert module.training
    assert set(network.state_dict()) == {f"unet.denoise.{name}" for name in module.state_dict()}
    moved = copy.deepcopy(network).to("meta")
    assert (moved.device.type, moved.unet.sigmas.device.type, moved.dtype) == ("meta", "meta", torch.float32)


FFDNET_RANGE = (0, 150 / 255)


@pytest.fixture
def limited() -> ScoreNetwork:
    """For sigma up to 75/255 of [0, 1] images: t up to 167."""
    return ScoreNetwork.from_denoiser(exact, image_size=None, sigma_range=FFDNET_RANGE)


def test_timesteps_outside_of_the_range_are_refused(limited):
    assert limited.schedule.timesteps == range(168)
    assert limited.schedule.sigmas[167] <= 150 / 255 < limited.schedule.sigmas[168]
    message = r"in 0\.\.\.167 for this network. Got 168: its sigmas are 0.01\.\.\.0.58\d*, and t = 168 has 0.59"
    t, images = torch.tensor([168]), contracts.images(32, batch=1)
    classifier = nn.Sequential(nn.Flatten(), nn.LazyLinear(7))
    for call in (
        lambda: limited(draw(1, 3, 8, 8), t),
        lambda: Denoiser(limited)(images, t, torch.zeros_like(images)),
        lambda: DiffAug(limited, timesteps=[5, 168]),
        lambda: DiffAug(Denoiser(limited), timesteps=168)(images),
        lambda: DiffAugEnsemble(classifier, limited, timesteps=[0, 168]),
        lambda: DDA(limited, start_timestep=168),
        lambda: limited.schedule.respaced([0, 168]),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(ValueError, match=r"timesteps must be in 0\.\.\.167 for this network. Got 505"):
        DDA(limited)(contracts.images(256, batch=1))
    with pytest.raises(ValueError, match="sigma must be at most 0.29.*, half of the schedule's last. Got 0.5"):
        DenoisedSmoothing(classifier, limited, sigma=0.5)
    assert DenoisedSmoothing(classifier, limited, sigma=0.25).timestep == 145
    with pytest.raises(ValueError, match=r"timesteps must be in 0\.\.\.167 for this network. Got 1000$"):
        limited(draw(1, 3, 8, 8), torch.tensor([1000]))


def test_default_timesteps_are_cut_to_the_range(limited):
    assert limited.augment_timesteps == tuple(range(168))
    assert limited.ensemble_timesteps == (0, 50, 100, 150)
    denoiser = Denoiser(limited)
    assert denoiser.default_timesteps("ensemble", (32, 32)) == (0, 3, 9, 16, 23, 33, 44, 57, 74, 96)
    assert max(denoiser.default_timesteps("augment", (32, 32))) <= 167
    assert DiffAug(limited)(contracts.images(256, batch=2)).shape == (2, 3, 256, 256)


def test_the_raw_image_needs_no_network():
    """A range that begins above t = 0's sigma: the ensemble keeps t = 0, DiffAug does not draw it."""
    seen = []

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        seen.append(sigma.min().item())
        return exact(x, sigma)

    network = ScoreNetwork.from_denoiser(denoise, image_size=256, sigma_range=(0.3, 1))
    assert network.ensemble_timesteps == (0, 100, 150, 200, 250)
    assert min(network.augment_timesteps) == network.schedule.timesteps[0] > 50
    classifier = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 7)).eval()
    for timesteps in (None, [0, 100]):
        DiffAugEnsemble(classifier, network, timesteps=timesteps)(contracts.images(64, batch=1))
    assert min(seen) >= 0.3
    narrow = ScoreNetwork.from_denoiser(exact, image_size=32, sigma_range=(50, 60))
    assert narrow.augment_timesteps == (narrow.schedule.timesteps[0],)


GOOD = {"image_size": 8, "sigma_range": (0, 1)}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"denoise": 7}, TypeError, r"denoise must be a function or a module, denoise\(x, sigma\). Got 7"),
        ({"denoise": Residual}, TypeError, "denoise must be a function or a module.*Got <class"),
        ({"denoise": lambda x: x}, TypeError, r"denoise must take \(x, sigma\) without num_classes. Got \(x\)"),
        ({"denoise": by_label}, TypeError, r"denoise must take \(x, sigma\) without num_classes. Got \(x.*labels"),
        ({"num_classes": 5}, TypeError, r"denoise must take \(x, sigma, labels\) for num_classes=5. Got \(x"),
        ({"denoise": Residual(), "num_classes": 5}, TypeError, r"\(x, sigma, labels\) for num_classes=5. Got \(x"),
        ({"sigma_range": (1, 0)}, ValueError, r"sigma_range must be \(smallest, largest\). Got \(1, 0\)"),
        ({"sigma_range": (-1, 1)}, ValueError, "sigma_range must be at least 0. Got -1"),
        ({"sigma_range": (0, math.nan)}, ValueError, "sigma_range must be at least 0. Got nan"),
        ({"sigma_range": (math.nan, 1)}, ValueError, "sigma_range must be at least 0. Got nan"),
        ({"sigma_range": ("0", 1)}, TypeError, "sigma_range must be a number. Got '0'"),
        ({"sigma_range": 0.5}, TypeError, r"sigma_range must be \(smallest, largest\). Got 0.5"),
        ({"sigma_range": (0, 1, 2)}, TypeError, r"sigma_range must be \(smallest, largest\). Got \(0, 1, 2\)"),
        ({"sigma_range": (0, 0.001)}, ValueError, r"sigma_range must hold a sigma of NoiseSchedule.*Got \(0, 0.001\)"),
        ({"image_size": 0}, ValueError, "image_size must be at least 1. Got 0"),
        ({"image_size": "8"}, TypeError, "image_size must be an integer. Got '8'"),
        ({"in_channels": 0}, ValueError, "in_channels must be at least 1. Got 0"),
        ({"num_classes": 0}, ValueError, "num_classes must be at least 1. Got 0"),
        ({"stride": 0}, ValueError, "stride must be at least 1. Got 0"),
    ],
    ids=range(19),
)
def test_bad_arguments(change, error, message):
    arguments = {"denoise": exact, **GOOD, **change}
    with pytest.raises(error, match=message):
        ScoreNetwork.from_denoiser(arguments.pop("denoise"), **arguments)


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (
            lambda x: x[:, :1],
            ValueError,
            r"denoise must return the shape it got, \(1, 3, 8, 8\). Got shape \(1, 1, 8, 8\)",
        ),
        (lambda x: (x, x), TypeError, "denoise must return a floating point tensor. Got "),
        (lambda x: x.long(), TypeError, "denoise must return a floating point tensor. Got torch.int64"),
        (lambda x: None, TypeError, "denoise must return a floating point tensor. Got None"),
        (lambda x: x * math.nan, ValueError, r"denoise must return finite values. Got values in \[nan, nan\]"),
        (lambda x: x + math.inf, ValueError, r"denoise must return finite values. Got values in \[inf, inf\]"),
    ],
    ids=range(6),
)
def test_bad_answers(answer, error, message):
    network = ScoreNetwork.from_denoiser(lambda x, sigma: answer(x), **GOOD)
    with pytest.raises(error, match=message):
        network(draw(1, 3, 8, 8), torch.tensor([5]))
    with pytest.raises(error, match=message):
        DiffAug(network)(contracts.images(8, batch=1))


def test_channels_that_the_denoiser_does_not_have(module):
    network = ScoreNetwork.from_denoiser(module, **GOOD, in_channels=1)
    with pytest.raises(ValueError, match="images must have 1 channel"):
        DiffAug(network)(contracts.images(8))


def test_what_cannot_be_saved_or_recomputed_says_so(residual, tmp_path):
    with pytest.raises(ValueError, match="a network from a denoiser cannot be saved in diffusers' layout"):
        residual.save_pretrained(tmp_path / "new")
    with pytest.raises(ValueError, match="checkpointing needs a denoiser with a method enable_gradient_checkpointing"):
        Denoiser(residual, checkpointing=True)(contracts.images(16), TIMESTEPS, draw(4, 3, 16, 16))


def test_many_threads_share_it(residual):
    denoiser, images, noise = Denoiser(residual, dtype=torch.bfloat16), contracts.images(16), draw(4, 3, 16, 16)
    results: list[Tensor] = []
    threads = [threading.Thread(target=lambda: results.append(denoiser(images, TIMESTEPS, noise))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    assert all(torch.equal(result, results[0]) for result in results)


def test_limits_of_a_schedule(schedule):
    limited = schedule.limited((0.3, 1))
    assert limited != schedule
    assert limited.to("meta").timesteps == limited.timesteps
    assert NoiseSchedule.named("linear").limited((0, math.inf)) == schedule
    with pytest.raises(ValueError, match="sigma must be at least 0.3.* for this network. Got 0.1"):
        limited.timestep_for_sigma(0.1)
    with pytest.raises(ValueError, match="sigma must be at most 0.99.*, the schedule's last. Got 2"):
        limited.timestep_for_sigma(2)
