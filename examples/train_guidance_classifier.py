"""Train a classifier of noisy images that guides sampling, with or without the one-step denoised image as input.

    python examples/train_guidance_classifier.py --output runs/noisy                           # CIFAR-10 from the Hub
    python examples/train_guidance_classifier.py --output runs/noisy                           # again: resumes
    python examples/train_guidance_classifier.py --form denoise-augmented --output runs/a      # from scratch
    python examples/train_guidance_classifier.py --form denoise-augmented --init runs/noisy --output runs/b
    python examples/train_guidance_classifier.py --in-memory --batch-size 512 --lr 1e-3 ...    # CIFAR-10 on a GPU
    accelerate launch examples/train_guidance_classifier.py --data imagenet/ --network imagenet256 --size 256
        --widths 128 128 256 256 512 512 --blocks 2 --attention-resolutions 32 16 8 --head-width 64 --downsample resnet
        --steps 300000 --batch-size 32 --workers 12 --compile --output runs/imagenet           # OpenAI's, on 8 GPUs
    accelerate launch ... --form denoise-augmented --init 256x256_classifier.pt --steps 50000  # from its weights

Every image is diffused to a uniform random timestep in 0...T-1 of the score network, and the loss is the cross-entropy
(classifier_train.py of guided-diffusion: AdamW, rate 3e-4 that falls to zero, weight decay 0.05, batch 256). Both forms
use the noise schedule of the score network. The denoise-augmented form also calls the network once per image, without a
backward pass, so a step takes four times as long at the default size (on one CPU core 16 ms per image instead of 4 ms).

The test accuracy is measured as in the paper: each test image is diffused to one uniform random timestep. The draws
depend only on the image, so all classifiers of both forms see the same noisy images of a network. --test-every adds
the accuracy during the training, as "curve" in guidance_classifier.json.

A GPU trains on small images faster than processes decode them. With --in-memory all images are decoded once, by
--workers, and kept on the device: 0.15 GB for CIFAR-10, and as much again for the noisy test images.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from checkpoints import write_whole
from image_data import LabelledImages, listed, load_test_images
from noisy_images import (
    SMALL,
    Classifier,
    accuracy_on_noise,
    batches_in_memory,
    classify,
    decode_all,
    diffuse_uniformly,
    geometry,
    noisy_batches,
    one_view,
    percent_right,
    training_layout,
)
from option_limits import parse_within_limits
from progress import Progress, start_accelerator, stoppable
from sample_views import SKIPPED, Batches, ViewsDataset, load_batches, load_training_images, read_skipped
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import LambdaLR

from diffaug_transforms import ScoreNetwork, load_score_network
from diffaug_transforms.arguments import counted
from diffaug_transforms.guidance import (
    DenoiseAugmentedClassifier,
    GuidanceEncoder,
    NoisyClassifier,
    load_guidance_classifier,
)
from diffaug_transforms.guidance.classifiers import METADATA
from diffaug_transforms.score import Denoiser, NoiseSchedule

#: In the output folder: the test accuracy over the steps.
CURVE = "curve.json"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="uoft-cs/cifar10", help="image folder, Hub id, folder of Parquet files")
    parser.add_argument("--output", type=Path, required=True, help="folder for checkpoints, logs and the classifier")
    parser.add_argument("--form", choices=["noisy", "denoise-augmented"], default="noisy")
    parser.add_argument("--init", type=Path, help="start from a folder of this script, or from OpenAI's .pt file")
    parser.add_argument("--network", default="cifar10", help="score network: its schedule, and the denoised image")
    parser.add_argument("--size", type=int, default=32, help="side of a new classifier's images in pixels")
    parser.add_argument("--widths", type=int, nargs="+", default=[32, 64, 128, 128], help="of the levels")
    parser.add_argument("--blocks", type=int, default=1, help="residual blocks per level")
    parser.add_argument("--attention-resolutions", type=int, nargs="*", default=[8], help="sides of maps, in pixels")
    parser.add_argument("--head-width", type=int, default=32, help="of an attention head")
    parser.add_argument("--downsample", choices=["conv", "resnet"], default="conv", help="resnet: OpenAI's")
    parser.add_argument("--steps", type=int, default=2000, help="optimiser steps; keep them when a run resumes")
    parser.add_argument("--batch-size", type=int, default=64, help="images per step and process")
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument("--weight-decay", type=float, default=0.05)
    parser.add_argument("--anneal", choices=["linear", "cosine"], default="linear", help="how the rate falls to zero")
    parser.add_argument("--mixed-precision", choices=["no", "bf16", "fp16"], default="bf16")
    parser.add_argument("--compile", action="store_true", help="compile the classifier and the score network")
    parser.add_argument("--workers", type=int, default=0, help="DataLoader workers per process")
    parser.add_argument("--in-memory", action="store_true", help=f"see above; for sizes up to {SMALL} pixels")
    parser.add_argument("--test-every", type=int, help="steps between measurements of the test accuracy")
    parser.add_argument("--checkpoint-every", type=int, default=200, help="steps between checkpoints")
    parser.add_argument("--limit", type=int, help="use only N images of each split, always the same, to try the script")
    parser.add_argument("--skip-unreadable", action="store_true", help="leave out and count images that are damaged")
    parser.add_argument("--seed", type=int, default=0)
    args = parse_within_limits(parser)
    if args.in_memory and args.skip_unreadable:
        parser.error("in-memory and skip-unreadable exclude each other: pass one of them")
    return args


def build_classifier(args: argparse.Namespace, classes: Sequence[str]) -> Classifier:
    """A new classifier of the chosen form, or one from ``--init``. A noisy one can become denoise-augmented."""
    encoder = build_encoder(args, len(classes)) if args.init is None else start_from(args.init, args.form, classes)
    if args.form == "noisy":
        return NoisyClassifier(encoder, classes=classes)
    dtype = torch.float32 if args.mixed_precision == "no" else None
    denoiser = Denoiser(args.network, dtype=dtype, compile=args.compile)
    return DenoiseAugmentedClassifier(encoder, denoiser, classes=classes)


def build_encoder(args: argparse.Namespace, num_classes: int) -> GuidanceEncoder:
    plain = "DownBlock2D" if args.downsample == "conv" else "ResnetDownsampleBlock2D"
    sides = [args.size >> level for level in range(len(args.widths))]
    return GuidanceEncoder(
        sample_size=args.size,
        num_classes=num_classes,
        block_out_channels=args.widths,
        down_block_types=["AttnDownBlock2D" if side in args.attention_resolutions else plain for side in sides],
        layers_per_block=args.blocks,
        attention_head_dim=args.head_width,
        downsample_type=args.downsample,
        denoised_input=args.form == "denoise-augmented",
    )


def start_from(path: Path, form: str, classes: Sequence[str]) -> GuidanceEncoder:
    """The encoder to train on. ValueError if it is for other classes, or for the other form."""
    start = load_guidance_classifier(path)
    encoder = start.encoder.train()
    if encoder.config["num_classes"] != len(classes):
        raise ValueError(f"init must know the data's {len(classes)} classes. Got {encoder.config['num_classes']}")
    if start.classes is not None and list(start.classes) != list(classes):
        raise ValueError(f"init must have the data's classes, {listed(classes)}. Got {listed(start.classes)}")
    if encoder.config["denoised_input"] and form == "noisy":
        raise ValueError(f"init must be a noisy classifier for the noisy form. Got {path}, a denoise-augmented one")
    if form == "noisy" or encoder.config["denoised_input"]:
        return encoder
    return encoder.with_denoised_input()


def learning_rate_factor(share: float, anneal: str) -> float:
    """From 1 to 0 as ``share`` goes from 0 to 1: linearly (guided-diffusion's anneal_lr), or along half a cosine."""
    return 1 - share if anneal == "linear" else (1 + math.cos(math.pi * share)) / 2


def network_of(classifier: Classifier, name: str) -> ScoreNetwork:
    return classifier.network if isinstance(classifier, DenoiseAugmentedClassifier) else load_score_network(name)


def train(args: argparse.Namespace, accelerator: Accelerator) -> tuple[Classifier, dict[str, Any]]:
    """The trained classifier, and metadata of the run with its test accuracies, if there are test images."""
    images, _ = load_training_images([args.data], [], args.limit)
    test = load_test_images(args.data, args.limit, images.classes)
    classifier = build_classifier(args, images.classes)
    schedule = network_of(classifier, args.network).schedule.to(accelerator.device)
    raw = classifier.encoder.to(memory_format=training_layout(accelerator.device))
    optimizer = torch.optim.AdamW(raw.parameters(), lr=args.lr, weight_decay=args.weight_decay)
    rate = LambdaLR(optimizer, lambda step: learning_rate_factor(step / args.steps, args.anneal))
    encoder, optimizer = accelerator.prepare(raw, optimizer)
    accelerator.register_for_checkpointing(rate)
    progress = Progress(accelerator, args, images, may_change=["test_every"])
    forward = torch.compile(encoder) if args.compile else encoder
    measure = test_accuracy(classifier, test, schedule, args, accelerator)
    curve = read_curve(args.output / CURVE, progress.step)
    for views, labels in progress.over(load_training_batches(images, raw, args, accelerator, progress.step)):
        labels, pixels = (part.to(accelerator.device, non_blocking=True) for part in (labels, views["image"]))
        seeds = (args.seed, progress.step, accelerator.process_index)
        x_t, timesteps = diffuse_uniformly(pixels / 255, schedule, seeds)
        logits = classify(classifier, forward, x_t, timesteps, accelerator)
        loss = cross_entropy(logits, labels)
        accelerator.backward(loss)
        optimizer.step()
        rate.step()
        optimizer.zero_grad()
        found = percent_right(logits.argmax(dim=1) == labels, timesteps, schedule.num_timesteps)
        progress.report(float(rate.get_last_lr()[0]), loss, **found)
        if args.test_every and progress.step % args.test_every == 0 and progress.step < args.steps:
            curve.append({"step": progress.step, **measure(progress.step)})
            if accelerator.is_main_process:
                write_whole(args.output / CURVE, json.dumps(curve))
    metadata = progress.metadata(args.batch_size)
    metadata |= (of_test := measure(args.steps))
    if args.test_every:
        metadata["curve"] = [*curve, {"step": args.steps, **of_test}]
    skipped = skipped_file(args)
    return classifier, metadata | ({"skipped": len(read_skipped(skipped))} if skipped else {})


def load_training_batches(
    images: LabelledImages, encoder: GuidanceEncoder, args: argparse.Namespace, accelerator: Accelerator, start: int
) -> Iterable[tuple[dict[str, Tensor], Tensor]]:
    """This process's part of every batch from step ``start`` on. ValueError for large images in memory."""
    size = encoder.config["sample_size"]
    if not args.in_memory:
        dataset = ViewsDataset(images, partial(one_view, geometry(size)[0]), args.seed, skipped=skipped_file(args))
        return load_batches(dataset, args, accelerator, start)
    if size > SMALL:
        raise ValueError(f"in-memory is for images of up to {SMALL} pixels. Got a classifier for {size}")
    rank, world = accelerator.process_index, accelerator.num_processes
    batches = Batches(len(images), args.batch_size, args.steps, args.seed, rank, world, start)
    return batches_in_memory(
        decode_all(images, size, args.workers).to(accelerator.device), images.labels, batches, args.seed
    )


def test_accuracy(
    classifier: Classifier,
    test: LabelledImages | None,
    schedule: NoiseSchedule,
    args: argparse.Namespace,
    accelerator: Accelerator,
) -> Callable[[int], dict[str, float]]:
    """What measures and logs the test accuracies after a step. Without test images it gives none."""
    if test is None:
        return lambda step: {}
    size = classifier.encoder.config["sample_size"]
    noisy = partial(noisy_batches, test, size, schedule, accelerator, args.workers, skipped_file(args))
    kept = list(noisy()) if args.in_memory else None

    def measure(step: int) -> dict[str, float]:
        found = accuracy_on_noise(classifier, test, schedule, accelerator, noisy() if kept is None else kept)
        accelerator.log(found, step=step)
        return found

    return measure


def read_curve(path: Path, step: int) -> list[dict[str, float]]:
    """The accuracies that this run has measured up to its checkpoint's step."""
    curve: list[dict[str, float]] = json.loads(path.read_text()) if path.exists() else []
    return [point for point in curve if point["step"] <= step]


def skipped_file(args: argparse.Namespace) -> Path | None:
    return args.output / SKIPPED if args.skip_unreadable else None


def save(classifier: Classifier, folder: Path, **metadata: Any) -> None:
    """Write a folder for ``load_guidance_classifier``, with more metadata in its JSON file."""
    classifier.save_pretrained(folder)
    saved = json.loads((folder / METADATA).read_text())
    write_whole(folder / METADATA, json.dumps(saved | metadata, indent=1, default=str) + "\n")


def main() -> None:
    args = parse_arguments()
    set_seed(args.seed)
    with stoppable(args.output):
        accelerator = start_accelerator(args.mixed_precision, args.output)
        classifier, metadata = train(args, accelerator)
    if accelerator.is_main_process:
        save(classifier, args.output, **metadata, arguments=vars(args))
        print(f"Saved {args.output}: test accuracy {metadata.get('test_accuracy', float('nan')):.2f} %")
        if metadata.get("skipped"):
            print(f"Skipped {counted(metadata['skipped'], 'image')} that could not be read: {args.output / SKIPPED}")
    accelerator.end_training()


if __name__ == "__main__":
    main()
