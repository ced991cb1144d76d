"""``examples/train_classifier.py`` on a few pictures, with a checkpoint after every second step."""

from __future__ import annotations

import importlib
import shutil
import sys
from pathlib import Path
from typing import Any

from diffaug_transforms.images import sample_images

from .augmenting import write_network
from .children import time_undisturbed

EXAMPLES = Path(__file__).parents[2] / "examples"
WEIGHTS = "model.safetensors"
#: What a finished run may leave, beside its logs.
FILES = {WEIGHTS, "classifier.json", "checkpoint", "logs", "lock"}


def import_example(name: str) -> Any:
    """A script of ``examples/``, which import each other by their bare names."""
    if str(EXAMPLES) not in sys.path:
        sys.path.insert(0, str(EXAMPLES))
    return importlib.import_module(name)


class Training:
    """A run of so many steps. The right weights are those of an undisturbed run, which takes ``seconds``."""

    name = "training"

    def __init__(self, root: Path, steps: int) -> None:
        self.script = import_example("train_classifier")
        self.data, self.network, self.steps = root / "data", root / "network", steps
        write_classes(self.data)
        write_network(self.network)
        undisturbed, log = root / "undisturbed", root / "undisturbed.log"
        self.seconds = time_undisturbed(lambda: self.run(undisturbed), log)
        self.expected = (undisturbed / WEIGHTS).read_bytes()
        shutil.rmtree(undisturbed)

    def prepare(self, folder: Path) -> None:
        """Nothing: the script makes the folder."""

    def run(self, folder: Path) -> None:
        options = ["--data", self.data, "--output", folder, "--network", self.network, "--steps", self.steps]
        options += ["--size", 16, "--model", "cifar_resnet-4", "--batch-size", 4, "--checkpoint-every", 2]
        sys.argv = ["train_classifier.py", *map(str, options), "--schedule", "step", "--mixed-precision", "no"]
        self.script.main()

    def fault_when_stopped(self, folder: Path) -> str:
        """Weights that are there are whole."""
        weights = folder / WEIGHTS
        return "other weights" if weights.exists() and weights.read_bytes() != self.expected else ""

    def fault_at_end(self, folder: Path) -> str:
        left = sorted({path.name for path in folder.iterdir()} - FILES)
        if left:
            return f"leftovers: {', '.join(left)}"
        if not (folder / WEIGHTS).exists():
            return "there are no weights"
        return self.fault_when_stopped(folder)


def write_classes(folder: Path) -> None:
    """The package's sample images as the folder of a training and a test set of two classes."""
    for i, image in enumerate(sample_images().values()):
        for split in ("train", "test"):
            path = folder / split / "ab"[i % 2] / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            image.resize((16, 16)).save(path)
