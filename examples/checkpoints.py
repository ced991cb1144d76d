"""Runs of the training scripts: batches, progress, and checkpoints that survive a kill at any moment."""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch
from accelerate import Accelerator
from image_data import Batches, ViewsDataset
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

#: Measurements beside the progress bar. The others are only in the log.
ON_THE_BAR = ("loss", "accuracy")


def start_accelerator(mixed_precision: str, folder: Path) -> Accelerator:
    """An accelerator for one GPU, all GPUs or the CPU, with a TensorBoard log in ``folder``/logs."""
    accelerator = Accelerator(
        cpu=not torch.accelerator.is_available(),  # torchrun's processes on CPUs find each other only if told
        mixed_precision=mixed_precision,
        log_with="tensorboard",
        project_dir=str(folder),
    )
    accelerator.init_trackers("logs")
    return accelerator


class Progress:
    """How far a run is: steps, seconds, smoothed measurements, checkpoints. It starts at the last checkpoint.

    Args:
        accelerator: everything must be prepared and registered, because its state is loaded from the checkpoint.
        folder: of the checkpoint.
        steps: of the whole run.
        checkpoint_every: steps between checkpoints.

    Attributes:
        step: the current step, from 1. Before the first step of this run, the number of steps done in earlier runs.
    """

    def __init__(self, accelerator: Accelerator, folder: Path, steps: int, checkpoint_every: int) -> None:
        found = {"step": 0, "seconds": 0.0} | resume(accelerator, folder)
        self.accelerator, self.folder, self.checkpoint_every = accelerator, folder, checkpoint_every
        self.step, self.steps, self.seconds_before = found["step"], steps, found["seconds"]
        self.smoothed: dict[str, float] = {}
        self.clock = [time.perf_counter()]

    def over(self, loader: Iterable[Any]) -> Iterator[Any]:
        """The batches of the steps that are left, with a progress bar. Each step must end with ``report``."""
        shown = self.accelerator.is_main_process
        self.bar = tqdm(loader, initial=self.step, total=self.steps, disable=not shown)
        self.clock = [time.perf_counter()]
        for batch in self.bar:
            self.step += 1
            yield batch

    def report(self, lr: float, **measured: float) -> None:
        """End a step: update, show and log the running means of the measurements. Write a checkpoint if one is due."""
        for name, value in measured.items():
            self.smoothed[name] = 0.95 * self.smoothed.get(name, value) + 0.05 * value
        shown = {name: f"{self.smoothed[name]:.3g}" for name in ON_THE_BAR if name in self.smoothed}
        self.bar.set_postfix(shown, refresh=False)
        self.clock.append(time.perf_counter())
        if self.step % 20 == 0 or self.step == self.steps:
            self.accelerator.log({**self.smoothed, "lr": lr}, step=self.step)
        if self.step % self.checkpoint_every == 0:
            save_checkpoint(self.accelerator, self.folder, step=self.step, seconds=self.seconds)

    @property
    def seconds(self) -> float:
        """Time of all steps so far, including those of earlier runs."""
        return self.seconds_before + self.clock[-1] - self.clock[0]

    def metadata(self, batch_size: int) -> dict[str, Any]:
        """Number of images seen, time and memory, for the saved folder. ``batch_size`` is that of one process."""
        return {
            "images": self.steps * batch_size * self.accelerator.num_processes,
            "seconds": round(self.seconds, 1),
            "seconds_per_step": median(b - a for a, b in pairwise(self.clock)) if len(self.clock) > 1 else None,
            "peak_bytes": peak_bytes(),
        }


def load_batches(dataset: ViewsDataset, args: argparse.Namespace, accelerator: Accelerator, start: int) -> DataLoader:
    """This process's part of every batch from step ``start`` on: views and labels."""
    rank, world = accelerator.process_index, accelerator.num_processes
    batches = Batches(len(dataset), args.batch_size, args.steps, args.seed, rank, world, start)
    return DataLoader(dataset, batch_sampler=batches, num_workers=args.workers, pin_memory=torch.cuda.is_available())


def save_checkpoint(accelerator: Accelerator, folder: Path, **progress: Any) -> None:
    """Write beside the old checkpoint, then swap, so that there is a complete one at any moment."""
    fresh, old = folder / "checkpoint.new", folder / "checkpoint"
    accelerator.save_state(str(fresh))
    if accelerator.is_main_process:
        (fresh / "progress.json").write_text(json.dumps(progress))
        shutil.rmtree(old, ignore_errors=True)
        fresh.rename(old)
    accelerator.wait_for_everyone()


def resume(accelerator: Accelerator, folder: Path) -> dict[str, Any]:
    """Load the last checkpoint and return its progress, or {} if there is no checkpoint."""
    checkpoint = folder / "checkpoint"
    if not checkpoint.exists() and (folder / "checkpoint.new" / "progress.json").exists():
        checkpoint = folder / "checkpoint.new"  # killed between the removal of the old one and the renaming
    if not checkpoint.exists():
        return {}
    accelerator.load_state(str(checkpoint))
    return json.loads((checkpoint / "progress.json").read_text())


def peak_bytes() -> int:
    """Peak memory: of the tensors on the GPU, or of the whole process on a CPU (Linux, macOS)."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
