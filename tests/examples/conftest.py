"""The scripts' folder, from which the tests import. Without the extra ``train`` there is nothing to run here."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

from tests.examples.training import EXAMPLES

sys.path.insert(0, str(EXAMPLES))


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    return None if all(map(find_spec, ("accelerate", "datasets", "tensorboard"))) else True
