"""DeepAugment as a transform: contracts, draws, weights from disk and from the Hub.

``tests/test_reference.py`` holds the outputs of its three networks.
"""

from __future__ import annotations

import copy
import itertools
import math
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F

from diffaug_transforms.transforms.deepaugment import DeepAugment, edsr, noise2net
from diffaug_transforms.transforms.deepaugment.transform import PRETRAINED
from diffaug_transforms.without_waiting import send
from tests import contracts
from tests.hub_server import run_python, serve_hub
from tests.pretend_device import PretendedDevices
from tests.transforms.deepaugment_files import SHAPES, generator, random_weights

SIZE = 16


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    for name in SHAPES:
        torch.save(random_weights(name), folder / f"{name}.pt")
    return {name: folder / f"{name}.pt" for name in SHAPES}


@pytest.fixture(params=["edsr", "cae"])
def make(request, files):
    return lambda **options: DeepAugment(request.param, weights=files[request.param], size=SIZE, **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.uint8], ids=str)
def test_type_shape_and_range_of_noise2net(dtype):
    contracts.check_type_shape_and_range(DeepAugment, SIZE, dtype)


@pytest.mark.parametrize("check", [*contracts.CHECKS, *contracts.CHECKS_OF_SEEDS])
def test_contracts_of_noise2net(check):
    check(DeepAugment, SIZE)


@pytest.mark.parametrize("check", contracts.CHECKS)
def test_contracts_of_pretrained_networks(make, check):
    check(make, SIZE)


@pytest.mark.parametrize("dtype", [torch.float16, torch.uint8], ids=str)
def test_type_shape_and_range_of_pretrained_networks(make, dtype):
    contracts.check_type_shape_and_range(make, SIZE, dtype)


def test_odd_sizes_pass(make):
    for transform in (DeepAugment(), make()):
        for shape in ((2, 3, 17, 30), (3, 1, 1)):
            output = transform(torch.rand(shape))
            assert output.shape == shape
            assert output.isfinite().all()


def test_no_gradients_and_no_autocast():
    batch = contracts.images(SIZE).requires_grad_()
    transform = DeepAugment()
    params = transform.make_params([batch])
    first = transform.transform(batch, params)
    assert not first.requires_grad
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(transform.transform(batch, params), first)


def test_a_fresh_transform_repeats_from_a_seed_and_a_copy_goes_on_alike(make):
    batch = contracts.images(SIZE, batch=2)
    used = make()
    first = contracts.seeded(used, batch)
    assert torch.equal(contracts.seeded(make(), batch), first)
    with_generator = make(generator=generator(0))
    assert torch.equal(contracts.seeded(with_generator, batch, seed=9), first)
    others = [pickle.loads(pickle.dumps(used)), copy.deepcopy(used)]
    second = contracts.seeded(used, batch, seed=1)
    assert all(torch.equal(contracts.seeded(other, batch, seed=1), second) for other in others)


def test_a_network_stays_for_twenty_images_on_average(make):
    torch.manual_seed(0)
    transform = make()
    seeds = transform.make_params([torch.rand(6000, 3, 1, 1)])["network_seed"]
    # Standard deviation of a binomial count of 6000 draws with probability 0.05: 17.
    assert abs(int((seeds[1:] != seeds[:-1]).sum()) - 300) < 85
    seeds = [transform.make_params([torch.rand(3, 1, 1)])["network_seed"].item() for _ in range(400)]
    assert 5 <= sum(a != b for a, b in itertools.pairwise(seeds)) <= 40


def test_images_that_share_a_seed_share_the_network(make):
    transform = make()
    batch = contracts.images(SIZE, batch=1).expand(3, -1, -1, -1)
    params = transform.make_params([batch])
    params["feature_seed"][:] = 4
    params["network_seed"] = torch.tensor([1, 2, 1])
    output = transform.transform(batch, params)
    assert torch.equal(output[0], output[2])
    assert not torch.equal(output[0], output[1])
    params["feature_seed"] = torch.tensor([4, 5, 6])
    assert not torch.equal(transform.transform(batch, params)[0], transform.transform(batch, params)[2])


def test_a_device_gets_the_loaded_weights_once_and_then_the_changed_ones(make, monkeypatch):
    """Enough draws to meet every corruption of weights, features and codes. None of them waits for the device."""
    sent = []
    name = "diffaug_transforms.transforms.deepaugment.transform.send"
    monkeypatch.setattr(name, lambda value, device: sent.append(value) or send(value, device))
    augment, draws = make(), 40
    images = contracts.images(SIZE, draws, torch.uint8)
    params = {"network_seed": torch.arange(draws), "feature_seed": torch.arange(draws) + 1000}
    expected = augment.transform(images, params)
    with PretendedDevices() as devices:
        for device in (torch.device("cuda:0"), torch.device("cuda:1")):
            on_device = images.to(device)
            augment.transform(on_device[:1], {name: values[:1] for name, values in params.items()})
            devices.syncs.clear()
            sent.clear()
            output = augment.transform(on_device, params)
            assert devices.syncs == []
            assert draws / 2 < len(sent) < 10 * draws
            assert (output.cpu().int() - expected.int()).abs().max() <= 1
        copied = pickle.loads(pickle.dumps(augment))
        assert torch.equal(copied.transform(images, params), expected)


def test_two_threads_use_one_transform_on_two_devices(make):
    augment, images = make(), contracts.images(SIZE, 4, torch.uint8)
    params = {"network_seed": torch.tensor([1, 1, 2, 3]), "feature_seed": torch.arange(4)}
    expected = augment.transform(images, params)
    with PretendedDevices(), ThreadPoolExecutor(2) as pool:
        copies = [images.to(torch.device("cuda", i % 2)) for i in range(6)]
        for copied, output in zip(copies, pool.map(lambda copied: augment.transform(copied, params), copies)):
            assert output.device == copied.device
            assert (output.cpu().int() - expected.int()).abs().max() <= 1


def test_images_of_a_part_have_their_own_noise2net(monkeypatch):
    """All kernel sizes and dilations, alone on the CPU, and on a device in parts of three images."""
    images, seeds, epsilons = contracts.images(SIZE, 10), list(range(10)), [0.1 * i for i in range(10)]
    expected = noise2net.noise2net(images, seeds, epsilons)
    assert torch.equal(noise2net.noise2net(images[4:5], [4], [0.4]), expected[4:5])
    torch.testing.assert_close(noise2net.run_part(images, seeds, epsilons), expected, rtol=0, atol=1e-4)
    monkeypatch.setattr(noise2net, "DEVICE_PIXELS", 3 * SIZE * SIZE)
    sizes, run_part = [], noise2net.run_part
    monkeypatch.setattr(noise2net, "run_part", lambda part, *draws: sizes.append(len(part)) or run_part(part, *draws))
    with PretendedDevices():
        output = noise2net.noise2net(images.to("cuda:0"), seeds, epsilons)
        torch.testing.assert_close(output.cpu(), expected, rtol=0, atol=1e-4)
    assert sizes == [3, 3, 3, 1]


def test_epsilon_is_uniform_in_the_upper_half():
    epsilon = DeepAugment().make_params([torch.rand(4000, 3, 1, 1)])["epsilon"]
    assert 0.375 <= epsilon.min() < 0.38
    assert 0.745 < epsilon.max() <= 0.75
    assert epsilon.mean().item() == pytest.approx(0.5625, abs=0.01)
    batch = contracts.images(SIZE)
    torch.testing.assert_close(DeepAugment(max_epsilon=0.0)(batch), batch)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"network": "esdr"}, "network must be 'noise2net', 'edsr' or 'cae'. Got 'esdr'"),
        ({"network": "cae"}, r"'cae' needs weights, a local file: DeepAugment\('cae', weights=PATH\). Got None"),
        ({"weights": "a.pt"}, "weights and size are for 'edsr' and 'cae'. Got 'a.pt', None for 'noise2net'"),
        ({"size": 64}, "weights and size are for 'edsr' and 'cae'. Got None, 64 for 'noise2net'"),
        ({"network": "edsr", "size": 8}, "size must be at least 16. Got 8"),
        ({"max_epsilon": -1.0}, r"max_epsilon must be in \[0, 10\]. Got -1\.0"),
        ({"max_epsilon": math.nan}, r"max_epsilon must be in \[0, 10\]. Got nan"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        DeepAugment(**arguments)


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        (torch.rand(2, 1, 16, 16), ValueError, "images must have 3 channels. Got 1"),
        (torch.zeros(2, 3, 16, 16, dtype=torch.int64), TypeError, "Got torch.int64"),
        (torch.full((2, 3, 16, 16), math.nan), ValueError, "must be finite and in"),
    ],
)
def test_bad_images(images, error, message):
    with pytest.raises(error, match=message):
        DeepAugment()(images)
    params = DeepAugment().make_params([contracts.images(SIZE)])
    with pytest.raises(ValueError, match="images must be as many as drawn, 4. Got 2"):
        DeepAugment().transform(contracts.images(SIZE, batch=2), params)


def test_weights_that_are_missing_damaged_or_anothers(files, tmp_path):
    image = contracts.images(SIZE)
    with pytest.raises(OSError, match="there are no weights at .*nowhere.pt"):
        DeepAugment("edsr", weights=tmp_path / "nowhere.pt")(image)
    with pytest.raises(OSError, match=r"do not fit: head.0.weight must be \(64, 3, 3, 3\). Got no such tensor"):
        DeepAugment("edsr", weights=files["cae"])(image)
    wrong = random_weights("cae") | {"e_conv_3.0.bias": torch.zeros(31)}
    torch.save(wrong, tmp_path / "wrong.pt")
    with pytest.raises(OSError, match=r"e_conv_3.0.bias must be \(32,\). Got \(31,\)"):
        DeepAugment("cae", weights=str(tmp_path / "wrong.pt"))(image)
    (tmp_path / "half.pt").write_bytes(files["edsr"].read_bytes()[:1000])
    with pytest.raises(OSError, match="half.pt is damaged, incomplete or no state dict"):
        DeepAugment("edsr", weights=tmp_path / "half.pt")(image)


def test_repr(files):
    assert repr(DeepAugment()) == "DeepAugment('noise2net', max_epsilon=0.75)"
    assert repr(DeepAugment("edsr")) == "DeepAugment('edsr', weights=None, size=None)"
    assert repr(DeepAugment("cae", weights="a.state", size=64)) == "DeepAugment('cae', weights='a.state', size=64)"


FROM_HUB = """
import torch
from diffaug_transforms.transforms.deepaugment import DeepAugment, edsr, noise2net
transform = DeepAugment("edsr", size=16)
torch.manual_seed(0)
try:
    print("SUM", transform(torch.linspace(0, 1, 768).reshape(1, 3, 16, 16)).double().sum().item())
except Exception as error:
    print(type(error).__name__, " ".join(str(error).split()))
"""


def test_edsr_comes_from_the_hub_at_the_first_image(files, tmp_path):
    (tmp_path / "repo").mkdir()
    shutil.copy(files["edsr"], tmp_path / "repo" / "pytorch_model_4x.pt")
    with serve_hub({"eugenesiow/edsr-base": tmp_path / "repo"}) as hub:
        line = run_python(FROM_HUB, hub.url, tmp_path / "home")
    image = torch.linspace(0, 1, 768).reshape(1, 3, 16, 16)
    expected = contracts.seeded(DeepAugment("edsr", weights=files["edsr"], size=16), image).double().sum().item()
    assert float(line.removeprefix("SUM ")) == pytest.approx(expected, rel=1e-4)


def test_an_unreachable_hub_says_what_to_do(tmp_path):
    line = run_python(FROM_HUB, "http://127.0.0.1:9", tmp_path / "home", HF_HUB_OFFLINE="1")
    assert line.startswith("OSError downloading pytorch_model_4x.pt of eugenesiow/edsr-base")
    assert "DeepAugment('edsr', weights=PATH)" in line
    assert "cifar10" not in line


def test_resizing_to_the_originals_sizes(files):
    """The short side goes to 128, the result back to the image's size."""
    seen = []
    augment = DeepAugment("edsr", weights=files["edsr"])
    augment._load(torch.device("cpu"))
    kind = PRETRAINED["edsr"]
    spy = kind._replace(
        run=lambda image, weights, source: seen.append(image.shape) or F.interpolate(image, scale_factor=4)
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRETRAINED, "edsr", spy)
        output = augment(torch.rand(3, 32, 48))
    assert seen == [(1, 3, 128, 192)]
    assert output.shape == (3, 32, 48)
    assert PRETRAINED["cae"].size == 512


def test_noise2net_draws_kernel_sizes_and_dilations():
    blocks = [block for seed in range(300) for block in noise2net.make_noise2net(seed)]
    sizes = [conv.shape[-1] for block in blocks for conv in block.convs]
    dilations = [dilation for block in blocks for dilation in block.dilations]
    assert len(blocks) == 1200
    # Standard deviation of a count of 3600: at most 30.
    assert abs(sizes.count(3) - 1800) < 150
    assert all(abs(dilations.count(d) - 1200) < 150 for d in (1, 2, 3))
    weights = torch.cat([block.project.flatten() for block in blocks])
    assert weights.abs().max() <= 1 / 8
    assert weights.std().item() == pytest.approx(1 / 8 / math.sqrt(3), rel=0.02)


def identity_edsr() -> dict[str, torch.Tensor]:
    """Features 0, 1, 2 are half the colours in the body, and the image is its nearest neighbours enlarged."""
    weights = {key: torch.zeros(shape) for key, shape in SHAPES["edsr"].items()}
    for c in range(3):
        weights["head.0.weight"][c, c, 1, 1] = 0.5
        weights["body.16.weight"][c, c, 1, 1] = 1
        weights["tail.1.weight"][c, c, 1, 1] = 1
        for name in ("tail.0.0", "tail.0.2"):
            weights[f"{name}.weight"][4 * c : 4 * c + 4, c, 1, 1] = 1
    return weights


def test_the_scale_of_a_checkpoint_is_found(tmp_path):
    """One that adds a shade of 255 keeps grey on the official scale; one that rectifies keeps it in [0, 1] alone."""
    official, hub = identity_edsr(), identity_edsr()
    official["tail.1.bias"] += 1
    for c in range(3):
        hub["body.0.body.0.weight"][c, c, 1, 1] = -1
        hub["body.0.body.2.weight"][c, c, 1, 1] = 1
    for weights, factor in ((official, 255), (hub, 1)):
        mean_shift = {"sub_mean.weight": torch.eye(3).reshape(3, 3, 1, 1), "sub_mean.bias": torch.zeros(3)}
        torch.save({f"module.{key}": value for key, value in {**weights, **mean_shift}.items()}, tmp_path / "x.pt")
        read = edsr.load_edsr(tmp_path / "x.pt")
        assert read["image.factor"] == factor
        image = contracts.images(4, batch=1)
        expected = (image.repeat_interleave(4, 2).repeat_interleave(4, 3) + (factor == 255) / 255).clamp(0, 1)
        torch.testing.assert_close(edsr.edsr(image, read), expected, rtol=0, atol=1e-5)
