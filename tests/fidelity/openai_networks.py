"""Small random U-Nets in OpenAI's layout, computed by OpenAI's own code: what ScoreNetwork makes of them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from diffaug_transforms import load_score_network
from diffaug_transforms.guidance import load_guidance_classifier
from diffaug_transforms.score.functional import diffuse, to_signed
from tests.openai_checkpoints import golden

SOURCE = "openai/guided-diffusion and improved-diffusion, U-Nets"
#: In shares of the largest value.
TOLERANCE = 1e-5
FORMULAS = {
    "diffuse": "x_t = √ᾱ_t x_0 + √(1 - ᾱ_t) noise",
    "U-Net": "eps and variance of the U-Net, from a .pt file and its flags",
    "pred_x0": "pred_x0 = clip((x_t - √(1 - ᾱ_t) eps) / √ᾱ_t); difference over 1 + sigma_t",
    "log-variance": "log-variance: v log β_t + (1 - v) log β̃_t (Nichol & Dhariwal, eq. 15)",
    "guidance classifier": "logits of the half U-Net with attention pooling, and ∇ log p(y \\| x_t, t)",
}


def comparisons() -> Iterator[tuple[str, Tensor, Tensor]]:
    """(case, ours, the source's), over the source's largest value."""
    for case, ours, source in [*networks(), *guidance_classifier()]:
        yield case, ours / source.abs().max(), source / source.abs().max()


@torch.no_grad()
def networks() -> Iterator[tuple[str, Tensor, Tensor]]:
    for name in ("adm_256_uncond", "iddpm_cifar10_uncond"):
        with tempfile.TemporaryDirectory() as folder:
            path, flags, expected = golden(name, Path(folder))
            network = load_score_network(path, openai_flags=flags)
        x_t, t = expected["x_t"], expected["t"]
        yield f"diffuse, {name}", diffuse(to_signed(expected["x0"]), t, expected["noise"], network.schedule), x_t
        # The stored output is of the bare U-Net at t. Ours multiplies t by 1000 / T first.
        scale = network.unet.config.get("timestep_scale", 1.0)
        yield f"U-Net, {name}", network.unet(x_t, t / scale).sample, expected["model_output"]
        # pred_x0 divides the rounding of eps by √ᾱ_t, up to 2e4 at t = 3999.
        allowed = (1 + network.schedule.sigmas[t]).reshape(-1, 1, 1, 1)
        yield f"pred_x0, {name}", network.pred_x0(x_t, t) / allowed, expected["pred_x0"] / allowed
        yield f"log-variance, {name}", network.posterior(x_t, t)[1], expected["log_variance"]


def guidance_classifier() -> Iterator[tuple[str, Tensor, Tensor]]:
    with tempfile.TemporaryDirectory() as folder:
        path, flags, expected = golden("adm_classifier_64", Path(folder))
        classifier = load_guidance_classifier(path, flags)
    x_t = expected["x_t"].requires_grad_()
    logits = classifier(x_t, expected["t"])
    chosen = logits.log_softmax(1).gather(1, expected["y"][:, None]).sum()
    yield "guidance classifier, logits", logits.detach(), expected["logits"]
    yield "guidance classifier, gradient", torch.autograd.grad(chosen, x_t)[0], expected["grad_log_prob"]
