"""`diffaug purify`, and `diffaug augment --with purify`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import PIL.Image
import pytest
import torch
from torchvision.transforms.v2 import functional as F

from diffaug_transforms import Purify, cli
from diffaug_transforms.images import load_image
from diffaug_transforms.offline import augment_folder
from tests.contracts import images
from tests.offline.conftest import files


@pytest.fixture
def saved(network, tmp_path: Path) -> str:
    network.save_pretrained(tmp_path / "network")
    return str(tmp_path / "network")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A noisy picture, a flat one, a flat JPEG, and a noisy one in a folder."""
    flat = PIL.Image.new("RGB", (16, 16), (90, 120, 30))
    noisy = F.to_pil_image(images(16)[0])
    for name, picture in {"noisy.png": noisy, "flat.png": flat, "flat.jpg": flat, "deep/noisy.jpg": noisy}.items():
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        picture.save(tmp_path / "in" / name)
    return tmp_path / "in"


def test_one_picture(folder, saved, tmp_path, capsys):
    output = tmp_path / "out" / "x.png"
    assert cli.main(["purify", str(folder / "noisy.png"), str(output), "--network", saved]) == 0
    line = capsys.readouterr().out.strip()
    assert line.startswith((f"{folder / 'noisy.png'}: sigma 0.2", f"{folder / 'noisy.png'}: sigma 0.3"))
    assert line.endswith(f", purified by {saved}")
    assert load_image(output).tobytes() == Purify(saved)(load_image(folder / "noisy.png")).tobytes()
    assert cli.main(["purify", str(folder / "flat.jpg"), str(output.parent), "--network", saved]) == 0
    assert capsys.readouterr().out.strip() == f"{folder / 'flat.jpg'}: sigma 0.000, left as it was"
    assert (output.parent / "flat.jpg").read_bytes() == (folder / "flat.jpg").read_bytes()
    assert cli.main(["purify", str(folder / "flat.jpg"), str(tmp_path / "y.png"), "--network", saved]) == 0
    with PIL.Image.open(tmp_path / "y.png") as picture:
        assert picture.format == "PNG"


def test_a_given_level_and_gate(folder, saved, tmp_path, capsys):
    arguments = ["purify", str(folder / "flat.png"), str(tmp_path / "x.png"), "--network", saved, "--overwrite"]
    assert cli.main([*arguments, "--sigma", "0.1"]) == 0
    assert capsys.readouterr().out.strip().endswith(f"sigma 0.100, purified by {saved}")
    assert cli.main([*arguments, "--sigma", "0.1", "--gate", "0.2"]) == 0
    assert capsys.readouterr().out.strip().endswith("sigma 0.100, left as it was")


def test_a_folder(folder, saved, tmp_path, capsys):
    (folder / "broken.png").write_bytes(b"no picture")
    (folder / "notes.txt").write_text("no picture")
    PIL.Image.new("RGB", (1, 9)).save(folder / "thin.png")
    target = tmp_path / "out"
    assert cli.main(["purify", str(folder), str(target), "--network", saved]) == 1
    written, captured = files(target), capsys.readouterr()
    assert set(written) == {"noisy.png", "flat.png", "flat.jpg", "deep/noisy.jpg"}
    assert {name: written[name] == (folder / name).read_bytes() for name in written} == {
        "noisy.png": False,
        "deep/noisy.jpg": False,
        "flat.png": True,
        "flat.jpg": True,
    }
    assert len(captured.out.splitlines()) == 4
    assert "thin.png: it is too small" in captured.err
    assert "broken.png" in captured.err
    assert "2 files could not be read and were skipped" in captured.err


def test_nothing_is_replaced_unless_asked(folder, saved, tmp_path, capsys):
    target = tmp_path / "out"
    shutil.copytree(folder, target)
    before = files(target)
    assert cli.main(["purify", str(folder), str(target), "--network", saved]) == 2
    assert "and 3 more would be replaced. Choose another OUT, or pass --overwrite" in capsys.readouterr().err
    assert files(target) == before
    assert cli.main(["purify", str(folder), str(target), "--network", saved, "--overwrite"]) == 0
    assert files(target) != before


def test_refused(folder, saved, tmp_path, capsys):
    for arguments, message in (
        ([str(tmp_path / "missing.png"), "x.png"], "IN must be a picture or a folder of pictures. There is no"),
        ([str(folder / "flat.png"), str(folder / "flat.png"), "--overwrite"], "OUT must be another file than IN"),
        ([str(folder / "flat.png"), str(tmp_path / "x")], "OUT must have a picture's ending, such as"),
        ([str(folder / "flat.png"), str(tmp_path / "x.png"), "--sigma", "25"], "divide it by 255"),
        ([str(folder), str(folder / "out")], "DST must not lie inside SRC"),
        ([str(folder), str(folder / "flat.png")], "OUT must be a folder if IN is one"),
        ([str(folder / "flat.png"), str(tmp_path / "x.png"), "--sigma", "-1"], "sigma must be at least 0. Got -1.0"),
        ([str(folder / "flat.png"), str(tmp_path / "x.png"), "--gate", "nan"], "gate must be at least 0. Got nan"),
        ([str(folder / "flat.png"), str(tmp_path / "x.png"), "--device", "nonsense"], "--device must be a device"),
    ):
        assert cli.main(["purify", *arguments, "--network", saved]) == 2
        assert message in capsys.readouterr().err


def test_augment_with_purify(folder, saved, tmp_path, capsys):
    """The same pixels, a record of its own, and no second copy."""
    target = tmp_path / "out"
    options = ["augment", str(folder), str(target), "--network", saved]
    assert cli.main([*options, "--with", "purify"]) == 0
    record = json.loads((target / ".diffaug.json").read_text())
    assert (record["with"], record["sigma"], record["gate"]) == ("purify", None, Purify(saved).used_gate)
    with PIL.Image.open(target / "noisy.png") as picture:
        difference = F.pil_to_tensor(picture).int() - F.pil_to_tensor(Purify(saved)(load_image(folder / "noisy.png")))
    assert difference.abs().max() <= 1  # batches of other sizes round differently
    assert load_image(target / "flat.png").tobytes() == load_image(folder / "flat.png").tobytes()
    assert cli.main(options) == 2
    assert "with was 'purify', is 'diffaug'" in capsys.readouterr().err
    for more, message in (
        (["--copies", "2"], "copies must be 1 for Purify"),
        (["--timesteps", "100"], "--timesteps goes with --with diffaug. Got 100"),
        (["--weights", "x"], "--weights goes with"),
    ):
        assert cli.main([*options, "--with", "purify", *more]) == 2
        assert message in capsys.readouterr().err
    with pytest.raises(ValueError, match="sigma must be one number for all images, or None. Got a tensor"):
        augment_folder(folder, tmp_path / "other", Purify(saved, sigma=torch.tensor([0.1])))


def test_each_picture_gets_the_network_that_fits_it(tmp_path, capsys):
    for side in (32, 80):
        F.to_pil_image(images(side)[0]).save(tmp_path / f"{side}.png")
        assert cli.main(["purify", str(tmp_path / f"{side}.png"), str(tmp_path / "x.png"), "--overwrite"]) == 0
    small, large = capsys.readouterr().out.splitlines()
    assert small.endswith(", purified by cifar10")
    assert large.endswith(", purified by photos")
