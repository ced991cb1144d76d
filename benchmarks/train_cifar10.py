"""The paper's training recipes on CIFAR-10 at one equal budget. benchmarks.covariate_shift judges the classifiers.

    python -m benchmarks.train_cifar10 --parallel 2                   # on CPUs, with prepared DiffAug views
    python -m benchmarks.train_cifar10 --in-loop --model airbench94 --batch-size 256 --workers 5 --parallel 3   # a GPU
    python -m benchmarks.train_cifar10 --recipes diffaug diffaug@cifar10-small   # DiffAug with either network
    python -m benchmarks.train_cifar10 --known 6                      # afterwards: classifiers for benchmarks.ood

For each seed one classifier is trained as usual (the start). From it every recipe trains on for the same number of
steps and images, as the paper trains from published checkpoints. With `--start` all seeds share one start, as all of
the paper's runs share a checkpoint. `+synth` adds synthetic images from the embedded network to the training set.
`@NETWORK` makes DiffAug's views with another network. Everything is kept under --work: a stopped run resumes. Images of
other data, and classifiers of other options, are refused there.

`--known 6` trains classifiers that see only six classes, for each seed another six, and judges none: benchmarks.ood
asks how well they tell the four unknown classes, over random splits (Neal et al., ECCV 2018).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F
from tqdm.auto import tqdm

from diffaug_transforms import ScoreNetwork
from diffaug_transforms.robustness.evaluation.digests import digest, digest_of_data, digest_of_network
from diffaug_transforms.robustness.evaluation.records import whole_file
from diffaug_transforms.robustness.evaluation.sets import HubImages
from diffaug_transforms.score import Denoiser, to_unit
from diffaug_transforms.score.sampling import sample
from diffaug_transforms.transforms import RECIPES

from .harness.data import CIFAR10_CLASSES, side_of
from .harness.options import default_device, nonnegative_int, positive_float, positive_int, script_parser
from .harness.records import RESULTS, Record, write_results

#: DiffAug's, of recipes that name no other.
NETWORK = "cifar10"
SCRIPT = Path(__file__).parent.parent / "examples" / "train_classifier.py"
MAIN_RECIPES = ("baseline", "diffaug", "augmix", "augmix+diffaug")
SEVERAL_SEEDS = (*MAIN_RECIPES, "baseline+synth", "diffaug+synth")


def parse_arguments() -> argparse.Namespace:
    work, output = Path("runs/cifar10_recipes"), RESULTS / "train_cifar10.json"
    parser = script_parser(__doc__, data="uoft-cs/cifar10", work=work, batch_size=128, output=output)
    parser.add_argument("--seeds", type=positive_int, default=3, help="of the main recipes; the others have one")
    parser.add_argument("--recipes", nargs="+", type=recipe_name, help="default: all")
    parser.add_argument("--model", default="cifar_resnet-32", help="cifar_resnet-W or airbench94")
    shared = "the folder of a trained classifier, from which all seeds go on; default: one is trained for each seed"
    parser.add_argument("--start", type=Path, help=shared)
    parser.add_argument("--start-steps", type=positive_int, help="default: 4000, for airbench94 735; half with --known")
    parser.add_argument("--steps", type=positive_int, default=600, help="of every recipe, from the start on")
    parser.add_argument(
        "--lr", type=positive_float, help="of every recipe; default: 0.05 for batches of 128, in proportion"
    )
    parser.add_argument("--mean-loss", action="store_true", help="of recipes with several cross-entropies")
    parser.add_argument("--in-loop", action="store_true", help="DiffAug while training, not prepared beforehand")
    parser.add_argument("--copies", type=positive_int, default=2, help="prepared DiffAug views of each training image")
    parser.add_argument("--synthetic", type=positive_int, default=250, help="synthetic images of each class")
    parser.add_argument(
        "--parallel", type=positive_int, default=1, help="classifiers trained at a time, with equal CPU threads"
    )
    parser.add_argument("--workers", type=nonnegative_int, default=0, help="DataLoader processes of each training")
    parser.add_argument(
        "--known", type=positive_int, help="train on that many random classes, in folders of a run without --in-loop"
    )
    args = parser.parse_args()
    if args.start and args.known is not None:
        parser.error("--known trains a start on each choice of classes: leave out --start")
    return args


def recipe_name(text: str) -> str:
    """What ``--recipes`` takes: a recipe, perhaps with +synth, perhaps with @NETWORK if it has DiffAug."""
    name, at, network = text.partition("@")
    if name.removesuffix("+synth") not in RECIPES or (at and not ("diffaug" in name and network)):
        known = f"{', '.join(RECIPES)}, perhaps with +synth, and @NETWORK if it has diffaug"
        raise argparse.ArgumentTypeError(f"it must be one of {known}. Got {text}")
    return text


def main() -> None:
    args = parse_arguments()
    if args.start and not (args.start / "classifier.json").is_file():
        raise SystemExit(f"--start must be a folder of examples/train_classifier.py. Got {args.start}")
    runs = [] if args.start else [("start", seed) for seed in range(args.seeds)], plan(args)
    if args.known is None:
        prepare(args)
    else:
        for seed in range(args.seeds):
            link_known_classes(args.work, args.known, seed)
    for stage in runs:
        with ThreadPoolExecutor(args.parallel) as pool:
            list(pool.map(lambda run: train(args, *run), stage))
    if args.known is None:
        folders = {(name, seed): run_folder(args.work, name, seed) for stage in runs for name, seed in stage}
        if args.start:
            folders = {("start", 0): args.start, **folders}
        records = [trained(args, folder, *run) for run, folder in folders.items()]
        write_results("train_cifar10", records, args.output)


def plan(args: argparse.Namespace) -> list[tuple[str, int]]:
    """(recipe, seed) of all runs: the first seed of every recipe, then the further seeds of the main ones."""
    if args.known is not None:
        return [(name, seed) for seed in range(args.seeds) for name in MAIN_RECIPES]
    names = args.recipes or [*RECIPES, "baseline+synth", "diffaug+synth"]
    several = args.recipes or SEVERAL_SEEDS
    return [(name, seed) for seed in range(args.seeds) for name in names if seed == 0 or name in several]


def prepare(args: argparse.Namespace) -> None:
    """Folders of synthetic images, and unless DiffAug is in the loop of real images and DiffAug views."""
    wanted = {"images": not args.in_loop, "synth": any("+synth" in recipe for recipe, _ in plan(args))}
    for name in (name for name in wanted if wanted[name]):
        folder = args.work / name
        own = images_digest(args.data) if name == "images" else digest(args.synthetic, network_digest())
        check_made_of(folder, own)
        if not (folder / "done").exists():
            export_images(args.data, folder) if name == "images" else write_synthetic(folder, args.synthetic)
            (folder / "done").touch()
        if not args.in_loop:
            for network in sorted({network_of(recipe) for recipe, _ in plan(args) if "diffaug" in recipe}):
                command = [sys.executable, "-m", "diffaug_transforms.cli", "augment", folder / "train"]
                command += [prepared_views(folder, network), "--network", network, "--copies", args.copies]
                subprocess.run([str(part) for part in command], check=True)


def network_of(name: str) -> str:
    """The network that makes a recipe's DiffAug views."""
    return name.partition("@")[2] or NETWORK


def prepared_views(folder: Path, network: str) -> Path:
    """Where the DiffAug views of a folder of images are."""
    return Path(f"{folder}_diffaug" + ("" if network == NETWORK else f"@{Path(network).name}"))


def check_made_of(folder: Path, own: str) -> None:
    """Write down what a folder is made of, before it is made. ValueError if it was made of something else."""
    path = folder / "made_of"
    if (path.exists() or (folder / "done").exists()) and (not path.exists() or path.read_text() != own):
        raise ValueError(f"{folder} was made of other data or with other options: remove it, or choose another --work")
    if not path.exists():
        with whole_file(path) as temporary:
            temporary.write_text(own)


@cache
def images_digest(data: str) -> str:
    return digest(*(digest_of_data(HubImages(data, split)) for split in ("train", "test")))


@cache
def network_digest() -> str:
    return digest_of_network(Denoiser(NETWORK).network)


def export_images(data: str, folder: Path) -> None:
    """CIFAR-10 as folder/train/class/00000.png and folder/test/class/00000.png."""
    for split in ("train", "test"):
        images = HubImages(data, split)
        for i in tqdm(range(len(images)), desc=f"export {split}"):
            pixels, label = images[i]
            save_image(pixels, folder / split / images.classes[label] / f"{i:05d}.png")


def save_image(pixels: Tensor, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    F.to_pil_image(pixels).save(path)


def write_synthetic(folder: Path, per_class: int, classes: Sequence[str] = CIFAR10_CLASSES) -> None:
    """folder/train/class/00000.png, in batches with ten images of each class; a stopped run resumes at a batch."""
    network = Denoiser(NETWORK).ready(default_device())
    labels = torch.arange(len(classes)).repeat(10)
    for batch in tqdm(range(-(-per_class // 10)), desc="synthesize"):
        names = [f"{classes[k]}/{10 * batch + i // len(classes):05d}.png" for i, k in enumerate(labels)]
        if not all((folder / "train" / name).exists() for name in names):
            generator = torch.Generator().manual_seed(batch)
            for pixels, name in zip(synthesize(network, labels, steps=20, generator=generator), names):
                save_image(pixels, folder / "train" / name)


@torch.inference_mode()
def synthesize(network: ScoreNetwork, labels: Tensor, steps: int, generator: torch.Generator) -> Tensor:
    """Class-conditional samples, uint8 (B, 3, H, W): deterministic DDIM (Song et al. 2021), evenly spaced steps."""
    size = (len(labels), network.in_channels, side_of(network), side_of(network))
    x_t = torch.randn(size, generator=generator).to(network.device)
    stride = network.num_timesteps // steps
    timesteps = range(stride - 1, network.num_timesteps, stride)
    x_0 = sample(network, x_t, timesteps, method="ddim", labels=labels.to(network.device))
    return (to_unit(x_0).clamp(0, 1) * 255).round().to(torch.uint8).cpu()


def train(args: argparse.Namespace, name: str, seed: int) -> None:
    """Train one classifier by examples/train_classifier.py, unless it is there. "start" is the recipes' start."""
    work = args.work if args.known is None else args.work / f"known_classes-{seed}"
    output = run_folder(work, name, seed)
    recipe = "baseline" if name == "start" else name.partition("@")[0].removesuffix("+synth")
    options: dict[str, Any] = {"recipe": recipe, "model": args.model, "batch_size": args.batch_size, "seed": seed}
    if name == "start":
        options |= start_options(args)
    else:
        lr = args.lr or 0.05 * args.batch_size / 128
        options |= {"steps": args.steps, "lr": lr, "init": args.start or run_folder(work, "start", seed)}
    sources = [work / "images", *([work / "synth"] if "+synth" in name else [])]
    if not args.in_loop:
        options |= {"diffaug_data": [prepared_views(source, network_of(name)) for source in sources]}
    elif args.known is None:
        sources[0] = args.data
    options |= dict(zip(("data", "extra_data"), sources))
    options |= {"network": network_of(name)} if "diffaug" in name else {}
    if args.mean_loss and ("diffaug" in recipe or recipe == "deepaugment"):
        options |= {"mean_loss": True}
    if is_trained(output, options):
        return
    command = [sys.executable, str(SCRIPT), "--output", str(output), "--workers", str(args.workers)]
    for key, value in options.items():
        values = [] if value is True else value if isinstance(value, list) else [value]
        command += [f"--{key.replace('_', '-')}", *map(str, values)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // args.parallel))}
    work.mkdir(parents=True, exist_ok=True)
    with Path(f"{output}.log").open("a") as log:
        subprocess.run(command, check=True, stderr=log, env=environment)


def run_folder(work: Path, name: str, seed: int) -> Path:
    """Where a run's classifier is. A network's path or Hub id is cut to its last part."""
    recipe, at, network = name.partition("@")
    return work / f"{recipe}{at}{Path(network).name}-{seed}"


def start_options(args: argparse.Namespace) -> dict[str, Any]:
    """How a start is trained. airbench94 has a recipe of its own, with larger batches."""
    if args.model == "airbench94":
        steps = args.start_steps or (735 if args.known is None else 368)
        return {"steps": steps, "optimizer": "airbench", "label_smoothing": 0.2, "batch_size": 1024}
    return {"steps": args.start_steps or (4000 if args.known is None else 2000), "lr": 0.2}


def is_trained(output: Path, options: dict[str, Any]) -> bool:
    """Whether the classifier is there. ValueError if it was trained with other options."""
    path = output / "classifier.json"
    if not path.exists():
        return False
    saved, wanted = json.loads(path.read_text())["arguments"], json.loads(json.dumps(options, default=str))
    if differ := {key: saved.get(key) for key, value in wanted.items() if saved.get(key) != value}:
        got = {key: wanted[key] for key in differ}
        raise ValueError(f"{output} was trained with {differ}. Got {got}: remove it, or choose another --work")
    return True


def known_classes(number: int, seed: int) -> list[str]:
    """The classes that the seed's classifiers are trained on, in their order."""
    order = torch.randperm(len(CIFAR10_CLASSES), generator=torch.Generator().manual_seed(seed))
    return [CIFAR10_CLASSES[k] for k in sorted(order[:number].tolist())]


def link_known_classes(work: Path, number: int, seed: int) -> Path:
    """A folder with links to the known classes' images and prepared views."""
    folder = work / f"known_classes-{seed}"
    for part in ("images/train", "images/test", "images_diffaug"):
        (folder / part).mkdir(parents=True, exist_ok=True)
        for name in known_classes(number, seed):
            link = folder / part / name
            if not link.is_symlink():
                link.symlink_to(os.path.relpath((work / part / name).resolve(), link.parent.resolve()))
    return folder


def trained(args: argparse.Namespace, folder: Path, name: str, seed: int) -> Record:
    """What a run wrote about itself, and its accuracy on all test images."""
    config = json.loads((folder / "classifier.json").read_text())
    common = {"benchmark": "train_cifar10", "model": args.model, "recipe": name, "seed": seed, "metric": "accuracy"}
    common |= {"images_seen": config["images"], "seconds": config["seconds"], "steps": config["arguments"]["steps"]}
    common |= {"dataset": "cifar10", "corruption": "clean", "severity": 0, "mode": "default"}
    return {**common, "value": round(config["test_accuracy"], 3), "n": len(HubImages(args.data))}


if __name__ == "__main__":
    main()
