"""Running the training scripts as a user does: a small data set, and a process killed at its first checkpoint."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"
ENVIRONMENT = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}


def run(script: str, *options: object, launcher: Sequence[str] = ()) -> None:
    command = [sys.executable, *launcher, str(EXAMPLES / script), *map(str, options)]
    subprocess.run(command, check=True, env=ENVIRONMENT, timeout=200)


def run_and_kill(script: str, output: Path, *options: object) -> None:
    """Kill the script as soon as it has written a checkpoint."""
    command = [sys.executable, str(EXAMPLES / script), "--output", str(output), *map(str, options)]
    process = subprocess.Popen(command, env=ENVIRONMENT)
    progress = output / "checkpoint" / "progress.json"
    deadline = time.monotonic() + 150
    while not progress.exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    if not progress.exists():
        raise RuntimeError(f"{script} ended without a checkpoint")
