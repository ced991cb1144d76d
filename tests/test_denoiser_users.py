"""What everything that holds a Denoiser must do, stated once; and each row of the table of bad input."""

from __future__ import annotations

import copy
import os
import pickle
import warnings

import pytest
import torch
from torch import nn

from diffaug_transforms import DiffAug, DiffAugEnsemble
from diffaug_transforms.robustness import DDA, DenoisedSmoothing
from diffaug_transforms.score import Denoiser
from diffaug_transforms.transforms import AnytimeEnsemble, SelfEnsemble
from tests import contracts

SIZE = 16
GOOD = contracts.images(SIZE, batch=2)
USERS = {
    "DiffAug": lambda classifier, network, **options: DiffAug(network, **options),
    "DiffAugEnsemble": DiffAugEnsemble,
    "SelfEnsemble": lambda classifier, network, **options: SelfEnsemble(classifier, DiffAug(network, **options)),
    "AnytimeEnsemble": lambda *args, **options: AnytimeEnsemble(DiffAugEnsemble(*args, **options)),
    "DenoisedSmoothing": DenoisedSmoothing,
    "DDA": lambda classifier, network, **options: DDA(network, start_timestep=30, **options),
}
with_timesteps = pytest.mark.parametrize("make", ["DiffAug", "DiffAugEnsemble"], indirect=True)


@pytest.fixture(params=USERS)
def make(request):
    """One of the users, with a linear classifier of 7 classes if it takes one."""

    def build(network="cifar10", **options):
        torch.manual_seed(0)
        classifier = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 7)).eval()
        return USERS[request.param](classifier, network, **{"dtype": torch.float32, **options})

    return build


def test_draws_come_from_the_seed_or_the_generator(make, network):
    contracts.check_seeds_repeat(lambda: make(network), SIZE)
    first, second = (make(network, generator=torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(contracts.seeded(first, GOOD, seed=0), contracts.seeded(second, GOOD, seed=1))


def test_max_batch_bounds_the_networks_batches_and_changes_nothing_else(make, network):
    sizes, images = [], contracts.images(SIZE, batch=7)
    whole = contracts.seeded(make(network), images)
    network.unet.register_forward_hook(lambda module, inputs, output: sizes.append(len(inputs[0])))
    parts = make(network, max_batch=3)
    output = contracts.seeded(parts, images)
    assert max(sizes) <= 3
    assert output.shape == whole.shape
    if not isinstance(parts, DDA):  # which draws part by part
        torch.testing.assert_close(output, whole, rtol=1e-3, atol=1e-3)


def test_uint8_is_as_good_as_float_and_empty_batches_come_back(make, network):
    user, pixels = make(network), contracts.images(SIZE, dtype=torch.uint8)
    output, expected = contracts.seeded(user, pixels), contracts.seeded(user, pixels / 255)
    if output.dtype == torch.uint8:
        assert (output - 255 * expected).abs().max() <= 0.51
    else:
        assert torch.equal(output, expected)
    assert user(pixels[:0]).shape == output[:0].shape


def test_a_classifier_is_all_that_trains_and_is_saved(make, network):
    user = make(network)
    output = contracts.seeded(user, GOOD)
    assert {name.rpartition("classifier.")[2] for name in user.state_dict()} <= {"2.weight", "2.bias"}
    assert set(dict(user.named_parameters())) == set(user.state_dict())
    for other in (pickle.loads(pickle.dumps(user)), copy.deepcopy(user)):
        assert torch.equal(contracts.seeded(other, GOOD), output)
    if list(user.parameters()):
        output[:, 0].sum().backward()
        assert all(parameter.grad is not None for parameter in user.parameters())
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize("make", [name for name in USERS if name not in ("DDA", "SelfEnsemble")], indirect=True)
@pytest.mark.parametrize("differentiable", [False, True])
def test_gradients_reach_the_images_if_asked_for(make, network, differentiable):
    user, images = make(network, differentiable=differentiable), GOOD.clone().requires_grad_()
    ensemble = getattr(user, "ensemble", user)
    if isinstance(ensemble, DiffAugEnsemble):
        ensemble.timesteps = [10, 20]  # at 0 the classifier sees the images themselves
    output = user(images)[:, 0].sum()
    if output.requires_grad:
        output.backward()
    assert (images.grad is not None and bool(images.grad.any())) is differentiable


def test_one_warning_for_images_far_from_the_networks_size(make, network):
    user = make(network)
    with pytest.warns(UserWarning, match="images of 40x40 pixels are far from the network's 16x16"):
        user(torch.rand(1, 3, 40, 40))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        user(torch.rand(1, 3, 40, 40))
        make(network)(torch.rand(1, 3, 24, 24))


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        (GOOD[:, :1], ValueError, r"images must have 3 channels. Got 1: image.convert\(\"RGB\"\)"),
        (GOOD.long(), TypeError, r"must be uint8 in 0\.\.\.255 or .*Got torch.int64"),
        (GOOD * torch.nan, ValueError, r"must be finite and in \[0, 1\]. Got values in \[nan, nan\]"),
        (GOOD + torch.inf, ValueError, r"Got values in \[inf, inf\]"),
        (GOOD * 255, ValueError, r"must be finite and in \[0, 1\]. Got values in \[.*, 25.*\]"),
        (torch.full_like(GOOD, -0.5), ValueError, r"Got values in \[-0\.5, -0\.5\]"),
        (GOOD[0, 0], ValueError, r"images must be \(..., C, H, W\). Got shape \(16, 16\)"),
    ],
    ids=range(7),
)
def test_bad_images(make, network, images, error, message):
    with pytest.raises(error, match=message):
        make(network)(images)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"max_batch": 0}, ValueError, "max_batch must be at least 1. Got 0"),
        ({"dtype": torch.int8}, ValueError, "dtype must be float16, bfloat16, float32 or float64. Got torch.int8"),
        ({"network": 7}, TypeError, "network must be a name, a path, a ScoreNetwork or a Denoiser. Got 7"),
    ],
)
def test_bad_arguments(make, arguments, error, message):
    with pytest.raises(error, match=message):
        make(**arguments)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_classifier_runs_in_its_own_dtype_and_the_network_in_the_denoisers(make, network, dtype):
    user = make(network)
    output, seen = contracts.seeded(user, GOOD), []
    user.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].dtype))
    moved = contracts.seeded(user.to(dtype), GOOD)
    assert moved.dtype == torch.float32
    torch.testing.assert_close(moved, output, rtol=0, atol=0.05)
    assert {weight.dtype for weight in user.parameters()} <= {dtype}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_an_autocast_from_outside_reaches_the_classifier_alone(make, network, dtype):
    user, called = make(network), []
    expected = contracts.seeded(user, GOOD)
    for module in user.modules():
        if isinstance(module, nn.Linear):
            module.register_forward_hook(lambda module, inputs, output: called.append(output.dtype))
    with torch.autocast("cpu", dtype):
        output = contracts.seeded(user, GOOD)
    assert output.dtype == torch.float32
    assert set(called) <= {dtype}
    torch.testing.assert_close(output, expected, rtol=0, atol=0.05 if called else 0)


def test_an_autocast_from_outside_changes_no_denoised_image(network):
    denoiser, t = Denoiser(network, dtype=torch.float32), torch.tensor([10, 300])
    expected = denoiser(GOOD, t, contracts.draw(*GOOD.shape))
    for dtype in (torch.float16, torch.bfloat16):
        with torch.autocast("cpu", dtype):
            for one in (denoiser, Denoiser(network, dtype=torch.float32)):  # loaded before, and under the autocast
                assert torch.equal(one(GOOD, t, contracts.draw(*GOOD.shape)), expected)


@pytest.mark.parametrize(
    ("answer", "got"),
    [
        (lambda x: (x.flatten(1), None), "Got tuple"),
        (lambda x: {"logits": x.flatten(1)}, "Got dict"),
        (lambda x: x, r"Got shape \(2, 3, 16, 16\)"),
        (lambda x: x.flatten(1).argmax(1), r"Got shape \(2,\)"),
        (lambda x: x.flatten(1)[:, :0], r"Got shape \(2, 0\)"),
        (lambda x: x.flatten(1)[:1], r"Got shape \(1, 768\)"),
    ],
)
@pytest.mark.parametrize("user", ["DiffAugEnsemble", "SelfEnsemble", "AnytimeEnsemble"])
def test_classifiers_that_return_no_logits(network, user, answer, got):
    with pytest.raises(ValueError, match=rf"classifier must return logits \(B, K\), here \(2, K\). {got}"):
        USERS[user](answer, network, timesteps=10)(GOOD)


@pytest.mark.parametrize(
    ("noise", "error", "message"),
    [
        (0.5, TypeError, "noise must be a floating point tensor. Got 0.5"),
        (torch.zeros(1, *GOOD.shape, dtype=torch.int64), TypeError, "Got torch.int64"),
        (
            torch.zeros(GOOD.shape),
            ValueError,
            r"noise must be \(\|S without 0\|, B, C, H, W\), \(1, 2, 3, 16, 16\). Got",
        ),
    ],
)
def test_bad_noise(network, noise, error, message):
    ensemble = DiffAugEnsemble(nn.Flatten(), network, timesteps=[0, 10])
    for call in (ensemble, AnytimeEnsemble(ensemble).predict):
        with pytest.raises(error, match=message):
            call(GOOD, noise)


def test_noise_of_integers(network):
    noise = torch.zeros(GOOD.shape, dtype=torch.uint8)
    smoothed = DenoisedSmoothing(nn.Flatten(), network)
    for call in (lambda: Denoiser(network)(GOOD, torch.tensor([0, 9]), noise), lambda: smoothed.denoise(GOOD, noise)):
        with pytest.raises(TypeError, match="noise must be a floating point tensor. Got torch.uint8"):
            call()


@pytest.mark.parametrize("user", ["DiffAugEnsemble", "SelfEnsemble", "AnytimeEnsemble"])
def test_ensembles_take_images_of_any_leading_dimensions(network, user):
    ensemble = USERS[user](nn.Flatten(), network, timesteps=10, dtype=torch.float32)
    for images, batch in ((GOOD[0], 1), (GOOD[None], 2), (GOOD[:, None], 2)):
        assert ensemble(images).shape == (batch, 768)
    with pytest.raises(ValueError, match=r"at least one pixel.* Got .*\(2, 3, 0, 16\)"):
        ensemble(GOOD[:, :, :0])


@pytest.mark.parametrize(
    ("images", "timesteps", "message"),
    [
        (GOOD[0], torch.tensor([1, 2]), r"images must be floating point \(B, C, H, W\).* Got .*\(3, 16, 16\)"),
        (GOOD.long(), torch.tensor([1, 2]), "images must be floating point.* Got torch.int64"),
        (GOOD, torch.tensor([1]), r"one for each of the 2 images. Got torch.int64 of shape \(1,\)"),
        (GOOD, torch.tensor([0.5, 1]), "timesteps must be int64.* Got torch.float32"),
        (GOOD, torch.tensor([1, 1000]), r"timesteps must be in 0\.\.\.999 for this network. Got 1000"),
    ],
)
def test_bad_inputs_of_a_denoiser(network, images, timesteps, message):
    with pytest.raises(ValueError, match=message):
        Denoiser(network)(images, timesteps, torch.zeros(images.shape))


@with_timesteps
@pytest.mark.parametrize(
    ("timesteps", "error", "message"),
    [
        (-1, ValueError, "timesteps must be at least 0. Got -1"),
        ([], ValueError, "at least one timestep. Got none"),
        ([0.5], TypeError, "timesteps must be integers. Got 0.5"),
    ],
)
def test_bad_timesteps(make, timesteps, error, message):
    with pytest.raises(error, match=message):
        make(timesteps=timesteps)


@with_timesteps
def test_timesteps_beyond_t(network, make):
    message = r"timesteps must be in 0\.\.\.999 for this network. Got 1000"
    with pytest.raises(ValueError, match=message):
        make(network, timesteps=1000)
    by_name = make("cifar10", timesteps=1000)
    with pytest.raises(ValueError, match=message):
        by_name(torch.rand(1, 3, 32, 32))


def test_bad_networks_are_named_at_the_first_image(make, conditional):
    with pytest.raises(ValueError, match="Got 'cifar11'. Did you mean 'cifar10'"):
        make("cifar11")(GOOD)
    with pytest.raises(ValueError, match="needs labels in 0...4: it has no null class"):
        make(conditional)(GOOD)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([1, 9]), r"labels must be in 0\.\.\.4. Got 9"),
        (torch.tensor([1, 2, 3]), "labels must be one per image. Got 3 for 2 images"),
        (torch.rand(2, 5), "labels must be integer classes.*put DiffAug before MixUp and CutMix"),
        ([1.9, 2.9], "labels must be integer classes. Got torch.float32"),
        ([True, False], "labels must be integer classes. Got torch.bool"),
        (["cat", "dog"], r"labels must be integer classes. Got \['cat', 'dog'\]"),
        (None, "conditional=True needs labels, and labels_getter found none"),
    ],
)
def test_bad_labels(conditional, labels, message):
    with pytest.raises(ValueError, match=message):
        DiffAug(conditional, conditional=True)(GOOD, labels)


def test_images_alone_have_no_labels(conditional):
    with pytest.raises(ValueError, match="conditional=True needs labels, and labels_getter found none"):
        DiffAug(conditional, conditional=True)(GOOD)


@pytest.mark.parametrize("p", [1.5, -0.1, float("nan")])
def test_bad_p(p):
    with pytest.raises(ValueError, match=rf"p must be in \[0, 1\]. Got {p}"):
        DiffAug(p=p)


class OnCuda(nn.Module):
    """Stands for a network that was moved to CUDA, on machines without one."""

    device = torch.device("cuda")


def test_cuda_in_a_forked_worker(network):
    denoiser = Denoiser(network)
    denoiser._loaded = {"network": OnCuda()}
    child = os.fork()
    if child == 0:
        try:
            denoiser.ready("cpu")
        except RuntimeError as error:
            os._exit(17 if "after the DataLoader" in str(error) and "MixUp" in str(error) else 1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 17


def test_cuda_images_in_a_forked_worker(network, monkeypatch):
    monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda: True)
    with pytest.raises(RuntimeError, match="a CUDA network cannot run in a forked DataLoader worker"):
        Denoiser(network).ready("cuda")
