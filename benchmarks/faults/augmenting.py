"""``diffaug augment`` on a folder of small pictures, or of tars with them, with a small network."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import torch
from torchvision.transforms.v2 import functional as F

from diffaug_transforms import ScoreNetwork, cli
from diffaug_transforms.score import NoiseSchedule
from tests.conftest import tiny_unet

from .children import time_undisturbed
from .works import PART, difference, files_of

#: Endings of the pictures, in turn.
ENDINGS = (".png", ".jpg", ".webp", ".bmp")


class Augmenting:
    """The command. The right files are those of an undisturbed run, which takes ``seconds``.

    Args:
        root: for the source, the network and the right files.
        pictures: how many.
        tars: in how many WebDataset shards. 0: a folder of pictures.
    """

    def __init__(self, root: Path, pictures: int, tars: int = 0) -> None:
        self.name = "diffaug augment, tars" if tars else "diffaug augment, folder"
        self.source, self.network = root / ("tars" if tars else "pictures"), root / "network"
        write_pictures(root / "pictures", pictures)
        write_tars(root / "pictures", root / "tars", tars)
        write_network(self.network)
        undisturbed, log = root / "undisturbed", root / "undisturbed.log"
        self.seconds = time_undisturbed(lambda: self.run(undisturbed), log)
        self.expected = files_of(undisturbed)
        if len(self.expected) != (tars or pictures) + 1:  # and the record
            raise RuntimeError(f"an undisturbed run wrote {len(self.expected)} files")

    def prepare(self, folder: Path) -> None:
        """Nothing: the command makes the folder."""

    def run(self, folder: Path) -> int:
        options = ["--network", str(self.network), "--timesteps", "100", "--batch-size", "4", "--device", "cpu"]
        return cli.main(["augment", str(self.source), str(folder), *options])

    def fault_when_stopped(self, folder: Path) -> str:
        """Whatever has a final name must be whole."""
        found = {name: data for name, data in files_of(folder).items() if not Path(name).name.startswith(PART)}
        return difference(found, {name: data for name, data in self.expected.items() if name in found})

    def fault_at_end(self, folder: Path) -> str:
        return difference(files_of(folder), self.expected)


def write_pictures(folder: Path, number: int) -> None:
    """Pictures of noise in two folders, in all formats, that a small network augments in milliseconds."""
    generator = torch.Generator().manual_seed(0)
    for i in range(number):
        path = folder / "ab"[i % 2] / f"{i:03}{ENDINGS[i % len(ENDINGS)]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        F.to_pil_image(torch.rand(3, 16, 16, generator=generator)).save(path)


def write_tars(source: Path, folder: Path, number: int) -> None:
    """The pictures of a folder as WebDataset samples with labels, spread over so many tars."""
    for i in range(number):
        folder.mkdir(exist_ok=True)
        with tarfile.open(folder / f"{i:03}.tar", "w") as tar:
            for path in sorted(path for path in source.rglob("*.*"))[i::number]:
                tar.add(path, path.name)
                label = tarfile.TarInfo(f"{path.stem}.cls")
                label.size = 1
                tar.addfile(label, io.BytesIO(b"1"))


def write_network(folder: Path, seed: int = 0, schedule: str = "linear") -> None:
    """A network of 16 pixels with random weights."""
    ScoreNetwork(tiny_unet(seed=seed), NoiseSchedule.named(schedule)).save_pretrained(folder)
