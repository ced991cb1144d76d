"""Checkpoints that survive a kill at any moment, and a second kill while the first is mended.

    checkpoint.new   being written. It is whole once it holds progress.json, which is written last.
    checkpoint       the last whole one.
    checkpoint.old   the one before, which is being removed.

A whole ``checkpoint.new`` is the newest. ``finish_swap`` gives it its name: at the end of ``save_checkpoint``, or, if
that was killed, when the run resumes. Whatever is removed loses its progress.json first, so that a rest of it never
looks whole.
"""

from __future__ import annotations

import fcntl
import json
import shutil
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from accelerate import Accelerator

PROGRESS = "progress.json"


def save_checkpoint(accelerator: Accelerator, folder: Path, **progress: Any) -> None:
    """Write the state of all that is prepared and registered. All processes call it. ``progress`` is plain values.

    OSError if it cannot be written. The checkpoint before it is then still there.
    """
    fresh = folder / "checkpoint.new"
    if accelerator.is_main_process:
        discard(fresh)
    accelerator.wait_for_everyone()
    try:
        accelerator.save_state(str(fresh))
    except Exception as error:  # safetensors and torch have errors of their own for a full disk
        free = shutil.disk_usage(folder).free / 2**20
        raise OSError(f"{fresh} cannot be written, with {free:.0f} MiB free on its disk: {error}") from error
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        write_whole(fresh / PROGRESS, json.dumps(progress))
        finish_swap(folder)
    accelerator.wait_for_everyone()


def resume(accelerator: Accelerator, folder: Path) -> dict[str, Any]:
    """Load the last whole checkpoint and return its progress, or {} if there is none. All processes call it.

    OSError if the checkpoint cannot be read.
    """
    if accelerator.is_main_process:
        finish_swap(folder)
    accelerator.wait_for_everyone()
    checkpoint = folder / "checkpoint"
    if not checkpoint.exists():
        return {}
    try:
        progress: dict[str, Any] = json.loads((checkpoint / PROGRESS).read_text())
        accelerator.load_state(str(checkpoint))
    except Exception as error:
        raise OSError(f"{checkpoint} is damaged or of another model. To start anew, remove it: {error}") from error
    return progress


def steps_done(folder: Path) -> int:
    """The steps of the last whole checkpoint; 0 if there is none."""
    whole = [folder / name for name in ("checkpoint.new", "checkpoint", "checkpoint.old")]
    found = [json.loads((checkpoint / PROGRESS).read_text())["step"] for checkpoint in whole if is_whole(checkpoint)]
    return max(found, default=0)


def finish_swap(folder: Path) -> None:
    """Put a whole ``checkpoint.new`` in the place of ``checkpoint``. At any moment there is a whole one of a name."""
    fresh, checkpoint, old = (folder / f"checkpoint{end}" for end in (".new", "", ".old"))
    if is_whole(fresh):
        if checkpoint.exists():
            discard(old)
            checkpoint.rename(old)
        fresh.rename(checkpoint)
    elif not checkpoint.exists() and is_whole(old):
        old.rename(checkpoint)
    discard(old)


def claim(folder: Path) -> TextIOWrapper:
    """The folder's lock file. OSError if another process has it: until that closes the file, or ends."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = (folder / "lock").open("a")
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # not flock, whose locks the DataLoader's workers would share
    except (BlockingIOError, PermissionError) as error:
        lock.close()
        raise OSError(f"another run is writing to {folder}") from error
    except OSError:  # a file system without locks
        pass
    return lock


def is_whole(checkpoint: Path) -> bool:
    return (checkpoint / PROGRESS).exists()


def discard(checkpoint: Path) -> None:
    """Remove a checkpoint, if it is there. From the first moment on it is not whole."""
    (checkpoint / PROGRESS).unlink(missing_ok=True)
    if checkpoint.exists():
        shutil.rmtree(checkpoint)


def write_whole(path: Path, text: str) -> None:
    """Write a file that is there as a whole or not at all."""
    unfinished = path.with_name(f".{path.name}.part")
    unfinished.write_text(text)
    unfinished.replace(path)
