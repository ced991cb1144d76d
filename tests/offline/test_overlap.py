"""Reading, the network and writing side by side: the same copies for any number of threads, and clean stops."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from diffaug_transforms import DiffAug
from diffaug_transforms.offline import augment_folder, batches, local, overlap
from diffaug_transforms.offline.batches import augment_batch, in_batches
from diffaug_transforms.offline.copies import Seeds, copy_seed, encode_image
from diffaug_transforms.pictures import load_image
from tests.offline.conftest import files, save_picture

ROOT = Path(__file__).parents[2]


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """Thirty pictures of three sizes."""
    draw = random.Random(0)
    for i in range(30):
        save_picture(tmp_path / "many" / str(i % 2) / f"{i:02}.png", draw.choice([16, 18, 24]), seed=i)
    return tmp_path / "many"


def one_after_another(source: Path, augment: DiffAug, batch_size: int) -> dict[str, bytes]:
    """What version 0.1 did: read a chunk of four batches, sort it by size, one batch after another."""
    paths = sorted(source.rglob("*.png"))
    found = {}
    for start in range(0, len(paths), 4 * batch_size):
        by_size: dict[torch.Size, list[tuple[str, Tensor]]] = defaultdict(list)
        for path in paths[start : start + 4 * batch_size]:
            image = F.pil_to_tensor(load_image(path))
            by_size[image.shape].append((path.relative_to(source).as_posix(), image))
        for pairs in by_size.values():
            for first in range(0, len(pairs), batch_size):
                part = pairs[first : first + batch_size]
                seeds = [Seeds(*[copy_seed(0, name, 0)[0]] * 2) for name, _ in part]
                views = augment_batch(augment, [image for _, image in part], seeds, "cpu")
                found |= {name: encode_image(view, "PNG") for (name, _), view in zip(part, views)}
    return found


@pytest.mark.parametrize("number", [1, 2, 7])
def test_any_number_of_threads_gives_the_bytes_of_none(many, network, tmp_path, monkeypatch, number):
    monkeypatch.setattr(overlap, "thread_count", lambda: number)
    augment = DiffAug(network, timesteps=[50, 400])
    assert augment_folder(many, tmp_path / "out", augment, batch_size=3) == []
    assert files(tmp_path / "out") == one_after_another(many, augment, 3)


def test_a_resumed_run_gives_the_same_bytes(many, network, tmp_path):
    """Whatever is missing: batches are those of the whole run, and whole batches that are there are not computed."""
    sizes: list[int] = []

    class Counts(DiffAug):
        def transform(self, inpt, params):
            sizes.append(len(inpt))
            return super().transform(inpt, params)

    augment, out = Counts(network, timesteps=[50, 400]), tmp_path / "out"
    augment_folder(many, out, augment, batch_size=5)
    whole = files(out)
    assert sum(sizes) == 30
    draw = random.Random(1)
    for missing in (1, 4, 15):
        sizes.clear()
        for name in draw.sample(sorted(whole), missing):
            (out / name).unlink()
        augment_folder(many, out, augment, batch_size=5)
        assert files(out) == whole
        assert missing <= sum(sizes) <= min(30, 5 * missing)
    sizes.clear()
    augment_folder(many, out, augment, batch_size=5)
    assert sizes == []


def test_batches_are_bounded_by_pixels(monkeypatch):
    monkeypatch.setattr(batches, "BATCH_PIXELS", 100)
    monkeypatch.setattr(batches, "HELD_PIXELS", 300)
    small, large = torch.zeros(3, 5, 5), torch.zeros(3, 11, 11)

    def sizes(images: list[Tensor]) -> list[int]:
        return [len(batch) for batch in in_batches(((0, i, image) for i, image in enumerate(images)), 64)]

    assert sizes([small] * 10) == [4, 4, 2]
    assert sizes([large] * 3) == [1, 1, 1]
    different = [torch.zeros(3, 9, 8 + i) for i in range(6)]
    assert sizes(different) == [1] * 6  # 72 to 117 pixels each: none waits for ever


def test_few_pictures_wait(monkeypatch):
    """At most as many as fit the memory, or one for each thread."""
    monkeypatch.setattr(overlap, "thread_count", lambda: 2)
    monkeypatch.setattr(overlap, "WAITING_BYTES", 1000)
    started: list[int] = []

    def read(item: int) -> int:
        started.append(item)
        return item

    with overlap.threads() as pool:
        for item, result in overlap.read_ahead(pool, read, range(100), 64, size=lambda result: 100):
            assert item == result
            assert len(started) <= item + 1 + 10  # 1000 bytes
    assert started[-1] == 99


def test_reading_and_writing_go_on_while_the_network_runs(many, network, tmp_path, monkeypatch):
    """A network that waits until the next pictures are read, and the copies before are written."""
    read, written = [], []
    real_read, real_save = local.read_image, local.save_copy

    def save(copy: tuple[Tensor, local.Job]) -> str:
        fault = real_save(copy)
        written.append(1)
        return fault

    monkeypatch.setattr(local, "read_image", lambda *args: read.append(1) or real_read(*args))
    monkeypatch.setattr(local, "save_copy", save)

    class Waits(DiffAug):
        done = 0

        def transform(self, inpt, params):
            deadline = time.monotonic() + 20
            while len(read) < min(30, self.done + len(inpt) + 2) or len(written) < self.done:
                assert time.monotonic() < deadline
                time.sleep(0.005)
            self.done += len(inpt)
            return super().transform(inpt, params)

    assert augment_folder(many, tmp_path / "out", Waits(network, timesteps=50), batch_size=4) == []


@pytest.mark.parametrize("place", ["reading", "network", "writing"])
def test_an_error_stops_the_run_and_leaves_whole_files(many, network, tmp_path, monkeypatch, place):
    calls = []

    def fail(real):
        def run(*args):
            calls.append(1)
            if len(calls) == 7:
                raise OSError(28, "No space left on device")
            return real(*args)

        return run

    name = {"reading": "read_image", "network": "augment_batch", "writing": "encode_image"}[place]
    with monkeypatch.context() as patch:
        patch.setattr(local, name, fail(getattr(local, name)))
        with pytest.raises(OSError, match="No space left on device"):
            augment_folder(many, tmp_path / "out", DiffAug(network, timesteps=50), batch_size=2)
    assert threading.active_count() < 4
    for name, content in files(tmp_path / "out").items():
        assert name.endswith(".png"), name  # no unfinished file is left
        assert content.endswith(b"IEND\xaeB`\x82")
    assert augment_folder(many, tmp_path / "out", DiffAug(network, timesteps=50), batch_size=2) == []
    augment_folder(many, tmp_path / "fresh", DiffAug(network, timesteps=50), batch_size=2)
    assert files(tmp_path / "out") == files(tmp_path / "fresh")


def command(source: Path, target: Path) -> list[str]:
    options = ["--timesteps", "50:700:50", "--batch-size", "3", "--copies", "2"]
    return [sys.executable, "-m", "diffaug_transforms.cli", "augment", str(source), str(target), *options]


def count(folder: Path) -> int:
    """How many files there are. They are not opened, because a run that is at work renames them."""
    return sum(path.name != ".diffaug.json" for path in folder.rglob("*.*"))


def test_killed_runs_resume_to_the_same_folder(many, tmp_path):
    """Killed at random moments; afterwards the folder is bitwise that of a run that nobody stopped."""
    draw, out = random.Random(0), tmp_path / "out"
    subprocess.run(command(many, tmp_path / "whole"), check=True, capture_output=True, timeout=100, cwd=ROOT)
    for kill in (signal.SIGKILL, signal.SIGINT, signal.SIGTERM):
        process = subprocess.Popen(command(many, out), stderr=subprocess.PIPE, text=True, cwd=ROOT)
        wanted, deadline = count(out) + draw.randrange(2, 12), time.monotonic() + 60
        while count(out) < wanted and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.002)
        process.send_signal(kill)
        error = process.communicate(timeout=60)[1]
        if kill == signal.SIGINT and process.returncode:
            assert process.returncode == 130
            assert "diffaug: stopped; the same command resumes where it was" in error
    (out / "0" / ".diffaug-00000000-1-0.part").write_bytes(b"half")  # of another machine: it may be at work
    subprocess.run(command(many, out), check=True, capture_output=True, timeout=100, cwd=ROOT)
    (out / "0" / ".diffaug-00000000-1-0.part").unlink()
    assert files(out) == files(tmp_path / "whole")


def test_two_runs_at_once_do_no_harm(many, tmp_path):
    processes = [subprocess.Popen(command(many, tmp_path / "out"), stderr=subprocess.DEVNULL, cwd=ROOT) for _ in "ab"]
    assert [process.wait(timeout=100) for process in processes] == [0, 0]
    subprocess.run(command(many, tmp_path / "alone"), check=True, capture_output=True, timeout=100, cwd=ROOT)
    assert files(tmp_path / "out") == files(tmp_path / "alone")


def test_a_read_only_destination_is_an_error(many, tmp_path, network):
    if os.geteuid() == 0:
        (tmp_path / "out").touch()  # root may write everywhere, but not into a file
    else:
        (tmp_path / "out").mkdir(mode=0o555)
    with pytest.raises(OSError):
        augment_folder(many, tmp_path / "out", DiffAug(network, timesteps=50))
