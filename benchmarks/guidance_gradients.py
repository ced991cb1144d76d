"""What guidance.py measures of classifiers of noisy images beside samples: accuracy, gradients and their cost.

accuracy      percent of test images, each diffused to one uniform random time; by quarter of the times too
score_cosine  cosine of the gradient of log p(label | x_t, t) by x_t with the score network's own, its score with the
              label less its score without (see gradients.py), for networks that know the labels
norm_ratio    the gradient's length over the length of that one: 1 where the classifier is as sure as the network
cost          of that gradient: seconds and the most memory held at once, per image, and multiples of the partial
              derivative's; derivatives take turns in one run, beside a plain call of the score network
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import accumulate
from pathlib import Path
from statistics import median, stdev
from typing import Any

import torch
from adapted_images import draw_noise
from gradient_modes import score_cosine
from gradient_pictures import draw_panels, stretch
from guidance_ways import Classifier
from records import Record
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from tqdm.auto import tqdm

from diffaug_transforms import ScoreNetwork
from diffaug_transforms.guidance.guide import log_probability_gradient
from diffaug_transforms.score import diffuse, to_signed, to_unit

QUARTERS = 4
#: What costs are multiples of.
REFERENCE = "denoise-augmented, partial"


@torch.no_grad()  # not inference mode, in which the classifier's own network would be made ready for no gradients
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
    found = torch.cat(right).float()
    quarter = timesteps * QUARTERS // network.num_timesteps
    yield {"metric": "accuracy", "quarter": 0, **summary(100 * found)}
    for part in quarter.unique().tolist():
        yield {"metric": "accuracy", "quarter": part + 1, **summary(100 * found[quarter == part])}


def alignment(
    classifier: Classifier, network: ScoreNetwork, images: Tensor, labels: Tensor, steps: Sequence[int], seed: int
) -> Iterator[Record]:
    """Against the network's own gradient, if it has one, at each of ``steps``, on images uint8 (B, C, H, W)."""
    for t in steps if network.null_class is not None else ():
        timesteps = torch.full((len(images),), t, device=network.device)
        x_t = noisy_images(network, images, range(len(images)), timesteps, seed)
        target = own_gradient(network, x_t, timesteps, labels)
        found = log_probability_gradient(classifier, x_t, timesteps, labels)
        ratio = found.flatten(1).norm(dim=1) / target.flatten(1).norm(dim=1)
        for metric, values in {**score_cosine(found, target), "norm_ratio": ratio}.items():
            yield {"metric": metric, "timestep": t, **summary(values)}


def cost(
    gradients: dict[str, Callable[[], Tensor]], number: int, repeats: int, device: torch.device
) -> Iterator[Record]:
    """Seconds and bytes per image of each named gradient of ``number`` images, and multiples of REFERENCE's."""
    peaks = {name: peak_bytes(run, device) / number for name, run in gradients.items()}  # and warms up
    times: dict[str, list[float]] = {name: [] for name in gradients}
    for _ in range(repeats):
        for name, run in gradients.items():
            start = time.perf_counter()
            run()
            if device.type == "cuda":
                torch.cuda.synchronize()
            times[name].append((time.perf_counter() - start) / number)
    for name, spent in times.items():
        ratios = [value / reference for value, reference in zip(spent, times[REFERENCE])]
        error = round(stdev(ratios) / repeats**0.5, 4) if repeats > 1 else None
        common = {"recipe": name, "n": number, "repeats": repeats}
        yield {**common, "metric": "seconds_per_image", "value": round(median(spent), 6)}
        yield {**common, "metric": "peak_bytes", "value": round(peaks[name])}
        yield {**common, "metric": "time_ratio", "value": round(median(ratios), 4), "standard_error": error}
        yield {**common, "metric": "memory_ratio", "value": round(peaks[name] / peaks[REFERENCE], 4)}


def peak_bytes(run: Callable[[], Any], device: torch.device) -> int:
    """The most memory that the tensors which ``run`` makes hold at once, by torch's allocators."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        events = [event for event in json.loads(trace.read_text())["traceEvents"] if event["name"] == "[memory]"]
    events.sort(key=lambda event: event["ts"])
    return max(accumulate(event["args"]["Bytes"] for event in events))


def draw_gradients(
    classifiers: dict[str, Classifier],
    network: ScoreNetwork,
    images: Tensor,
    labels: Tensor,
    steps: Sequence[int],
    path: Path,
) -> None:
    """The noisy and the denoised image over t, the network's own gradient, and each classifier's."""
    lines: dict[str, list[Tensor | None]] = {}
    for t in steps:
        timesteps = torch.full((len(images),), t, device=network.device)
        x_t = noisy_images(network, images, range(len(images)), timesteps, seed=0)
        shown = {"noisy image": to_unit(x_t).clamp(0, 1)}
        with torch.no_grad():
            shown["denoised image"] = to_unit(network.pred_x0(x_t, timesteps))
        if network.null_class is not None:
            shown["score network"] = stretch(own_gradient(network, x_t, timesteps, labels))
        for name, classifier in classifiers.items():
            shown[name] = stretch(log_probability_gradient(classifier, x_t, timesteps, labels))
        for name, pictures in shown.items():
            lines.setdefault(name, []).extend(pictures.cpu())
    # From t by t to image by image.
    order = [place + step * len(images) for place in range(len(images)) for step in range(len(steps))]
    rows = {name: [pictures[i] for i in order] for name, pictures in lines.items()}
    draw_panels(rows, [f"t = {t}" for t in steps] * len(images), path, left=1.9)


def own_gradient(network: ScoreNetwork, x_t: Tensor, timesteps: Tensor, labels: Tensor) -> Tensor:
    """The network's own gradient of log p(label | x_t): its score with the label less its score without."""
    with torch.no_grad():
        return network.score(x_t, timesteps, labels.to(x_t.device)) - network.score(x_t, timesteps)


def noisy_images(network: ScoreNetwork, images: Tensor, places: Sequence[int], timesteps: Tensor, seed: int) -> Tensor:
    """x_t (B, C, H, W) on the network's device, of images uint8 with the noise of their places."""
    (noise,) = draw_noise(places, 1, images.shape[1:], seed)
    x_0 = to_signed(images.to(network.device).float() / 255)
    return diffuse(x_0, timesteps, noise.to(network.device), network.schedule)


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


def summary(values: Tensor) -> dict[str, Any]:
    error = round(values.std().item() / len(values) ** 0.5, 5) if len(values) > 1 else None
    return {"value": round(values.mean().item(), 5), "standard_error": error, "n": len(values)}
