"""Train the embedded `cifar10` score network, a small class-conditional U-Net with a null class.

    python examples/train_score_network.py --output runs/cifar10            # CIFAR-10 from the Hub
    python examples/train_score_network.py --output runs/cifar10            # again: resumes where it was stopped
    accelerate launch examples/train_score_network.py --output runs/cifar10 --batch-size 128   # several GPUs

The objective is DDPM's simple loss (Ho et al. 2020, eq. 14): the mean squared error of the predicted noise, with t
uniform over 0...T-1. Every step draws from a generator seeded by (seed, step, process), so a run that was killed and
resumed sees the same images, noise and timesteps as a run that was not.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from checkpoints import resume, save_checkpoint
from datasets import load_dataset
from diffusers import DDPMScheduler, UNet2DModel
from diffusers.training_utils import EMAModel
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from tqdm.auto import tqdm

from diffaug_transforms import ScoreNetwork

NUM_CLASSES = 10


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="uoft-cs/cifar10", help="Hub id or local folder of CIFAR-10 (img, label)")
    parser.add_argument("--output", type=Path, required=True, help="folder for checkpoints and the finished network")
    parser.add_argument("--steps", type=int, default=7000, help="optimiser steps; may change when a run resumes")
    parser.add_argument("--batch-size", type=int, default=32, help="images per step and process")
    parser.add_argument("--lr", type=float, default=6e-4, help="AdamW's highest learning rate")
    parser.add_argument("--label-dropout", type=float, default=0.3, help="share of labels replaced by the null class")
    parser.add_argument("--ema-decay", type=float, default=0.999)
    parser.add_argument("--checkpoint-every", type=int, default=250, help="steps between checkpoints")
    parser.add_argument("--mixed-precision", choices=["no", "bf16", "fp16"], default="bf16")
    parser.add_argument("--compile", action="store_true", help="compile the U-Net (pays off after a few minutes)")
    parser.add_argument("--limit", type=int, help="use only the first N training images, to try the script")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def build_unet() -> UNet2DModel:
    """7.4 M parameters, 2.3 GFLOP per image of 32x32: small enough for a wheel and for training on two CPU cores."""
    return UNet2DModel(
        sample_size=32,
        block_out_channels=(64, 96, 128, 96),
        layers_per_block=2,
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        attention_head_dim=32,
        resnet_time_scale_shift="scale_shift",
        num_class_embeds=NUM_CLASSES + 1,  # the last one is the null class
    )


def load_images(data: str, limit: int | None) -> tuple[Tensor, Tensor]:
    """All training images as uint8 (N, 3, 32, 32), and their labels. They are few enough to stay in memory."""
    rows = load_dataset(data, split="train" if limit is None else f"train[:{limit}]")
    images = np.stack([np.asarray(image.convert("RGB")) for image in rows["img"]])
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), torch.tensor(rows["label"])


def learning_rate_factor(step: int, steps: int, warmup: int = 300, decay: float = 0.5) -> float:
    """Linear warm-up over at most a tenth of the steps, then constant, then linear to zero over the last half."""
    return min(1.0, (step + 1) / min(warmup, max(1, steps // 10)), max(0.0, (steps - step) / (decay * steps)))


def draw_batch(images: Tensor, labels: Tensor, args: argparse.Namespace, step: int, rank: int) -> dict[str, Tensor]:
    """Random images and flips, randomly dropped labels, noise, and stratified timesteps (each uniform in 0...T-1)."""
    generator = torch.Generator().manual_seed(hash((args.seed, step, rank)) % 2**63)
    size = args.batch_size
    index = torch.randint(len(images), (size,), generator=generator)
    x_0 = images[index].float() / 127.5 - 1
    flip = torch.rand(size, generator=generator) < 0.5
    x_0[flip] = x_0[flip].flip(-1)
    y = labels[index].clone()
    y[torch.rand(size, generator=generator) < args.label_dropout] = NUM_CLASSES
    # One timestep per stratum: the loss depends strongly on t, so this makes its gradient much less noisy.
    timesteps = ((torch.arange(size) + torch.rand(size, generator=generator)) / size * 1000).long()
    return {"x_0": x_0, "labels": y, "noise": torch.randn(x_0.shape, generator=generator), "timesteps": timesteps}


def noise_prediction_loss(unet: Callable[..., Any], scheduler: DDPMScheduler, batch: dict[str, Tensor]) -> Tensor:
    x_t = scheduler.add_noise(batch["x_0"], batch["noise"], batch["timesteps"])
    eps = unet(x_t.contiguous(memory_format=torch.channels_last), batch["timesteps"], batch["labels"]).sample
    return (eps.float() - batch["noise"]).square().mean()


def main() -> None:
    args = parse_arguments()
    set_seed(args.seed)
    on_cpu = not torch.accelerator.is_available()  # torchrun's processes on CPUs find each other only if told
    accelerator = Accelerator(cpu=on_cpu, mixed_precision=args.mixed_precision)
    args.output.mkdir(parents=True, exist_ok=True)
    images, labels = load_images(args.data, args.limit)
    scheduler = DDPMScheduler(1000, beta_schedule="linear")
    raw_unet = build_unet().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(raw_unet.parameters(), lr=args.lr, weight_decay=1e-4)
    unet, optimizer = accelerator.prepare(raw_unet, optimizer)
    ema = EMAModel(raw_unet.parameters(), decay=args.ema_decay, use_ema_warmup=True, power=0.75)
    ema.to(accelerator.device)
    lr_schedule = LambdaLR(optimizer, lambda step: learning_rate_factor(step, args.steps))
    accelerator.register_for_checkpointing(ema, lr_schedule)
    start = resume(accelerator, args.output).get("step", 0)
    forward = torch.compile(unet) if args.compile else unet

    smoothed = None
    bar = tqdm(range(start, args.steps), initial=start, total=args.steps, disable=not accelerator.is_main_process)
    for step in bar:
        batch = draw_batch(images, labels, args, step, accelerator.process_index)
        loss = noise_prediction_loss(forward, scheduler, {k: v.to(accelerator.device) for k, v in batch.items()})
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(raw_unet.parameters(), 1.0)
        optimizer.step()
        lr_schedule.step()
        optimizer.zero_grad()
        ema.step(raw_unet.parameters())
        smoothed = loss.item() if smoothed is None else 0.99 * smoothed + 0.01 * loss.item()
        bar.set_postfix(loss=f"{smoothed:.4f}", lr=f"{lr_schedule.get_last_lr()[0]:.1e}")
        if (step + 1) % args.checkpoint_every == 0:
            save_checkpoint(accelerator, args.output, step=step + 1)

    ema.copy_to(raw_unet.parameters())
    if accelerator.is_main_process:
        network = ScoreNetwork.from_diffusers(raw_unet, scheduler, null_class=NUM_CLASSES)
        network.to(torch.float16).save_pretrained(args.output / "network")
        print(f"Saved {args.output / 'network'}")


if __name__ == "__main__":
    main()
