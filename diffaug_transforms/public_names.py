"""What ``dir()`` shows of a package: its public names, without its modules and what they import."""

from __future__ import annotations

import sys
from collections.abc import Callable


def only_public(module: str, *more: str) -> Callable[[], list[str]]:
    """A module's ``__dir__``: the names in its ``__all__``, and ``more``.

    Example:
        >>> __dir__ = only_public(__name__)
    """
    return lambda: sorted({*sys.modules[module].__all__, *more})
