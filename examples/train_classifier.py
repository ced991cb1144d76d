r"""Train a classifier with one of the paper's recipes: several views of every image, and one loss over them.

    python examples/train_classifier.py --recipe augmix+diffaug --output runs/a        # CIFAR-10 from the Hub
    python examples/train_classifier.py --recipe augmix+diffaug --output runs/a        # again: resumes
    python examples/train_classifier.py --recipe baseline --output runs/strong --model airbench94 --optimizer airbench \
        --label-smoothing 0.2 --batch-size 1024 --steps 490                            # its paper's recipe, ten passes
    accelerate launch examples/train_classifier.py --data imagenet/ --model resnet50 --size 224 --output runs/rn50 \
        --network imagenet256 --recipe diffaug --steps 450000 --batch-size 32 --schedule step --lr 0.1 \
        --weight-decay 1e-4 --workers 12 --compile                                     # the paper's RN50, 8 GPUs
    accelerate launch examples/train_classifier.py --data imagenet/ --model resnet50 --size 224 --output runs/augmix \
        --network imagenet256 --recipe augmix+diffaug --steps 50000 --batch-size 32 --schedule constant \
        --init augmix.pth --init-optimizer --workers 12 --compile                      # from AugMix's checkpoint

docs/recipes.md has the commands of all the paper's runs, ViT-B/16 among them.

If DiffAug is too slow inside the training loop, prepare its views once: `diffaug augment data/train data_diffaug
--copies 2`, then train with `--diffaug-data data_diffaug`. The draws then repeat after as many epochs as there are
copies, and all runs on that folder share them.

The test images are those of the test split, or of the validation split if there is no test split with labels. Their
classes are matched with the training's by name.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from airbench_training import (
    WHITENING_IMAGES,
    Lookahead,
    build_airbench_optimizer,
    check_airbench_arguments,
    shifted_crop,
    whiten,
)
from deit import (
    RecipeLoss,
    add_deit_arguments,
    build_with_drop_path,
    check_deit_arguments,
    clean_transform,
    mix_clean,
    mixing,
)
from image_data import LabelledImages, listed, load_test_images
from optimization import add_optimizer_arguments, build_optimizer, set_optimizer_defaults, synchronise_batch_norm
from option_limits import parse_within_limits
from progress import Progress, start_accelerator, stoppable
from sample_views import (
    SKIPPED,
    EvaluationImages,
    ViewsDataset,
    geometry,
    load_batches,
    load_test_batches,
    load_training_images,
    read_skipped,
)
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as F

from diffaug_transforms import DeepAugment, DiffAug
from diffaug_transforms.arguments import counted
from diffaug_transforms.classifiers import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    NormalizedClassifier,
    build_model,
    fit_input_size,
    load_weights,
    save_classifier,
)
from diffaug_transforms.score.hub import CIFAR10_SIDE, embedded_network
from diffaug_transforms.transforms import RECIPES, Views, ViewsLoss, recipe

#: The networks of DeepAugment.
NETWORKS = ("noise2net", "edsr", "cae")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = "image folder, Hub id, folder of Parquet files; default: %(default)s"
    parser.add_argument("--data", default="uoft-cs/cifar10", help=data)
    parser.add_argument("--extra-data", help="more training images of the same classes, such as synthetic ones")
    parser.add_argument("--output", type=Path, required=True, help="folder for checkpoints, logs and the classifier")
    parser.add_argument("--recipe", choices=RECIPES, default="diffaug", help="default: %(default)s")
    model = "torchvision's name, timm/NAME, airbench94 or cifar_resnet-W; default: %(default)s"
    parser.add_argument("--model", default="cifar_resnet-32", help=model)
    init = "start from a folder of this script, or from a .safetensors or .pth file, perhaps of other classes"
    parser.add_argument("--init", type=Path, help=init)
    parser.add_argument("--pretrained", action="store_true", help="start from the library's default weights")
    parser.add_argument("--size", type=int, default=32, help="pixels that the classifier sees; default: %(default)s")
    network = f"DiffAug's score network; default: cifar10 for a size of at most {CIFAR10_SIDE} pixels, else photos"
    parser.add_argument("--network", help=network)
    timesteps = "DiffAug draws from these, such as the one that a smoothed classifier uses; default: the network's own"
    parser.add_argument("--timesteps", nargs="+", type=int, help=timesteps)
    p = "probability of transforming a sample with DiffAug; default: %(default)s"
    parser.add_argument("--p", type=float, default=1.0, help=p)
    jsd = "weight of AugMix's consistency between the clean view and the augmented ones; default: %(default)s"
    parser.add_argument("--jsd-weight", type=float, default=12.0, help=jsd)
    mean = "take the mean of the views' cross-entropies, not their sum: more views then do not learn faster"
    parser.add_argument("--mean-loss", action="store_true", help=mean)
    parser.add_argument("--conditional", action="store_true", help="give the score network each image's label")
    parser.add_argument("--max-batch", type=int, help="largest batch the score network sees at once")
    parser.add_argument(
        "--diffaug-data",
        type=Path,
        nargs="+",
        help="from `diffaug augment`: for data, for extra data",
    )
    deepaugment = "one network or several, such as edsr cae"
    parser.add_argument("--deepaugment", nargs="+", default=["noise2net"], choices=NETWORKS, help=deepaugment)
    weights = "files of weights, such as cae=cae.pt; cae needs one, edsr has the Hub's without one"
    parser.add_argument("--deepaugment-weights", nargs="+", default=[], metavar="NETWORK=FILE", help=weights)
    steps = "optimiser steps; keep them when a run resumes; default: %(default)s"
    parser.add_argument("--steps", type=int, default=3900, help=steps)
    parser.add_argument("--batch-size", type=int, default=128, help="images per step and process; default: %(default)s")
    precision = ("no", "bf16", "fp16")
    parser.add_argument("--mixed-precision", choices=precision, default="bf16", help="default: %(default)s")
    parser.add_argument("--compile", action="store_true", help="compile the classifier and the score network")
    parser.add_argument("--workers", type=int, default=0, help="DataLoader workers per process; default: 0")
    every = "steps between checkpoints; default: %(default)s"
    parser.add_argument("--checkpoint-every", type=int, default=400, help=every)
    parser.add_argument("--limit", type=int, help="use only N images of each split, always the same, to try the script")
    parser.add_argument("--skip-unreadable", action="store_true", help="leave out and count images that are damaged")
    parser.add_argument("--seed", type=int, default=0)
    add_optimizer_arguments(parser)
    add_deit_arguments(parser)
    args = parse_within_limits(parser)
    args.network = args.network or embedded_network(args.size, args.size)
    try:
        check_airbench_arguments(args)
        set_optimizer_defaults(args)
        check_deit_arguments(args)
        args.deepaugment_weights = weights_by_network(args.deepaugment, args.deepaugment_weights)
    except ValueError as error:
        parser.error(str(error))
    return args


def weights_by_network(networks: Sequence[str], items: Sequence[str]) -> dict[str, str]:
    """The file of each network's weights. For a single network its file alone is enough, without NETWORK=."""
    found: dict[str, str] = {}
    for item in items:
        name, _, file = item.partition("=")
        if name not in NETWORKS and len(networks) == 1:
            name, file = networks[0], item
        if name not in networks or name in found or not file:
            wanted = ", ".join(f"{network}=FILE" for network in networks)
            raise ValueError(f"deepaugment-weights must be {wanted}, once for each network. Got {item!r}")
        found[name] = file
    return found


def build_views(args: argparse.Namespace, prepared: bool) -> tuple[Views, ViewsLoss]:
    """The recipe's views and loss. Prepared DiffAug views come with the samples, so the recipe leaves DiffAug out."""
    dtype = torch.float32 if args.mixed_precision == "no" else None
    options = {"conditional": args.conditional, "max_batch": args.max_batch, "compile": args.compile}
    name = args.recipe.removesuffix("diffaug").rstrip("+") or "baseline" if prepared else args.recipe
    views, _ = recipe(
        name,
        diffaug=DiffAug(args.network, timesteps=args.timesteps, p=args.p, dtype=dtype, **options),
        deepaugment=[DeepAugment(name, weights=args.deepaugment_weights.get(name)) for name in args.deepaugment],
        clean=shifted_crop(args.size) if args.optimizer == "airbench" else clean_transform(args.size, args.augment),
        original=geometry(args.size)[1],
    )
    return views, build_loss(args, views.kinds)


def build_loss(args: argparse.Namespace, kinds: Mapping[str, str]) -> ViewsLoss:
    """The loss of the recipe's views. ``kinds`` names DiffAug's too if the recipe has none, or if it is prepared."""
    number = list(kinds.values()).count("deepaugment") + ("diffaug" in args.recipe) + 1
    weight = 1 / number if args.mean_loss else 1.0
    return ViewsLoss(clean=weight, diffaug=weight, deepaugment=weight, jsd=args.jsd_weight, kinds=kinds)


def build_classifier(args: argparse.Namespace, classes: list[str]) -> NormalizedClassifier:
    if args.drop_path:
        model = build_with_drop_path(args.model, len(classes), args.pretrained, args.drop_path)
    else:
        model = build_model(args.model, len(classes), args.pretrained, new_head=True)
    if args.init:
        fit_input_size(model, check_start(args.init, classes) or args.size)
        load_weights(model, args.init, new_head=True)
    fit_input_size(model, args.size)
    timm_config = getattr(model, "pretrained_cfg", {})
    mean, std = timm_config.get("mean", IMAGENET_MEAN), timm_config.get("std", IMAGENET_STD)
    return NormalizedClassifier(model, mean, std).to(memory_format=torch.channels_last)


def check_start(init: Path, classes: list[str]) -> int | None:
    """The size of the images of the start, if it is a folder of this script, which says so.

    ValueError if its classifier numbers the classes otherwise.
    """
    config = init / "classifier.json"
    found: dict[str, Any] = json.loads(config.read_text()) if config.is_file() else {}
    known = found.get("classes", classes)
    if known != classes:
        raise ValueError(
            f"init must have the data's classes, {listed(classes)}. Got {listed(known)}. To start with a new last "
            f"layer, pass {init / 'model.safetensors'}"
        )
    return found.get("arguments", {}).get("size")


def make_batch_views(
    views: Views, sample_views: dict[str, Tensor], labels: Tensor, seeds: tuple[int, ...]
) -> dict[str, Tensor]:
    """The views of one step on the device of the labels. Each step and process has its own draws."""
    torch.manual_seed(hash(seeds) % 2**63)
    on_device = {name: view.to(labels.device, non_blocking=True) for name, view in sample_views.items()}
    return views.per_batch(on_device, labels)


def classify_views(classifier: Callable[[Tensor], Tensor], views: dict[str, Tensor]) -> dict[str, Tensor]:
    """Logits by view. All views go through the classifier together, so that batch statistics cover them all."""
    images = torch.cat([F.to_dtype(view, torch.float32, scale=True).as_subclass(Tensor) for view in views.values()])
    logits = classifier(images.contiguous(memory_format=torch.channels_last))
    return dict(zip(views, logits.chunk(len(views))))


@torch.inference_mode()
def accuracy(
    classifier: nn.Module, images: LabelledImages, args: argparse.Namespace, accelerator: Accelerator
) -> float:
    """Accuracy in percent, over the images that can be read. Each process takes its share of them."""
    dataset = EvaluationImages(
        images, geometry(args.size)[1], accelerator.process_index, accelerator.num_processes, skipped_file(args)
    )
    counts = torch.zeros(2, dtype=torch.int64, device=accelerator.device)
    classifier.eval()
    for batch, labels, _ in load_test_batches(dataset, 256, args.workers):
        batch, labels = (part.to(accelerator.device, non_blocking=True) for part in (batch, labels))
        with accelerator.autocast():
            predicted = classifier(batch.float() / 255).argmax(dim=1)
        counts += torch.stack([(predicted == labels).sum(), (labels >= 0).sum()])
    classifier.train()
    right, readable = accelerator.reduce(counts).tolist()
    return 100 * right / readable if readable else float("nan")


def skipped_file(args: argparse.Namespace) -> Path | None:
    return args.output / SKIPPED if args.skip_unreadable else None


def train(args: argparse.Namespace, accelerator: Accelerator) -> tuple[NormalizedClassifier, dict[str, Any]]:
    """The trained classifier, and metadata of the run with its test accuracy, if there are test images."""
    prepared = args.diffaug_data if args.diffaug_data and "diffaug" in args.recipe else []
    sources = [data for data in (args.data, args.extra_data) if data]
    images, copies = load_training_images(sources, prepared, args.limit)
    test = load_test_images(args.data, args.limit, images.classes)
    views, views_loss = build_views(args, copies is not None)
    loss_of, mix = RecipeLoss(views_loss, args.bce, args.label_smoothing), mixing(args, len(images.classes))
    raw = build_classifier(args, images.classes)
    raw.model = synchronise_batch_norm(raw.model, accelerator.num_processes, accelerator.device)
    lookahead = None
    if args.optimizer == "airbench":
        whiten(raw, (geometry(args.size)[1](images[i][0]) for i in images.some(WHITENING_IMAGES)))
        optimizer, schedule = build_airbench_optimizer(args, raw)
        lookahead = Lookahead(raw.model, args.steps)
        accelerator.register_for_checkpointing(lookahead)
    else:
        optimizer, schedule = build_optimizer(args, raw)
    classifier, optimizer = accelerator.prepare(raw, optimizer)
    accelerator.register_for_checkpointing(schedule)
    progress = Progress(accelerator, args, images)
    forward = torch.compile(classifier) if args.compile else classifier

    if copies is not None:
        accelerator.print(f"DiffAug is prepared: its draws repeat after {len(copies[0])} epochs")
    dataset = ViewsDataset(images, views.per_sample, args.seed, copies, geometry(args.size)[1], skipped_file(args))
    batches = load_batches(dataset, args, accelerator, progress.step, args.repeats)
    for sample_views, labels in progress.over(batches):
        labels = labels.to(accelerator.device, non_blocking=True)
        seeds = (args.seed, progress.step, accelerator.process_index)
        batch_views, targets = mix_clean(mix, make_batch_views(views, sample_views, labels, seeds), labels)
        with accelerator.autocast():
            logits = classify_views(forward, batch_views)
        loss = loss_of(logits, labels, targets)
        accelerator.backward(loss)
        optimizer.step()
        schedule.step()
        if lookahead is not None:
            lookahead.step(progress.step)
        optimizer.zero_grad()
        right = (logits["clean"].argmax(dim=1) == (labels if mix is None else targets.argmax(dim=1))).float().mean()
        progress.report(float(schedule.get_last_lr()[0]), loss, accuracy=100 * right)
    metadata = {"classes": images.classes, **progress.metadata(args.batch_size)}
    if test is not None:
        metadata["test_accuracy"] = accuracy(raw, test, args, accelerator)
        accelerator.log({"test_accuracy": metadata["test_accuracy"]}, step=args.steps)
    if args.skip_unreadable:
        metadata["skipped"] = len(read_skipped(args.output / SKIPPED))
    return raw, metadata


def main() -> None:
    args = parse_arguments()
    set_seed(args.seed)
    with stoppable(args.output):
        accelerator = start_accelerator(args.mixed_precision, args.output)
        classifier, metadata = train(args, accelerator)
    if accelerator.is_main_process:
        command = shlex.join(["python", *sys.argv])
        save_classifier(classifier, args.output, args.model, **metadata, command=command, arguments=vars(args))
        print(f"Saved {args.output}: test accuracy {metadata.get('test_accuracy', float('nan')):.2f} %")
        if metadata.get("skipped"):
            print(f"Skipped {counted(metadata['skipped'], 'image')} that could not be read: {args.output / SKIPPED}")
    accelerator.end_training()


if __name__ == "__main__":
    main()
