"""A small training loop over ``examples/checkpoints.py``, with a checkpoint after each step."""

from __future__ import annotations

from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn

from .children import last_line, run_to_end
from .training import import_example

STEPS = 3
WEIGHTS = "weights.txt"


class Checkpointing:
    """A linear model whose weights say which steps were done. Right are those of an undisturbed run."""

    name = "checkpoint"

    def __init__(self, root: Path) -> None:
        self.script = import_example("checkpoints")
        root.mkdir()
        folder, log = root / "undisturbed", root / "undisturbed.log"
        self.prepare(folder)
        if run_to_end(lambda: self.run(folder), log):
            raise RuntimeError(f"an undisturbed run failed: {last_line(log)}")
        self.expected = (folder / WEIGHTS).read_text()

    def prepare(self, folder: Path) -> None:
        folder.mkdir()

    def run(self, folder: Path) -> None:
        torch.manual_seed(0)
        accelerator = Accelerator(cpu=True)
        linear = nn.Linear(3, 2)
        model, optimizer = accelerator.prepare(linear, torch.optim.SGD(linear.parameters(), lr=0.1, momentum=0.9))
        start = self.script.resume(accelerator, folder).get("step", 0)
        for step in range(start, STEPS):
            accelerator.backward(model(torch.full((1, 3), 1.0 + step)).square().sum())
            optimizer.step()
            optimizer.zero_grad()
            self.script.save_checkpoint(accelerator, folder, step=step + 1)
        (folder / WEIGHTS).write_text(str(linear.weight.tolist()))

    def fault_when_stopped(self, folder: Path) -> str:
        """Nothing is asked for: the next run finds a whole checkpoint, or begins anew."""
        return ""

    def fault_at_end(self, folder: Path) -> str:
        left = sorted({path.name for path in folder.iterdir()} - {WEIGHTS, "checkpoint"})
        if left:
            return f"leftovers: {', '.join(left)}"
        return "" if (folder / WEIGHTS).read_text() == self.expected else "other weights"
