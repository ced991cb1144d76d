"""Augmented folders: the same tree, the same draws in every batch, and runs that resume."""

from __future__ import annotations

from pathlib import Path

import PIL.Image
import pytest
import torch
from torchvision.transforms.v2 import functional as F

from diffaug_transforms import cli
from diffaug_transforms.offline import augment_folder, copies, local
from diffaug_transforms.transforms import DeepAugment, DiffAug
from tests.offline.conftest import files


def assert_same_pictures(folder: Path, other: Path) -> None:
    assert files(folder).keys() == files(other).keys()
    for name in files(folder):
        with PIL.Image.open(folder / name) as a, PIL.Image.open(other / name) as b:
            difference = F.pil_to_tensor(a).int() - F.pil_to_tensor(b).int()
        # Batches of other sizes round differently, and JPEG spreads that.
        assert difference.abs().max() <= (1 if name.endswith("png") else 8)


def test_the_tree_is_mirrored(photos, saved, tmp_path, monkeypatch):
    """Every picture is decoded once, whatever the number of copies."""
    read = []
    monkeypatch.setattr(copies, "load_image", lambda *args, load=copies.load_image: read.append(args) or load(*args))
    target = tmp_path / "out"
    assert cli.main(["augment", str(photos), str(target), "--network", saved, "--copies", "2"]) == 0
    written = files(target)
    assert set(written) == {
        f"{stem}_{k}{suffix}"
        for stem, suffix in [("a/one", ".png"), ("a/two", ".jpg"), ("b/three", ".png"), ("b/deep/four", ".png")]
        for k in range(2)
    }
    assert written["a/one_0.png"] != written["a/one_1.png"]
    assert len(read) == 4
    with PIL.Image.open(target / "b" / "three_0.png") as image:
        assert image.size == (24, 24)


@pytest.mark.parametrize("method", ["diffaug", "deepaugment"])
def test_runs_resume_and_repeat(method, photos, saved, tmp_path):
    """Stopped and resumed, in other batches: the same files. Another seed: other files."""
    options = ["--network", saved, "--timesteps", "100"] if method == "diffaug" else ["--with", method]

    def run(name: str, seed: int, *more: str) -> Path:
        assert cli.main(["augment", str(photos), str(tmp_path / name), "--seed", str(seed), *options, *more]) == 0
        return tmp_path / name

    whole, parts = run("whole", 3), run("parts", 3, "--batch-size", "1")
    for name in ("a/one.png", "b/deep/four.png"):
        (parts / name).unlink()
    kept = (parts / "b" / "three.png").stat().st_mtime_ns
    run("parts", 3)
    assert (parts / "b" / "three.png").stat().st_mtime_ns == kept
    assert_same_pictures(whole, parts)
    assert len({files(folder)["a/one.png"] for folder in (photos, whole, run("other", 4))}) == 3


def test_bad_files_are_reported_and_skipped(photos, saved, tmp_path, capsys):
    broken = photos / "a" / "broken.png"
    broken.write_bytes(b"\x89PNG nonsense")
    target = tmp_path / "out"
    assert cli.main(["augment", str(photos), str(target), "--network", saved]) == 1
    errors = capsys.readouterr().err
    assert f"skipped: {broken} is no whole picture: UnidentifiedImageError" in errors
    assert "diffaug: 1 file could not be read and was skipped" in errors
    assert len(files(target)) == 4


def test_a_stopped_write_leaves_no_half_file(photos, network, tmp_path, monkeypatch):
    """Stopped in the middle of a write: no file under a final name is incomplete, and the rest is done later."""
    augment, target = DiffAug(network, dtype=torch.float32), tmp_path / "out"
    replace = Path.replace

    def interrupted(path: Path, new: Path) -> Path:
        if "three" in new.name:
            raise KeyboardInterrupt
        return replace(path, new)

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        augment_folder(photos, target, augment, batch_size=1)
    assert not (target / "b" / "three.png").exists()
    monkeypatch.undo()
    assert augment_folder(photos, target, augment, batch_size=1) == []
    assert augment.generator is None
    assert set(files(target)) == {"a/one.png", "a/two.jpg", "b/deep/four.png", "b/three.png"}


def test_pictures_are_prepared(photos, saved, tmp_path):
    arguments = ["augment", str(photos), str(tmp_path / "out"), "--network", saved]
    assert cli.main([*arguments, "--resize", "20", "--crop", "16"]) == 0
    with PIL.Image.open(tmp_path / "out" / "b" / "three.png") as image:
        assert image.size == (16, 16)


def test_copies_share_networks_along_the_sorted_list(tmp_path):
    """About one image in 20 starts a new network. The images before it in the list do not depend on it."""
    for i in range(400):
        (tmp_path / f"{i:03}.png").touch()
    target = tmp_path.parent / "out"
    jobs, _ = local.list_jobs(tmp_path, target, 2, 0, redraw=0.05)
    for copy in range(2):
        seeds = [job.seeds for job in jobs[copy::2]]
        starts = [i for i, seed in enumerate(seeds) if seed.draw == seed.network]
        assert starts[0] == 0
        assert 10 <= len(starts) <= 32  # 20 expected, standard deviation 4.4
        assert all(seeds[i].network == seeds[i - 1].network for i in range(1, 400) if i not in starts)
    assert jobs[0].seeds.network != jobs[1].seeds.network
    (tmp_path / "399.png").unlink()
    assert local.list_jobs(tmp_path, target, 2, 0, redraw=0.05) == (jobs[:-2], [])
    assert all(job.seeds.draw == job.seeds.network for job in local.list_jobs(tmp_path, target, 2, 0)[0])


def test_each_copy_gets_the_network_of_its_job(photos, tmp_path):
    """A stand-in for DeepAugment fills the image with a number made from its network's seed."""

    class Fill(DeepAugment):
        def transform(self, inpt, params):
            return torch.zeros_like(inpt) + (params["network_seed"] % 251).to(torch.uint8).reshape(-1, 1, 1, 1)

    target = tmp_path / "out"
    assert augment_folder(photos, target, Fill(), copies=2, redraw=0.05) == []
    for job in local.list_jobs(photos, target, 2, 0, redraw=0.05)[0]:
        if job.target.suffix == ".png":
            with PIL.Image.open(job.target) as image:
                assert image.getextrema() == ((job.seeds.network % 251,) * 2,) * 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"augment": "diffaug"}, "augment must be a DiffAug or DeepAugment or Purify. Got 'diffaug'"),
        ({"copies": 1.5}, "copies must be an integer. Got 1.5"),
        ({"batch_size": 0}, "batch_size must be at least 1. Got 0"),
        ({"seed": -1}, "seed must be at least 0. Got -1"),
        ({"redraw": float("nan")}, r"redraw must be in \[0, 1\]. Got nan"),
        ({"prepare": 224}, "prepare must be a transform of PIL images or None. Got 224"),
        ({"source": None}, "source must be a path. Got None"),
    ],
)
def test_bad_arguments(photos, tmp_path, options, message):
    arguments = {"source": str(photos), "target": str(tmp_path / "out"), "augment": DiffAug("cifar10"), **options}
    with pytest.raises((TypeError, ValueError), match=message):
        augment_folder(**arguments)
