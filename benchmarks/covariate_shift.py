"""The paper's covariate-shift tables: classifiers under Default, DDA, DDA-SE and DE on corrupted or shifted images.

    python -m benchmarks.covariate_shift --dataset cifar10-c --data uoft-cs/cifar10 --limit 200 \\
        --classifier runs/cifar10_recipes/{baseline,diffaug}-0 --timesteps network paper
    accelerate launch -m benchmarks.covariate_shift --dataset imagenet-c --data data/imagenet-c \\
        --network imagenet256 --classifier resnet50 timm/deit3_base_patch16_224 resnet50@diffaug.pth

All classifiers see the same views of the same images, whatever the batch size and the number of processes. Finished
(corruption, severity) pairs and DDA's images are kept under --work: the same command resumes. What is kept is used only
for the same options, weights, images and versions. Writes the records, plots entropy and accuracy over t, and prints
the table.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Subset
from torchvision.transforms.v2 import functional as F
from tqdm.auto import tqdm

from diffaug_transforms.images import load_image
from diffaug_transforms.robustness import CORRUPTIONS, DDA
from diffaug_transforms.robustness.adaptation import BORDERS, START_TIMESTEP
from diffaug_transforms.robustness.datasets import candidate_classes, random_subset
from diffaug_transforms.robustness.evaluate import correct
from diffaug_transforms.score import Denoiser
from diffaug_transforms.score.schedule import ENSEMBLE_TIMESTEPS
from diffaug_transforms.transforms.ensemble import denoised_views, log_mean_probabilities

from .harness.classifiers import entropy, log_probabilities, open_classifiers
from .harness.data import CROP, SETS, Batch, Images, batches, check_classes, draw_noise, holds_corruptions, open_set
from .harness.digests import digest, digest_of_classifier, digest_of_data, digest_of_network
from .harness.options import default_workers, script_parser
from .harness.pictures import new_figure, save_figure
from .harness.records import RESULTS, Record, kept, versions, whole_file, write_results
from .harness.tables import frame
from .tables.adaptation import shift_table

MODES = ("default", "de", "dda", "dda-se")
#: Arguments that change no part's records.
FREE = ("corruptions", "severities", "work", "output", "mce_baseline", "batch_size", "workers")
#: Classifier, mode, timesteps, timestep.
Key = tuple[str, str, str, int]
Sums = dict[Key, Counter[str]]
#: Sums of single batches on their device: how many are right, and the entropy. They are read at the end of a part.
Waiting = dict[Key, list[tuple[Tensor, Tensor]]]


def parse_arguments() -> argparse.Namespace:
    work = Path("runs/covariate_shift")
    parser = script_parser(
        __doc__, classifier=(), network="cifar10", batch_size=50, seed=0, work=work, workers=default_workers()
    )
    parser.add_argument("--dataset", choices=SETS, required=True)
    parser.add_argument("--data", required=True, help="published files, or the clean set (folder or Hub id)")
    parser.add_argument(
        "--resize", type=int, help="ImageNet's images to N pixels before the crop of 224; DDA adapts all of N x N"
    )
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES)
    parser.add_argument(
        "--timesteps", nargs="+", type=timesteps_name, default=["network"], help="network, paper, or a set as 0,25,50"
    )
    parser.add_argument("--dda-scale", type=float, default=6.0, help="of DDA with the network's timesteps")
    parser.add_argument("--dda-downscale", type=int, default=4, help="likewise")
    parser.add_argument("--dda-border", choices=BORDERS, default="normalized", help="zeros: the reference's")
    parser.add_argument("--corruptions", nargs="+", choices=CORRUPTIONS, default=CORRUPTIONS)
    parser.add_argument("--name", help="of the data set in records; default: --dataset")
    parser.add_argument("--mce-baseline", default="alexnet", help="alexnet or a recipe's Default; needs 5 severities")
    parser.add_argument("--severities", nargs="+", type=int, choices=range(1, 6), default=[5])
    parser.add_argument("--every", type=int, default=1, help="only every Nth image, from the first on")
    parser.add_argument("--limit", type=int, help="only the first N images of a random order")
    parser.add_argument("--checkpointing", action="store_true", help="DDA in less memory and more time")
    parser.add_argument("--keep-probabilities", action="store_true", help="DE's, for benchmarks.ensemble_rules")
    parser.add_argument("--output", type=Path, help="default: covariate_shift_NAME.json in results/")
    return parser.parse_args()


def timesteps_name(text: str) -> str:
    """What ``--timesteps`` takes: "network", "paper", or integers with commas between them."""
    if text not in ("network", "paper") and not re.fullmatch(r"\d+(,\d+)*", text):
        raise argparse.ArgumentTypeError(f"it must be network, paper or integers such as 0,25,50. Got {text}")
    return text


def main() -> None:
    from accelerate import Accelerator

    args = parse_arguments()
    on_cpu = not torch.accelerator.is_available()  # said, so that torchrun's processes on CPUs find each other
    accelerator = Accelerator(cpu=on_cpu)
    records = run(args, accelerator)
    if accelerator.is_main_process:
        path = args.output or RESULTS / f"covariate_shift_{args.name or args.dataset}.json"
        write_results("covariate_shift", records, path)
        plot_over_time(records, path.with_suffix(".png"))
        print(shift_table(frame(records), args.mce_baseline))
    # A process that leaves while others still talk to it may abort.
    accelerator.wait_for_everyone()
    accelerator.end_training()


def run(args: argparse.Namespace, accelerator: Any) -> list[Record]:
    from accelerate.utils import gather_object

    classifiers, fields = open_classifiers(args.classifier, accelerator.device)
    methods = make_methods(args)
    name = args.name or args.dataset
    settings = {key: str(value) for key, value in sorted(vars(args).items()) if key not in FREE}
    settings |= {"device": accelerator.device.type, "weights": digest_of_weights(args.network, classifiers, fields)}
    records: list[Record] = []
    for corruption, severity in tqdm(pairs(args), desc=args.dataset, disable=not accelerator.is_main_process):
        folder = args.work / name / (corruption if corruption == "clean" else f"{corruption}-{severity}")
        common = {"benchmark": "covariate_shift", "dataset": name, "corruption": corruption, "severity": severity}
        common |= {"network": args.network} | ({"resize": args.resize} if args.resize else {})

        images = open_set(args.dataset, args.data, corruption, severity, resize=args.resize)
        images = every_nth(images, args.every) if args.every > 1 else images
        images = random_subset(images, args.limit) if args.limit else images
        check_classes(images, classifiers)

        def make(images: Images = images, folder: Path = folder, common: Record = common) -> list[Record]:
            if accelerator.is_main_process:
                # Without records a part is not finished, and nobody reads its views.
                for old in (folder / "records.pt", *folder.glob("views-*.pt")):  # perhaps of more processes
                    old.unlink(missing_ok=True)
            accelerator.wait_for_everyone()
            mine = evaluate(images, methods, classifiers, accelerator, args, folder)
            sums: Sums = {}
            for key, tally in gather_object(list(mine.items())):
                sums.setdefault(key, Counter()).update(tally)
            return to_records(sums, common, fields)

        accelerator.wait_for_everyone()
        own = {**settings, "images": digest_of_data(images)}
        records += kept(folder / "records.pt", own, make, write=accelerator.is_main_process)
    return records


def every_nth(images: Images, n: int) -> Images:
    """Every nth image, from the first on: those that a network was not trained on."""
    return Subset(images, range(0, len(images), n))  # type: ignore[arg-type]


def digest_of_weights(network: str, classifiers: dict[str, nn.Module], fields: dict[str, dict[str, Any]]) -> str:
    digests = [digest_of_classifier(classifier, fields[spec]) for spec, classifier in classifiers.items()]
    return digest(digest_of_network(Denoiser(network).network), *digests)


def pairs(args: argparse.Namespace) -> list[tuple[str, int]]:
    """(corruption, severity) of all parts of the data set; the clean part of a corrupted set, if any, comes first."""
    corrupted = list(product(args.corruptions, args.severities)) if args.dataset.endswith("-c") else []
    return corrupted if holds_corruptions(Path(args.data)) else [("clean", 0), *corrupted]


@dataclass(frozen=True)
class Method:
    """How images become views.

    Args:
        mode: "de" or "dda".
        timesteps: names a row of the table: the network's own, the paper's, or a given set.
        steps: the views' timesteps.
        noise: how many draws of noise an image needs from the loader of the images.
        views: from (batch with its images on the device, the folder of its part) to views (V, B, C, H, W) in [0, 1].
    """

    mode: str
    timesteps: str
    steps: tuple[int, ...]
    noise: int
    views: Callable[[Batch, Path], Tensor]


def make_methods(args: argparse.Namespace) -> list[Method]:
    """As ``args.modes`` needs them: DE for each of ``args.timesteps``, DDA for the network's and the paper's."""
    denoiser = Denoiser(args.network, max_batch=args.batch_size)
    methods = []
    for timesteps in args.timesteps:
        if {"de", "de-se"} & set(args.modes):
            methods.append(ensemble_method(denoiser, timesteps, args))
        if {"dda", "dda-se"} & set(args.modes) and timesteps in ("network", "paper"):
            methods.append(dda_method(denoiser, timesteps, args))
    return methods


def ensemble_method(denoiser: Denoiser, timesteps: str, args: argparse.Namespace) -> Method:
    known = {"paper": tuple(ENSEMBLE_TIMESTEPS), "network": denoiser.ensemble_timesteps}
    steps = known[timesteps] if timesteps in known else tuple(map(int, timesteps.split(",")))
    number = sum(t > 0 for t in steps)

    def views(batch: Batch, folder: Path) -> Tensor:
        noise = batch.noise[number].to(batch.images.device, non_blocking=True)
        images, noise = (centre(part, args.resize) for part in (batch.images, noise))
        return denoised_views(denoiser, images.float() / 255, steps, noise)

    return Method("de", timesteps, steps, number, views)


def dda_method(denoiser: Denoiser, timesteps: str, args: argparse.Namespace) -> Method:
    """The reference's DDA for the paper's timesteps; else with the network's start and the options' guide."""
    reference: dict[str, Any] = {"start_timestep": START_TIMESTEP}
    own: dict[str, Any] = {"guidance_scale": args.dda_scale, "downscale": args.dda_downscale}
    chosen = reference if timesteps == "paper" else own
    dda = DDA(denoiser.network, border=args.dda_border, checkpointing=args.checkpointing, **chosen)
    name = f"{Path(args.network).stem}-dda-{dda.timesteps[-1]}-{dda.guidance_scale:g}-{dda.downscale}"
    depends = [
        digest_of_network(denoiser.network),
        dda.timesteps,
        dda.guidance_scale,
        dda.downscale,
        dda.border,
        args.seed,
    ]

    def views(batch: Batch, folder: Path) -> Tensor:
        adapted = adapted_images(dda, batch, folder / name, args.seed, digest(depends, versions()))
        return centre(adapted, args.resize)[None]

    # Its noise takes 50 draws of an image and is needed once, so it is no part of every batch.
    return Method("dda", timesteps, dda.timesteps[-1:], 0, views)


def centre(images: Tensor, resize: int | None) -> Tensor:
    """What the classifier sees, (..., H, W): the centre of images that were resized, or all of the others."""
    return images if resize is None else F.center_crop(images, [CROP, CROP])


def adapted_images(dda: DDA, batch: Batch, folder: Path, seed: int, depends: str) -> Tensor:
    """DDA's images in [0, 1]: read from PNG files in ``folder``, or made and kept there.

    They cost a hundred network calls each, and serve every classifier and later run. A file is named by the image's
    place and by a digest of all that it is made from: the image's pixels, and ``depends``.
    """
    images, places = batch.images, batch.places
    names = (f"{place:05d}-{digest(image, images.device.type, depends)[:16]}" for image, place in zip(images, places))
    paths = [folder / f"{name}.png" for name in names]
    found = [read_picture(path) for path in paths]
    missing = [i for i, picture in enumerate(found) if picture is None]
    if missing:
        stride, (height, width) = dda.network.stride, images.shape[-2:]
        padded = (images.shape[1], -(-height // stride) * stride, -(-width // stride) * stride)
        noise = draw_noise([places[i] for i in missing], len(dda.timesteps) - 1, padded, seed)
        adapted = dda.adapt(images[missing].float() / 255, noise.to(images.device))
        for i, image in zip(missing, (adapted * 255).round().to(torch.uint8).cpu()):
            with whole_file(paths[i]) as temporary:
                F.to_pil_image(image).save(temporary, "PNG")
            found[i] = image
    return torch.stack([picture for picture in found if picture is not None]).to(images.device) / 255


def read_picture(path: Path) -> Tensor | None:
    """uint8 (3, H, W), or None if there is no file or it is damaged."""
    try:
        return F.pil_to_tensor(load_image(path))
    except OSError:
        return None


def evaluate(
    data: Images,
    methods: list[Method],
    classifiers: dict[str, nn.Module],
    accelerator: Any,
    args: argparse.Namespace,
    folder: Path,
) -> Sums:
    """Sums over this process's images: how many are right, their entropy, and how many they are."""
    device, candidates = accelerator.device, candidate_classes(args.dataset)
    waiting: Waiting = {}
    labels: list[Tensor] = []
    probabilities: dict[str, list[Tensor]] = {}

    def add(classifier: str, mode: str, timesteps: str, t: int, log_p: Tensor, targets: Tensor) -> None:
        found = correct(log_p, targets, candidates).sum(), entropy(log_p).sum()
        waiting.setdefault((classifier, mode, timesteps, t), []).append(found)

    options: dict[str, Any] = {"workers": args.workers, "numbers": {m.noise for m in methods} - {0}, "seed": args.seed}
    share = batches(data, args.batch_size, accelerator.process_index, accelerator.num_processes, **options)
    for batch in tqdm(share, desc=folder.name, leave=False, disable=not accelerator.is_main_process):
        targets = batch.targets  # on the host, where their values are checked without waiting for a device
        batch = batch._replace(images=batch.images.to(device, non_blocking=True))
        labels.append(targets)
        seen = centre(batch.images, args.resize) / 255
        raw = {name: log_probabilities(classifier, seen) for name, classifier in classifiers.items()}
        for name, log_p in raw.items():
            add(name, "default", "", 0, log_p, targets)
        for method in methods:
            views = method.views(batch, folder)
            for name, classifier in classifiers.items():
                log_p = log_probabilities(classifier, views)
                mean_p = log_mean_probabilities(log_p)
                both = log_mean_probabilities(torch.stack([raw[name], mean_p]))
                for mode, answer in {method.mode: mean_p, f"{method.mode}-se": both}.items():
                    if mode in args.modes:
                        add(name, mode, method.timesteps, -1, answer, targets)
                if method.mode == "de":
                    for t, of_view in dict(zip(method.steps, log_p)).items():  # timesteps may repeat
                        add(name, "view", method.timesteps, t, of_view, targets)
                    if args.keep_probabilities:
                        probabilities.setdefault(f"{name} {method.timesteps}", []).append(log_p.half().cpu())
    if args.keep_probabilities:
        views_of = {name: torch.cat(parts, dim=1) for name, parts in probabilities.items()}
        with whole_file(folder / f"views-{accelerator.process_index}.pt") as temporary:
            torch.save({"labels": torch.cat(labels), **views_of}, temporary)
    return read_sums(waiting, sum(map(len, labels)))


def read_sums(waiting: Waiting, n: int) -> Sums:
    """What was counted on the device, over all ``n`` images."""
    sums: Sums = {}
    for key, parts in waiting.items():
        right, entropies = (torch.stack(column).tolist() for column in zip(*parts))
        sums[key] = Counter({"right": sum(right), "entropy": sum(entropies), "n": n})
    return sums


def to_records(sums: Sums, common: Record, fields: dict[str, dict[str, Any]]) -> list[Record]:
    """Accuracy in percent of every mode, and of every view by its timestep; the views' entropy in nats."""
    records: list[Record] = []
    for (name, mode, timesteps, t), tally in sums.items():
        here = {**common, **fields[name], "mode": mode, "timesteps": timesteps, "n": tally["n"]}
        if mode in ("default", "view"):
            here["timestep"] = t
            records.append({**here, "metric": "entropy", "value": round(tally["entropy"] / tally["n"], 4)})
        records.append({**here, "metric": "accuracy", "value": round(100 * tally["right"] / tally["n"], 3)})
    return records


def plot_over_time(records: Sequence[Record], path: Path) -> None:
    """A panel for the accuracy and one for the entropy of DE's single views, shifted (full) and clean (dashed)."""
    views = frame(records, mode="view")
    if not len(views):
        return
    figure, panels = new_figure(1, 2, (10, 3.8))
    names = list(dict.fromkeys(zip(views.model, views.recipe)))
    for panel, (metric, title) in zip(panels[0], {"accuracy": "accuracy (%)", "entropy": "entropy (nats)"}.items()):
        for i, (model, recipe) in enumerate(names):
            for clean, style in ((False, "-"), (True, "--")):
                own = views[(views.model == model) & (views.recipe == recipe) & (views.metric == metric)]
                curve = own[(own.corruption == "clean") == clean].groupby("timestep").value.mean()
                label = None if clean else (model if recipe == "baseline" and len(names) == 1 else recipe)
                panel.plot(curve.index, curve, style, color=f"C{i}", marker=".", label=label)
        panel.set(xlabel="t of the view", ylabel=title)
    panels[0, 0].legend(title="corrupted (full), clean (dashed)", fontsize=8, title_fontsize=8)
    save_figure(figure, path)


if __name__ == "__main__":
    main()
