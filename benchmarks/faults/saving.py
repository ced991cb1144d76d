"""Files that are written in place of older ones. At every moment a reader finds the old, the new, or an error."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from diffaug_transforms import ScoreNetwork, load_score_network
from diffaug_transforms.classifiers import NormalizedClassifier, build_model, load_classifier, save_classifier
from diffaug_transforms.robustness.evaluation.digests import digest_of_classifier, digest_of_network
from diffaug_transforms.robustness.evaluation.records import kept, read_kept, write_lines
from diffaug_transforms.score import NoiseSchedule
from tests.conftest import tiny_unet

from .works import files_of

Write = Callable[[Path], Any]
Read = Callable[[Path], Any]


class Saving:
    """A folder whose files are written in place of older ones.

    Args:
        name: for the records.
        root: for the old and the new folder, as they are without a fault.
        old, new: each writes one of them into a folder.
        read: what a folder holds, to be compared; OSError or ValueError if it is not whole.
    """

    def __init__(self, name: str, root: Path, old: Write, new: Write, read: Read) -> None:
        self.name, self.write, self.read, self.old = name, new, read, root / "old"
        self.values = []
        for folder, write in ((self.old, old), (root / "new", new)):
            folder.mkdir(parents=True)
            write(folder)
            self.values.append(read(folder))
        self.files = set(files_of(root / "new"))

    def prepare(self, folder: Path) -> None:
        shutil.copytree(self.old, folder)

    def run(self, folder: Path) -> None:
        self.write(folder)

    def fault_when_stopped(self, folder: Path) -> str:
        try:
            return "" if self.read(folder) in self.values else "a mixture of the old and the new was read in silence"
        except (OSError, ValueError):
            return ""

    def fault_at_end(self, folder: Path) -> str:
        if more := {*files_of(folder)} ^ self.files:
            return f"too many or too few files: {', '.join(sorted(more))}"
        return "" if self.read(folder) == self.values[1] else "the new files were not read"


def all_savings(root: Path) -> list[Saving]:
    """A score network, a classifier, a benchmark's kept result and its records."""
    return [save_networks(root / "network"), save_classifiers(root / "classifier"), *save_results(root)]


def save_networks(root: Path) -> Saving:
    """The new network has other weights and another schedule, so that a mixture of both would load."""
    old = ScoreNetwork(tiny_unet(seed=0), NoiseSchedule.named("linear"))
    new = ScoreNetwork(tiny_unet(seed=1), NoiseSchedule.named("cosine"))
    read = lambda folder: digest_of_network(load_score_network(folder))  # noqa: E731
    return Saving("network's folder", root, old.save_pretrained, new.save_pretrained, read)


def save_classifiers(root: Path) -> Saving:
    """The new classifier has other weights, and its classes in another order."""

    def write(folder: Path, seed: int, classes: str) -> None:
        torch.manual_seed(seed)
        classifier = NormalizedClassifier(build_model("cifar_resnet-4", 3), 0.5, 0.5)
        save_classifier(classifier, folder, "cifar_resnet-4", classes=[*classes])

    def read(folder: Path) -> str:
        classifier = load_classifier(folder)
        return digest_of_classifier(classifier, {"classes": classifier.classes})

    old, new = lambda folder: write(folder, 0, "abc"), lambda folder: write(folder, 1, "cba")
    return Saving("classifier's folder", root, old, new, read)


def save_results(root: Path) -> list[Saving]:
    """The new result is kept for other settings; the new records are one more."""
    keep = lambda value: lambda folder: kept(folder / "kept.pt", {"of": value}, lambda: [value] * 99)  # noqa: E731
    found = lambda folder: read_kept(folder / "kept.pt").get("result")  # noqa: E731
    lines = [{"value": value} for value in range(99)]
    write = lambda number: lambda folder: write_lines({}, lines[:number], folder / "out.json")  # noqa: E731
    text = lambda folder: (folder / "out.json").read_text()  # noqa: E731
    return [
        Saving("benchmark's kept result", root / "kept", keep(1), keep(2), found),
        Saving("benchmark's records", root / "records", write(98), write(99), text),
    ]
