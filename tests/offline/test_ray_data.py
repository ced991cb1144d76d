"""Ray Data with two workers: killed workers, stopped runs, and the same pixels as the local engine."""

from __future__ import annotations

import importlib.util
import io
import os
import shutil
import signal
import tarfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from diffaug_transforms import DiffAug, cli
from diffaug_transforms.offline import augment_dataset, augment_folder, augment_shards
from diffaug_transforms.offline.cluster import start_ray
from diffaug_transforms.offline.ray_data import Worker
from diffaug_transforms.offline.ray_rows import find_image_column, read_rows
from diffaug_transforms.transforms import DeepAugment
from tests import contracts
from tests.offline.conftest import files, save_picture
from tests.offline.test_shards import MEMBERS, write_tar

# Not importorskip: start_ray sets variables that Ray reads when it is imported.
if importlib.util.find_spec("ray") is None:
    pytest.skip("needs the extra ray", allow_module_level=True)
pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

NAMES = [f"{label}/{i:02}.png" for label in ("cat", "dog") for i in range(10)]
OPTIONS = {"seed": 3, "batch_size": 4, "workers": 2}


class KillsItsWorker(DiffAug):
    """Kills the first worker that comes to its second batch, once."""

    marker: Path
    calls = 0

    def transform(self, inpt, params):
        self.calls += 1
        if self.calls == 2 and not self.marker.exists():
            self.marker.write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGKILL)
        return super().transform(inpt, params)


class Stops(DiffAug):
    """Every worker fails in its third call, once a shard is done. Four images with two copies each are two calls."""

    checkpoints: Path
    calls = 0

    def transform(self, inpt, params):
        self.calls += 1
        if self.calls == 3:
            deadline = time.monotonic() + 60
            while not self.shards() and time.monotonic() < deadline:
                time.sleep(0.1)
            raise ValueError("stopped here")
        return super().transform(inpt, params)

    def shards(self) -> list[Path]:
        return [path for path in self.checkpoints.glob("*.parquet") if ".pending" not in path.name]


class Fill(DeepAugment):
    """Fills an image with a number made from its network's seed."""

    def transform(self, inpt, params):
        return torch.zeros_like(inpt) + (params["network_seed"] % 251).to(torch.uint8).reshape(-1, 1, 1, 1)


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """One Ray for all tests. augment_dataset finds it running."""
    ray, started = start_ray(5)  # More cores than workers: a failed run gives its cores back late.
    assert started
    yield ray
    ray.shutdown()


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Twenty images of two classes."""
    folder = tmp_path_factory.mktemp("data") / "photos"
    for name, image in zip(NAMES, contracts.images(32, batch=len(NAMES))):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        F.to_pil_image(image).save(folder / name)
    return folder


@pytest.fixture(scope="module")
def expected(photos, tmp_path_factory) -> dict[str, Tensor]:
    """The local engine's images, two copies each."""
    target = tmp_path_factory.mktemp("local")
    assert augment_folder(photos, target, DiffAug(timesteps=[50]), copies=2, seed=3) == []
    return {p.relative_to(target).as_posix(): decode(p.read_bytes()) for p in target.rglob("*.png")}


def decode(data: bytes) -> Tensor:
    with PIL.Image.open(io.BytesIO(data)) as image:
        return F.pil_to_tensor(image).int()


def check_images(found: dict[str, Tensor], expected: dict[str, Tensor], names: list[str]) -> None:
    assert sorted(found) == sorted(names)
    for name in names:
        assert (found[name] - expected[name]).abs().max() <= 1  # Batches of other sizes round differently.


def check_copy_0(images: list[dict[str, Any]], expected: dict[str, Tensor]) -> None:
    """Every image once, as the local engine makes its copy 0."""
    assert len(images) == len(NAMES)
    found = {image["path"]: decode(image["bytes"]) for image in images}
    check_images(found, {name: expected[name.replace(".png", "_0.png")] for name in NAMES}, NAMES)


def test_a_killed_worker_costs_nothing(photos, expected, tmp_path):
    source = tmp_path / "photos"
    shutil.copytree(photos, source)
    (source / "cat" / "broken.png").write_bytes(b"\x89PNG nonsense")
    augment = KillsItsWorker(timesteps=[50])
    augment.marker = tmp_path / "pid"
    failures = augment_dataset(str(source), str(tmp_path / "out"), augment, **OPTIONS)
    assert augment.marker.exists()
    assert [line[:63] for line in failures] == ["skipped: cat/broken.png is no whole picture: UnidentifiedImageE"]
    rows = parquet.read_table(tmp_path / "out").to_pylist()
    assert all(row["label"] == row["image"]["path"][:3] for row in rows)
    check_copy_0([row["image"] for row in rows], expected)


def test_a_stopped_run_resumes(photos, expected, tmp_path):
    """Two WebDataset shards, two copies."""
    source, target = tmp_path / "tars", tmp_path / "out"
    source.mkdir()
    for label in ("cat", "dog"):
        with tarfile.open(source / f"{label}.tar", "w") as tar:
            for path in sorted((photos / label).iterdir()):
                add(tar, f"{label}/{path.name}", path.read_bytes())
                add(tar, f"{label}/{path.stem}.cls", label.encode())
    stops = Stops(timesteps=[50])
    stops.checkpoints = target / ".checkpoint"
    with pytest.raises(ValueError, match="^stopped here$"):
        augment_dataset(str(source), str(target), stops, copies=2, **OPTIONS)
    before = read_tars(target, unfinished=(tarfile.ReadError,))  # one may be cut off in the middle
    assert 0 < len(before) < 3 * len(NAMES)
    command = ["augment", str(source), str(target), "--engine", "ray", "--workers", "2", "--copies", "2"]
    assert cli.main([*command, "--seed", "3", "--batch-size", "4", "--timesteps", "50"]) == 0
    members = read_tars(target)
    assert before.items() <= members.items()
    assert {name: members.pop(name.replace(".png", ".cls")).decode() for name in NAMES} == {n: n[:3] for n in NAMES}
    images = {name.replace(".0.", "_0.").replace(".1.", "_1."): decode(data) for name, data in members.items()}
    check_images(images, expected, list(expected))


def test_parquet_keeps_its_columns(cluster, photos, expected, tmp_path):
    """Parquet as in Hugging Face datasets. The worker is called here, without an actor."""
    images = [{"bytes": (photos / name).read_bytes(), "path": name} for name in NAMES]
    parquet.write_table(pa.table({"image": images, "label": range(20), "id": NAMES}), tmp_path / "train.parquet")
    rows, _, id_column, column, *_ = read_rows(cluster, str(tmp_path / "train.parquet"))
    assert (id_column, column) == ("row_hash", "image")
    table = pa.concat_tables(cluster.get(rows.to_arrow_refs()))
    assert len(set(table["row_hash"].to_pylist())) == len(NAMES)
    result = Worker(DiffAug(timesteps=[50]), 1, 3, None, "cpu", id_column, column, None)(table)
    assert result.drop_columns("image").equals(table.drop_columns("image"))
    assert result.schema.field("image") == table.schema.field("image")
    check_copy_0(result["image"].to_pylist(), expected)


def test_parquet_of_bytes(photos):
    """Copies become columns of bytes. Without a path, the draw depends on the row's id."""
    files = [(photos / name).read_bytes() for name in NAMES[:3]]
    table = pa.table({"jpg": files, "label": [1, 2, 3], "row_hash": [7, 8, 9]})
    assert find_image_column(table.schema) == "jpg"
    result = Worker(DiffAug(timesteps=[50]), 2, 3, None, "cpu", "row_hash", "jpg", None)(table)
    assert result.column_names == ["label", "row_hash", "jpg_0", "jpg_1"]
    assert result["label"].to_pylist() == [1, 2, 3]
    copies = result["jpg_0"].to_pylist() + result["jpg_1"].to_pylist()
    assert len(set(copies)) == 6
    assert {decode(data).shape for data in copies} == {(3, 32, 32)}


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def read_tars(folder: Path, unfinished: tuple[type[Exception], ...] = ()) -> dict[str, bytes]:
    """All members of all shards. None may be there twice. A shard that raises ``unfinished`` is left out."""
    members: dict[str, bytes] = {}
    for path in folder.glob("*.tar"):
        with suppress(*unfinished), tarfile.open(path) as tar:
            own = [(member.name, tar.extractfile(member).read()) for member in tar]
            names = [*members, *(name for name, _ in own)]
            assert len(set(names)) == len(names)
            members.update(own)
    return members


def test_ray_reads_and_writes_what_the_local_engine_does(tmp_path):
    """Unusual names, links, hidden files, an upright photo, and JPEG: the same bytes, and a network shared by as many
    copies. A stand-in for DeepAugment fills them with the number of their network.
    """
    folder = tmp_path / "photos"
    for i, name in enumerate(["_class/a.jpg", "q?/_b.jpg", "sp ace#%/c.png", ".hidden/d.png", "e/.f.png"]):
        save_picture(folder / name, 32, seed=i)
    save_picture(tmp_path / "elsewhere" / "g.jpg", 32)
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    PIL.Image.new("RGB", (32, 32), "red").save(folder / "q?" / "h.jpg", exif=exif)
    (folder / "q?" / "mpo.jpg").write_bytes(encoded_mpo())
    (folder / "q?" / "fake.png").write_bytes((folder / "q?" / "h.jpg").read_bytes())  # JPEG under another name
    for transform, options in ((Fill(), {}), (Fill("edsr"), {"redraw": 0.4})):
        local, shards = tmp_path / f"local{len(options)}", tmp_path / f"ray{len(options)}"
        assert augment_folder(folder, local, transform, copies=2, **options) == []
        with pytest.warns(UserWarning, match="workers run instead of 40: Ray has"):
            assert augment_dataset(str(folder), str(shards), transform, copies=2, workers=40, **options) == []
        rows = parquet.read_table(shards).to_pylist()
        assert {"path", "label", "image_0", "image_1"} == set(rows[0])
        found = {numbered(row["image_0"]["path"], k): row[f"image_{k}"]["bytes"] for row in rows for k in range(2)}
        assert found == files(local)
    with pytest.raises(ValueError, match="seed was 0, is 1. Choose another folder"):
        augment_dataset(str(folder), str(shards), transform, copies=2, seed=1, redraw=0.4)


def numbered(path: str, copy: int) -> str:
    stem, _, ending = path.rpartition(".")
    return f"{stem}_{copy}.{ending}"


def encoded_mpo() -> bytes:
    file = io.BytesIO()
    picture = PIL.Image.new("RGB", (32, 32), "blue")
    picture.save(file, "MPO", save_all=True, append_images=[picture])
    return file.getvalue()


def test_members_under_ray_are_those_of_the_local_engine(tmp_path):
    path = write_tar(tmp_path / "tars" / "one.tar", MEMBERS)
    assert augment_shards(path, tmp_path / "local", Fill(), copies=2) == []
    assert augment_dataset(str(path), str(tmp_path / "ray"), Fill(), copies=2, workers=1) == []
    assert read_tars(tmp_path / "ray") == read_tars(tmp_path / "local")
    write_tar(path, {"a.jpg": MEMBERS["000.jpg"], "a.png": MEMBERS["000.depth.png"]})
    with pytest.raises(ValueError, match="it must be clear which member is the photo: pass --member"):
        augment_dataset(str(path), str(tmp_path / "doubt"), Fill(), workers=1)
    assert augment_dataset(str(path), str(tmp_path / "named"), Fill(), workers=1, member="jpg") == []
    assert read_tars(tmp_path / "named")["a.png"] == MEMBERS["000.depth.png"]
    write_tar(path, {"../../a.jpg": MEMBERS["000.jpg"]})
    with pytest.raises(ValueError, match="names in shards must be relative, without '..'"):
        augment_dataset(str(path), str(tmp_path / "unsafe"), Fill(), workers=1)


def test_devices_that_mean_nothing_under_ray(photos, tmp_path):
    for device, message in (("cuda:1", "Got cuda:1"), ("cuda", "device cuda needs 1 GPU for each worker, and Ray has")):
        with pytest.raises(ValueError, match=message):
            augment_dataset(str(photos), str(tmp_path / "out"), DiffAug(), device=device)
    assert not (tmp_path / "out").exists()


def test_overwrite_starts_shards_anew(photos, tmp_path):
    target = str(tmp_path / "out")
    for options in ({}, {"seed": 5, "overwrite": True}):
        assert augment_dataset(str(photos), target, Fill(), workers=2, **options) == []
        assert len(parquet.read_table(target)) == len(NAMES)
    (tmp_path / "mine").mkdir()
    parquet.write_table(pa.table({"label": [1]}), tmp_path / "mine" / "x.parquet")
    with pytest.raises(ValueError, match="holds shards, such as x.parquet, and no record. Choose another folder"):
        augment_dataset(str(photos), str(tmp_path / "mine"), Fill(), overwrite=True)


def test_errors_are_one_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    parquet.write_table(pa.table({"label": [1, 2]}), tmp_path / "rows.parquet")
    for arguments, message in (
        (["."], "there are no images, .parquet or .tar files under"),
        (["../rows.parquet"], "SRC must have one image column, of bytes or of structs with bytes. Got {'label': 'in"),
        ([".", "--workers", "0"], "workers must be at least 1. Got 0"),
        ([".", "--copies", "0"], "copies must be at least 1. Got 0"),
    ):
        assert cli.main(["augment", arguments[0], "../out", "--engine", "ray", *arguments[1:]]) == 2
        (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("diffaug")]
        assert message in error
