"""Train a score network: the embedded `cifar10` one, or one for your images of any size.

    python examples/train_score_network.py --output runs/cifar10            # CIFAR-10 from the Hub
    python examples/train_score_network.py --output runs/cifar10            # again: resumes where it was stopped
    python examples/train_score_network.py --data photos/ --size 64 --output runs/photos
    accelerate launch examples/train_score_network.py --output runs/cifar10 --batch-size 128   # several GPUs
    python examples/train_score_network.py --patch-size 2 --blocks 1 --widths 48 80 128 --no-attention  # an eighth of
        --batch-size 128 --lr 1e-3 --steps 11000 --output runs/small                           # the cost: cifar10-small
    python examples/train_score_network.py --any-size --data photos/ --size 64 --patch-size 2  # photos of any size
        --widths 64 128 192 --blocks 1 --batch-size 16 --lr 4e-4 --steps 60000 --output runs/photos

The network is class-conditional with a null class if the images have labels, that is, if they lie in a folder for each
class or have a column of labels. Else it is unconditional.

The objective is DDPM's simple loss (Ho et al. 2020, eq. 14): the mean squared error of the predicted noise, with t
uniform over 0...T-1. Every step draws from generators seeded by (seed, step, process), so a run that was killed and
resumed sees the same images, noise and timesteps as a run that was not.

With ``--teacher NAME`` the network learns the teacher's prediction for the same noisy image, not the noise that was
drawn. That error has less variance, but each step also pays for the teacher's call.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial, reduce
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from diffusers import DDPMScheduler, UNet2DModel
from diffusers.training_utils import EMAModel
from image_data import LabelledImages, load_source
from noisy_images import geometry, one_view, training_layout
from option_limits import parse_within_limits
from photo_crops import (
    TIMESTEPS,
    RandomScaleCrop,
    draw_photo_timesteps,
    draw_uniform_timesteps,
    photo_loss_weights,
    repeat_by_shares,
)
from progress import Progress, start_accelerator, stoppable
from sample_views import SKIPPED, ViewsDataset, load_batches, read_skipped
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from torchvision.transforms import v2

from diffaug_transforms import ScoreNetwork, load_score_network
from diffaug_transforms.arguments import counted
from diffaug_transforms.score import NoiseSchedule
from diffaug_transforms.score.preparing import prepare
from diffaug_transforms.score.unet import PackedUNet2DModel

#: The largest side of a feature map that has attention, in pixels.
ATTENTION_SIDE = 8


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", nargs="+", default=["uoft-cs/cifar10"], help="image folders, Hub ids, folders of Parquet files"
    )
    parser.add_argument("--shares", type=float, nargs="+", help="of several data sets in an epoch; default: by length")
    parser.add_argument("--output", type=Path, required=True, help="folder for checkpoints and the finished network")
    parser.add_argument("--unconditional", action="store_true", help="do not use the labels")
    parser.add_argument("--size", type=int, default=32, help="side of the network's images in pixels")
    parser.add_argument(
        "--any-size", action="store_true", help="for photos: random scales; no attention, size or labels"
    )
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 96, 128, 96], help="of the levels")
    parser.add_argument("--blocks", type=int, default=2, help="residual blocks a level")
    parser.add_argument("--patch-size", type=int, default=1, help="side of the blocks of pixels that the U-Net sees")
    parser.add_argument("--no-attention", action="store_true", help="convolutions only")
    parser.add_argument("--teacher", help="a network whose prediction is learned; as DiffAug's network")
    parser.add_argument("--steps", type=int, default=7000, help="optimiser steps; may change when a run resumes")
    parser.add_argument("--batch-size", type=int, default=32, help="images per step and process")
    parser.add_argument("--lr", type=float, default=6e-4, help="AdamW's highest learning rate")
    parser.add_argument("--label-dropout", type=float, default=0.3, help="share of labels replaced by the null class")
    parser.add_argument("--ema-decay", type=float, default=0.999)
    parser.add_argument("--checkpoint-every", type=int, default=250, help="steps between checkpoints")
    parser.add_argument("--mixed-precision", choices=["no", "bf16", "fp16"], default="bf16")
    parser.add_argument("--compile", action="store_true", help="compile the U-Net (pays off after a few minutes)")
    parser.add_argument("--workers", type=int, default=0, help="DataLoader workers per process")
    parser.add_argument("--limit", type=int, help="use only N images, always the same, to try the script")
    parser.add_argument("--skip-unreadable", action="store_true", help="leave out and count images that are damaged")
    parser.add_argument("--seed", type=int, default=0)
    return parse_within_limits(parser)


def build_unet(
    size: int | None,
    widths: list[int],
    num_classes: int,
    *,
    blocks: int = 2,
    patch_size: int = 1,
    attention: bool = True,
) -> UNet2DModel:
    """At the defaults 7.4 M parameters, 2.3 GFLOP per image of 32x32: small enough to train on two CPU cores.

    Args:
        size: side of the images in pixels. None: any size, which needs ``attention=False``.
        widths: channels of each level, multiples of 16. Each level halves the side.
        num_classes: 0 for an unconditional network.
        blocks: residual blocks of each level.
        patch_size: above 1, a ``PackedUNet2DModel``, whose positions are blocks of pixels.
        attention: in the middle, and at levels of at most ``ATTENTION_SIDE`` positions a side.
    """
    stride = patch_size * 2 ** (len(widths) - 1)
    if size is not None and (size < 1 or size % stride):
        raise ValueError(f"size must be a multiple of {stride}, with {len(widths)} widths. Got {size}")
    if any(width < 16 or width % 16 for width in widths):
        raise ValueError(f"widths must be multiples of 16. Got {widths}")
    sides = [(size or 0) // patch_size >> level for level in range(len(widths))]
    attended = [attention and side <= ATTENTION_SIDE for side in sides]
    config: dict[str, Any] = {
        "sample_size": size,
        "block_out_channels": tuple(widths),
        "layers_per_block": blocks,
        "down_block_types": tuple("AttnDownBlock2D" if attends else "DownBlock2D" for attends in attended),
        "up_block_types": tuple("AttnUpBlock2D" if attends else "UpBlock2D" for attends in reversed(attended)),
        "add_attention": attention,
        "attention_head_dim": 32,
        "norm_num_groups": 16 if any(width % 32 for width in widths) else 32,
        "resnet_time_scale_shift": "scale_shift",
        "num_class_embeds": num_classes + 1 if num_classes else None,  # the last one is the null class
    }
    return UNet2DModel(**config) if patch_size == 1 else PackedUNet2DModel(patch_size=patch_size, **config)


def load_images(args: argparse.Namespace) -> LabelledImages:
    """The training images of all sources. Without ``classes`` they have no labels."""
    sources = [load_source(data, "unused" if args.unconditional or args.any_size else "optional") for data in args.data]
    if args.limit:
        sources = [images.at(images.some(args.limit)) for images in sources]
    if args.shares:
        repeats = repeat_by_shares([len(images) for images in sources], args.shares)
        sources = [images.at([*range(len(images))] * number) for images, number in zip(sources, repeats)]
    return reduce(LabelledImages.join, sources)


def learning_rate_factor(step: int, steps: int, warmup: int = 300, decay: float = 0.5) -> float:
    """Linear warm-up over at most a tenth of the steps, then constant, then linear to zero over the last half."""
    return min(1.0, (step + 1) / min(warmup, max(1, steps // 10)), max(0.0, (steps - step) / (decay * steps)))


def draw_noise(
    pixels: Tensor,
    labels: Tensor,
    num_classes: int,
    label_dropout: float,
    seeds: tuple[int, ...],
    draw_timesteps: Callable[[int, torch.Generator], Tensor],
) -> dict[str, Tensor | None]:
    """One step's images in [-1, 1], noise, timesteps, and randomly dropped labels.

    Args:
        pixels: uint8 (B, 3, H, W).
        labels: int64 (B,); not used if ``num_classes`` is 0.
        seeds: fix all draws, on the images' device.
        draw_timesteps: as ``draw_uniform_timesteps``.
    """
    generator = torch.Generator(pixels.device).manual_seed(hash(seeds) % 2**63)
    options: dict[str, Any] = {"generator": generator, "device": pixels.device}
    dropped = torch.rand(len(pixels), **options) < label_dropout
    return {
        "timesteps": draw_timesteps(len(pixels), generator),
        "x_0": pixels / 127.5 - 1,
        "noise": torch.randn(pixels.shape, **options),
        "labels": torch.where(dropped, num_classes, labels) if num_classes else None,
    }


def load_teacher(name: str, size: int, device: torch.device) -> ScoreNetwork:
    """The network to learn from. ValueError if it has another schedule or knows images of another size."""
    teacher = load_score_network(name)
    if teacher.schedule != NoiseSchedule.named("linear", TIMESTEPS):
        raise ValueError(f"teacher must have the linear schedule of {TIMESTEPS} steps. Got {name}: {teacher.schedule}")
    if teacher.image_size not in (None, size):
        raise ValueError(f"size must be the teacher's, {teacher.image_size}. Got {size}")
    return prepare(teacher, device, None, differentiable=False, checkpointing=False)


@torch.no_grad()
def teachers_noise(
    teacher: ScoreNetwork, x_t: Tensor, timesteps: Tensor, labels: Tensor | None, num_classes: int
) -> Tensor:
    """The noise that the teacher predicts, with the labels that are not dropped if it knows as many classes."""
    if labels is None or teacher.num_classes != num_classes:
        return teacher.eps(x_t, timesteps)
    dropped = labels == num_classes
    eps = torch.empty_like(x_t)
    eps[dropped] = teacher.eps(x_t[dropped], timesteps[dropped])
    eps[~dropped] = teacher.eps(x_t[~dropped], timesteps[~dropped], labels[~dropped])
    return eps


def objective(args: argparse.Namespace) -> tuple[v2.Transform, Callable[[int, torch.Generator], Tensor], Tensor]:
    """The view of an image that is learned, the draw of timesteps, and the weight of each timestep's error (T,)."""
    if args.any_size:
        weights = photo_loss_weights(NoiseSchedule.named("linear", TIMESTEPS))
        return RandomScaleCrop(args.size), draw_photo_timesteps, weights
    return geometry(args.size)[0], draw_uniform_timesteps, torch.ones(TIMESTEPS)


def train(args: argparse.Namespace, accelerator: Accelerator) -> ScoreNetwork:
    """The trained network, with the running mean of its weights."""
    images = load_images(args)
    num_classes = len(images.classes)
    scheduler = DDPMScheduler(TIMESTEPS, beta_schedule="linear")
    layout = training_layout(accelerator.device)
    attention = not (args.no_attention or args.any_size)
    options: dict[str, Any] = {"blocks": args.blocks, "patch_size": args.patch_size, "attention": attention}
    raw_unet = build_unet(None if args.any_size else args.size, args.widths, num_classes, **options)
    raw_unet = raw_unet.to(memory_format=layout)
    optimizer = torch.optim.AdamW(raw_unet.parameters(), lr=args.lr, weight_decay=1e-4)
    unet, optimizer = accelerator.prepare(raw_unet, optimizer)
    ema = EMAModel(raw_unet.parameters(), decay=args.ema_decay, use_ema_warmup=True, power=0.75)
    ema.to(accelerator.device)
    rate = LambdaLR(optimizer, lambda step: learning_rate_factor(step, args.steps))
    accelerator.register_for_checkpointing(ema, rate)
    teacher = load_teacher(args.teacher, args.size, accelerator.device) if args.teacher else None
    progress = Progress(accelerator, args, images, may_change=("steps",))
    forward = torch.compile(unet) if args.compile else unet

    skipped = args.output / SKIPPED if args.skip_unreadable else None
    view, draw_timesteps, weights = objective(args)
    weights = weights.to(accelerator.device)
    dataset = ViewsDataset(images, partial(one_view, view), args.seed, skipped=skipped)
    for views, labels in progress.over(load_batches(dataset, args, accelerator, progress.step)):
        labels, pixels = (part.to(accelerator.device, non_blocking=True) for part in (labels, views["image"]))
        seeds = (args.seed, progress.step, accelerator.process_index)
        batch: dict[str, Any] = draw_noise(pixels, labels, num_classes, args.label_dropout, seeds, draw_timesteps)
        timesteps, target = batch["timesteps"], batch["noise"]
        x_t = scheduler.add_noise(batch["x_0"], batch["noise"], timesteps)
        if teacher is not None:
            target = teachers_noise(teacher, x_t, timesteps, batch["labels"], num_classes)
        eps = forward(x_t.contiguous(memory_format=layout), timesteps, batch["labels"]).sample
        loss = (weights[timesteps] * (eps.float() - target).square().mean((1, 2, 3))).mean()
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(raw_unet.parameters(), 1.0)
        optimizer.step()
        rate.step()
        optimizer.zero_grad()
        ema.step(raw_unet.parameters())
        progress.report(float(rate.get_last_lr()[0]), loss)
    if skipped is not None:
        accelerator.print(f"Skipped {counted(len(read_skipped(skipped)), 'image')} that could not be read: {skipped}")
    ema.copy_to(raw_unet.parameters())
    return ScoreNetwork.from_diffusers(raw_unet, scheduler, null_class=num_classes or None)


def main() -> None:
    args = parse_arguments()
    set_seed(args.seed)
    with stoppable(args.output):
        accelerator = start_accelerator(args.mixed_precision, args.output)
        network = train(args, accelerator)
    if accelerator.is_main_process:
        network.to(torch.float16).save_pretrained(args.output / "network")
        print(f"Saved {args.output / 'network'}")
    accelerator.end_training()


if __name__ == "__main__":
    main()
