"""A fault at the n-th change of a file inside a folder. For a forked process, because audit hooks cannot be removed.

Python reports each change to audit hooks before it is made. Not reported are writes into an open file, and what
libraries written in other languages do (safetensors, torch.save). Kills and small disks reach those.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

#: Audit events of changes. "open" counts if it is for writing.
CHANGES = ("open", "os.mkdir", "os.rename", "os.link", "os.remove", "os.rmdir", "os.truncate", "os.utime")
#: Changes that need room on the disk.
NEED_ROOM = ("open", "os.mkdir", "os.rename", "os.link")
#: Exit code of a process that ends itself.
ENDED = 99


class Injected(BaseException):
    """Nothing catches it but clean-up."""


def raise_error(event: str, late: int) -> None:
    if not late:
        raise Injected


def end_process(event: str, late: int) -> None:
    os._exit(ENDED)


def disk_full(event: str, late: int) -> None:
    if event in NEED_ROOM:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def read_only(event: str, late: int) -> None:
    raise OSError(errno.EROFS, os.strerror(errno.EROFS))


#: By name: what happens at the n-th change, with ``late`` 0, and at each after it.
FAULTS: dict[str, Callable[[str, int], None]] = {
    "an error": raise_error,
    "the process ends": end_process,
    "the disk is full": disk_full,
    "the disk is read-only": read_only,
}


def inject(folder: Path, place: int, fault: Callable[[str, int], None]) -> None:
    """From now on: the fault at the change number ``place`` in ``folder``, counted from 0."""
    left = place

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        if event in CHANGES and is_change(event, arguments, str(folder)):
            left -= 1
            if left < 0:
                fault(event, -1 - left)

    sys.addaudithook(hook)


def count_changes(folder: Path, run: Callable[[], int | None], result: Path) -> int | None:
    """Run, and write the number of changes in ``folder`` to the file ``result``."""
    changes = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal changes
        changes += event in CHANGES and is_change(event, arguments, str(folder))

    sys.addaudithook(hook)
    code = run()
    result.write_text(str(changes))
    return code


def is_change(event: str, arguments: tuple[Any, ...], folder: str) -> bool:
    """Whether an audit event is a change inside the folder."""
    if event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        return False
    if event in ("os.remove", "os.rmdir") and arguments[1] not in (-1, None):  # shutil.rmtree's, by open folder
        return True
    return str(arguments[0]).startswith(folder)
