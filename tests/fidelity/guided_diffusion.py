"""Respacing, sampling and guidance beside openai/guided-diffusion, on a network in closed form."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from diffaug_transforms import ScoreNetwork
from diffaug_transforms.guidance import classifier_guide
from diffaug_transforms.score import NoiseSchedule, space_timesteps
from diffaug_transforms.score.sampling import sample

from .toys import BATCH, LABELS, SIDE, ToyUNet, classify, seeded

SOURCE = "openai/guided-diffusion"
FILE = Path(__file__).parent.parent / "reference" / "guided_diffusion.safetensors"
TOLERANCE = 1e-4
FORMULAS = {
    "space_timesteps": "the timesteps of a respaced schedule: each number of steps, 2 to 1,000; every 7th of 4,000",
    "alphas_cumprod": "ᾱ of a schedule respaced to 21 steps",
    "betas": "β of such a schedule",
    "posterior_mean_coef1": "√ᾱ_{t-1} β_t / (1 - ᾱ_t), the weight of pred_x0 in the posterior mean",
    "posterior_mean_coef2": "√(ᾱ_t / ᾱ_{t-1}) (1 - ᾱ_{t-1}) / (1 - ᾱ_t), the weight of x_t",
    "posterior_log_variance": "log β̃_t, the first one clipped",
    "ancestral": "samples of 21 ancestral steps; variance fixed, learned; guided by a classifier",
    "ddim": "samples of 25 DDIM steps; eta 0 and 0.7; guided by a classifier",
}
SCALE = 3.0
SEED = 5
#: The tables of a respaced schedule: name in the source -> attribute in the package.
TABLES = {
    "alphas_cumprod": "alphas_cumprod",
    "betas": "betas",
    "posterior_mean_coef1": "posterior_mean_coef1",
    "posterior_mean_coef2": "posterior_mean_coef2",
    "posterior_log_variance_clipped": "posterior_log_variance",
}
#: Case -> spacing, number of steps, method, eta, variance, whether the classifier guides.
SAMPLES = {
    "ancestral": ("linspace", 21, "ancestral", 0.0, "learned_range", False),
    "ancestral, fixed_large": ("linspace", 21, "ancestral", 0.0, "fixed_large", False),
    "ancestral, fixed_small": ("linspace", 21, "ancestral", 0.0, "fixed_small", False),
    "ancestral, guided": ("linspace", 21, "ancestral", 0.0, "learned_range", True),
    "ddim": ("leading", 25, "ddim", 0.0, "learned_range", False),
    "ddim, eta 0.7": ("leading", 25, "ddim", 0.7, "learned_range", False),
    "ddim, guided": ("leading", 25, "ddim", 0.0, "learned_range", True),
}
#: T -> numbers of steps.
COUNTS = {1000: range(2, 1001), 4000: range(2, 4001, 7)}


def moments(steps: list[tuple[int, ...]]) -> Tensor:
    """Two sums for each list of timesteps: one timestep more or less changes them."""
    return torch.tensor([(sum(row), sum(i * t for i, t in enumerate(row))) for row in steps])


def start() -> Tensor:
    return seeded(BATCH, 3, SIDE, SIDE, seed=1)


def comparisons() -> Iterator[tuple[str, Tensor, Tensor]]:
    """(case, ours, the source's)."""
    expected = load_file(FILE)
    for total, counts in COUNTS.items():
        spaced = [space_timesteps(total, count) for count in counts]
        yield f"space_timesteps, T = {total}", moments(spaced), expected[f"spacing_{total}"]
    for name in ("linear", "cosine"):
        schedule = NoiseSchedule.named(name, 1000).respaced(space_timesteps(1000, 21))
        for theirs, attribute in TABLES.items():
            yield f"{attribute}, {name}", getattr(schedule, attribute), expected[f"{name}_{theirs}"].float()
    schedule = NoiseSchedule.named("linear", 1000)
    for case, (spacing, count, method, eta, variance, guided) in SAMPLES.items():
        network = ScoreNetwork(ToyUNet(variance == "learned_range"), schedule, variance_type=variance)
        torch.manual_seed(SEED)
        noise = [torch.randn(BATCH, 3, SIDE, SIDE) for _ in range(count)]
        guide = classifier_guide(classify, LABELS, SCALE, schedule=schedule) if guided else None
        steps = space_timesteps(1000, count, spacing)
        yield case, sample(network, start(), steps, method=method, eta=eta, noise=noise, guide=guide), expected[case]
