"""ImageNet's shifted test sets, from small folders laid out as the published ones."""

from __future__ import annotations

import pickle
import sys

import PIL.Image
import pytest
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from diffaug_transforms.robustness import IMAGENET_SETS, read_imagenet_set
from diffaug_transforms.robustness.imagenet_classes import candidate_classes, folder_classes

pytest.importorskip("timm", reason="the extra train")

TENCH, GOLDFISH, WHITE_SHARK, STINGRAY = "n01440764", "n01443537", "n01484850", "n01498041"


def write(path, colour="red", size=(300, 260), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.new("RGB", size, colour).convert(mode).save(path)


@pytest.mark.parametrize("name", ["imagenet", "imagenet-s", "imagenet-sketch"])
def test_folders_of_wnids(tmp_path, name):
    """Sorted by class and file, whatever the suffix; files that are no images are left out."""
    write(tmp_path / GOLDFISH / "b.JPEG", "blue")
    write(tmp_path / GOLDFISH / "a.png", "lime")
    write(tmp_path / TENCH / "c.webp", "white")
    write(tmp_path / WHITE_SHARK / "d.Jpg", "black")
    (tmp_path / TENCH / "._c.jpg").touch()
    (tmp_path / TENCH / "notes.txt").touch()
    (tmp_path / "README.txt").touch()
    data = read_imagenet_set(name, tmp_path)
    assert (data.name, data.classes, data.labels) == (name, None, [(0,), (1,), (1,), (2,)])
    expected = torch.tensor([[255, 255, 255], [0, 255, 0], [0, 0, 254], [0, 0, 0]])
    images = torch.stack(list(data))
    assert (images.dtype, images.shape) == (torch.uint8, (4, 3, 224, 224))
    assert (images[..., 0, 0].int() - expected).abs().max() <= 2
    assert torch.equal(pickle.loads(pickle.dumps(data))[2], data[2])


@pytest.mark.parametrize(("name", "wnid", "index"), [("imagenet-r", GOLDFISH, 1), ("imagenet-a", STINGRAY, 6)])
def test_two_hundred_classes(tmp_path, name, wnid, index):
    write(tmp_path / wnid / "a.jpg")
    data = read_imagenet_set(name, tmp_path)
    assert data.labels == [(index,)]
    assert len(data.classes) == 200
    # Tench is in neither set: its logit is not looked at.
    logits = torch.zeros(1, 1000)
    logits[0, index], logits[0, 0] = 1, 2
    assert data.correct(logits, [0]).tolist() == [True]
    write(tmp_path / TENCH / "a.jpg")
    with pytest.raises(ValueError, match=f"of its 200 classes. Got the folder .*{TENCH}"):
        read_imagenet_set(name, tmp_path)


@pytest.mark.parametrize("family", ["", "weather/"])
def test_imagenet_c_with_and_without_families(tmp_path, family):
    write(tmp_path / f"{family}fog/5" / GOLDFISH / "a.JPEG", size=(224, 224))
    write(tmp_path / f"{family}fog/4" / TENCH / "a.JPEG", size=(224, 224))
    assert read_imagenet_set("imagenet-c", tmp_path, corruption="fog", severity=5).labels == [(1,)]
    assert read_imagenet_set("imagenet-c", tmp_path, corruption="fog", severity=4).labels == [(0,)]
    with pytest.raises(OSError, match="there is no fog/3 in"):
        read_imagenet_set("imagenet-c", tmp_path, corruption="fog", severity=3)


def test_imagenet_d_has_several_right_classes(tmp_path):
    write(tmp_path / "background/chair/a.png")
    write(tmp_path / "material/banana/a.png")
    (tmp_path / "questions").mkdir()
    data = read_imagenet_set("imagenet-d", tmp_path)
    assert (data.classes, data.labels) == (None, [(423, 559, 765), (954,)])
    logits = torch.eye(1000)[[765, 953]]
    assert data.correct(logits, [0, 1]).tolist() == [True, False]
    assert read_imagenet_set("imagenet-d", tmp_path / "material").labels == [(954,)]


def test_published_classes():
    """Sizes of the papers; known indices of each."""
    assert len(folder_classes("imagenet")) == 1000
    assert list(folder_classes("imagenet")) == sorted(folder_classes("imagenet"))
    assert folder_classes("imagenet")["n15075141"] == (999,)
    categories = folder_classes("imagenet-d")
    assert len(categories) == 113
    assert (categories["bicycle"], categories["toilet_paper_roll"]) == ((444, 671), (999,))
    assert all(0 <= index < 1000 for indices in categories.values() for index in indices)
    assert candidate_classes("imagenet-r")[:3] == (1, 2, 4)
    assert candidate_classes("imagenet-a")[:3] == (6, 11, 13)


def test_usual_transform_is_imagenets(tmp_path):
    """The shorter side to 256 pixels, then the centre."""
    folder = tmp_path / TENCH
    folder.mkdir()
    image = F.to_pil_image(torch.randint(256, (3, 90, 120), generator=torch.Generator().manual_seed(0)).byte())
    image.save(folder / "a.png")
    expected = F.center_crop(F.pil_to_tensor(F.resize(image, [256], antialias=True)), [224, 224])
    assert torch.equal(read_imagenet_set("imagenet", tmp_path)[0], expected)
    own = read_imagenet_set("imagenet", tmp_path, transform=v2.CenterCrop(32))
    assert torch.equal(own[0], F.center_crop(F.pil_to_tensor(image), [32, 32]))


def test_imagenet_c_is_not_resized(tmp_path):
    pixels = torch.randint(256, (3, 224, 224), generator=torch.Generator().manual_seed(0)).byte()
    path = tmp_path / "fog/1" / TENCH / "a.png"
    write(path)
    F.to_pil_image(pixels).save(path)
    assert torch.equal(read_imagenet_set("imagenet-c", tmp_path, corruption="fog", severity=1)[0], pixels)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA"])
def test_other_modes_become_rgb(tmp_path, mode):
    write(tmp_path / TENCH / "a.png", "white", mode=mode)
    image = read_imagenet_set("imagenet", tmp_path)[0]
    assert image.shape == (3, 224, 224)
    assert (image == 255).all()


@pytest.mark.parametrize("name", sorted(set(IMAGENET_SETS) - {"imagenet-c"}))
def test_wrong_layouts_say_what_was_expected(tmp_path, name):
    with pytest.raises(ValueError, match=f"{name} must be laid out as .*Got no images in"):
        read_imagenet_set(name, tmp_path)
    write(tmp_path / "val" / TENCH / "a.jpg")
    with pytest.raises(ValueError, match=f"{name} must be laid out as .*Got the folder .*val"):
        read_imagenet_set(name, tmp_path)
    with pytest.raises(OSError, match="there is no folder .*elsewhere"):
        read_imagenet_set(name, tmp_path / "elsewhere")


def test_images_beside_the_folders_are_no_set(tmp_path):
    write(tmp_path / "a.jpg")
    with pytest.raises(ValueError, match="Got no images"):
        read_imagenet_set("imagenet-r", tmp_path)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("imagenet-v2", {}, "imagenet-d. Got 'imagenet-v2'"),
        ("imagenet-r", {"corruption": "fog"}, "only imagenet-c has a corruption and a severity. Got 'fog', None"),
        ("imagenet-c", {"corruption": "fog"}, "imagenet-c needs a corruption and a severity. Got 'fog', None"),
        ("imagenet-c", {"corruption": "fog", "severity": 9}, "severity must be one of 1, 2, 3, 4, 5. Got 9"),
    ],
)
def test_wrong_arguments(tmp_path, name, arguments, message):
    with pytest.raises(ValueError) as caught:
        read_imagenet_set(name, tmp_path, **arguments)
    assert message in str(caught.value)


def test_broken_images_are_named(tmp_path):
    path = tmp_path / TENCH / "a.jpg"
    write(path)
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(OSError, match=r"a.jpg is no whole image"):
        read_imagenet_set("imagenet", tmp_path)[0]


def test_missing_timm_names_the_extra(tmp_path, monkeypatch):
    folder_classes.cache_clear()
    monkeypatch.setitem(sys.modules, "timm.data", None)
    write(tmp_path / TENCH / "a.jpg")
    with pytest.raises(ImportError, match=r"diffaug-transforms\[train\]"):
        read_imagenet_set("imagenet", tmp_path)
