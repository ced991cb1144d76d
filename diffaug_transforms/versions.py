"""Versions of installed packages, for the records of what made a file."""

from __future__ import annotations

import importlib.metadata
import platform

PACKAGES = ("diffaug-transforms", "torch", "torchvision", "diffusers", "numpy")


def package_version(package: str = "diffaug-transforms") -> str:
    """The installed version of a package, or "not installed"."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that results depend on."""
    return {"python": platform.python_version(), **{name: package_version(name) for name in PACKAGES}}
