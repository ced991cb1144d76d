"""What stands in folders: names, links, and pictures that do not fit."""

from __future__ import annotations

import os
import re
from pathlib import Path

import PIL.Image
import pytest
import torch
from torchvision.datasets import ImageFolder

from diffaug_transforms import DiffAug, cli
from diffaug_transforms.files import writing_file
from diffaug_transforms.offline import ResizeAndCrop, augment_folder, cost
from diffaug_transforms.offline.copies import encode_image, file_format
from diffaug_transforms.offline.folders import find_kind, find_pictures, is_image_folder
from tests.offline.conftest import files, save_picture


@pytest.fixture
def augment(network) -> DiffAug:
    return DiffAug(network, timesteps=50)


def names_of(folder: Path) -> list[str]:
    return [path.as_posix() for path in find_pictures(folder)[0]]


def test_unusual_names_are_read_and_hidden_ones_left_out(augment, tmp_path):
    wanted = ["_class/y.png", "a/_x.png", "a/é.png", "q?/z.png", "sp ace#%/w.PNG"]
    for name in [*wanted, ".ipynb_checkpoints/a.png", "a/._x.png"]:
        save_picture(tmp_path / "photos" / name)
    assert names_of(tmp_path / "photos") == wanted
    assert augment_folder(tmp_path / "photos", tmp_path / "out", augment) == []
    assert sorted(files(tmp_path / "out")) == wanted


def test_pictures_of_other_formats_are_named(augment, tmp_path):
    save_picture(tmp_path / "photos" / "a.png")
    for name in ("b.HEIC", "notes.txt", ".c.heic"):
        (tmp_path / "photos" / name).touch()
    lines = augment_folder(tmp_path / "photos", tmp_path / "out", augment)
    assert len(lines) == 1
    assert "b.HEIC: its format is not read here. Convert it to JPEG or PNG" in lines[0]
    assert list(files(tmp_path / "out")) == ["a.png"]


def test_linked_folders_are_followed_but_not_in_circles(augment, tmp_path):
    save_picture(tmp_path / "elsewhere" / "x.png")
    save_picture(tmp_path / "photos" / "cat" / "y.png")
    for name in ("dog", "wolf"):  # twice the same folder is no circle
        (tmp_path / "photos" / name).symlink_to(tmp_path / "elsewhere")
    (tmp_path / "photos" / "cat" / "circle").symlink_to(tmp_path / "photos")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "photos" / "wolf")
    (tmp_path / "photos" / "cat" / "gone.png").symlink_to(tmp_path / "missing.png")
    assert names_of(tmp_path / "photos") == ["cat/y.png", "dog/x.png", "wolf/x.png"]
    (tmp_path / "photos" / "out").symlink_to(tmp_path)
    with pytest.raises(ValueError, match="DST must not lie inside SRC"):
        augment_folder(tmp_path / "photos", tmp_path / "made", augment)


def test_a_folder_of_links_alone_is_an_image_folder(tmp_path):
    save_picture(tmp_path / "elsewhere" / "x.png")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "dog").symlink_to(tmp_path / "elsewhere")
    assert is_image_folder(tmp_path / "photos")
    assert not is_image_folder("uoft-cs/cifar10:plain_text")
    (tmp_path / "photos" / "itself.png").symlink_to("itself.png")
    paths, lines = find_pictures(tmp_path / "photos")
    assert [path.as_posix() for path in paths] == ["dog/x.png"]
    assert [line.partition(":")[0] for line in lines] == ["skipped"]


def test_a_source_is_what_most_of_its_files_are(tmp_path):
    for name in ("a.png", "b.png", "c.tar", ".hidden/d.tar", ".hidden/e.tar"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.warns(UserWarning, match="holds mostly images: 1 .tar files are left out"):
        assert find_kind(tmp_path) == "folder"
    for name in ("d.tar", "e.TAR"):
        (tmp_path / name).touch()
    with pytest.warns(UserWarning, match="holds mostly .tar files: 2 images are left out"):
        assert find_kind(tmp_path) == "shards"
    assert find_kind(tmp_path / "d.tar") == "shards"
    (tmp_path / "x.parquet").touch()
    assert find_kind(tmp_path / "x.parquet") == "table"
    (tmp_path / "none").mkdir()
    with pytest.raises(OSError, match="there are no images, .parquet or .tar files under"):
        find_kind(tmp_path / "none")


def test_names_that_cannot_be_used_are_skipped_and_named(augment, tmp_path, capsys):
    """A name that is no UTF-8, and one that grows too long; the rest is done, and so it is on resume."""
    save_picture(tmp_path / "photos" / "a" / "one.png")
    save_picture(tmp_path / "photos" / "a" / f"{'n' * 250}.png")
    raw = os.fsencode(tmp_path / "photos" / "a") + b"/caf\xe9.png"
    with open(raw, "wb") as file:
        file.write((tmp_path / "photos" / "a" / "one.png").read_bytes())
    for _ in range(2):
        command = ["augment", str(tmp_path / "photos"), str(tmp_path / "out"), "--copies", "2"]
        assert cli.main(command) == 1
        error = capsys.readouterr().err
        assert re.search(r"skipped: \S*/photos/a/caf\\xe9.png: its name is no UTF-8\n", error)
        assert (
            len(re.findall(r"skipped: \S*/out/a/n{250}_[01].png cannot be written: its name is too long\n", error)) == 2
        )
        assert sorted(files(tmp_path / "out")) == ["a/one_0.png", "a/one_1.png"]
    assert augment_folder(tmp_path / "photos", tmp_path / "once", augment) == [
        rf"skipped: {tmp_path}/photos/a/caf\xe9.png: its name is no UTF-8"
    ]
    assert len(files(tmp_path / "once")) == 2  # a name of 254 bytes can be written


def test_unfinished_files_are_no_pictures(augment, tmp_path):
    """Neither for ImageFolder nor for a later run that reads the folder."""
    save_picture(tmp_path / "photos" / "a" / "one.png")
    with writing_file(tmp_path / "photos" / "a" / "two.png") as part:
        part.write_bytes(b"half")
        assert [Path(path).name for path, _ in ImageFolder(str(tmp_path / "photos")).samples] == ["one.png"]
        assert augment_folder(tmp_path / "photos", tmp_path / "out", augment) == []
    assert sorted(files(tmp_path / "out")) == ["a/one.png"]
    assert ImageFolder(str(tmp_path / "out")).classes == ["a"]  # the record is no class


@pytest.mark.parametrize(
    ("resize", "crop", "message"),
    [
        (32, 64, "crop must be at most resize, 32. Got 64"),
        (0, None, "resize must be in 1...32768. Got 0"),
        (None, -1, "crop must be in 1...32768. Got -1"),
        (None, 40_000, "crop must be in 1...32768. Got 40000"),
    ],
)
def test_sizes_that_cannot_be(photos, tmp_path, capsys, resize, crop, message):
    options = [f"--{name}={value}" for name, value in (("resize", resize), ("crop", crop)) if value is not None]
    assert cli.main(["augment", str(photos), str(tmp_path / "out"), *options]) == 2
    assert capsys.readouterr().err == f"diffaug: error: {message}\n"
    assert not (tmp_path / "out").exists()


def test_pictures_smaller_than_the_crop_are_skipped(photos, augment, tmp_path):
    """They get no black frame."""
    lines = augment_folder(photos, tmp_path / "out", augment, prepare=ResizeAndCrop(crop=20))
    assert len(lines) == 3
    assert lines[0] == f"skipped: {photos}/a/one.png: it is 16 x 16, smaller than the crop of 20 pixels"
    assert sorted(files(tmp_path / "out")) == ["b/three.png"]
    long = PIL.Image.new("RGB", (2000, 2))
    with pytest.raises(OSError, match="resized to 64 it would be 64000 pixels long. Its size is 2000 x 2"):
        ResizeAndCrop(64, 32)(long)
    assert ResizeAndCrop(64, 32)(PIL.Image.new("RGB", (200, 100))).size == (32, 32)
    assert ResizeAndCrop(64)(PIL.Image.new("RGB", (200, 100))).size == (128, 64)


def test_formats_go_by_names_first():
    picture = torch.zeros(3, 4, 4, dtype=torch.uint8)
    png = encode_image(picture, "PNG")
    assert [file_format(f"a.{end}") for end in ("jpg", "JPEG", "png", "webp", "tif", "ppm", "bmp", "gif", "")] == [
        "JPEG", "JPEG", "PNG", "WEBP", "TIFF", "PPM", "BMP", "PNG", "PNG",
    ]  # fmt: skip
    assert file_format("a.jpg", png) == "JPEG"
    assert file_format("sha256:1", png) == "PNG"
    assert file_format("sha256:1", encode_image(picture, "JPEG")) == "JPEG"
    assert file_format("sha256:1", b"damaged") == "PNG"


def test_the_cost_of_large_pictures_is_said_before_it_begins(augment, tmp_path, monkeypatch, recwarn):
    monkeypatch.setattr(cost, "seconds_a_call", lambda *_: 60.0)
    for i in range(3):
        save_picture(tmp_path / "large" / f"{i}.png", 64)
    with pytest.warns(UserWarning, match="^the pictures have") as caught:
        augment_folder(tmp_path / "large", tmp_path / "out", augment, copies=10)
    assert str(next(one.message for one in caught if "pictures have" in str(one.message))) == (
        "the pictures have about 16 times as many pixels as the network's 16 x 16: 30 network calls of that size "
        "would take about 8 hours. --resize 16 --crop 16 would take about 30 minutes"
    )
    recwarn.clear()
    augment_folder(tmp_path / "large", tmp_path / "out", augment, copies=10)  # all is there
    augment_folder(tmp_path / "large", tmp_path / "small", augment, prepare=ResizeAndCrop(32, 32))
    assert not [one for one in recwarn if "pictures have" in str(one.message)]
    assert [cost.duration(s) for s in (0.1, 119, 120, 7300, 2e5)] == [
        "1 seconds", "119 seconds", "2 minutes", "2 hours", "2 days",
    ]  # fmt: skip


def test_the_time_of_a_call_is_measured(augment, conditional, null_conditional):
    for network in (augment.network, conditional, null_conditional):
        assert 0 < cost.seconds_a_call(DiffAug(network), 16, torch.device("cpu")) < 5


def test_a_device_that_is_not_there_fails_first(photos, tmp_path, augment, capsys):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ValueError, match="device must be a device of this machine, such as cpu or cuda. Got cuda"):
        augment_folder(photos, tmp_path / "out", augment, device="cuda")
    assert cli.main(["augment", str(photos), str(tmp_path / "out"), "--device", "cuda"]) == 2
    assert capsys.readouterr().err.startswith("diffaug: error: --device must be a device of this machine")
    assert not (tmp_path / "out").exists()


def test_folders_inside_each_other(photos, augment):
    with pytest.raises(ValueError, match="DST must not lie inside SRC"):
        augment_folder(photos, photos / "out", augment)
    with pytest.raises(ValueError, match="SRC must not lie inside DST"):
        augment_folder(photos, photos.parent, augment, overwrite=True)
    assert len(files(photos)) == 5
