"""``evaluate``: a classifier and data in, records of its accuracy out, alone and with the methods for test time."""

from __future__ import annotations

import copy
import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, default_collate

from ...arguments import as_integer, as_optional_integer, as_path, as_timesteps, check_choice, check_flags, shown
from ...score import Denoiser, ScoreNetwork
from ...score.denoiser import CPU_BATCH_PIXELS
from ...score.hub import CIFAR10_SIDE, embedded_network
from ...transforms.purify import Purify
from ..adaptation import DDA
from ..corruptions import check_severity
from ..datasets import random_subset
from .answers import InBfloat16, in_channels_last
from .classifiers import Normalization, OpenedClassifier, open_classifier
from .data import TestSet, open_data
from .digests import digest, digest_of_classifier, digest_of_data, digest_of_network
from .judging import Options, Part, join_processes, judge_parts, without_images
from .modes import MODES, Views, dda_views, ensemble_views, purify_views
from .plan import describe_plan
from .records import Record, is_kept
from .report import add_summaries

#: DDA's guide for small images, which the reference's destroys. `python -m benchmarks.adaptation guide` compares guides
#: on clean training images.
SMALL_GUIDE: dict[str, Any] = {"guidance_scale": 2.0, "downscale": 2}
DEFAULT_MODES = ("default", "de", "anytime", "purify")


def evaluate(
    classifier: str | Path | nn.Module,
    data: str | Path | Dataset[Any],
    *,
    modes: Sequence[str] = DEFAULT_MODES,
    network: str | Path | ScoreNetwork | None = None,
    timesteps: Sequence[int] | None = None,
    corruptions: Sequence[str] | None = None,
    severities: Sequence[int] = (5,),
    dataset: str | None = None,
    split: str | None = None,
    size: int | None = None,
    normalize: Normalization | None = None,
    limit: int | None = None,
    batch_size: int = 50,
    workers: int = 0,
    seed: int = 0,
    device: torch.device | str = "cpu",
    amp: bool = False,
    output: str | Path | None = None,
    progress: bool = False,
) -> list[Record]:
    """How accurate a classifier is on clean, corrupted and shifted images, alone and with the methods for test time.

    All methods see the same images, and the same noise whatever the batch size and the number of processes. Under
    ``accelerate launch`` or ``torchrun`` the processes share the images, and all get the records.

    Args:
        classifier: as ``open_classifier`` takes it; or a module from images (B, 3, H, W) in [0, 1] to logits (B, K), of
            which a copy is judged in eval mode.
        data: as ``open_data`` takes it: a folder, a Parquet file, a Hub data set, the folder of a published shifted
            set; or a dataset of (uint8 image (3, H, W), class).
        modes: names of ``MODES``: "default" (the classifier alone, always judged), "de" (DiffAugEnsemble), "anytime"
            (AnytimeEnsemble, its exact rule), "purify" (the image that Purify makes), "dda" (the image that DDA makes),
            "purify-se" and "dda-se" (that and the image itself, by SelfEnsemble).
        network: as DiffAug's. None: "cifar10" for images of up to 48 pixels, else "photos".
        timesteps: the ensemble's set S. None: the network's own.
        corruptions: of ``CORRUPTIONS``. None: all that there are. Empty: none, clean images only.
        severities: 1...5.
        dataset, split, size: as for ``open_data``.
        normalize: as for ``open_classifier``.
        limit: only the first so many images of a random order, the same for every corruption.
        batch_size: the largest batch of images on the device.
        workers: processes that read and corrupt images. 0: a thread does it.
        seed: of all noise.
        device: where the networks run. Each of several processes has its own GPU.
        amp: the classifier runs under bfloat16 autocast. Faster on most devices; close decisions may change.
        output: a folder for finished parts. A run that was stopped resumes there, and parts are used only for the same
            options, weights, images and versions. None: nothing is kept.
        progress: print the plan, with the number of network calls and the time, and show progress.

    Returns:
        Records in the form of the benchmarks' results, each one measurement. ``corruption`` is "clean", a name, or
        "all" for the mean over all corrupted parts. The metrics are accuracy in percent; gain, the difference to the
        classifier alone in points; network_calls an image; entropy in nats. Accuracy and gain have a
        ``standard_error``, which is that of the images' own differences for gains. Mode "view" is a single view of the
        ensemble at ``timestep``.

    Raises:
        ValueError, TypeError, OSError, ImportError: an argument, the classifier or the data are not as above, or an
            extra is missing. The message says what would do.

    Example:
        >>> images = torch.randint(256, (4, 3, 32, 32), dtype=torch.uint8)
        >>> data = torch.utils.data.TensorDataset(images, torch.tensor([3, 8, 8, 0]))
        >>> records = evaluate("cifar10-baseline", data, corruptions=(), timesteps=[0, 20])
        >>> sorted({record["mode"] for record in records})
        ['anytime', 'de', 'default', 'purify', 'view']
    """
    check_arguments(modes, corruptions, severities)
    check_flags(progress=progress, amp=amp)
    batch_size, limit = as_integer("batch_size", batch_size, 1), as_optional_integer("limit", limit, 1)
    seed, workers = as_integer("seed", seed, 0), as_integer("workers", workers, 0)
    opened = as_opened(classifier, normalize, size)
    test = open_data(data, opened, dataset=dataset, split=split, size=as_optional_integer("size", size, 1))
    chosen = choose_parts(test, corruptions, severities)
    parts = [Part(name, severity, cut(test.part(name, severity), limit)) for name, severity in chosen]
    accelerator = join_processes(as_device(device))
    module = opened.module.to(accelerator.device).eval()
    module = InBfloat16(module) if amp else module
    images = first_images(parts, batch_size, accelerator.device)
    check_outputs(module, images, test)

    views: list[Views] = []
    denoiser = None
    kinds = {MODES[mode].views for mode in modes} - {""}
    if kinds:
        network = network or embedded_network(*images.shape[-2:])
        denoiser = Denoiser(network, max_batch=batch_size)
        views = [VIEWS[kind](denoiser, images.shape, timesteps, seed) for kind in VIEWS if kind in kinds]

    options = Options(modes, batch_size, workers, seed, test.candidates, calls=True, progress=progress)
    settings: Record = {"modes": sorted(modes), "views": [[one.name, list(one.steps)] for one in views], "seed": seed}
    settings |= {"device": accelerator.device.type, "candidates": test.candidates}
    weights = [digest_of_classifier(module, opened.fields)]
    weights += [digest_of_network(denoiser.network)] if denoiser else []
    settings["weights"] = digest(*weights)
    head = {"benchmark": "evaluate", "dataset": test.name}
    tail = {"network": network_name(network)} if views else {}
    settings["names"] = [*head.values(), *tail.values()]
    jobs = [(part, {**settings, "images": digest_of_data(part.images)}) for part in parts]
    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory())) if output is None else as_path("output", output)
        if progress and accelerator.is_main_process:
            missing = [part for part, own in jobs if not is_kept(work / part.name / "records.pt", own)]
            print(describe_plan(missing, len(jobs), views, denoiser, module, images, accelerator.num_processes))
        records = judge_parts(
            jobs,
            {"": module},
            {"": opened.fields},
            views,
            accelerator,
            options,
            work,
            head,
            tail,
        )
    accelerator.wait_for_everyone()
    return without_images(add_summaries(records))


def check_arguments(modes: Sequence[str], corruptions: Sequence[str] | None, severities: Sequence[int]) -> None:
    """ValueError or TypeError for names and numbers that are not known."""
    for name, values in (("modes", modes), ("corruptions", corruptions or ())):
        if isinstance(values, str) or not isinstance(values, Sequence):
            raise TypeError(f"{name} must be a list of names. Got {values!r}")
    if not modes:
        raise ValueError(f"modes must be at least one of {', '.join(MODES)}. Got none")
    for mode in modes:
        check_choice("mode", mode, MODES)
    if not isinstance(severities, Sequence) or isinstance(severities, str):
        raise TypeError(f"severities must be a list of integers, such as [1, 3, 5]. Got {severities!r}")
    if not severities:
        raise ValueError("severities must be in 1...5, at least one. Got none")
    for severity in severities:
        check_severity(severity)


def as_device(device: torch.device | str) -> torch.device:
    """The device; of several processes on GPUs, each has its own. ValueError unless this machine has it."""
    try:
        found = torch.device(device)
        if found.type == "cuda" and "LOCAL_RANK" in os.environ:
            found = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        return torch.empty(0, device=found).device
    except (RuntimeError, AssertionError, TypeError) as error:
        raise ValueError(f"device must be a device of this machine, such as cpu or cuda. Got {device!r}") from error


def as_opened(classifier: Any, normalize: Normalization | None, size: int | None) -> OpenedClassifier:
    """The classifier with what is known about it."""
    if not isinstance(classifier, nn.Module):
        opened = open_classifier(classifier, normalize=normalize, size=size)
        return replace(opened, module=in_channels_last(opened.module))
    if normalize is not None:
        raise ValueError("normalize is for classifiers by name. A module takes images in [0, 1]")
    fields = {"model": type(classifier).__name__, "recipe": "baseline", "seed": 0}
    classes, known = tuple(getattr(classifier, "classes", None) or ()), getattr(classifier, "size", None)
    return OpenedClassifier(copy.deepcopy(classifier), fields, classes, known if isinstance(known, int) else None)


def choose_parts(test: TestSet, corruptions: Sequence[str] | None, severities: Sequence[int]) -> list[tuple[str, int]]:
    """The (corruption, severity) to judge, clean images first if there are any. ValueError if there is nothing."""
    wanted = test.corruptions if corruptions is None else tuple(dict.fromkeys(corruptions))
    for name in wanted:
        check_choice("corruption", name, test.corruptions)
    if not wanted and test.clean is None:
        raise ValueError(f"{test.name} has no clean images, so corruptions must be some of its own. Got none")
    corrupted = list(product(wanted, dict.fromkeys(severities)))
    return corrupted if test.clean is None else [("clean", 0), *corrupted]


def cut(images: Any, limit: int | None) -> Any:
    """The first images of a random order, or all."""
    if not len(images):
        raise ValueError("data must hold at least one image. Got none")
    return images if limit is None else random_subset(images, limit)


def first_images(parts: Sequence[Part], number: int, device: torch.device) -> Tensor:
    """Images of the first part, float32 in [0, 1], on a device: one on a CPU if they are photos.

    One image of the last part is read too, so that a missing extra shows before the first part is judged. ValueError
    unless the images are uint8 with three channels.
    """
    data: Any = parts[0].images
    try:
        first, _ = data[0]
    except TypeError as error:
        raise TypeError(f"data must hold pairs of an image and a class. Got something else: {error}") from error
    _ = parts[-1].images[0]
    if device.type == "cpu" and isinstance(first, Tensor):
        number = min(number, max(1, CPU_BATCH_PIXELS // max(first[0].numel(), 1)))
    images, _ = default_collate([data[index] for index in range(min(number, len(data)))])
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"images must be uint8 (3, H, W). Got {images.dtype} {tuple(images.shape[1:])}")
    return images.to(device).float() / 255


def check_outputs(module: nn.Module, images: Tensor, test: TestSet) -> None:
    """ValueError unless the classifier takes the images and has as many outputs as the data have classes."""
    try:
        with torch.inference_mode():
            logits = module(images[:1])
    except (RuntimeError, AssertionError) as error:  # exported programs assert their sizes
        height, width = images.shape[-2:]
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"classifier must take images of {width}x{height} pixels, or size be given: {reason}"
        ) from error
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        raise ValueError(f"classifier must return logits (B, K). Got {shown(logits)}")
    outputs = logits.shape[1]
    if test.num_classes not in (None, outputs):
        raise ValueError(
            f"classifier must have {test.num_classes} outputs, one for each class of {test.name}, because there are no "
            f"names to match them by. Got {outputs}. Train a new last layer for these classes, or if they are "
            "ImageNet's, name their folders by ImageNet's ids, such as n02085620"
        )


def network_name(network: Any) -> str:
    return str(network) if isinstance(network, (str, Path)) else type(network).__name__


def make_ensemble(denoiser: Denoiser, shape: Sequence[int], timesteps: Sequence[int] | None, seed: int) -> Views:
    steps = as_timesteps(timesteps) or denoiser.default_timesteps("ensemble", shape)
    denoiser.network.schedule.check_timesteps([t for t in steps if t])
    return ensemble_views(denoiser, "network" if timesteps is None else ",".join(map(str, steps)), steps)


def make_purify(denoiser: Denoiser, shape: Sequence[int], timesteps: Sequence[int] | None, seed: int) -> Views:
    return purify_views(Purify(denoiser))


def make_dda(denoiser: Denoiser, shape: Sequence[int], timesteps: Sequence[int] | None, seed: int) -> Views:
    guide = SMALL_GUIDE if min(shape[-2:]) <= CIFAR10_SIDE else {}
    return dda_views(DDA(denoiser.network, **guide), "network", "adapted", seed, shape=shape)


#: How each kind of views is made, from (denoiser, shape of the images, the ensemble's timesteps or None, seed).
VIEWS: dict[str, Callable[[Denoiser, Sequence[int], Sequence[int] | None, int], Views]] = {
    "ensemble": make_ensemble,
    "purify": make_purify,
    "dda": make_dda,
}
