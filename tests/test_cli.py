from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import PIL.Image
import pytest
import torch
from torchvision.transforms.v2 import functional as F

from diffaug_transforms import cli, load_score_network
from diffaug_transforms.figures import draw_grid, sample_images
from diffaug_transforms.offline import augment_folder, list_jobs, read_image
from diffaug_transforms.transforms import DeepAugment, DiffAug

from . import contracts
from .openai_checkpoints import golden


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder tree of two classes, two sizes, two formats, and a file that is no image."""
    folder = tmp_path / "photos"
    for name, size in {"a/one.png": 16, "a/two.jpg": 16, "b/three.png": 24, "b/deep/four.png": 16}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        F.to_pil_image(contracts.images(size, batch=1, seed=len(name))[0]).save(folder / name)
    (folder / "notes.txt").write_text("not an image")
    return folder


@pytest.fixture
def saved(network, tmp_path: Path) -> Path:
    network.save_pretrained(tmp_path / "network")
    return tmp_path / "network"


def files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_demo(tmp_path, capsys):
    assert cli.main(["demo", "--output", str(tmp_path / "x" / "demo.png"), "--timesteps", "10,200"]) == 0
    with PIL.Image.open(tmp_path / "x" / "demo.png") as picture:
        assert picture.size == (84 + 3 * 100, 28 + 8 * 100)
    line = capsys.readouterr().out
    assert line.startswith("8 images at 2 timesteps in ")
    assert "ms an augmentation" in line


def test_show(tmp_path, saved):
    F.to_pil_image(torch.rand(3, 40, 60)).save(tmp_path / "mine.png")
    output = tmp_path / "out.png"
    arguments = ["show", str(tmp_path / "mine.png"), "--network", str(saved), "--timesteps", "0:901:300"]
    assert cli.main([*arguments, "--output", str(output)]) == 0
    with PIL.Image.open(output) as picture:
        assert picture.size == (84 + 5 * 100, 28 + 2 * 100)


def test_grid_holds_the_images_where_the_labels_say():
    picture = draw_grid([torch.zeros(1, 3, 8, 8), torch.ones(1, 3, 8, 8)], ["t = 0"], ["black", "white"])
    assert picture.getpixel((84 + 48, 28 + 48)) == (0, 0, 0)
    assert picture.getpixel((84 + 48, 28 + 100 + 48)) == (255, 255, 255)


def test_sample_images_are_eight_real_ones():
    assert len(sample_images()) == 8
    assert {image.size for image in sample_images().values()} == {(32, 32)}


def test_augment_mirrors_the_tree(photos, saved, tmp_path, capsys):
    target = tmp_path / "out"
    assert cli.main(["augment", str(photos), str(target), "--network", str(saved), "--copies", "2"]) == 0
    written = files(target)
    assert set(written) == {
        f"{stem}_{k}{suffix}"
        for stem, suffix in [("a/one", ".png"), ("a/two", ".jpg"), ("b/three", ".png"), ("b/deep/four", ".png")]
        for k in range(2)
    }
    assert written["a/one_0.png"] != written["a/one_1.png"]
    with PIL.Image.open(target / "b" / "three_0.png") as image:
        assert image.size == (24, 24)


def test_augment_resumes_and_repeats(photos, saved, tmp_path):
    command = ["augment", str(photos), "--network", str(saved), "--seed", "3", "--timesteps", "100"]
    assert cli.main([*command, str(tmp_path / "whole")]) == 0
    whole = files(tmp_path / "whole")
    assert cli.main([*command, str(tmp_path / "parts"), "--batch-size", "1"]) == 0
    for name in ("a/one.png", "b/deep/four.png"):
        (tmp_path / "parts" / name).unlink()
    kept = (tmp_path / "parts" / "b" / "three.png").stat().st_mtime_ns
    assert cli.main([*command, str(tmp_path / "parts")]) == 0
    assert (tmp_path / "parts" / "b" / "three.png").stat().st_mtime_ns == kept
    for name in whole:
        with PIL.Image.open(tmp_path / "whole" / name) as a, PIL.Image.open(tmp_path / "parts" / name) as b:
            difference = F.pil_to_tensor(a).int() - F.pil_to_tensor(b).int()
        # Other batch sizes round otherwise; JPEG spreads that.
        assert difference.abs().max() <= (1 if name.endswith("png") else 8)
    assert cli.main([*command[:-4], "--seed", "4", "--timesteps", "100", str(tmp_path / "other")]) == 0
    assert files(tmp_path / "other")["a/one.png"] != whole["a/one.png"]


def test_augment_reports_and_skips_bad_files(photos, saved, tmp_path, capsys):
    (photos / "a" / "broken.png").write_bytes(b"\x89PNG nonsense")
    target = tmp_path / "out"
    assert cli.main(["augment", str(photos), str(target), "--network", str(saved)]) == 1
    errors = capsys.readouterr().err
    assert f"skipped {photos / 'a' / 'broken.png'}: UnidentifiedImageError" in errors
    assert "diffaug: 1 files could not be read and were skipped" in errors
    assert len(files(target)) == 4


def test_augment_survives_a_kill(photos, network, tmp_path, monkeypatch):
    """Stopped in the middle of a write: no half-written file under a final name, and the rest is done later."""
    augment, target = DiffAug(network, dtype=torch.float32), tmp_path / "out"
    replace = Path.replace

    def interrupted(path: Path, new: Path) -> Path:
        if "three" in path.name:
            raise KeyboardInterrupt
        return replace(path, new)

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        augment_folder(photos, target, augment, batch_size=1)
    assert not (target / "b" / "three.png").exists()
    monkeypatch.undo()
    assert augment_folder(photos, target, augment, batch_size=1) == []
    assert {name for name in files(target) if not Path(name).name.startswith(".")} == {
        "a/one.png", "a/two.jpg", "b/deep/four.png", "b/three.png",
    }  # fmt: skip


def test_augment_prepares(photos, saved, tmp_path):
    arguments = ["augment", str(photos), str(tmp_path / "out"), "--network", str(saved)]
    assert cli.main([*arguments, "--resize", "20", "--crop", "16"]) == 0
    with PIL.Image.open(tmp_path / "out" / "b" / "three.png") as image:
        assert image.size == (16, 16)


def test_augment_with_deepaugment(photos, tmp_path):
    """Stopped and resumed, in other batches: the same files."""
    command = ["augment", str(photos), "--with", "deepaugment", "--seed", "3"]
    assert cli.main([*command, str(tmp_path / "whole")]) == 0
    whole = files(tmp_path / "whole")
    assert cli.main([*command, str(tmp_path / "parts"), "--batch-size", "1"]) == 0
    (tmp_path / "parts" / "a" / "one.png").unlink()
    assert cli.main([*command, str(tmp_path / "parts")]) == 0
    assert files(tmp_path / "parts").keys() == whole.keys()
    for name in whole:
        if name.endswith(".png"):
            with PIL.Image.open(tmp_path / "whole" / name) as a, PIL.Image.open(tmp_path / "parts" / name) as b:
                assert (F.pil_to_tensor(a).int() - F.pil_to_tensor(b).int()).abs().max() <= 1
            assert (photos / name).read_bytes() != whole[name]


def test_copies_share_networks_along_the_sorted_list(tmp_path):
    """About one image in 20 begins a new network; the images before it in the list do not depend on it."""
    for i in range(400):
        (tmp_path / f"{i:03}.png").touch()
    target = tmp_path.parent / "out"
    jobs = list_jobs(tmp_path, target, 2, 0, redraw=0.05)
    for copy in range(2):
        seeds = [job.seeds for job in jobs[copy::2]]
        begins = [i for i, seed in enumerate(seeds) if seed.draw == seed.network]
        assert begins[0] == 0
        assert 10 <= len(begins) <= 32  # 20 expected, standard deviation 4.4
        assert all(seeds[i].network == seeds[i - 1].network for i in range(1, 400) if i not in begins)
    assert jobs[0].seeds.network != jobs[1].seeds.network
    (tmp_path / "399.png").unlink()
    assert list_jobs(tmp_path, target, 2, 0, redraw=0.05) == jobs[:-2]
    assert all(job.seeds.draw == job.seeds.network for job in list_jobs(tmp_path, target, 2, 0))


def test_the_network_of_a_copy_is_that_of_its_job(photos, tmp_path):
    """A stand-in of DeepAugment's interface: the image is filled with a number made of its network's seed."""

    class Fill(DeepAugment):
        def transform(self, inpt, params):
            return torch.zeros_like(inpt) + (params["network_seed"] % 251).to(torch.uint8).reshape(-1, 1, 1, 1)

    target = tmp_path / "out"
    assert augment_folder(photos, target, Fill(), copies=2, redraw=0.05) == []
    for job in list_jobs(photos, target, 2, 0, redraw=0.05):
        if job.target.suffix == ".png":
            with PIL.Image.open(job.target) as image:
                assert image.getextrema() == ((job.seeds.network % 251,) * 2,) * 3


def test_copies_decode_once(photos, saved, tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(
        "diffaug_transforms.offline.read_image", lambda p, prepare: read.append(p) or read_image(p, prepare)
    )
    assert cli.main(["augment", str(photos), str(tmp_path / "out"), "--network", str(saved), "--copies", "3"]) == 0
    assert len(read) == 4


def test_networks_prints_every_card(capsys):
    assert cli.main(["networks"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["name", "cifar10", "ddpm-cifar10"]
    assert "unknown" in next(line for line in lines if line.startswith("imagenet256-diffusers"))


def test_convert(tmp_path, capsys):
    path, flags, expected = golden("iddpm_cifar10_uncond", tmp_path)
    line = " ".join(f"--{key} {value}" for key, value in flags.items())
    assert cli.main(["convert", str(path), str(tmp_path / "folder"), "--flags", line]) == 0
    network = load_score_network(tmp_path / "folder")
    direct = load_score_network(path, openai_flags=flags)
    torch.testing.assert_close(
        network.eps(expected["x_t"], expected["t"]), direct.eps(expected["x_t"], expected["t"]), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["demo", "--network", "cifar11"], "Got 'cifar11'. Did you mean 'cifar10'"),
        (["demo", "--timesteps", "5000"], "timesteps must be in 0...999 for this network. Got 5000"),
        (["demo", "--timesteps", "1:2:x"], "timesteps must be 500, 50,100,150 or start:stop:step. Got '1:2:x'"),
        (["show", "missing.png"], "No such file or directory: '{cwd}/missing.png'"),
        (["augment", "missing", "out"], "SRC must be a folder of images. Got missing"),
        (["augment", ".", "out"], "DST must not lie inside SRC. Got out"),
        (["augment", ".", "../out"], "there are no images under ."),
        (["augment", ".", "../out", "--copies", "0"], "copies must be at least 1. Got 0"),
        (["augment", ".", "../out", "--workers", "2"], "--workers goes with --engine ray. Got 2"),
        (["augment", ".", "../out", "--weights", "a.pt"], "--weights goes with --with deepaugment:edsr and"),
        (["augment", ".", "../out", "--with", "deepaugment", "--timesteps", "5"], "go with --with diffaug"),
        (["augment", ".", "../out", "--with", "deepaugment:edsr", "--network", "x"], "go with --with diffaug"),
        (["augment", ".", "../out", "--with", "deepaugment", "--weights", "a.pt"], "Got 'a.pt'"),
        (["augment", ".", "../out", "--with", "deepaugment:cae"], "'cae' needs weights"),
        (["convert", "missing.pt", "out"], "there is no checkpoint at"),
        (["convert", "unknown.pt", "out"], "pass openai_flags (diffaug convert --flags)"),
        (["convert", "README.md", "out"], "CKPT must be an OpenAI .pt file. Got README.md"),
        (["convert", "a.pt", "."], "DST must be a new or an empty folder. Got ."),
    ],
)
def test_errors_are_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "empty"
    folder.mkdir()
    for name in ("readme.txt", "unknown.pt"):
        (folder / name).write_text("")
    monkeypatch.chdir(folder)
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("diffaug: error: ")
    assert error.count("\n") == 1
    assert message.replace("{cwd}", str(folder)) in error.replace("'missing.png'", f"'{folder}/missing.png'")


def test_a_missing_extra_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert cli.main(["augment", ".", "out", "--engine", "ray"]) == 2
    assert capsys.readouterr().err == (
        'diffaug: error: engine ray needs Ray Data: pip install "diffaug-transforms[ray]"\n'
    )


@pytest.mark.parametrize(("option", "value"), [("--engine", "spark"), ("--with", "deepaugment:vae")])
def test_unknown_choices(option, value, capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main(["augment", ".", "out", option, value])
    assert f"argument {option}: invalid choice: '{value}' (choose from" in capsys.readouterr().err


def test_help_texts_have_examples(capsys):
    for command in ("demo", "show", "augment", "sample", "app", "networks", "convert"):
        with pytest.raises(SystemExit, match="0"):
            cli.main([command, "--help"])
        text = capsys.readouterr().out
        assert f"\n  diffaug {command}" in text[text.index("\nexample") :]


def test_the_installed_command_runs():
    command = Path(sys.executable).parent / "diffaug"
    runner = [str(command)] if command.exists() else [sys.executable, "-m", "diffaug_transforms.cli"]
    result = subprocess.run([*runner, "networks"], capture_output=True, text=True, env=os.environ, timeout=60)
    assert result.returncode == 0
    assert result.stderr == ""
