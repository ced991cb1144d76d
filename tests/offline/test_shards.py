"""WebDataset shards, Parquet files and Hub data sets, without Ray."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import PIL.Image
import pytest
from torchvision.transforms.v2 import functional as F

from diffaug_transforms import DiffAug, cli
from diffaug_transforms.offline import augment_folder, augment_shards, cost, tables
from diffaug_transforms.offline.shards import DamagedShard, find_photo, read_samples, split_name
from tests import contracts


def picture(seed: int = 0, kind: str = "PNG", size: int = 16) -> bytes:
    file = io.BytesIO()
    F.to_pil_image(contracts.images(size, batch=1, seed=seed)[0]).save(file, kind)
    return file.getvalue()


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return path


def read_tar(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {entry.name: tar.extractfile(entry).read() for entry in tar}


@pytest.fixture
def augment(network) -> DiffAug:
    return DiffAug(network, timesteps=50)


MEMBERS = {
    "000.cls": b"1", "000.depth.png": picture(1), "000.jpg": picture(2, "JPEG"), "22.05.jpg": picture(3, "JPEG"),
    "a/3.json": b"{}", "a/3.PNG": picture(4), "4.json": b"no photo", "5.mask.png": picture(5), "5.txt": b"",
    "6.gif": picture(6, "GIF"), "./7.webp": picture(7, "WEBP"), "README": b"left out",
}  # fmt: skip


def test_members_keep_their_full_names(augment, tmp_path):
    """The photo alone is augmented, whatever else a sample has or lacks, and as a file of that name would be."""
    write_tar(tmp_path / "tars" / "deep" / "one.tar", MEMBERS)
    assert augment_shards(tmp_path / "tars", tmp_path / "out", augment) == []
    found = read_tar(tmp_path / "out" / "deep" / "one.tar")
    assert list(found) == [name for name in MEMBERS if name != "README"]
    photos = {"000.jpg", "22.05.jpg", "a/3.PNG", "6.gif", "./7.webp"}
    for name in set(found) - photos:
        assert found[name] == MEMBERS[name]
    for name in photos:
        assert found[name] != MEMBERS[name]
        with PIL.Image.open(io.BytesIO(found[name])) as image:
            assert image.size == (16, 16)
    for name in ("000.jpg", "22.05.jpg"):
        (tmp_path / "files").mkdir(exist_ok=True)
        (tmp_path / "files" / name).write_bytes(MEMBERS[name])
    augment_folder(tmp_path / "files", tmp_path / "made", augment)
    for name in ("000.jpg", "22.05.jpg"):
        difference = F.pil_to_tensor(PIL.Image.open(io.BytesIO(found[name]))).int()
        difference -= F.pil_to_tensor(PIL.Image.open(tmp_path / "made" / name)).int()
        assert difference.abs().max() <= 8  # other batches round differently, and JPEG spreads that


def test_copies_are_numbered_before_the_ending(augment, tmp_path):
    write_tar(tmp_path / "one.tar", MEMBERS)
    assert augment_shards(tmp_path / "one.tar", tmp_path / "out", augment, copies=2) == []
    found = list(read_tar(tmp_path / "out" / "one.tar"))
    assert found[:6] == ["000.cls", "000.depth.png", "000.0.jpg", "000.1.jpg", "22.05.0.jpg", "22.05.1.jpg"]
    assert "a/3.0.PNG" in found


def test_a_run_resumes_by_the_tar_and_repeats(augment, tmp_path, capsys):
    for name in ("a", "b", "c"):
        write_tar(tmp_path / "tars" / f"{name}.tar", {f"{name}{i}.png": picture(i) for i in range(5)})
    (tmp_path / "tars" / "b.tar").write_bytes((tmp_path / "tars" / "b.tar").read_bytes()[:3000])
    write_tar(tmp_path / "tars" / "bad.tar", {"1.png": b"no picture", "1.cls": b"1", "2.png": picture()})
    command = ["augment", str(tmp_path / "tars"), str(tmp_path / "out"), "--timesteps", "50"]
    assert cli.main(command) == 1
    error = capsys.readouterr().err
    assert "b.tar is damaged or incomplete" in error
    assert "skipped: 1.png is no whole picture" in error
    out = tmp_path / "out"
    assert sorted(path.name for path in out.iterdir()) == [".diffaug.json", "a.tar", "bad.tar", "c.tar"]
    assert list(read_tar(out / "bad.tar")) == ["2.png"]
    before = {path.name: path.read_bytes() for path in out.glob("*.tar")}
    (out / "a.tar").write_bytes(b"")
    os.utime(tmp_path / "tars" / "bad.tar")  # newer than its copy
    kept = (out / "c.tar").stat().st_ino
    cli.main(command)
    assert {path.name: path.read_bytes() for path in out.glob("*.tar")} == before
    assert (out / "c.tar").stat().st_ino == kept
    capsys.readouterr()
    assert cli.main([*command, "--seed", "9"]) == 2
    assert "seed was 0, is 9" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("names", "member", "photo"),
    [
        (["cls", "depth.png", "jpg"], None, "jpg"),
        (["05.jpg", "05.cls"], None, "05.jpg"),
        (["jpg", "edited.jpg"], None, "jpg"),
        (["left.jpg", "right.jpg"], "left.jpg", "left.jpg"),
        (["my.photo.jpg", "json"], "*.jpg", "my.photo.jpg"),
        (["json"], "*.jpg", None),
        (["seg.png", "cls"], None, None),
        (["json", "npy"], None, None),
        (["JPEG"], None, "JPEG"),
    ],
)
def test_the_photo_is_found(names, member, photo):
    assert find_photo(names, "x.tar", member) == photo


@pytest.mark.parametrize(
    ("names", "member", "shown"),
    [
        (["jpg", "png"], None, "jpg, png"),
        (["left.jpg", "right.jpg"], None, "left.jpg, right.jpg"),
        (["photo.jpg", "cls"], None, "photo.jpg"),
        (["a.jpg", "b.jpg"], "*.jpg", "a.jpg, b.jpg"),
    ],
)
def test_a_photo_in_doubt_is_refused(names, member, shown):
    with pytest.raises(ValueError, match="it must be clear which member is the photo: pass --member") as caught:
        find_photo(names, "x.tar, sample 3", member)
    assert f"Got {shown} in x.tar, sample 3" in str(caught.value)


@pytest.mark.parametrize("name", ["../../x.png", "/x.png", "a/../../x.png", "C:/x.png", "..\\x.png", "a\udce9.png"])
def test_unsafe_names_are_refused(augment, tmp_path, name, capsys):
    write_tar(tmp_path / "one.tar", {"0.png": picture(), name: picture()})
    assert cli.main(["augment", str(tmp_path / "one.tar"), str(tmp_path / "out"), "--timesteps", "50"]) == 2
    assert "names in shards must be relative, without '..', and UTF-8. Got" in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("*.tar"))


def test_shards_that_cannot_be_read_right(tmp_path):
    def read(members: dict[str, bytes]) -> list:
        with write_tar(tmp_path / "x.tar", members).open("rb") as file:
            return list(read_samples(file, "x.tar"))

    with pytest.raises(ValueError, match=r"x.tar: the members of sample 1 must stand side by side. Sort the tar"):
        read({"1.png": b"", "2.png": b"", "1.cls": b""})
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("1.png"))
        tar.addfile(tarfile.TarInfo("1.png"))
    with (tmp_path / "x.tar").open("rb") as file, pytest.raises(ValueError, match="x.tar holds 1.png twice"):
        list(read_samples(file, "x.tar"))
    with pytest.raises(DamagedShard, match="x.tar is damaged or incomplete"):
        list(read_samples(io.BytesIO(b"no tar" * 200), "x.tar"))
    assert [split_name(name) for name in ("a/000.depth.png", "a.b/1.x", "README", "a/.x", "1.")] == [
        ("a/000", "depth.png"), ("a.b/1", "x"), (None, ""), (None, ""), (None, ""),
    ]  # fmt: skip


def test_links_in_a_shard_are_left_out(tmp_path):
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as tar:
        link = tarfile.TarInfo("1.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    with path.open("rb") as file:
        assert list(read_samples(file, "x.tar")) == []


datasets = pytest.importorskip("datasets")


def write_parquet(folder: Path) -> None:
    """Two splits: seven images with labels, one of them damaged and one missing; two more."""
    folder.mkdir()
    images = [{"bytes": picture(i), "path": f"{i}.png"} for i in range(5)]
    images += [{"bytes": b"no picture", "path": "bad.png"}, None]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    labels = [0, 1, 0, 1, 0, 1, 0]
    for split, part in (("train", slice(None)), ("test", slice(2))):
        rows = datasets.Dataset.from_dict({"image": images[part], "label": labels[part]}, features=features)
        rows.to_parquet(folder / f"{split}.parquet")


def test_a_parquet_folder_goes_through_datasets(augment, tmp_path, monkeypatch, capsys):
    """It loads again with its splits and features, and holds what augment_folder makes of the same files."""
    monkeypatch.setattr(tables, "SHARD_ROWS", 3)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    write_parquet(tmp_path / "rows")
    out = tmp_path / "out"
    lines = augment_shards(tmp_path / "rows", out, augment)
    assert [line[:37] for line in lines] == ["skipped: bad.png is no whole picture:"]
    names = [f"train-{i:05}-of-00003.parquet" for i in range(3)] + ["test-00000-of-00001.parquet"]
    assert sorted(path.name for path in out.glob("*.parquet")) == sorted(names)
    made = datasets.load_dataset(str(out))
    assert {split: len(rows) for split, rows in made.items()} == {"train": 6, "test": 2}
    assert made["train"]["label"][:] == [0, 1, 0, 1, 0, 0]
    assert made["train"].features["label"].names == ["cat", "dog"]
    assert made["train"][5]["image"] is None
    (tmp_path / "files").mkdir()
    for i in range(5):
        (tmp_path / "files" / f"{i}.png").write_bytes(picture(i))
    augment_folder(tmp_path / "files", tmp_path / "made", augment)
    for i in range(5):
        with PIL.Image.open(tmp_path / "made" / f"{i}.png") as image:
            difference = F.pil_to_tensor(image).int() - F.pil_to_tensor(made["train"][i]["image"]).int()
        assert difference.abs().max() <= 1  # other batches round differently
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("*.parquet")}
    (out / names[1]).unlink()
    augment_shards(tmp_path / "rows", out, augment)
    with pytest.raises(ValueError, match="split was None, is 'test'; data was"):
        augment_shards(tmp_path / "rows", out, augment, split="test")
    after = {path.name: path.stat().st_mtime_ns for path in out.glob("*.parquet")}
    assert {name for name in names if before[name] == after[name]} == set(names) - {names[1]}
    assert len(datasets.load_dataset(str(out))["train"]) == 6


def test_copies_and_one_split(augment, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    write_parquet(tmp_path / "rows")
    augment_shards(tmp_path / "rows", tmp_path / "out", augment, copies=2, split="test")
    made = datasets.load_dataset(str(tmp_path / "out"))
    assert made["test"].column_names == ["label", "image_0", "image_1"]
    assert made["test"][0]["image_0"].size == (16, 16)
    assert made["test"][0]["image_0"].tobytes() != made["test"][0]["image_1"].tobytes()
    with pytest.raises(ValueError, match="split must be one of train, test. Got validation"):
        augment_shards(tmp_path / "rows", tmp_path / "new", augment, split="validation")


def test_a_hub_data_set_by_its_id(tmp_path, monkeypatch, capsys):
    """The Hub is a stand-in, which gives a column of bytes."""
    asked = []

    def load_dataset(*arguments):
        asked.append(arguments)
        if arguments[0] == "owner/missing":
            raise datasets.exceptions.DatasetNotFoundError("Dataset 'owner/missing' doesn't exist on the Hub")
        return {"train": datasets.Dataset.from_dict({"png": [picture(0), picture(1)], "label": [0, 1]})}

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    options = [str(tmp_path / "out"), "--timesteps", "50"]
    assert cli.main(["augment", "owner/name:small", *options]) == 0
    assert set(asked) == {("owner/name", "small")}
    rows = datasets.Dataset.from_parquet(str(tmp_path / "out" / "train-00000-of-00001.parquet"))
    assert rows.column_names == ["label", "png"]
    with PIL.Image.open(io.BytesIO(rows[0]["png"])) as image:
        assert (image.size, image.format) == ((16, 16), "PNG")
    assert cli.main(["augment", "owner/missing", *options]) == 2
    error = capsys.readouterr().err
    assert "or a Hub data set's id. Got owner/missing: Dataset 'owner/missing' doesn't exist on the Hub" in error
    assert cli.main(["augment", "a/b/c", *options]) == 2
    assert "SRC must be a folder of images, .parquet or .tar files, or a Hub" in capsys.readouterr().err


def test_the_cost_of_large_photos_in_shards_is_said(augment, tmp_path, monkeypatch):
    monkeypatch.setattr(cost, "seconds_a_call", lambda *_: 60.0)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    write_tar(tmp_path / "one.tar", {f"{i}.png": picture(i, size=64) for i in range(40)})
    with pytest.warns(UserWarning, match="16 times as many pixels.* 16 x 16: (3[6-9]|4[0-4]) network calls"):
        augment_shards(tmp_path / "one.tar", tmp_path / "out", augment)
    rows = datasets.Dataset.from_dict({"image": [{"bytes": picture(0, size=64), "path": None}] * 30})
    rows.cast_column("image", datasets.Image()).to_parquet(tmp_path / "x.parquet")
    with pytest.warns(UserWarning, match="16 times as many pixels.* 16 x 16: 30 network calls"):
        augment_shards(tmp_path / "x.parquet", tmp_path / "rows", augment)
