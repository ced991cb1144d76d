"""Runs in forked processes: each starts in milliseconds, because the parent has imported everything.

The parent must not start threads or compute with torch before it forks.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

#: Seconds after which a run hangs.
HANGS = 120.0
#: Exit code of a run that ended with an OSError, and of one that ended with another error.
REFUSED, FAILED = 2, 1


def start(run: Callable[[], int | None], log: Path) -> int:
    """Fork, and run in the child. Its output goes to ``log``. Returns the child's process id."""
    sys.stdout.flush()
    sys.stderr.flush()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # until the child has its log
    pid = os.fork()
    if pid:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        return pid
    code = FAILED
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # shells let background processes ignore it
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.stdout = sys.stderr = os.fdopen(1, "w", buffering=1)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        code = run() or 0
    except OSError as error:
        print(f"OSError: {error}", file=sys.stderr)
        code = REFUSED
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else FAILED
    except BaseException:
        traceback.print_exc()
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)


def end(pid: int, seconds: float = HANGS) -> int:
    """Wait for a child. Returns its exit code, or minus the signal that ended it; TimeoutError if it hangs."""
    late = time.monotonic() + seconds
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > late:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise TimeoutError(f"a run took more than {seconds:.0f} seconds")
        time.sleep(0.002)


def run_to_end(run: Callable[[], int | None], log: Path) -> int:
    """Start and wait: the exit code."""
    return end(start(run, log))


def time_undisturbed(run: Callable[[], int | None], log: Path) -> float:
    """Seconds of a run that nothing disturbs. RuntimeError if it fails."""
    began = time.monotonic()
    if run_to_end(run, log):
        raise RuntimeError(f"an undisturbed run failed: {last_line(log)}")
    return time.monotonic() - began


def last_line(log: Path) -> str:
    """The last line of a log, which names an error."""
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    return lines[-1] if lines else "no output"
