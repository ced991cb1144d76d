"""A part's process: its records as they come, and its end."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..harness.records import Record

ROOT = Path(__file__).parents[2]


def records_of_process(command: Sequence[str], seconds: float) -> Iterator[Record]:
    """The lines of JSON that a process prints, up to one with the metric "seconds", which is its last.

    A process that takes longer than ``seconds`` is stopped with all that it started. It, and one that ends without its
    last line, gives one more record that says so, with the metric "failed".
    """
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True)
    late = threading.Event()

    def stop() -> None:
        late.set()
        kill(process)

    timer = threading.Timer(seconds, stop)
    timer.start()
    try:
        for line in process.stdout or ():
            if not line.startswith('{"method": '):
                print(line, end="")
                continue
            record: Record = json.loads(line)
            yield record
            if record["metric"] == "seconds":
                return
        code = process.wait()
        error = f"stopped after {seconds:.0f} seconds" if late.is_set() else f"the process ended with code {code}"
        yield {"method": "the part", "metric": "failed", "value": 1, "error": error}
    finally:
        timer.cancel()
        kill(process)
        process.wait()


def kill(process: subprocess.Popen[str]) -> None:
    """End a process and those that it started. The compiler's workers would live on."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
