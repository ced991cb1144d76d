"""Old public names that still work, each with one DeprecationWarning that says the new name."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from importlib import import_module
from operator import attrgetter
from typing import Any


def warn_renamed(old: str, new: str, stacklevel: int = 3) -> None:
    """Warn that ``old`` is now ``new``. ``stacklevel`` 3 is the caller of the function that calls this."""
    warnings.warn(f"{old} is now {new}; the old name goes with version 0.3", DeprecationWarning, stacklevel=stacklevel)


def renamed_names(module: str, names: Mapping[str, str]) -> Callable[[str], Any]:
    """A module's ``__getattr__`` for names that changed: old name -> new name in the same module.

    Example:
        >>> __getattr__ = renamed_names(__name__, {"read_set": "load_set"})
    """

    def module_getattr(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        warn_renamed(f"{module}.{name}", names[name])
        return getattr(import_module(module), names[name])

    return module_getattr


def renamed_attribute(old: str, new: str) -> Any:
    """A property of a class for an attribute that changed: ``new`` may be dotted, such as ``"denoiser.max_batch"``."""
    owner, _, attribute = new.rpartition(".")

    def get(self: Any) -> Any:
        warn_renamed(old, new)
        return attrgetter(new)(self)

    def set_(self: Any, value: Any) -> None:
        warn_renamed(old, new)
        setattr(attrgetter(owner)(self) if owner else self, attribute, value)

    return property(get, set_, doc=f"Old name of ``{new}``.")
