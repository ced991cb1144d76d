"""What train_cifar10.py trains and tests on: CIFAR-10 as folders, synthetic images, corrupted test images."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
from datasets import load_dataset
from torch import Tensor
from torchvision.transforms.v2 import functional as F
from tqdm.auto import tqdm

from diffaug_transforms import DiffAugEnsemble, ScoreNetwork, load_score_network
from diffaug_transforms.robustness import CORRUPTIONS, corrupt
from diffaug_transforms.score.sampling import sample
from diffaug_transforms.transforms.lazy import fast_dtype

SETS = ("clean", *CORRUPTIONS)


def export_images(data: str, folder: Path) -> None:
    """CIFAR-10 as folder/train/class/00000.png and folder/test/class/00000.png."""
    for split in ("train", "test"):
        rows = load_dataset(data, split=split)
        names = rows.features["label"].names
        for i, row in enumerate(tqdm(rows, desc=f"export {split}")):
            path = folder / split / names[row["label"]] / f"{i:05d}.png"
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                row["img"].convert("RGB").save(path)


def augment_images(source: Path, target: Path, copies: int) -> None:
    """`diffaug augment`; resumes where it was stopped."""
    command = [sys.executable, "-m", "diffaug_transforms.cli", "augment", str(source), str(target)]
    subprocess.run([*command, "--copies", str(copies)], check=True)


@torch.inference_mode()
def synthesize(network: ScoreNetwork, labels: Tensor, steps: int, generator: torch.Generator) -> Tensor:
    """Class-conditional samples, uint8 (B, 3, H, W): deterministic DDIM (Song et al. 2021), evenly spaced steps."""
    size = (len(labels), network.in_channels, network.image_size, network.image_size)
    x_t = torch.randn(size, generator=generator).to(network.device)
    stride = network.num_timesteps // steps
    timesteps = range(stride - 1, network.num_timesteps, stride)
    x_0 = sample(network, x_t, timesteps, method="ddim", labels=labels.to(network.device))
    return ((x_0.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu()


def write_synthetic(folder: Path, classes: Sequence[str], per_class: int, steps: int) -> None:
    """folder/train/class/00000.png, in batches of ten of each class; a stopped run resumes at a batch."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = load_score_network("cifar10").to(device, fast_dtype(device)).to(memory_format=torch.channels_last)
    labels = torch.arange(len(classes)).repeat(10)
    for batch in tqdm(range(-(-per_class // 10)), desc="synthesize"):
        names = [f"{classes[k]}/{10 * batch + i // len(classes):05d}.png" for i, k in enumerate(labels)]
        paths = [folder / "train" / name for name in names]
        if not all(path.exists() for path in paths):
            samples = synthesize(network, labels, steps, torch.Generator().manual_seed(batch))
            for sample, path in zip(samples, paths):
                path.parent.mkdir(parents=True, exist_ok=True)
                F.to_pil_image(sample).save(path)


@cache
def load_test_images(data: str, number: int) -> tuple[Tensor, Tensor]:
    """The first test images, uint8 (N, 3, 32, 32), and their labels; rows are balanced over classes."""
    rows = load_dataset(data, split=f"test[:{number}]")
    images = torch.stack([F.pil_to_tensor(image.convert("RGB")) for image in rows["img"]])
    return images, torch.tensor(rows["label"])


@cache
@torch.inference_mode()
def ensemble_views(name: str, data: str, number: int, folder: Path) -> Tensor:
    """DiffAugEnsemble's views (|S|, N, 3, 32, 32) in [0, 1] of the first test images, clean or corrupted at severity 5.

    The first view is the image itself (t = 0). Every classifier is judged on the same views, so they are kept.
    """
    path = folder / f"{name}-{number}.pt"
    if not path.exists():
        images, _ = load_test_images(data, number)
        if name != "clean":
            images = corrupt(images, name, 5, dataset="cifar10-c", seed=0)
        torch.manual_seed(SETS.index(name))
        ensemble = DiffAugEnsemble(torch.nn.Identity(), "cifar10")
        device = "cuda" if torch.cuda.is_available() else "cpu"
        parts = tqdm(images.to(device).split(50), desc=name)
        views = [ensemble.views(part.float() / 255).half().cpu() for part in parts]
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(torch.cat(views, dim=1), path)
    return torch.load(path, weights_only=True)
