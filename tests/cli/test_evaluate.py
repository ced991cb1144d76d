"""`diffaug evaluate` from its arguments to its files: resumed, on two processes, and what it refuses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from diffaug_transforms import ScoreNetwork, cli
from diffaug_transforms.cli.evaluate import default_output
from diffaug_transforms.images import sample_images
from diffaug_transforms.robustness import corruptions
from diffaug_transforms.robustness.evaluation import judging
from tests.conftest import tiny_unet

for module in ("accelerate", "cv2", "matplotlib"):
    pytest.importorskip(module)


@pytest.fixture
def folders(tmp_path: Path, schedule: Any) -> tuple[Path, Path]:
    """A network of 16 pixels, and the sample images in the folders of their classes."""
    ScoreNetwork(tiny_unet(), schedule).save_pretrained(tmp_path / "network")
    for name, image in sample_images().items():
        (tmp_path / "images" / name).mkdir(parents=True)
        image.save(tmp_path / "images" / name / "a.png")
    return tmp_path / "network", tmp_path / "images"


def arguments(folders: tuple[Path, Path], output: Path, *more: str) -> list[str]:
    network, images = folders
    fixed = ["--network", str(network), "--timesteps", "0,20,60", "--corruptions", "contrast,gaussian_noise"]
    return ["evaluate", "cifar10-baseline", str(images), "--output", str(output), *fixed, "--device", "cpu", *more]


def read(output: Path) -> list[dict[str, Any]]:
    content = json.loads((output / "records.json").read_text())
    assert list(content) == ["command", "created", "device", "versions", "records"]
    return content["records"]


def environment() -> dict[str, str]:
    return {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(Path(__file__).parent.parent.parent)}


def test_records_a_table_and_a_picture(tmp_path, folders, capsys):
    assert cli.main(arguments(folders, tmp_path / "out", "--severities", "3,5")) == 0
    out = capsys.readouterr().out
    assert out.startswith(
        "40 images of 32x32 pixels in 5 parts\n80 network calls (ensemble), at most 40 network calls (purify), about "
    )
    assert "cifar_resnet-32 on images, 8 images in each part." in out
    assert "| default | 0 | " in out
    assert "| gaussian noise 3 | " in out
    assert (tmp_path / "out" / "table.md").read_text() in out
    records = read(tmp_path / "out")
    assert {(r["corruption"], r["severity"]) for r in records} == {
        ("clean", 0),
        *((name, severity) for name in ("contrast", "gaussian_noise") for severity in (3, 5)),
        ("all", 0),
    }
    assert {r["mode"] for r in records} == {"default", "de", "anytime", "purify", "view"}
    assert all({"benchmark", "metric", "value", "n", "network"} <= set(r) for r in records)
    assert (tmp_path / "out" / "accuracy.png").stat().st_size > 10_000


def test_a_killed_run_resumes(tmp_path, folders, monkeypatch):
    """Killed while it makes the second part. The finished one is used, and the result is that of a whole run."""
    own = arguments(folders, tmp_path / "out", "--batch-size", "1")
    command = [sys.executable, "-m", "diffaug_transforms.cli", *own]
    process = subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    finished, started = tmp_path / "out" / "parts" / "clean" / "records.pt", time.monotonic()
    while not finished.exists() and time.monotonic() < started + 120 and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert finished.exists()
    there = {path.parent.name for path in finished.parent.parent.glob("*/records.pt")}
    made, judge_part = [], judging.judge_part
    monkeypatch.setattr(judging, "judge_part", lambda *a: made.append(a[-1].name) or judge_part(*a))
    assert cli.main(own) == 0
    assert {"clean", *made} == {"clean", "contrast-5", "gaussian_noise-5"}
    assert not there & set(made)
    made.clear()
    assert cli.main(arguments(folders, tmp_path / "whole", "--batch-size", "1")) == 0
    assert len(made) == 3
    assert read(tmp_path / "out") == read(tmp_path / "whole")


def test_two_processes_say_what_one_says(tmp_path, folders):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m"]
    more = ["--modes", "de,anytime,dda-se", "--limit", "5"]
    command += ["diffaug_transforms.cli", *arguments(folders, tmp_path / "two", *more)]
    done = subprocess.run(command, env=environment(), timeout=300, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("| default | 0 | ") == 1
    assert cli.main(arguments(folders, tmp_path / "one", *more)) == 0
    one, two = (sorted(map(json.dumps, read(tmp_path / name))) for name in ("one", "two"))
    assert one == two
    assert {json.loads(line)["n"] for line in one} == {5}


def test_a_timm_model_of_small_images_and_an_exported_program(tmp_path, folders, capsys):
    timm = pytest.importorskip("timm")
    model = timm.create_model("test_vit", num_classes=8, img_size=32).eval()
    torch.save(timm.create_model("test_vit", num_classes=8).state_dict(), tmp_path / "mine.pth")
    images = str(folders[1])
    options = ["--modes", "default", "--corruptions", "none", "--device", "cpu"]
    spec = f"timm:test_vit@{tmp_path / 'mine.pth'}"
    assert cli.main(["evaluate", spec, images, "--size", "32", "--output", str(tmp_path / "a"), *options]) == 0
    assert "8 images of 32x32 pixels in 1 part" in capsys.readouterr().out
    program = torch.export.export(model, (torch.rand(2, 3, 32, 32),), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.export.save(program, tmp_path / "mine.pt2")
    more = ["--normalize", "0.5/0.5", "--output", str(tmp_path / "b"), *options]
    assert cli.main(["evaluate", str(tmp_path / "mine.pt2"), images, *more]) == 0
    assert {r["model"] for r in read(tmp_path / "b")} == {"mine"}


def test_each_pair_has_a_folder_of_its_own():
    assert default_output("timm:resnet50", "uoft-cs/cifar10") == Path("diffaug_evaluate/timm-resnet50_uoft-cs-cifar10")
    assert default_output("../runs/a", "./b/") == Path("diffaug_evaluate/runs-a_b")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["cifar10-basline", "IMAGES"], "Got 'cifar10-basline'. Did you mean 'cifar10-baseline'"),
        (["cifar10-baseline", "nowhere"], "DATA must be a folder with a folder of images for each class"),
        (["cifar10-baseline", "IMAGES", "--severities", "hard"], "severities must be integers in 1...5, such as 1,3,5"),
        (["cifar10-baseline", "IMAGES", "--severities", "7"], "severity must be in 1...5. Got 7"),
        (["cifar10-baseline", "IMAGES", "--modes", "default,best"], "mode must be one of default, de, anytime"),
        (["cifar10-baseline", "IMAGES", "--corruptions", "rain"], "corruption must be one of gaussian_noise"),
        (["cifar10-baseline", "IMAGES", "--normalize", "1"], "normalize must be none, imagenet, or MEAN/STD"),
        (["cifar10-baseline", "IMAGES", "--device", "moon"], "device must be a device of this machine"),
        (["cifar10-baseline", "IMAGES", "--limit", "0"], "limit must be at least 1. Got 0"),
    ],
)
def test_errors_are_one_line(words, message, folders, capsys):
    words = [str(folders[1]) if word == "IMAGES" else word for word in words]
    assert cli.main(["evaluate", *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("diffaug: error: ")
    assert error.count("\n") == 1


def test_a_missing_extra_is_named_before_anything_is_judged(folders, tmp_path, monkeypatch, capsys):
    monkeypatch.delattr(corruptions, "functions", raising=False)
    monkeypatch.setitem(sys.modules, "diffaug_transforms.robustness.corruptions.functions", None)
    assert cli.main(arguments(folders, tmp_path / "out")) == 2
    captured = capsys.readouterr()
    assert 'corruptions need OpenCV, SciPy and scikit-image: pip install "diffaug' in captured.err
    assert captured.out == ""
