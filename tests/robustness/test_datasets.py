"""Test sets: CIFAR-10-C's files, ImageNet's sets and OOD folders as published, subsets, corruption on the fly."""

from __future__ import annotations

import io
import pickle
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from torch.utils.data import DataLoader, Subset, TensorDataset
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from diffaug_transforms import robustness
from diffaug_transforms.robustness import (
    IMAGENET_SETS,
    Corrupted,
    candidate_classes,
    correct,
    corrupt,
    load_cifar10_c,
    load_image_folder,
    load_imagenet_set,
    random_subset,
)
from diffaug_transforms.robustness.datasets import folder_targets

LABELS = np.array([3, 8, 8, 0] * 5)
TENCH, GOLDFISH, WHITE_SHARK, STINGRAY = "n01440764", "n01443537", "n01484850", "n01498041"


def write(path, colour="red", size=(300, 260), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.new("RGB", size, colour).convert(mode).save(path)


def unpack(data) -> tuple[torch.Tensor, list]:
    images, targets = zip(*(data[i] for i in range(len(data))))
    return torch.stack(images), [int(target) for target in targets]


@pytest.fixture
def cifar_folder(tmp_path):
    """Four images of each severity."""
    rng = np.random.default_rng(0)
    np.save(tmp_path / "fog.npy", rng.integers(256, size=(20, 32, 32, 3), dtype=np.uint8))
    np.save(tmp_path / "labels.npy", LABELS)
    return tmp_path


@pytest.fixture
def clean(samples) -> TensorDataset:
    """The eight samples; each target is its index."""
    return TensorDataset(samples, torch.arange(8))


@pytest.fixture
def timm():
    return pytest.importorskip("timm", reason="the extra train")


def test_cifar10_c_reads_its_severity_and_pickles_as_a_path(cifar_folder):
    array = np.load(cifar_folder / "fog.npy")
    for severity in range(1, 6):
        content = pickle.dumps(load_cifar10_c(str(cifar_folder), "fog", severity))
        assert len(content) < 2000
        data = pickle.loads(content)
        images, targets = unpack(data)
        assert targets == data.targets == [3, 8, 8, 0]
        expected = torch.from_numpy(array[4 * (severity - 1) :][:4]).permute(0, 3, 1, 2)
        assert torch.equal(images, expected)
        assert torch.equal(data[-1][0], expected[3])
    for index in (4, -5):
        with pytest.raises(IndexError):
            data[index]


def test_data_loaders_collate(cifar_folder, tmp_path):
    batches = list(DataLoader(load_cifar10_c(cifar_folder, "fog", 2), batch_size=3, num_workers=1))
    shapes = [(images.dtype, tuple(images.shape), targets.tolist()) for images, targets in batches]
    assert shapes == [(torch.uint8, (3, 3, 32, 32), [3, 8, 8]), (torch.uint8, (1, 3, 32, 32), [0])]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("fog", None, "fog.npy"),
        ("labels", None, "labels.npy"),
        *(("fog", size, "fog.npy is no whole .npy file") for size in (0, 40, 5000)),
        ("fog", np.zeros((19, 32, 32, 3), np.uint8), "uint8 (5 N, 32, 32, 3). Got uint8 (19, 32, 32, 3)"),
        ("fog", np.zeros((0, 32, 32, 3), np.uint8), "Got uint8 (0, 32, 32, 3)"),
        ("fog", np.zeros((20, 3, 32, 32), np.uint8), "Got uint8 (20, 3, 32, 32)"),
        ("fog", np.zeros((20, 32, 32, 3), np.float32), "Got float32"),
        ("labels", LABELS[:4], "labels.npy must be 20 integers. Got int64 (4,)"),
        ("labels", LABELS / 1, "must be 20 integers. Got float64"),
        ("labels", LABELS + 91, "classes in 0...9. Got 91...99"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_missing_broken_and_wrong_files(cifar_folder, file, content, message):
    path = cifar_folder / f"{file}.npy"
    if content is None:
        path.unlink()
    elif isinstance(content, int):
        path.write_bytes(path.read_bytes()[:content])
    else:
        np.save(path, content)
    with pytest.raises(ValueError if isinstance(content, np.ndarray) else OSError) as caught:
        load_cifar10_c(cifar_folder, "fog", 1)
    assert message in str(caught.value)


@pytest.mark.parametrize("name", ["imagenet", "imagenet-s", "imagenet-sketch"])
def test_folders_of_wnids(timm, tmp_path, name):
    """Sorted by class and file, whatever the suffix. Files that are no images and hidden ones are left out."""
    write(tmp_path / GOLDFISH / "b.JPEG", "blue")
    write(tmp_path / GOLDFISH / "a.png", "lime")
    write(tmp_path / TENCH / "c.webp", "white")
    write(tmp_path / WHITE_SHARK / "d.Jpg", "black")
    (tmp_path / TENCH / "._c.jpg").touch()
    (tmp_path / TENCH / "notes.txt").touch()
    (tmp_path / "README.txt").touch()
    (tmp_path / ".cache").mkdir()
    data = load_imagenet_set(name, tmp_path)
    images, targets = unpack(data)
    assert targets == [0, 1, 1, 2]
    assert candidate_classes(name) is None
    expected = torch.tensor([[255, 255, 255], [0, 255, 0], [0, 0, 254], [0, 0, 0]])
    assert (images.dtype, images.shape) == (torch.uint8, (4, 3, 224, 224))
    assert (images[..., 0, 0].int() - expected).abs().max() <= 2
    assert torch.equal(pickle.loads(pickle.dumps(data))[2][0], images[2])


@pytest.mark.parametrize(("name", "wnid", "index"), [("imagenet-r", GOLDFISH, 1), ("imagenet-a", STINGRAY, 6)])
def test_two_hundred_classes(timm, tmp_path, name, wnid, index):
    write(tmp_path / wnid / "a.jpg")
    assert load_imagenet_set(name, tmp_path).targets == [index]
    candidates = candidate_classes(name)
    assert len(candidates) == 200
    # Tench is in neither set, so its logit does not count.
    logits = torch.zeros(1, 1000)
    logits[0, index], logits[0, 0] = 1, 2
    assert correct(logits, torch.tensor([index]), candidates).tolist() == [True]
    write(tmp_path / TENCH / "a.jpg")
    with pytest.raises(ValueError, match=f"of its 200 classes; its classes are .* more. Got the folder .*{TENCH}"):
        load_imagenet_set(name, tmp_path)


@pytest.mark.parametrize("family", ["", "weather/"])
def test_imagenet_c_with_and_without_families(timm, tmp_path, family):
    write(tmp_path / f"{family}fog/5" / GOLDFISH / "a.JPEG", size=(224, 224))
    write(tmp_path / f"{family}fog/4" / TENCH / "a.JPEG", size=(224, 224))
    assert load_imagenet_set("imagenet-c", tmp_path, corruption="fog", severity=5).targets == [1]
    assert load_imagenet_set("imagenet-c", tmp_path, corruption="fog", severity=4).targets == [0]
    with pytest.raises(OSError, match="there is no fog/3 in"):
        load_imagenet_set("imagenet-c", tmp_path, corruption="fog", severity=3)


def test_imagenet_d_has_several_right_classes(tmp_path):
    write(tmp_path / "background/chair/a.png")
    write(tmp_path / "material/banana/a.png")
    (tmp_path / "questions").mkdir()
    data = load_imagenet_set("imagenet-d", tmp_path)
    ((_, targets),) = DataLoader(pickle.loads(pickle.dumps(data)), batch_size=2)
    assert [row[row >= 0].tolist() for row in targets] == [[423, 559, 765], [954]]
    assert correct(torch.eye(1000)[[765, 953]], targets).tolist() == [True, False]
    (target,) = load_imagenet_set("imagenet-d", tmp_path / "material").targets
    assert target[0] == 954


def test_published_classes(timm):
    """Sizes of the papers; known indices of each."""
    wnids = folder_targets("imagenet")
    assert len(wnids) == 1000
    assert list(wnids) == sorted(wnids)
    assert wnids["n15075141"] == 999
    categories = folder_targets("imagenet-d")
    assert len(categories) == 113
    assert categories["bicycle"][:3].tolist() == [444, 671, -1]
    assert all(-1 <= index < 1000 for target in categories.values() for index in target)
    assert candidate_classes("imagenet-r")[:3] == (1, 2, 4)
    assert candidate_classes("imagenet-a")[:3] == (6, 11, 13)


def test_usual_transform_is_imagenets(timm, tmp_path):
    """The shorter side to 256 pixels, then the centre; ImageNet-C is published cropped, so it is not resized."""
    image = F.to_pil_image(torch.randint(256, (3, 90, 120), generator=torch.Generator().manual_seed(0)).byte())
    write(tmp_path / "clean" / TENCH / "a.png")
    image.save(tmp_path / "clean" / TENCH / "a.png")
    expected = F.center_crop(F.pil_to_tensor(F.resize(image, [256], antialias=True)), [224, 224])
    assert torch.equal(load_imagenet_set("imagenet", tmp_path / "clean")[0][0], expected)
    own = load_imagenet_set("imagenet", tmp_path / "clean", transform=v2.CenterCrop(32))
    assert torch.equal(own[0][0], F.center_crop(F.pil_to_tensor(image), [32, 32]))
    write(tmp_path / "fog/1" / TENCH / "a.png")
    F.to_pil_image(expected).save(tmp_path / "fog/1" / TENCH / "a.png")
    assert torch.equal(load_imagenet_set("imagenet-c", tmp_path, corruption="fog", severity=1)[0][0], expected)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA"])
def test_other_modes_become_rgb(timm, tmp_path, mode):
    write(tmp_path / TENCH / "a.png", "white", mode=mode)
    image, _ = load_imagenet_set("imagenet", tmp_path)[0]
    assert image.shape == (3, 224, 224)
    assert (image == 255).all()


@pytest.mark.parametrize("name", sorted(set(IMAGENET_SETS) - {"imagenet-c"}))
def test_wrong_layouts_say_what_was_expected(timm, tmp_path, name):
    write(tmp_path / "a.jpg")
    for _ in range(2):  # without a class folder, and with an empty one
        with pytest.raises(ValueError, match=f"{name} must be laid out as .*Got no images in"):
            load_imagenet_set(name, tmp_path)
        (tmp_path / next(iter(folder_targets(name)))).mkdir(exist_ok=True)
    write(tmp_path / "val" / TENCH / "a.jpg")
    with pytest.raises(ValueError, match=f"{name} must be laid out as .*Got the folder .*val"):
        load_imagenet_set(name, tmp_path)
    with pytest.raises(OSError, match="there is no folder .*elsewhere"):
        load_imagenet_set(name, tmp_path / "elsewhere")


def test_missing_timm_names_the_extra(tmp_path, monkeypatch):
    folder_targets.cache_clear()
    monkeypatch.setitem(sys.modules, "timm.data", None)
    with pytest.raises(ImportError, match=r"diffaug-transforms\[train\]"):
        load_imagenet_set("imagenet", tmp_path)


def test_image_folders_flat_and_nested(tmp_path):
    """In the order of the paths: files and folders in one alphabet."""
    folder = tmp_path / "textures"
    write(folder / "b.png", "lime", (40, 30), "P")
    write(folder / "images" / "banded" / "c.JPG", "blue", (40, 30))
    write(folder / "z.png", "red", (40, 30))
    write(folder / "a.webp", "white", (40, 30), "L")
    (folder / "images" / "._c.jpg").touch()
    (folder / "notes.txt").touch()
    (folder / "folder.jpg").mkdir()
    data = load_image_folder(folder, 16)
    images, targets = unpack(data)
    assert targets == data.targets == [-1] * 4
    assert (images.dtype, images.shape) == (torch.uint8, (4, 3, 16, 16))
    expected = torch.tensor([[255, 255, 255], [0, 255, 0], [0, 0, 254], [255, 0, 0]])
    assert (images[..., 8, 8].int() - expected).abs().max() <= 2
    subset = pickle.loads(pickle.dumps(random_subset(data, 2)))
    assert torch.equal(subset[1][0], images[subset.indices[1]])


def test_image_folders_are_cut_like_the_in_distribution_images(tmp_path):
    """Shorter side 32, then the 28 in the middle, against PIL's own bilinear."""
    rng = np.random.default_rng(0)
    image = PIL.Image.fromarray(rng.integers(256, size=(64, 96, 3), dtype=np.uint8))
    image.save(tmp_path / "a.png")
    small = np.array(image.resize((48, 32), PIL.Image.Resampling.BILINEAR))
    for size, resize, cut in ((28, 32, small[2:30, 10:38]), (32, None, small[:, 8:40])):
        pixels, _ = load_image_folder(tmp_path, size, resize=resize)[0]
        assert np.array_equal(pixels.permute(1, 2, 0).numpy(), cut)


def test_broken_folders(tmp_path):
    with pytest.raises(OSError, match="there is no folder .*absent"):
        load_image_folder(tmp_path / "absent", 32)
    with pytest.raises(OSError, match="there are no images"):
        load_image_folder(tmp_path, 32)


@pytest.mark.parametrize(("suffix", "length"), [("jpg", 700), ("png", 60), ("png", 20), ("jpg", 0)])
def test_broken_images_are_named(tmp_path, suffix, length):
    path = tmp_path / f"a.{suffix}"
    write(path)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(OSError, match=rf"a.{suffix} is no whole picture"):
        load_image_folder(tmp_path, 32)[0]


def test_subsets_are_random_and_nested(clean, samples):
    data = random_subset(clean, 3)
    assert isinstance(data, Subset)
    assert data.indices == torch.randperm(8, generator=torch.Generator().manual_seed(0))[:3].tolist()
    assert torch.equal(unpack(data)[0], samples[data.indices])
    assert random_subset(clean, 5).indices[:3] == data.indices
    assert random_subset(clean, 5, seed=1).indices != random_subset(clean, 5).indices
    assert sorted(random_subset(clean, 100).indices) == list(range(8))


def test_corrupted_images_depend_on_their_index_in_the_full_set(clean, samples):
    pytest.importorskip("diffaug_transforms.robustness.corruptions.functions", reason="the extra benchmarks")
    together = corrupt(samples, "gaussian_noise", 5, seed=4)
    data = Corrupted(clean, "gaussian_noise", 5, corruption_set="cifar10-c", seed=4)
    images, targets = unpack(data)
    assert torch.equal(images, together)
    assert targets == list(range(8))
    assert torch.equal(data[-1][0], together[7])
    subset = random_subset(data, 3)
    assert torch.equal(unpack(subset)[0], together[subset.indices])
    assert torch.equal(pickle.loads(pickle.dumps(data))[6][0], together[6])
    with pytest.raises(IndexError):
        data[8]


@pytest.mark.parametrize("name", ["tiny-imagenet-c", "imagenet-c"])
def test_imagenets_corrupted_images_are_coded_as_jpeg(clean, samples, name):
    pytest.importorskip("diffaug_transforms.robustness.corruptions.functions", reason="the extra benchmarks")
    data = Corrupted(clean, "gaussian_noise", 1, corruption_set=name)
    image = corrupt(samples[5], "gaussian_noise", 1, corruption_set=name, seed=0, first=5)
    file = io.BytesIO()
    F.to_pil_image(image).save(file, "JPEG", quality=85, optimize=True)
    assert torch.equal(data[5][0], F.pil_to_tensor(PIL.Image.open(file)))
    assert not torch.equal(data[5][0], image)


def corrupted(**options) -> Corrupted:
    return Corrupted([], **{"corruption": "fog", "severity": 1, "corruption_set": "cifar10-c", **options})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: load_imagenet_set("imagenet-v2", "."), "imagenet-d. Got 'imagenet-v2'"),
        (lambda: load_imagenet_set("imagenet-r", ".", corruption="fog"), "only imagenet-c has a corruption and a sev"),
        (
            lambda: load_imagenet_set("imagenet-c", ".", corruption="fog"),
            "imagenet-c needs a corruption and a severity",
        ),
        (
            lambda: load_imagenet_set("imagenet-c", ".", corruption="fog", severity=9),
            "must be in 1...5. Got 9",
        ),
        (lambda: load_image_folder(".", 0), "size must be at least 1. Got 0"),
        (lambda: load_image_folder(".", (32, 32)), "size must be an integer. Got (32, 32)"),
        (lambda: load_image_folder(".", 32, resize=31), "resize must be at least the size, 32. Got 31"),
        (lambda: load_image_folder(".", 32, resize=40.5), "resize must be an integer. Got 40.5"),
        (lambda: random_subset([], 0), "number must be at least 1. Got 0"),
        (lambda: corrupted(corruption="fogg"), "Got 'fogg'. Did you mean 'fog'"),
        (lambda: corrupted(severity=0), "severity must be in 1...5. Got 0"),
        (
            lambda: corrupted(corruption_set="cifar10"),
            "must be one of cifar10-c, tiny-imagenet-c, imagenet-c. Got 'cifar10'",
        ),
        (lambda: corrupted(seed=-1), "seed must be at least 0. Got -1"),
        (lambda: corrupted(seed=None), "seed must be an integer. Got None"),
        (lambda: corrupted(severity=3.0), "severity must be an integer. Got 3.0"),
        (lambda: Corrupted(None, "fog", 1, corruption_set="cifar10-c"), "dataset must have a length and items"),
        (lambda: random_subset(iter([]), 1), "dataset must have a length and items"),
        (lambda: random_subset([1], 1, seed=0.5), "seed must be an integer. Got 0.5"),
        (lambda: load_image_folder(None, 32), "folder must be a path. Got None"),
        (lambda: load_cifar10_c(3, "fog", 1), "folder must be a path. Got 3"),
        (lambda: load_cifar10_c(".", None, 1), "corruption must be a str. Got None"),
        (lambda: load_imagenet_set("imagenet-r", ".", transform=224), "transform must be a transform of PIL images or"),
    ],
    ids=range(22),
)
def test_wrong_arguments(call, message):
    with pytest.raises((TypeError, ValueError)) as caught:
        call()
    assert message in str(caught.value)


@pytest.mark.parametrize("name", ["cifar10_c", "image_folder", "imagenet_set"])
def test_old_names_warn_once(name):
    with pytest.warns(DeprecationWarning, match=f"load_{name}") as caught:
        assert getattr(robustness, f"read_{name}") is getattr(robustness, f"load_{name}")
    assert [Path(warning.filename).name for warning in caught] == ["test_datasets.py"]
