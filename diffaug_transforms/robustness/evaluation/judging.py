"""The loop: every classifier and method on every image of every part of a test set, on one or several processes.

Finished parts are kept on the disk, so a stopped run resumes with the next part. All classifiers see the same views of
the same images, whatever the batch size and the number of processes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from ..metrics import correct
from .answers import entropy, log_probabilities
from .batches import batches
from .modes import MODES, Views, centre
from .records import Record, kept, whole_file
from .sets import Images

#: Classifier, mode, timesteps, timestep.
Key = tuple[str, str, str, int]
#: Of one batch, on its device: which images are right, the summed entropy, the summed network calls.
Waiting = tuple[Tensor, Tensor, Any]


@dataclass(frozen=True)
class Part:
    """A test set under one corruption; "clean" with severity 0."""

    corruption: str
    severity: int
    images: Images

    @property
    def name(self) -> str:
        return self.corruption if self.severity == 0 else f"{self.corruption}-{self.severity}"

    def __len__(self) -> int:
        return len(self.images)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Options:
    """What holds for every part.

    Attributes:
        modes: of ``MODES``; "default" is always judged.
        candidates: the only classes that an answer is chosen from; None: all.
        crop: the classifier sees the centre of so many pixels; None: all.
        keep_probabilities: write the log-probabilities of the ensemble's views beside a part's records.
        calls: make records of network calls, too.
        seed: of all noise.
        progress: show progress bars.
    """

    modes: Sequence[str]
    batch_size: int = 50
    workers: int = 0
    seed: int = 0
    candidates: tuple[int, ...] | None = None
    crop: int | None = None
    keep_probabilities: bool = False
    calls: bool = False
    progress: bool = True


@dataclass
class Tally:
    """One answer for many images: which are right, by place in the full set; their entropy and calls, summed."""

    right: dict[int, bool] = field(default_factory=dict)
    entropy: float = 0.0
    calls: float = 0.0

    def add(self, other: Tally) -> None:
        self.right.update(other.right)
        self.entropy += other.entropy
        self.calls += other.calls


class OneProcess:
    """What the loop needs of ``accelerate.Accelerator``, for a run of one process."""

    process_index, num_processes, is_main_process = 0, 1, True

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def wait_for_everyone(self) -> None:
        """There is nobody else."""

    def end_training(self) -> None:
        """There is nothing to end."""


def join_processes(device: torch.device) -> Any:
    """This process on its own; or, under ``accelerate launch`` or ``torchrun``, an Accelerator that knows the others.

    ImportError if accelerate, of the extra ``train``, is needed and missing.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return OneProcess(device)
    try:
        from accelerate import Accelerator
    except ImportError:
        raise ImportError('several processes need accelerate: pip install "diffaug-transforms[train]"') from None
    return Accelerator(cpu=device.type == "cpu")


def judge_parts(
    parts: Iterable[tuple[Part, Record]],
    classifiers: Mapping[str, nn.Module],
    fields: Mapping[str, Record],
    views: Sequence[Views],
    accelerator: Any,
    options: Options,
    work: Path,
    head: Record,
    tail: Record,
    total: int | None = None,
) -> list[Record]:
    """The records of all parts, each from its file in ``work`` if it is there.

    Args:
        parts: each with its settings: plain values and digests, all that its records depend on.
        classifiers: on the device of ``accelerator``; ``fields`` names each in records.
        views: those that the modes need.
        head, tail: fields of all records, before and after the corruption.
        total: how many parts there are, for the progress bar.
    """
    records: list[Record] = []
    main = accelerator.is_main_process
    for part, settings in tqdm(parts, desc=head["dataset"], total=total, disable=not (main and options.progress)):
        folder = work / part.name
        common = {**head, "corruption": part.corruption, "severity": part.severity, **tail}

        def make(part: Part = part, folder: Path = folder, common: Record = common) -> list[Record]:
            if main:
                # Without records a part is not finished, and nobody reads its views.
                for old in (folder / "records.pt", *folder.glob("views-*.pt")):  # perhaps of more processes
                    old.unlink(missing_ok=True)
            accelerator.wait_for_everyone()
            mine = judge_part(part.images, views, classifiers, accelerator, options, folder)
            tallies: dict[Key, Tally] = {}
            for key, tally in gather(list(mine.items()), accelerator):
                tallies.setdefault(key, Tally()).add(tally)
            return to_records(tallies, common, fields, options)

        accelerator.wait_for_everyone()
        records += kept(folder / "records.pt", settings, make, write=main)
    return records


def gather(items: list[Any], accelerator: Any) -> list[Any]:
    """The items of all processes."""
    if accelerator.num_processes == 1:
        return items
    from accelerate.utils import gather_object

    return gather_object(items)


def judge_part(
    data: Images,
    views: Sequence[Views],
    classifiers: Mapping[str, nn.Module],
    accelerator: Any,
    options: Options,
    folder: Path,
) -> dict[Key, Tally]:
    """This process's share of the images."""
    device = accelerator.device
    waiting: dict[Key, list[Waiting]] = {}
    places: list[int] = []
    labels: list[Tensor] = []
    probabilities: dict[str, list[Tensor]] = {}

    def add(key: Key, log_p: Tensor, targets: Tensor, calls: Tensor | int) -> None:
        right = correct(log_p, targets, options.candidates)
        total = calls.sum() if isinstance(calls, Tensor) else calls * len(right)
        waiting.setdefault(key, []).append((right, entropy(log_p).sum(), total))

    numbers = {one.noise for one in views} - {0}
    share = batches(
        data,
        options.batch_size,
        accelerator.process_index,
        accelerator.num_processes,
        workers=options.workers,
        numbers=numbers,
        seed=options.seed,
    )
    for batch in tqdm(
        share, desc=folder.name, leave=False, disable=not (accelerator.is_main_process and options.progress)
    ):
        targets = batch.targets  # on the host, where their values are checked without waiting for a device
        batch = batch._replace(images=batch.images.to(device, non_blocking=True))
        places += batch.places
        labels.append(targets)
        seen = centre(batch.images, options.crop) / 255
        raw = {name: log_probabilities(classifier, seen) for name, classifier in classifiers.items()}
        for name, log_p in raw.items():
            add((name, "default", "", 0), log_p, targets, 0)
        for one in views:
            made = one.make(batch, folder)
            usual = one.calls if one.calls_of is None else one.calls_of(seen, made)
            changed = usual.nonzero()[:, 0] if isinstance(usual, Tensor) else None
            judged = made if changed is None else made[:, changed]
            for name, classifier in classifiers.items():
                log_p = answers_to_views(classifier, judged, raw[name], changed)
                for mode, rule in MODES.items():
                    if rule.views == one.kind and mode in options.modes:
                        answer = rule.answer(raw[name], log_p, one.steps)
                        calls = usual if answer.calls is None else answer.calls
                        add((name, mode, one.name, -1), answer.log_p, targets, calls)
                if one.kind == "ensemble":
                    for t, of_view in dict(zip(one.steps, log_p)).items():  # timesteps may repeat
                        add((name, "view", one.name, t), of_view, targets, int(t > 0))
                    if options.keep_probabilities:
                        probabilities.setdefault(f"{name} {one.name}", []).append(log_p.half().cpu())
    if options.keep_probabilities:
        views_of = {name: torch.cat(parts, dim=1) for name, parts in probabilities.items()}
        with whole_file(folder / f"views-{accelerator.process_index}.pt") as temporary:
            torch.save({"labels": torch.cat(labels), **views_of}, temporary)
    return read_tallies(waiting, places)


def answers_to_views(classifier: nn.Module, judged: Tensor, raw: Tensor, changed: Tensor | None) -> Tensor:
    """Log-probabilities (V, B, K) of the views. An image that took no call came back as it was: ``raw`` is its answer.

    Args:
        judged: views (V, N, C, H, W) of the changed images.
        raw: log-probabilities of the images themselves, (B, K).
        changed: the places of the changed images in the batch, (N,). None: all of them.
    """
    if changed is None:
        return log_probabilities(classifier, judged)
    answers = raw.repeat(len(judged), 1, 1)
    if len(changed):
        answers[:, changed] = log_probabilities(classifier, judged)
    return answers


def read_tallies(
    waiting: Mapping[Key, Sequence[tuple[Tensor, Tensor, Any]]], places: Sequence[int]
) -> dict[Key, Tally]:
    """What was found on the device, read once for all batches."""
    tallies = {}
    for key, parts in waiting.items():
        right, entropies, calls = zip(*parts)
        total = torch.stack(calls).sum().item() if isinstance(calls[0], Tensor) else sum(calls)
        by_place = dict(zip(places, torch.cat(right).tolist()))
        tallies[key] = Tally(by_place, sum(torch.stack(entropies).tolist()), total)
    return tallies


def to_records(
    tallies: Mapping[Key, Tally], common: Record, fields: Mapping[str, Record], options: Options
) -> list[Record]:
    """Accuracy in percent of every mode, and of every view by its timestep; the views' entropy in nats.

    A mode's accuracy has one more field, ``right``: 1 or 0 for each image, in the order of their places. It is needed
    for standard errors, and left out of written results by ``without_images``.
    """
    records: list[Record] = []
    for (name, mode, timesteps, t), tally in tallies.items():
        n = len(tally.right)
        here = {**common, **fields[name], "mode": mode, "timesteps": timesteps, "n": n}
        if mode in ("default", "view"):
            here["timestep"] = t
            records.append({**here, "metric": "entropy", "value": round(tally.entropy / n, 4)})
        if options.calls and mode != "view":
            records.append({**here, "metric": "network_calls", "value": round(tally.calls / n, 3)})
        accuracy = {**here, "metric": "accuracy", "value": round(100 * sum(tally.right.values()) / n, 3)}
        images = {} if mode == "view" else {"right": [int(tally.right[place]) for place in sorted(tally.right)]}
        records.append({**accuracy, **images})
    return records


def without_images(records: Iterable[Record]) -> list[Record]:
    """Records without the field that says which images are right."""
    return [{key: value for key, value in record.items() if key != "right"} for record in records]
