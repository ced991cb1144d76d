"""examples/checkpoints.py: a run that is killed at every step of writing and mending a checkpoint, and resumed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from checkpoints import claim, finish_swap, resume, save_checkpoint
from image_data import LabelledImages
from progress import Progress, stoppable
from torch import nn

STEPS = 4
CHANGES = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir")


class Killed(BaseException):
    """Nothing in the scripts catches it."""


class Killer:
    """Raises at the n-th change of a file inside ``folder``. Audit hooks cannot be removed, so there is one."""

    def __init__(self) -> None:
        self.folder, self.left, self.seen = "", -1, 0
        sys.addaudithook(self.hook)

    def hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.left < 0 or event not in CHANGES:
            return
        if event == "open" and not (isinstance(arguments[1], str) and set(arguments[1]) & set("wxa+")):
            return
        relative = event in ("os.remove", "os.rmdir") and arguments[1] not in (-1, None)  # shutil.rmtree's
        if not relative and not str(arguments[0]).startswith(self.folder):
            return
        self.seen += 1
        self.left -= 1
        if self.left < 0:
            raise Killed

    def arm(self, folder: Path, changes: int) -> None:
        self.folder, self.left, self.seen = str(folder), changes, 0


@pytest.fixture(scope="module")
def one_killer() -> Killer:
    return Killer()


@pytest.fixture
def killer(one_killer: Killer) -> Iterator[Killer]:
    yield one_killer
    one_killer.left = -1


class Run:
    """A model whose weights say which steps it has done, and in which order: each step multiplies and adds."""

    def __init__(self) -> None:
        AcceleratorState._reset_state(reset_partial_state=True)
        torch.manual_seed(0)
        self.accelerator = Accelerator(cpu=True)
        model = nn.Linear(3, 2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)

    def go(self, folder: Path) -> torch.Tensor:
        start = resume(self.accelerator, folder).get("step", 0)
        for step in range(start, STEPS):
            loss = self.model(torch.full((1, 3), 1.0 + step)).square().sum()
            self.accelerator.backward(loss)
            self.optimizer.step()
            self.optimizer.zero_grad()
            save_checkpoint(self.accelerator, folder, step=step + 1)
        return self.model.weight.detach().clone()


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> torch.Tensor:
    return Run().go(tmp_path_factory.mktemp("whole"))


def killed_after(changes: int, killer: Killer, folder: Path) -> bool:
    """Run until so many files were changed. False if the run came to its end before."""
    run = Run()
    killer.arm(folder, changes)
    try:
        run.go(folder)
    except Killed:
        return True
    finally:
        killer.left = -1
    return False


def test_a_kill_at_every_step_costs_nothing(tmp_path, killer, unbroken):
    """Each run is killed twice: at every change of a file, and then soon after it was resumed."""
    changes = 0
    while killed_after(changes, killer, folder := tmp_path / str(changes)):
        killed_after(changes % 7, killer, folder)
        assert torch.equal(Run().go(folder), unbroken), f"killed at change {changes}"
        assert os.listdir(folder) == ["checkpoint"]
        changes += 1
    assert changes > 30


@pytest.mark.parametrize("names", [("checkpoint.new",), ("checkpoint.old",), ("checkpoint.new", "checkpoint.old")])
def test_a_whole_checkpoint_of_another_name_is_used(tmp_path, unbroken, names):
    """What version 0.1 and a kill between two renames leave."""
    Run().go(tmp_path)
    (tmp_path / "checkpoint").rename(tmp_path / names[0])
    for other in names[1:]:
        (tmp_path / other).mkdir()
        (tmp_path / other / "progress.json").write_text('{"step": 1}')
    run = Run()
    assert resume(run.accelerator, tmp_path) == {"step": STEPS}
    assert torch.equal(run.model.weight, unbroken)
    assert os.listdir(tmp_path) == ["checkpoint"]


def test_half_a_checkpoint_is_not_used(tmp_path, unbroken):
    (tmp_path / "checkpoint.new").mkdir()
    (tmp_path / "checkpoint.new" / "model.safetensors").write_bytes(b"half")
    finish_swap(tmp_path)
    assert not (tmp_path / "checkpoint").exists()
    assert torch.equal(Run().go(tmp_path), unbroken)


def test_a_damaged_checkpoint_is_named(tmp_path):
    Run().go(tmp_path)
    (tmp_path / "checkpoint" / "model.safetensors").write_bytes(b"half")
    with pytest.raises(OSError, match="checkpoint is damaged or of another model. To start anew, remove it"):
        Run().go(tmp_path)


def test_a_full_disk_is_named(tmp_path, monkeypatch, unbroken):
    """The checkpoint before is still there."""
    run = Run()
    save_checkpoint(run.accelerator, tmp_path, step=0)

    def full(folder: str) -> None:
        Path(folder).mkdir()
        raise RuntimeError("basic_ios::clear: iostream error")

    monkeypatch.setattr(run.accelerator, "save_state", full)
    with pytest.raises(OSError, match=r"checkpoint.new cannot be written, with \d+ MiB free on its disk: basic_ios"):
        save_checkpoint(run.accelerator, tmp_path, step=1)
    assert torch.equal(Run().go(tmp_path), unbroken)


def test_one_run_at_a_time(tmp_path):
    code = "import fcntl, sys; f = open(sys.argv[1], 'a'); fcntl.lockf(f, fcntl.LOCK_EX); print('locked', flush=True)"
    command = [sys.executable, "-c", f"{code}; sys.stdin.read()", str(tmp_path / "lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"locked\n"
        with pytest.raises(OSError, match="another run is writing to"):
            claim(tmp_path)
        other.kill()
    claim(tmp_path).close()


def test_other_options_or_images_do_not_resume(tmp_path):
    images = LabelledImages(None, [0, 1], ["a", "b"], None)
    args = Namespace(output=tmp_path, steps=4, checkpoint_every=1, seed=0, lr=0.1, workers=0, init=Path("a"))
    progress = Progress(Run().accelerator, args, images)
    save_checkpoint(progress.accelerator, tmp_path, step=1, seconds=0.0, options=progress.options)
    assert Progress(Run().accelerator, Namespace(**{**vars(args), "workers": 3}), images).step == 1
    later = Namespace(**{**vars(args), "new_option": 1.0})  # of a later version of the script
    assert Progress(Run().accelerator, later, images).step == 1
    with pytest.raises(ValueError, match="a run that was started with seed=0, lr=0.1. Got seed=1, lr=0.2: resume"):
        Progress(Run().accelerator, Namespace(**{**vars(args), "seed": 1, "lr": 0.2}), images)
    with pytest.raises(ValueError, match="number of images=2. Got number of images=3"):
        Progress(Run().accelerator, args, LabelledImages(None, [0, 1, 1], ["a", "b"], None))
    longer = Namespace(**{**vars(args), "steps": 9})
    assert Progress(Run().accelerator, longer, images, may_change=("steps",)).steps == 9
    options = json.loads((tmp_path / "checkpoint" / "progress.json").read_text())["options"]
    assert options == {"steps": 4, "seed": 0, "lr": 0.1, "init": "a", "number of images": 2, "classes": ["a", "b"]}


@pytest.mark.parametrize("name", ["checkpoint.new", "checkpoint", "checkpoint.old"])
def test_a_run_that_is_stopped_from_the_keyboard_says_where_it_goes_on(tmp_path, capsys, name):
    def stop() -> None:
        with pytest.raises(SystemExit) as ended, stoppable(tmp_path):
            raise KeyboardInterrupt
        assert ended.value.code == 130

    stop()
    assert "starts anew, because there is no checkpoint yet" in capsys.readouterr().err
    (tmp_path / name).mkdir()
    (tmp_path / name / "progress.json").write_text('{"step": 7}')
    stop()
    assert "goes on after step 7" in capsys.readouterr().err
