"""Checkpoints of the training scripts, whole after a kill at any moment, and the memory that they took."""

from __future__ import annotations

import json
import resource
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator


def save_checkpoint(accelerator: Accelerator, folder: Path, **progress: Any) -> None:
    """Write beside the old checkpoint, then swap: a kill at any moment leaves a whole one behind."""
    fresh, old = folder / "checkpoint.new", folder / "checkpoint"
    accelerator.save_state(str(fresh))
    if accelerator.is_main_process:
        (fresh / "progress.json").write_text(json.dumps(progress))
        shutil.rmtree(old, ignore_errors=True)
        fresh.rename(old)
    accelerator.wait_for_everyone()


def resume(accelerator: Accelerator, folder: Path) -> dict[str, Any]:
    """Load the last checkpoint and return its progress; {} where there is none."""
    checkpoint = folder / "checkpoint"
    if not checkpoint.exists() and (folder / "checkpoint.new" / "progress.json").exists():
        checkpoint = folder / "checkpoint.new"  # killed between the removal of the old one and the renaming
    if not checkpoint.exists():
        return {}
    accelerator.load_state(str(checkpoint))
    return json.loads((checkpoint / "progress.json").read_text())


def peak_bytes() -> int:
    """The most memory that was in use: of the GPU's tensors, or of the whole process on a CPU (Linux, macOS)."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
