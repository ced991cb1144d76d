"""A training run as it goes: the bar, the log, the clock, and checkpoints. It does not wait for the device."""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch
from accelerate import Accelerator
from checkpoints import claim, resume, save_checkpoint, steps_done
from image_data import LabelledImages
from torch import Tensor
from tqdm.auto import tqdm

#: Measurements beside the progress bar. The others are only in the log.
ON_THE_BAR = ("loss", "accuracy")
#: Steps between two readings of the measurements. To read one from a device is to wait for it.
READ_EVERY = 20
#: Options that change nothing of a run's result, so they may change when it resumes.
FREE = ("output", "checkpoint_every", "workers", "compile", "max_batch", "skip_unreadable")


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


@contextmanager
def stoppable(folder: Path) -> Iterator[None]:
    """End the process with a line and exit code 130 if it is stopped from the keyboard."""
    try:
        yield
    except KeyboardInterrupt:
        step = steps_done(folder)
        goes_on = f"goes on after step {step}" if step else "starts anew, because there is no checkpoint yet"
        print(f"\nStopped. The same command {goes_on}.", file=sys.stderr)
        sys.exit(130)


class Progress:
    """How far a run is: steps, seconds, smoothed measurements, checkpoints. It starts at the last checkpoint.

    Args:
        accelerator: everything must be prepared and registered, because its state is loaded from the checkpoint.
        args: the script's arguments: output (the checkpoint's folder), steps (of the whole run), checkpoint_every.
        images: those of the training. A resumed run must have as many, of the same classes.
        may_change: more options, besides ``FREE``, that may differ from those that the checkpoint was made with.

    Attributes:
        step: the current step, from 1. Before the first step of this run, the number of steps done in earlier runs.

    Raises:
        ValueError: the checkpoint was made with other options. OSError: another run is writing to the same folder.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        args: argparse.Namespace,
        images: LabelledImages,
        may_change: Iterable[str] = (),
    ) -> None:
        chosen = {**vars(args), "number of images": len(images), "classes": images.classes}
        free = {*FREE, *may_change}
        self.options = {name: plain(value) for name, value in chosen.items() if name not in free}
        self.lock = claim(args.output) if accelerator.is_main_process else None
        found: dict[str, Any] = {"step": 0, "seconds": 0.0, "options": self.options} | resume(accelerator, args.output)
        check_options(found["options"], self.options, args.output)
        self.accelerator, self.folder, self.checkpoint_every = accelerator, args.output, args.checkpoint_every
        self.step, self.steps, self.seconds_before = found["step"], args.steps, found["seconds"]
        self.smoothed: dict[str, Tensor] = {}
        self.started = self.now = time.perf_counter()
        self.clock: deque[Any] = deque(maxlen=1001)

    def over(self, loader: Iterable[Any]) -> Iterator[Any]:
        """The batches of the steps that are left, with a progress bar. Each step must end with ``report``."""
        shown = self.accelerator.is_main_process
        self.bar = tqdm(loader, initial=self.step, total=self.steps, disable=not shown)
        self.started = self.now = time.perf_counter()
        self.clock.append(self.tick())
        for batch in self.bar:
            self.step += 1
            yield batch

    def report(self, lr: float, loss: Tensor, **shares: Tensor) -> None:
        """End a step: update the running means. Show and log them, and write a checkpoint, if that is due.

        Args:
            lr: the learning rate.
            loss: of this step, on the device.
            shares: more measurements, on the device. NaN stands for the share of nothing, which is left out.
        """
        for name, value in {"loss": loss, **shares}.items():
            value = value.detach().float()
            before = self.smoothed.get(name, value)
            mean = 0.95 * before + 0.05 * value
            if name != "loss":  # a loss that is NaN must be seen
                mean = torch.where(value.isnan(), before, torch.where(before.isnan(), value, mean))
            self.smoothed[name] = mean
        self.clock.append(self.tick())
        self.now = time.perf_counter()
        read_every = 1 if loss.device.type == "cpu" else READ_EVERY
        if self.step % read_every == 0 or self.step == self.steps:
            self.show(lr)
        if self.step % self.checkpoint_every == 0:
            progress = {"step": self.step, "seconds": self.seconds, "options": self.options}
            save_checkpoint(self.accelerator, self.folder, **progress)

    def show(self, lr: float) -> None:
        """Read the running means from the device, show them, and log them every 20 steps."""
        values = torch.stack(list(self.smoothed.values())).tolist()
        found = {name: value for name, value in zip(self.smoothed, values) if name == "loss" or value == value}
        self.now = time.perf_counter()
        self.bar.set_postfix({name: f"{found[name]:.3g}" for name in ON_THE_BAR if name in found}, refresh=False)
        if self.step % READ_EVERY == 0 or self.step == self.steps:
            self.accelerator.log({**found, "lr": lr}, step=self.step)

    def tick(self) -> Any:
        """This moment: an event of the GPU, which is not waited for, or the time on a CPU."""
        if self.accelerator.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    @property
    def seconds(self) -> float:
        """Time of all steps so far, including those of earlier runs."""
        return self.seconds_before + self.now - self.started

    def metadata(self, batch_size: int) -> dict[str, Any]:
        """Number of images seen, time and memory, for the saved folder. ``batch_size`` is that of one process."""
        on_gpu = self.accelerator.device.type == "cuda"
        if on_gpu:
            torch.cuda.synchronize(self.accelerator.device)
        steps = [a.elapsed_time(b) / 1000 if on_gpu else b - a for a, b in pairwise(self.clock)]
        return {
            "images": self.steps * batch_size * self.accelerator.num_processes,
            "seconds": round(self.seconds, 1),
            "seconds_per_step": median(steps) if steps else None,
            "peak_bytes": peak_bytes(),
        }


def plain(value: Any) -> Any:
    """An option's value as JSON has it."""
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def check_options(before: dict[str, Any], now: dict[str, Any], folder: Path) -> None:
    """ValueError that names each option that differs from the run's beginning.

    Options that the script did not have then are not compared.
    """
    differ = [name for name, value in now.items() if name in before and before[name] != value]
    if differ:
        started, got = (", ".join(f"{name}={own[name]!r}" for name in differ) for own in (before, now))
        raise ValueError(
            f"{folder} holds a run that was started with {started}. Got {got}: resume with the same options, or choose "
            "another output"
        )


def peak_bytes() -> int:
    """Peak memory: of the tensors on the GPU, or of the whole process on a CPU (Linux, macOS)."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
