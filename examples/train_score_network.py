"""Train a score network: the embedded `cifar10` one, or one for your images of any size.

    python examples/train_score_network.py --output runs/cifar10            # CIFAR-10 from the Hub
    python examples/train_score_network.py --output runs/cifar10            # again: resumes where it was stopped
    python examples/train_score_network.py --data photos/ --size 64 --output runs/photos
    accelerate launch examples/train_score_network.py --output runs/cifar10 --batch-size 128   # several GPUs

The network is class-conditional with a null class if the images have labels, that is, if they lie in a folder for each
class or have a column of labels. Else it is unconditional.

The objective is DDPM's simple loss (Ho et al. 2020, eq. 14): the mean squared error of the predicted noise, with t
uniform over 0...T-1. Every step draws from generators seeded by (seed, step, process), so a run that was killed and
resumed sees the same images, noise and timesteps as a run that was not.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from diffusers import DDPMScheduler, UNet2DModel
from diffusers.training_utils import EMAModel
from image_data import LabelledImages, load_source
from noisy_images import geometry, one_view
from progress import Progress, start_accelerator
from sample_views import SKIPPED, ViewsDataset, load_batches, read_skipped
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from diffaug_transforms import ScoreNetwork

#: The largest side of a feature map that has attention, in pixels.
ATTENTION_SIDE = 8
TIMESTEPS = 1000


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="uoft-cs/cifar10", help="image folder, Hub id, folder of Parquet files")
    parser.add_argument("--output", type=Path, required=True, help="folder for checkpoints and the finished network")
    parser.add_argument("--unconditional", action="store_true", help="do not use the labels")
    parser.add_argument("--size", type=int, default=32, help="side of the network's images in pixels")
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 96, 128, 96], help="of the levels")
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
    return parser.parse_args()


def build_unet(size: int, widths: list[int], num_classes: int) -> UNet2DModel:
    """At the defaults 7.4 M parameters, 2.3 GFLOP per image of 32x32: small enough to train on two CPU cores.

    Args:
        size: side of the images in pixels.
        widths: channels of each level, multiples of 32. Each level halves the side.
        num_classes: 0 for an unconditional network.
    """
    stride = 2 ** (len(widths) - 1)
    if size < 1 or size % stride:
        raise ValueError(f"size must be a multiple of {stride}, with {len(widths)} widths. Got {size}")
    if any(width < 32 or width % 32 for width in widths):
        raise ValueError(f"widths must be multiples of 32. Got {widths}")
    attended = [size >> level <= ATTENTION_SIDE for level in range(len(widths))]
    return UNet2DModel(
        sample_size=size,
        block_out_channels=tuple(widths),
        layers_per_block=2,
        down_block_types=tuple("AttnDownBlock2D" if attends else "DownBlock2D" for attends in attended),
        up_block_types=tuple("AttnUpBlock2D" if attends else "UpBlock2D" for attends in reversed(attended)),
        attention_head_dim=32,
        resnet_time_scale_shift="scale_shift",
        num_class_embeds=num_classes + 1 if num_classes else None,  # the last one is the null class
    )


def load_images(args: argparse.Namespace) -> LabelledImages:
    """The training images. Without ``classes`` they have no labels."""
    images = load_source(args.data, "unused" if args.unconditional else "optional")
    return images.at(images.some(args.limit)) if args.limit else images


def learning_rate_factor(step: int, steps: int, warmup: int = 300, decay: float = 0.5) -> float:
    """Linear warm-up over at most a tenth of the steps, then constant, then linear to zero over the last half."""
    return min(1.0, (step + 1) / min(warmup, max(1, steps // 10)), max(0.0, (steps - step) / (decay * steps)))


def draw_noise(
    pixels: Tensor, labels: Tensor, num_classes: int, label_dropout: float, seeds: tuple[int, ...]
) -> dict[str, Tensor | None]:
    """One step's images in [-1, 1], noise, stratified timesteps (each uniform in 0...T-1), and randomly dropped labels.

    Args:
        pixels: uint8 (B, 3, H, W).
        labels: int64 (B,); not used if ``num_classes`` is 0.
        seeds: fix all draws, on the images' device.
    """
    generator = torch.Generator(pixels.device).manual_seed(hash(seeds) % 2**63)
    options: dict[str, Any] = {"generator": generator, "device": pixels.device}
    number = len(pixels)
    dropped = torch.rand(number, **options) < label_dropout
    # One timestep per stratum: the loss depends strongly on t, so this makes its gradient much less noisy.
    strata = torch.arange(number, device=pixels.device) + torch.rand(number, **options)
    return {
        "x_0": pixels / 127.5 - 1,
        "noise": torch.randn(pixels.shape, **options),
        "timesteps": (strata / number * TIMESTEPS).long().clamp(max=TIMESTEPS - 1),
        "labels": torch.where(dropped, num_classes, labels) if num_classes else None,
    }


def noise_prediction_loss(unet: Callable[..., Any], scheduler: DDPMScheduler, batch: dict[str, Any]) -> Tensor:
    x_t = scheduler.add_noise(batch["x_0"], batch["noise"], batch["timesteps"])
    eps = unet(x_t.contiguous(memory_format=torch.channels_last), batch["timesteps"], batch["labels"]).sample
    return (eps.float() - batch["noise"]).square().mean()


def train(args: argparse.Namespace, accelerator: Accelerator) -> ScoreNetwork:
    """The trained network, with the running mean of its weights."""
    images = load_images(args)
    num_classes = len(images.classes)
    scheduler = DDPMScheduler(TIMESTEPS, beta_schedule="linear")
    raw_unet = build_unet(args.size, args.widths, num_classes).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(raw_unet.parameters(), lr=args.lr, weight_decay=1e-4)
    unet, optimizer = accelerator.prepare(raw_unet, optimizer)
    ema = EMAModel(raw_unet.parameters(), decay=args.ema_decay, use_ema_warmup=True, power=0.75)
    ema.to(accelerator.device)
    rate = LambdaLR(optimizer, lambda step: learning_rate_factor(step, args.steps))
    accelerator.register_for_checkpointing(ema, rate)
    progress = Progress(accelerator, args, images, may_change=("steps",))
    forward = torch.compile(unet) if args.compile else unet

    skipped = args.output / SKIPPED if args.skip_unreadable else None
    dataset = ViewsDataset(images, partial(one_view, geometry(args.size)[0]), args.seed, skipped=skipped)
    for views, labels in progress.over(load_batches(dataset, args, accelerator, progress.step)):
        labels, pixels = (part.to(accelerator.device, non_blocking=True) for part in (labels, views["image"]))
        seeds = (args.seed, progress.step, accelerator.process_index)
        batch = draw_noise(pixels, labels, num_classes, args.label_dropout, seeds)
        loss = noise_prediction_loss(forward, scheduler, batch)
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(raw_unet.parameters(), 1.0)
        optimizer.step()
        rate.step()
        optimizer.zero_grad()
        ema.step(raw_unet.parameters())
        progress.report(float(rate.get_last_lr()[0]), loss)
    if skipped is not None:
        accelerator.print(f"{len(read_skipped(skipped))} images could not be read and were skipped: {skipped}")
    ema.copy_to(raw_unet.parameters())
    return ScoreNetwork.from_diffusers(raw_unet, scheduler, null_class=num_classes or None)


def main() -> None:
    args = parse_arguments()
    set_seed(args.seed)
    accelerator = start_accelerator(args.mixed_precision, args.output)
    network = train(args, accelerator)
    if accelerator.is_main_process:
        network.to(torch.float16).save_pretrained(args.output / "network")
        print(f"Saved {args.output / 'network'}")
    accelerator.end_training()


if __name__ == "__main__":
    main()
