"""The commands that draw, list and convert, and how every command ends."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
import warnings
from pathlib import Path

import PIL.Image
import pytest
import torch
from torchvision.transforms.v2 import functional as F

import diffaug_transforms
from diffaug_transforms import cli, list_score_networks, load_score_network
from diffaug_transforms.figures import draw_grid
from tests.openai_checkpoints import golden


def test_demo(tmp_path, capsys):
    assert cli.main(["demo", "--output", str(tmp_path / "x" / "demo.png"), "--timesteps", "10,200"]) == 0
    across = round(130 * 451 / 300)
    with PIL.Image.open(tmp_path / "x" / "demo.png") as picture:  # the samples at two t, the photo at one
        assert picture.size == (84 + 2 * (across + 4), (28 + 8 * 100) + (28 + 2 * 134))
    samples, photo, _ = capsys.readouterr().out.splitlines()
    assert samples.startswith("cifar10: 16 augmentations in ")
    assert photo.startswith("photos: 1 augmentation in ")
    assert "ms an augmentation" in photo


def test_demo_of_one_network(network, tmp_path, capsys):
    network.save_pretrained(tmp_path / "network")
    arguments = ["--network", str(tmp_path / "network"), "--timesteps", "10,200"]
    assert cli.main(["demo", "--output", str(tmp_path / "demo.png"), *arguments]) == 0
    with PIL.Image.open(tmp_path / "demo.png") as picture:
        assert picture.size == (84 + 3 * 100, 28 + 8 * 100)
    assert "photos" not in capsys.readouterr().out


def test_show(network, tmp_path):
    network.save_pretrained(tmp_path / "network")
    F.to_pil_image(torch.rand(3, 40, 60)).save(tmp_path / "mine.png")
    output = tmp_path / "out.png"
    arguments = ["show", str(tmp_path / "mine.png"), "--network", str(tmp_path / "network")]
    assert cli.main([*arguments, "--timesteps", "0:901:300", "--output", str(output)]) == 0
    with PIL.Image.open(output) as picture:
        assert picture.size == (84 + 5 * 100, 28 + 2 * 100)


def test_show_keeps_a_photos_shape_and_says_what_it_reduces(tmp_path, capsys):
    F.to_pil_image(torch.rand(3, 60, 90)).save(tmp_path / "mine.png")
    output = tmp_path / "out.png"
    arguments = ["show", str(tmp_path / "mine.png"), "--timesteps", "30", "--output", str(output)]
    assert cli.main(arguments) == 0
    with PIL.Image.open(output) as picture:
        assert picture.size == (84 + 2 * (144 + 4), 28 + 2 * 100)
    said = capsys.readouterr().out
    assert "The network sees" not in said
    assert said == f"Wrote {output}, with the network photos\n"
    assert cli.main([*arguments, "--size", "40"]) == 0
    assert "mine.png has 90x60 pixels. The network sees 60x40 of it." in capsys.readouterr().out
    assert cli.main([*arguments, "--network", "cifar10"]) == 0
    assert "The network sees 32x32 of it." in capsys.readouterr().out
    assert cli.main([*arguments, "--size", "0"]) == 2
    assert "--size must be at least 1. Got 0" in capsys.readouterr().err
    assert cli.main([*arguments, "--size", "16"]) == 2
    assert "--size must be at least 32 for the network photos. Got 16" in capsys.readouterr().err


def test_show_refuses_a_bomb_in_one_line(tmp_path, capsys):
    PIL.Image.new("1", (20_000, 10_000)).save(tmp_path / "large.png")
    assert cli.main(["show", str(tmp_path / "large.png")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("diffaug: error: ")
    assert "large.png is too large: a picture must have at most 178,956,970 pixels" in error
    assert error.count("\n") == 1


def test_show_turns_pictures_upright(network, tmp_path):
    """The file is stored on its side; the grid is that of the upright picture."""
    network.save_pretrained(tmp_path / "network")
    upright = PIL.Image.linear_gradient("L").resize((16, 16)).convert("RGB")
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    upright.save(tmp_path / "upright.png")
    upright.transpose(PIL.Image.Transpose.ROTATE_90).save(tmp_path / "side.png", exif=exif)
    for name in ("upright", "side"):
        options = ["--network", str(tmp_path / "network"), "--timesteps", "100"]
        assert (
            cli.main(
                ["show", str(tmp_path / f"{name}.png"), *options, "--output", str(tmp_path / f"{name}_over_t.png")]
            )
            == 0
        )
    assert (tmp_path / "side_over_t.png").read_bytes() == (tmp_path / "upright_over_t.png").read_bytes()


def test_the_grid_holds_the_images_beside_their_labels():
    wide = "a label that is wider than the usual margin"
    for label, left in (("white", 84), (wide, None)):
        picture = F.pil_to_tensor(draw_grid([torch.zeros(1, 3, 8, 8), torch.ones(1, 3, 8, 8)], ["t"], ["black", label]))
        left = left or picture.shape[2] - 100
        assert (picture[:, 28:124, left : left + 96] == 0).all()
        assert (picture[:, 128:224, left:] == 255).all()
        assert (picture[:, :, :3] == 255).all()  # no label is cut off
        assert (picture[:, 128:224, :left] == 0).any()
    assert left > 184


@pytest.mark.parametrize(
    ("rows", "labels", "message"),
    [
        ([torch.zeros(1, 3, 8, 8)], [], "labels must be one per row, 1. Got 0"),
        ([torch.zeros(2, 3, 8, 8)], ["a"], "each row must have one image per column, 1. Got 2"),
        ([torch.zeros(1, 3, 8, 8)], [3], "columns and labels must be a str. Got 3"),
        (None, ["a"], "rows must be a Sequence or Tensor. Got None"),
    ],
)
def test_grids_that_do_not_fit(rows, labels, message):
    with pytest.raises((TypeError, ValueError), match=message):
        draw_grid(rows, ["t"], labels)


def test_networks_prints_every_card(capsys):
    assert cli.main(["networks"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["name", "cifar10", "cifar10-small"]
    assert lines[1].split("  ")[-1] == "images of 32 pixels, as CIFAR-10's"
    assert lines[1].split()[1:7] == ["32", "10", "+", "null", "MIT", "2.3"]
    assert lines[3].split()[:5] == ["photos", "any", "none", "MIT", "29.0"]
    assert max(map(len, lines)) <= 100
    text = " ".join(" ".join(lines).split())
    for card in list_score_networks().values():
        whether = "sha256 checked" if card.sha256 else "sha256 unknown"
        assert f"{card.name} {card.source}; {card.note}; {whether}" in text


def test_version(capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"diffaug {diffaug_transforms.__version__}\n"


@pytest.mark.parametrize("command", [["demo"], ["show", "mine.png"], ["purify", "mine.png", "x.png"], ["sample"]])
def test_the_device_is_checked_everywhere(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    F.to_pil_image(torch.rand(3, 40, 60)).save("mine.png")
    assert cli.main([*command, "--device", "tpu"]) == 2
    assert "--device must be a device of this machine, such as cpu" in capsys.readouterr().err


def test_convert(tmp_path):
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
        (["show", "missing.png"], "there is no file missing.png"),
        (["show", "."], ". is a folder. It must be a picture"),
        (
            ["augment", "missing", "out"],
            "SRC must be a folder of images, .parquet or .tar files, or a Hub data set's id. Got missing",
        ),
        (["augment", ".", "out"], "DST must not lie inside SRC. Got out"),
        (["augment", ".", "../out"], "there are no images, .parquet or .tar files under ."),
        (["augment", "../photos", "../out", "--copies", "0"], "copies must be at least 1. Got 0"),
        (["augment", ".", "../out", "--workers", "2"], "--workers goes with --engine ray. Got 2"),
        (["augment", ".", "../out", "--weights", "a.pt"], "--weights goes with --with deepaugment:edsr and"),
        (["augment", ".", "../out", "--with", "deepaugment", "--timesteps", "5"], "--timesteps with --with diffaug"),
        (
            ["augment", ".", "../out", "--with", "deepaugment:edsr", "--network", "x"],
            "--network goes with --with diffaug and purify",
        ),
        (["augment", ".", "../out", "--with", "deepaugment", "--weights", "a.pt"], "Got 'a.pt'"),
        (["augment", ".", "../out", "--with", "deepaugment:cae"], "'cae' needs weights"),
        (["augment", ".", "../out", "--device", "tpu"], "--device must be a device of this machine"),
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
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").touch()
    monkeypatch.chdir(folder)
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("diffaug: error: ")
    assert error.count("\n") == 1
    assert message in error


@pytest.mark.parametrize("arguments", [["--traceback", "show", "x.png"], ["show", "--traceback", "x.png"]])
def test_traceback(arguments, capsys):
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("Traceback (most recent call last):")
    assert error.endswith("OSError: there is no file x.png\n")


def test_what_a_user_does_not_cause(monkeypatch, capsys):
    """Unexpected errors show their traceback; Ctrl-C and warnings are one line; nothing of the process is changed."""

    def run(error: BaseException) -> str:
        def fail(args):
            warnings.warn("look here", stacklevel=1)
            raise error

        monkeypatch.setattr(cli.networks, "run", fail)
        assert cli.main(["networks"]) == (130 if isinstance(error, KeyboardInterrupt) else 2)
        return capsys.readouterr().err

    before = warnings.showwarning
    assert run(KeyboardInterrupt()) == "diffaug: warning: look here\ndiffaug: stopped\n"
    unexpected = run(RuntimeError("a bug"))
    assert "\nTraceback (most recent call last):\n" in unexpected
    assert unexpected.endswith("RuntimeError: a bug\n")
    assert warnings.showwarning is before


def test_a_stopped_augment_says_that_it_resumes(monkeypatch, capsys):
    def stop(args):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.augment, "run", stop)
    assert cli.main(["augment", "a", "b"]) == 130
    assert capsys.readouterr().err == "diffaug: stopped; the same command resumes where it was\n"


def test_augment_takes_the_network_that_fits_the_first_picture(tmp_path, monkeypatch, capsys):
    """Pictures in a folder, in Parquet files and in tars, of 80 and of 32 pixels; --crop counts, --network wins."""
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    seen = []
    note = lambda source, target, transform, **options: seen.append(transform.denoiser.source) or []  # noqa: E731
    for name in ("augment_folder", "augment_shards"):
        monkeypatch.setattr(cli.augment, name, note)
    for side in (80, 32):
        folder = tmp_path / f"photos{side}" / "a"
        folder.mkdir(parents=True)
        file = io.BytesIO()
        F.to_pil_image(torch.rand(3, side, side + 10)).save(file, "PNG")
        (folder / "b.png").write_bytes(file.getvalue())
        (folder / "a.png").write_bytes(b"no picture")
        cells = [None, {"bytes": file.getvalue(), "path": "b.png"}]
        parquet.write_table(pyarrow.table({"image": cells}), tmp_path / f"{side}.parquet")
        with tarfile.open(tmp_path / f"{side}.tar", "w") as tar:
            tar.add(folder / "b.png", "1.png")
    for source in ("photos{}", "{}.parquet", "{}.tar"):
        for method in ("diffaug", "purify"):
            for side, more, expected in (
                (80, [], "photos"),
                (32, [], "cifar10"),
                (80, ["--crop", "40"], "cifar10"),
                (32, ["--resize", "64"], "photos"),
                (80, ["--network", "cifar10"], "cifar10"),
            ):
                path = str(tmp_path / source.format(side))
                assert cli.main(["augment", path, str(tmp_path / "out"), "--with", method, *more]) == 0
                assert seen.pop() == expected
                said = capsys.readouterr().out
                assert said.startswith(f"Network: {expected}, because the first picture has ") != ("--network" in more)


@pytest.mark.parametrize(
    ("module", "arguments", "message"),
    [
        ("ray", ["augment", ".", "out", "--engine", "ray"], "engine ray needs Ray Data: pip install"),
        ("gradio", ["app"], "diffaug app needs Gradio: pip install"),
    ],
)
def test_a_missing_extra_is_named(module, arguments, message, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, module, None)
    assert cli.main(arguments) == 2
    extra = {"ray": "ray", "gradio": "app"}[module]
    assert capsys.readouterr().err == f'diffaug: error: {message} "diffaug-transforms[{extra}]"\n'


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
    for runner in [[str(command)]] * command.exists() + [[sys.executable, "-m", "diffaug_transforms.cli"]]:
        result = subprocess.run([*runner, "networks"], capture_output=True, text=True, env=os.environ, timeout=60)
        assert (result.returncode, result.stderr) == (0, "")
