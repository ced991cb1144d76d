"""Accuracy, gradients and their cost, for classifiers of noisy images.

accuracy      percent of test images, each diffused to one uniform random time; by quarter of the times too
score_cosine  cosine of the gradient of log p(label | x_t, t) by x_t with the score network's own, its score with the
              label less its score without (see ../gradients.py), for networks that know the labels
norm_ratio    the gradient's length over the length of that one: 1 if the classifier is as sure as the network
cost          of that gradient: seconds and the most memory held at once, per image, and multiples of the partial
              derivative's; derivatives take turns in one run, beside a plain call of the score network
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import median

import torch
from torch import Tensor
from tqdm.auto import tqdm

from diffaug_transforms import ScoreNetwork
from diffaug_transforms.guidance.guide import log_probability_gradient
from diffaug_transforms.robustness.evaluation.batches import draw_noise
from diffaug_transforms.score import diffuse, to_signed, to_unit

from ..gradients import label_gradient, score_cosine
from ..harness.pictures import draw_rows, stretch
from ..harness.records import Record, summary
from ..harness.timing import peak_bytes, ratio, time_interleaved
from .sampling import Classifier

QUARTERS = 4
#: What costs are multiples of.
REFERENCE = "denoise-augmented, partial"


@torch.no_grad()  # in inference mode the classifier's network would be made ready for no gradients
def accuracy(
    classifier: Classifier, network: ScoreNetwork, images: Tensor, labels: Tensor, seed: int, batch_size: int
) -> Iterator[Record]:
    """Accuracy on images uint8 (N, C, H, W), each at one time, the same whatever the classifier."""
    generator = torch.Generator().manual_seed(seed)
    timesteps = torch.randint(network.num_timesteps, (len(images),), generator=generator)
    right = []
    for places in tqdm(torch.arange(len(images)).split(batch_size), desc="accuracy", leave=False):
        t = timesteps[places].to(network.device)
        x_t = noisy_images(network, images[places], places.tolist(), t, seed)
        right.append(classifier(x_t, t).argmax(1).cpu() == labels[places])
    found = 100 * torch.cat(right).float()
    quarter = timesteps * QUARTERS // network.num_timesteps
    yield {"metric": "accuracy", "quarter": 0, **summary(found)}
    for part in quarter.unique().tolist():
        yield {"metric": "accuracy", "quarter": part + 1, **summary(found[quarter == part])}


def alignment(
    classifier: Classifier, network: ScoreNetwork, images: Tensor, labels: Tensor, steps: Sequence[int], seed: int
) -> Iterator[Record]:
    """Against the network's own gradient, if it has one, at each of ``steps``, on images uint8 (B, C, H, W)."""
    for t in steps if network.null_class is not None else ():
        timesteps = torch.full((len(images),), t, device=network.device)
        x_t = noisy_images(network, images, range(len(images)), timesteps, seed)
        target = label_gradient(network, x_t, timesteps, labels.to(x_t.device))
        found = log_probability_gradient(classifier, x_t, timesteps, labels)
        norm_ratio = found.flatten(1).norm(dim=1) / target.flatten(1).norm(dim=1)
        for metric, values in {**score_cosine(found, target), "norm_ratio": norm_ratio}.items():
            yield {"metric": metric, "timestep": t, **summary(values)}


def cost(
    gradients: dict[str, Callable[[], Tensor]], number: int, rounds: int, device: torch.device
) -> Iterator[Record]:
    """Seconds and bytes per image of each named gradient of ``number`` images, and multiples of REFERENCE's."""
    times = time_interleaved(gradients, rounds, device)
    peaks = {name: peak_bytes(run, device) / number for name, run in gradients.items()}
    for name, spent in times.items():
        value, error = ratio(spent, times[REFERENCE])
        common = {"recipe": name, "n": number, "repeats": rounds}
        yield {**common, "metric": "seconds_per_image", "value": round(median(spent) / number, 6)}
        yield {**common, "metric": "peak_bytes", "value": round(peaks[name])}
        yield {**common, "metric": "time_ratio", "value": round(value, 4), "standard_error": error and round(error, 4)}
        yield {**common, "metric": "memory_ratio", "value": round(peaks[name] / peaks[REFERENCE], 4)}


def gradients_of(
    classifiers: dict[str, Classifier], network: ScoreNetwork, images: Tensor, labels: Tensor
) -> dict[str, Callable[[], Tensor]]:
    """The gradients that ``cost`` takes, at the middle of the times, and a plain call of the score network."""
    timesteps = torch.full((len(images),), network.num_timesteps // 2, device=network.device)
    x_t = noisy_images(network, images, range(len(images)), timesteps, seed=0)

    @torch.inference_mode()
    def call() -> Tensor:
        return network.pred_x0(x_t, timesteps)

    found = {name: partial(log_probability_gradient, c, x_t, timesteps, labels) for name, c in classifiers.items()}
    return {"network call": call, **found}


def draw_gradients(
    classifiers: dict[str, Classifier],
    network: ScoreNetwork,
    images: Tensor,
    labels: Tensor,
    steps: Sequence[int],
    path: Path,
) -> None:
    """The noisy and the denoised image over t, the network's own gradient, and each classifier's."""
    lines: dict[str, list[Tensor]] = {}
    for t in steps:
        timesteps = torch.full((len(images),), t, device=network.device)
        x_t = noisy_images(network, images, range(len(images)), timesteps, seed=0)
        shown = {"noisy image": to_unit(x_t).clamp(0, 1)}
        with torch.no_grad():
            shown["denoised image"] = to_unit(network.pred_x0(x_t, timesteps))
        if network.null_class is not None:
            shown["score network"] = stretch(label_gradient(network, x_t, timesteps, labels.to(x_t.device)))
        for name, classifier in classifiers.items():
            shown[name] = stretch(log_probability_gradient(classifier, x_t, timesteps, labels))
        for name, pictures in shown.items():
            lines.setdefault(name, []).append(pictures)
    # From t by t to image by image.
    rows = {name: list(torch.stack(parts, dim=1).flatten(0, 1)) for name, parts in lines.items()}
    draw_rows(rows, [f"t = {t}" for t in steps] * len(images), path)


def noisy_images(network: ScoreNetwork, images: Tensor, places: Sequence[int], timesteps: Tensor, seed: int) -> Tensor:
    """x_t (B, C, H, W) on the network's device, for images uint8, with the noise of their places."""
    (noise,) = draw_noise(places, 1, images.shape[1:], seed)
    x_0 = to_signed(images.to(network.device).float() / 255)
    return diffuse(x_0, timesteps, noise.to(network.device), network.schedule)
