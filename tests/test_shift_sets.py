"""Sets of images with their right classes: CIFAR-10-C's files, subsets, corruption on the fly."""

from __future__ import annotations

import io
import operator
import pickle
from functools import partial

import numpy as np
import PIL.Image
import pytest
import torch
from torch.utils.data import DataLoader
from torchvision.transforms.v2 import functional as F

from diffaug_transforms.robustness import ShiftSet, corrupt, corrupted, read_cifar10_c

LABELS = np.array([3, 8, 8, 0] * 5)


@pytest.fixture
def folder(tmp_path):
    """Four images of each severity."""
    rng = np.random.default_rng(0)
    np.save(tmp_path / "fog.npy", rng.integers(256, size=(20, 32, 32, 3), dtype=np.uint8))
    np.save(tmp_path / "labels.npy", LABELS)
    return tmp_path


@pytest.fixture
def clean(samples) -> ShiftSet:
    return ShiftSet("cifar10", [(k,) for k in range(8)], None, partial(operator.getitem, samples))


def test_cifar10_c_reads_its_severity(folder):
    array = np.load(folder / "fog.npy")
    for severity in range(1, 6):
        data = read_cifar10_c(folder, "fog", severity)
        assert (data.name, data.classes, len(data)) == ("cifar10-c", None, 4)
        assert data.labels == [(3,), (8,), (8,), (0,)]
        expected = torch.from_numpy(array[4 * (severity - 1) :][:4]).permute(0, 3, 1, 2)
        assert torch.equal(torch.stack(list(data)), expected)
        assert torch.equal(data[-1], expected[3])


def test_cifar10_c_pickles_as_a_path(folder):
    data = read_cifar10_c(str(folder), "fog", 5)
    content = pickle.dumps(data)
    assert len(content) < 2000
    assert torch.equal(pickle.loads(content)[2], data[2])


def test_data_loader_makes_batches(folder):
    batches = list(DataLoader(read_cifar10_c(folder, "fog", 2), batch_size=3))
    assert [(batch.dtype, tuple(batch.shape)) for batch in batches] == [
        (torch.uint8, (3, 3, 32, 32)),
        (torch.uint8, (1, 3, 32, 32)),
    ]


@pytest.mark.parametrize("missing", ["fog.npy", "labels.npy"])
def test_missing_files_are_named(folder, missing):
    (folder / missing).unlink()
    with pytest.raises(OSError, match=missing):
        read_cifar10_c(folder, "fog", 1)


@pytest.mark.parametrize("size", [0, 40, 5000])
def test_broken_files_are_named(folder, size):
    path = folder / "fog.npy"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(OSError, match=r"fog.npy is no whole .npy file"):
        read_cifar10_c(folder, "fog", 1)


@pytest.mark.parametrize(
    ("file", "array", "message"),
    [
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
def test_wrong_arrays(folder, file, array, message):
    np.save(folder / f"{file}.npy", array)
    with pytest.raises(ValueError) as caught:
        read_cifar10_c(folder, "fog", 1)
    assert message in str(caught.value)


def test_wrong_severity(folder):
    with pytest.raises(ValueError, match="severity must be one of 1, 2, 3, 4, 5. Got 6"):
        read_cifar10_c(folder, "fog", 6)


def test_predictions_come_from_the_classes():
    """Over all classes, 1 is the most probable for every image; out of 0, 2 and 4 it is 4, 4 and 0."""
    logits = torch.tensor([[0.1, 9, 0.2, 8, 0.3], [0.1, 9, -0.2, 8, 0.3], [0.5, 9, 0.2, 8, 0.3]])
    labels = [(4,), (2,), (0,)]
    data = ShiftSet("mine", labels, (0, 2, 4), partial(operator.getitem, torch.zeros(3, 3, 8, 8)))
    assert data.correct(logits, [0, 1, 2]).tolist() == [True, False, True]
    assert data.correct(logits[[2, 0]], [2, 1]).tolist() == [True, False]
    whole = ShiftSet("mine", [(1,), (0, 1), (0, 4)], None, data.read)
    assert whole.correct(logits, torch.arange(3)).tolist() == [True, True, False]
    empty = data.correct(logits[:0], [])
    assert (empty.dtype, empty.shape) == (torch.bool, (0,))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((5,), "logits must be (B, K), B the 2 indices. Got shape (5,)"),
        ((3, 5), "Got shape (3, 5)"),
        ((2, 3), "mine needs logits over at least 5 classes. Got 3"),
    ],
)
def test_wrong_logits(shape, message):
    data = ShiftSet("mine", [(0,), (2,)], (0, 2, 4), partial(operator.getitem, torch.zeros(2, 3, 8, 8)))
    with pytest.raises(ValueError) as caught:
        data.correct(torch.zeros(shape), [0, 1])
    assert message in str(caught.value)


def test_subsets_are_random_nested_and_keep_the_rest(clean, samples):
    data = clean.subset(3)
    places = [label for (label,) in data.labels]  # the clean set's labels are its indices
    assert (data.name, data.classes, len(data), len(set(places))) == ("cifar10", None, 3, 3)
    assert torch.equal(torch.stack(list(data)), samples[places])
    assert clean.subset(5).labels[:3] == data.labels
    assert clean.subset(5, seed=1).labels != clean.subset(5).labels
    nested = data.subset(2)
    assert torch.equal(torch.stack(list(nested)), samples[[label for (label,) in nested.labels]])
    assert sorted(clean.subset(100).labels) == clean.labels
    with pytest.raises(ValueError, match="number must be at least 1. Got 0"):
        clean.subset(0)


def test_indices_out_of_range(clean):
    for index in (3, -4):
        with pytest.raises(IndexError):
            clean.subset(3)[index]


def test_repr_is_short(clean):
    assert repr(clean) == "ShiftSet(name='cifar10')"


def test_corrupted_images_depend_on_their_index_in_the_full_set(clean, samples):
    pytest.importorskip("diffaug_transforms.robustness.corruption_functions", reason="the extra benchmarks")
    together = corrupt(samples, "gaussian_noise", 5, seed=4)
    arguments = {"corruption": "gaussian_noise", "severity": 5, "dataset": "cifar10-c", "seed": 4}
    data = corrupted(clean, **arguments)
    assert (data.name, data.labels) == ("cifar10-c", clean.labels)
    assert torch.equal(torch.stack(list(data)), together)
    for subset in (data.subset(3), corrupted(clean.subset(3), **arguments)):
        assert subset.labels == clean.subset(3).labels
        assert torch.equal(torch.stack(list(subset)), together[[label for (label,) in subset.labels]])
    assert torch.equal(pickle.loads(pickle.dumps(data))[6], together[6])


def test_imagenet_c_is_coded_as_jpeg(clean, samples):
    pytest.importorskip("diffaug_transforms.robustness.corruption_functions", reason="the extra benchmarks")
    data = corrupted(clean, "gaussian_noise", 1, dataset="imagenet-c")
    file = io.BytesIO()
    image = corrupt(samples[5], "gaussian_noise", 1, dataset="imagenet-c", seed=0, first=5)
    F.to_pil_image(image).save(file, "JPEG", quality=85, optimize=True)
    assert torch.equal(data[5], F.pil_to_tensor(PIL.Image.open(file)))
    assert not torch.equal(data[5], image)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"corruption": "fogg"}, "Got 'fogg'. Did you mean 'fog'"),
        ({"severity": 0}, "severity must be one of 1, 2, 3, 4, 5. Got 0"),
        ({"dataset": "cifar10"}, "dataset must be 'cifar10-c' or 'imagenet-c'. Got 'cifar10'"),
        ({"seed": -1}, "seed must be an integer of at least 0. Got -1"),
        ({"seed": None}, "Got None"),
    ],
    ids=str,
)
def test_wrong_corruptions(clean, arguments, message):
    with pytest.raises(ValueError) as caught:
        corrupted(clean, **{"corruption": "fog", "severity": 1, "dataset": "cifar10-c", **arguments})
    assert message in str(caught.value)
