"""How close generated images are to real ones: extractors of features, and metrics from maintained libraries.

FID, sFID          ||m - m'||^2 + tr(C + C' - 2 (C C')^1/2), of means and covariances of pooled features (Heusel et al.,
                   NeurIPS 2017, arXiv 1706.08500) and of spatial ones (Nash et al., ICML 2021, arXiv 2103.03841)
Inception Score    exp of the mean of KL(p(y | x) || p(y)) (Salimans et al., NeurIPS 2016, arXiv 1606.03498)
precision, recall  the share of either set that is inside the other's manifold (Kynkäänniemi et al., NeurIPS 2019,
                   arXiv 1904.06991)
density, coverage  the same with less weight on outliers (Naeem et al., ICML 2020, arXiv 2002.09797)

The constants of all but the last two are those of OpenAI's evaluator (guided-diffusion, evaluations/evaluator.py). It
takes 50,000 samples, and 10,000 real images for precision and recall. The numbers depend on how many there are, so
records and tables name them.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.error import URLError

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from diffaug_transforms.classifiers import load_classifier
from diffaug_transforms.robustness.evaluation.classifiers import classifier_folder
from diffaug_transforms.robustness.ood import last_linear

#: The number of images that one Inception Score is of, in OpenAI's evaluator (guided-diffusion, evaluator.py).
SPLIT_SIZE = 5000
#: An image's ball reaches to this neighbour: 3 in OpenAI's evaluator, 5 in the paper of density and coverage.
NEAREST_K = {"precision": 3, "recall": 3, "density": 5, "coverage": 5}
#: As in OpenAI's evaluator: sFID's features are the first channels of a map.
SPATIAL_CHANNELS = 7
#: The layer that it takes, "mixed_6/conv" in TensorFlow's graph, as torch-fidelity names it: 17x17.
INCEPTION_LAYER = "Mixed_6d.branch1x1"


class Features(NamedTuple):
    """An extractor's answer for N images: pooled features (N, D), spatial ones (N, S), class probabilities (N, K)."""

    pooled: Tensor
    spatial: Tensor
    probabilities: Tensor


@dataclass(frozen=True)
class Extractor:
    """Features of images uint8 (B, 3, H, W) on its device.

    Args:
        name: for the records: numbers from two extractors cannot be compared.
        layer: whose map the spatial features are from.
        extract: from images to features.
        device: the device that it is on.
        classes: names of its classes; none if they are not the images'.
    """

    name: str
    layer: str
    extract: Callable[[Tensor], Features]
    device: torch.device
    classes: tuple[str, ...] = ()


def open_extractor(spec: str, device: torch.device) -> Extractor:
    """An extractor on a device.

    Args:
        spec: ``inception``, FID's own network, whose weights torch-fidelity downloads; ``inception@FILE`` with that
            file, ``weights-inception-2015-12-05-6726825d.pth``; or a classifier's folder or name.

    Raises:
        ValueError: another name, a classifier without stages of maps. OSError: no weights.
    """
    name, _, file = spec.partition("@")
    if name == "inception":
        return inception(file or None, device)
    if not classifier_folder(spec).is_dir():
        allowed = '"inception", "inception@FILE" or a classifier\'s folder or name'
        raise ValueError(f"extractor must be {allowed}. Got {spec!r}")
    return classifier_extractor(classifier_folder(spec), device)


def inception(file: str | None, device: torch.device) -> Extractor:
    """FID's own network. Its probabilities are without the last layer's bias, as in OpenAI's evaluator."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    try:
        model = FeatureExtractorInceptionV3("inception", ["2048", "logits_unbiased"], file).to(device)
    except (URLError, FileNotFoundError) as error:
        raise OSError(
            f"Inception's weights cannot be had ({error}): pass inception@FILE with torch-fidelity's file, or the "
            "folder of a classifier instead"
        ) from error
    spatial = watch(model.get_submodule(INCEPTION_LAYER))

    def extract(images: Tensor) -> Features:
        pooled, logits = model(images)
        return Features(pooled, spatial(), logits.softmax(1))

    return Extractor("Inception", INCEPTION_LAYER, extract, device)


def classifier_extractor(folder: Path, device: torch.device) -> Extractor:
    """A classifier's penultimate features, the first channels of its last stage but one, and its probabilities."""
    classifier = load_classifier(folder).requires_grad_(False).to(device)
    pooled: list[Tensor] = []
    layer = last_stage_but_one(classifier.model, device)
    head = classifier.get_submodule(last_linear(classifier))
    head.register_forward_pre_hook(lambda module, inputs: pooled.append(inputs[0]))
    spatial = watch(classifier.model.get_submodule(layer))

    def extract(images: Tensor) -> Features:
        probabilities = classifier(images.float() / 255).softmax(1)
        return Features(pooled.pop(), spatial(), probabilities)

    name = json.loads((folder / "classifier.json").read_text())["name"]
    return Extractor(f"{name} ({folder.name})", layer, extract, device, classifier.classes)


def watch(layer: nn.Module) -> Callable[[], Tensor]:
    """Gives, after each call of a layer, the first channels of its map, (B, S)."""
    maps: list[Tensor] = []
    layer.register_forward_hook(lambda module, inputs, output: maps.append(output[:, :SPATIAL_CHANNELS].flatten(1)))
    return maps.pop


@torch.inference_mode()
def last_stage_but_one(model: nn.Module, device: torch.device) -> str:
    """The last stage whose map is larger than the last map there is, as Inception's 17x17 is than its 8x8.

    Stages are the model's children, and the children of those that are sequences.
    """
    sides: dict[str, int] = {}

    def note(name: str, output: Tensor) -> None:
        if output.ndim == 4 and output.shape[-1] > 1:
            sides[name] = output.shape[-1]

    handles = [
        child.register_forward_hook(lambda module, inputs, output, name=name: note(name, output))
        for name, child in stages(model)
    ]
    model(torch.zeros(1, 3, 64, 64, device=device))
    for handle in handles:
        handle.remove()
    larger = [name for name, side in sides.items() if side > min(sides.values())]
    if not larger:
        raise ValueError(f"an extractor must have stages of maps, as ResNets have. Got {type(model).__name__}")
    return larger[-1]


def stages(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The children by their names, and what stands in children that are sequences. Such a child comes after its own."""
    for name, child in model.named_children():
        if isinstance(child, nn.Sequential):
            yield from ((f"{name}.{own}", part) for own, part in child.named_children())
        yield name, child


@torch.inference_mode()
def features_of(extractor: Extractor, images: Tensor, batch_size: int = 250) -> Features:
    """Features of images uint8 (N, 3, H, W), on the CPU."""
    batches = tqdm(images.split(batch_size), desc=extractor.name, leave=False)
    parts = [extractor.extract(batch.to(extractor.device)) for batch in batches]
    return Features(*(torch.cat(tensors).cpu() for tensors in zip(*parts)))


class Precomputed(nn.Identity):
    """Stands in for torchmetrics' extractor if it is given features already."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features


def all_metrics(real: Features, generated: Features, nearest_k: int | None = None) -> dict[str, float]:
    """Every metric by its name in the records. Precision to coverage take as many images of either set.

    The first of the larger set: how many images there are moves these metrics, and their memory grows with its square.
    """
    number = min(len(real.pooled), len(generated.pooled))
    return {
        "fid": frechet_distance(real.pooled, generated.pooled),
        "sfid": frechet_distance(real.spatial, generated.spatial),
        "inception_score": inception_score(generated.probabilities),
        **manifold_metrics(real.pooled[:number], generated.pooled[:number], nearest_k),
    }


def frechet_distance(real: Tensor, generated: Tensor) -> float:
    """Between the Gaussians with the means and covariances of two sets of features, (N, D) and (M, D), in float64."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    metric = FrechetInceptionDistance(feature=Precomputed(real.shape[1]))
    for is_real, features in ((True, real), (False, generated)):
        for part in features.split(1000):
            metric.update(part.double(), real=is_real)
    return metric.compute().item()


def inception_score(probabilities: Tensor) -> float:
    """Of class probabilities (N, K): from 1 to K. The mean over parts of 5000 images in their order, and the rest."""
    scores = []
    for part in probabilities.double().split(SPLIT_SIZE):
        divergence = torch.special.xlogy(part, part / part.mean(0)).nansum(1)  # 0 log 0 is meant to be 0
        scores.append(divergence.mean().exp())
    return torch.stack(scores).mean().item()


def manifold_metrics(real: Tensor, generated: Tensor, nearest_k: int | None = None) -> dict[str, float]:
    """Precision, recall, density and coverage of features (N, D) and (M, D); N x N distances are held in memory.

    Args:
        real, generated: pooled features.
        nearest_k: an image's ball reaches to its ``nearest_k``-th neighbour in its set. None: ``NEAREST_K``.

    Raises:
        ValueError: a set of fewer than ``nearest_k + 2`` images.
    """
    from joblib import parallel_config
    from prdc import compute_prdc

    neighbours = NEAREST_K if nearest_k is None else dict.fromkeys(NEAREST_K, nearest_k)
    smallest = min(len(real), len(generated))
    for k in neighbours.values():
        if not 1 <= k <= smallest - 2:
            raise ValueError(f"nearest_k must be in 1...{smallest - 2} for sets of {smallest} images. Got {k}")
    # It prints, and starts eight jobs.
    with redirect_stdout(io.StringIO()), parallel_config("sequential"):
        found = {k: compute_prdc(real.float().numpy(), generated.float().numpy(), k) for k in set(neighbours.values())}
    return {name: float(found[k][name]) for name, k in neighbours.items()}
