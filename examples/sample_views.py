"""What the training and test loops see of the images: views, prepared copies, and batches that can be resumed."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, count, takewhile, zip_longest
from pathlib import Path
from typing import Any

import PIL.Image
import torch
from accelerate import Accelerator
from image_data import UNKNOWN, LabelledImages, load_source
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from diffaug_transforms.images import load_image

#: In the output folder: a line for each image that could not be read and was skipped.
SKIPPED = "skipped.txt"


def load_training_images(
    sources: Sequence[str], prepared: Sequence[Path], limit: int | None
) -> tuple[LabelledImages, list[list[Path]] | None]:
    """The training images of all sources, and the prepared copies of each image if there are any.

    Args:
        sources: each as ``data`` of ``load_images``. The first one says which classes there are.
        prepared: for each source the folder that `diffaug augment` made from it, or nothing at all.
        limit: use only so many images of each source, at random but always the same.
    """
    if prepared and len(prepared) != len(sources):
        raise ValueError(f"there must be one prepared folder for each source of images. Got {len(prepared)} folders")
    joined: LabelledImages | None = None
    copies: list[list[Path]] = []
    for source, folder in zip_longest(sources, prepared):
        images = load_source(source)
        places = images.some(limit) if limit else range(len(images))
        if folder is not None:
            of_all = prepared_copies(images, folder)
            copies += [of_all[i] for i in places]
        images = images.at(places)
        joined = images if joined is None else joined.join(images)
    if joined is None:
        raise ValueError("sources must hold at least one. Got none")
    return joined, copies or None


def prepared_copies(images: LabelledImages, folder: Path) -> list[list[Path]]:
    """The copies of each image that ``diffaug augment`` wrote to the same tree.

    One copy has the name of its image. Several are numbered, from NAME_0 on. An image's own name may end like that too:
    with --copies 2, x_0.jpg is a copy of x.jpg, and x_0_0.jpg is one of x_0.jpg. So the names of all images together
    say whether the copies are numbered.

    OSError if an image has no copies, or fewer than another one.
    """
    if images.paths is None:
        raise ValueError("prepared views need an image folder as data, with the same tree")
    numbered = any(not (folder / path).exists() and numbered_copy(folder, path, 0).exists() for path in images.paths)
    copies = []
    for path in images.paths:
        names = (numbered_copy(folder, path, copy) for copy in count()) if numbered else iter([folder / path])
        copies.append(list(takewhile(Path.exists, names)))
    most = max(map(len, copies))
    for path, found in zip(images.paths, copies):
        if not found or len(found) < most:
            number = f"{len(found)} of {most} copies" if found else "no copy"
            raise OSError(f"{folder} has {number} of {path}: was `diffaug augment` run on the same folder to its end?")
    return copies


def numbered_copy(folder: Path, path: Path, copy: int) -> Path:
    return folder / path.parent / f"{path.stem}_{copy}{path.suffix}"


class ViewsDataset(Dataset):
    """The per-sample views of images. A key is (epoch, index).

    The draws of a sample depend only on the seed and its key, so a resumed run sees what an unbroken run would see, for
    any number of workers.

    Args:
        images: the images and their labels.
        views: makes the views of one image, by name.
        seed: of the run.
        copies: prepared DiffAug views of each image; each epoch takes the next one. None: there are none.
        prepare_copy: crops a prepared view. None: the view stays as it is.
        skipped: where the names of damaged images are written. Each is replaced by the next image that can be read.
            None: a damaged image raises OSError with its name.
    """

    def __init__(
        self,
        images: LabelledImages,
        views: Callable[[Any], dict[str, Tensor]],
        seed: int,
        copies: Sequence[Sequence[Path]] | None = None,
        prepare_copy: Callable[[Any], Any] | None = None,
        skipped: Path | None = None,
    ) -> None:
        self.images, self.views, self.seed = images, views, seed
        self.copies, self.prepare_copy, self.skipped = copies, prepare_copy, skipped

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: tuple[int, int]) -> tuple[dict[str, Tensor], int]:
        epoch, first = key
        for index in chain(range(first, len(self)), range(first)):  # a tuple of all indices would take milliseconds
            try:
                (image, label), copy = self.images[index], self.read_copy(epoch, index)
                break
            except OSError as error:
                skip(error, self.skipped)
        else:
            raise OSError("no image of the training data can be read")
        # torch.manual_seed would also queue a seed for CUDA with its stack trace, which takes 0.4 ms per sample.
        torch.default_generator.manual_seed(hash((self.seed, epoch, first)) % 2**63)
        views = self.views(image)
        if copy is not None:
            views["diffaug"] = F.to_image(self.prepare_copy(copy) if self.prepare_copy is not None else copy)
        return views, label

    def read_copy(self, epoch: int, index: int) -> PIL.Image.Image | None:
        """The image's prepared view of this epoch, if views are prepared."""
        if self.copies is None:
            return None
        copies = self.copies[index]
        return load_image(copies[epoch % len(copies)])


class EvaluationImages(Dataset):
    """Test images as (uint8 (3, H, W), label, index), for the indices of one process.

    A damaged image raises OSError with its name. With ``skipped``, as ``ViewsDataset``'s, it comes as a black image
    with the label ``UNKNOWN``.
    """

    def __init__(
        self,
        images: LabelledImages,
        prepare: Callable[[Any], Any],
        rank: int = 0,
        world: int = 1,
        skipped: Path | None = None,
    ) -> None:
        self.images, self.prepare, self.skipped = images, prepare, skipped
        self.indices = range(rank, len(images), world)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, place: int) -> tuple[Tensor, int, int]:
        index = self.indices[place]
        try:
            image, label = self.images[index]
        except OSError as error:
            skip(error, self.skipped)
            image, label = PIL.Image.new("RGB", (64, 64)), UNKNOWN
        return F.pil_to_tensor(self.prepare(image)), label, index


def skip(error: OSError, skipped: Path | None) -> None:
    """Note that an image was skipped. Raise its error if none may be."""
    if skipped is None:
        error.add_note("Pass --skip-unreadable to train and test without the images that cannot be read.")
        raise error
    line = " ".join(str(error).split()).encode(errors="backslashreplace").decode()  # names may be no UTF-8
    skipped.parent.mkdir(parents=True, exist_ok=True)
    if line not in read_skipped(skipped):
        print(f"skipped: {line}", file=sys.stderr)
        with skipped.open("a", encoding="utf-8") as file:  # several workers may append
            file.write(f"{line}\n")


def read_skipped(skipped: Path) -> set[str]:
    """A line for each image that this run has skipped, in all its parts so far."""
    return set(skipped.read_text(encoding="utf-8").splitlines()) if skipped.exists() else set()


class Batches:
    """The keys of each step's batch, for one process out of several. Epochs are shuffled. Any step can be the first.

    The global batch of a step is cut into equal parts: process r takes part r.

    With ``repeats`` (repeated augmentation, Hoffer et al., CVPR 2020) every image comes so many times in a batch, each
    time with other draws. The repeats stand far apart in the batch, so that MixUp mixes an image with another one.
    Several processes have different repeats, as with DeiT's sampler.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        steps: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        start: int = 0,
        repeats: int = 1,
    ) -> None:
        self.length, self.batch_size, self.steps, self.seed = length, batch_size, steps, seed
        self.rank, self.world, self.start, self.repeats = rank, world, start, repeats

    def __len__(self) -> int:
        return max(0, self.steps - self.start)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        orders: dict[int, list[int]] = {}  # lists, because to read a single number of a tensor is slow
        whole, part = (
            self.world * self.batch_size,
            slice(self.rank * self.batch_size, (self.rank + 1) * self.batch_size),
        )
        places = [place for repeat in range(self.repeats) for place in range(repeat, whole, self.repeats)][part]
        for step in range(self.start, self.steps):
            keys = []
            for place in places:
                drawn, repeat = divmod(step * whole + place, self.repeats)
                epoch, offset = divmod(drawn, self.length)
                if epoch not in orders:
                    generator = torch.Generator().manual_seed(hash((self.seed, epoch)) % 2**63)
                    orders = {k: v for k, v in orders.items() if k == epoch - 1}
                    orders[epoch] = torch.randperm(self.length, generator=generator).tolist()
                keys.append((epoch * self.repeats + repeat, orders[epoch][offset]))
            yield keys


def load_batches(
    dataset: ViewsDataset, args: argparse.Namespace, accelerator: Accelerator, start: int, repeats: int = 1
) -> DataLoader:
    """This process's part of every batch from step ``start`` on: views and labels."""
    rank, world = accelerator.process_index, accelerator.num_processes
    batches = Batches(len(dataset), args.batch_size, args.steps, args.seed, rank, world, start, repeats)
    return DataLoader(dataset, batch_sampler=batches, num_workers=args.workers, pin_memory=torch.cuda.is_available())


def load_test_batches(dataset: EvaluationImages, batch_size: int, workers: int) -> DataLoader:
    """This process's test images, in batches."""
    workers = min(workers, -(-len(dataset) // batch_size))
    return DataLoader(dataset, batch_size, num_workers=workers, pin_memory=torch.cuda.is_available())


def geometry(
    size: int, interpolation: v2.InterpolationMode = v2.InterpolationMode.BILINEAR
) -> tuple[v2.Transform, v2.Transform]:
    """The random crop and flip of the clean view, and the central crop for evaluation and as DiffAug's start.

    Up to 64 pixels they are those usual on CIFAR-10: shifts by up to an eighth. Above, they are the paper's:
    RandomResizedCrop and a flip; resize to 8/7 and a central crop (256 and 224). ``interpolation`` is that of
    RandomResizedCrop.
    """
    if size <= 64:
        whole: v2.Transform = v2.Resize((size, size), antialias=True)
        return v2.Compose([whole, v2.RandomCrop(size, padding=size // 8), v2.RandomHorizontalFlip()]), whole
    resized = v2.RandomResizedCrop(size, interpolation=interpolation, antialias=True)
    crop = v2.Compose([resized, v2.RandomHorizontalFlip()])
    return crop, v2.Compose([v2.Resize(size * 8 // 7, antialias=True), v2.CenterCrop(size)])
