"""Checkpoints of the training scripts: whole after a kill at any moment."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

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
