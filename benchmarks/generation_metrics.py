"""How close generated images are to real ones, by an extractor's features of both, from maintained libraries.

FID, sFID          ||m - m'||^2 + tr(C + C' - 2 (C C')^1/2), of means and covariances of pooled features (Heusel et al.,
                   NeurIPS 2017, arXiv 1706.08500) and of spatial ones (Nash et al., ICML 2021, arXiv 2103.03841)
Inception Score    exp of the mean of KL(p(y | x) || p(y)) (Salimans et al., NeurIPS 2016, arXiv 1606.03498)
precision, recall  the share of either set that is inside the other's manifold (Kynkäänniemi et al., NeurIPS 2019,
                   arXiv 1904.06991)
density, coverage  the same with less weight on outliers (Naeem et al., ICML 2020, arXiv 2002.09797)
"""

from __future__ import annotations

import io
import warnings
from contextlib import redirect_stdout
from dataclasses import dataclass

import torch
from torch import Tensor, nn

MISSING = '{} is missing: pip install "diffaug-transforms[benchmarks]"'
#: Of OpenAI's evaluator (guided-diffusion, evaluations/evaluator.py): images that one Inception Score is of.
SPLIT_SIZE = 5000
#: Of prdc's paper, for all four; OpenAI's evaluator has 3 for precision and recall.
NEAREST_K = 5


@dataclass(frozen=True)
class Features:
    """What an extractor says of N images: pooled features (N, D), spatial ones (N, S), class probabilities (N, K)."""

    pooled: Tensor
    spatial: Tensor
    probabilities: Tensor


class Precomputed(nn.Identity):
    """Stands in for torchmetrics' extractor where it is given features already."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features


def all_metrics(real: Features, generated: Features, nearest_k: int = NEAREST_K) -> dict[str, float]:
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
    """Between the Gaussians with the means and covariances of two sets of features, (N, D) and (M, D), in float64.

    Example:
        >>> features = torch.tensor([[0.0], [2.0]])
        >>> round(frechet_distance(features, features + 3), 6)
        9.0
    """
    try:
        from torchmetrics.image.fid import FrechetInceptionDistance
    except ImportError:
        raise ImportError(MISSING.format("torchmetrics")) from None
    metric = FrechetInceptionDistance(feature=Precomputed(real.shape[1]))
    for is_real, features in ((True, real), (False, generated)):
        for part in features.split(1000):
            metric.update(part.double(), real=is_real)
    return metric.compute().item()


def inception_score(probabilities: Tensor) -> float:
    """Of class probabilities (N, K): from 1 to K. The mean over splits of 5000 images, in their order where it is one.

    Example:
        >>> inception_score(torch.eye(3))
        3.0
    """
    try:
        from torchmetrics.image.inception import InceptionScore
    except ImportError:
        raise ImportError(MISSING.format("torchmetrics")) from None
    # It takes logits, of which a probability's logarithm is one; 0 log 0 is meant to be 0.
    logits = probabilities.double().clamp(min=torch.finfo(torch.float64).tiny).log()
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")  # that it keeps what it is given; that one split has no deviation
        torch.manual_seed(0)  # it shuffles
        metric = InceptionScore(feature=nn.Identity(), splits=max(1, len(logits) // SPLIT_SIZE))
        metric.update(logits)
        return metric.compute()[0].item()


def manifold_metrics(real: Tensor, generated: Tensor, nearest_k: int = NEAREST_K) -> dict[str, float]:
    """Precision, recall, density and coverage of features (N, D) and (M, D); N x N distances are held in memory.

    Args:
        real, generated: pooled features.
        nearest_k: an image's ball reaches to its ``nearest_k``-th neighbour in its set.

    Raises:
        ValueError: a set of fewer than ``nearest_k + 2`` images. ImportError: prdc is missing.

    Example:
        >>> far = manifold_metrics(torch.eye(4), 100 + torch.eye(4), nearest_k=1)
        >>> far["precision"], far["coverage"]
        (0.0, 0.0)
    """
    try:
        from joblib import parallel_config
        from prdc import compute_prdc
    except ImportError:
        raise ImportError(MISSING.format("prdc")) from None
    smallest = min(len(real), len(generated))
    if not 1 <= nearest_k <= smallest - 2:
        raise ValueError(f"nearest_k must be in 1...{smallest - 2} for sets of {smallest} images. Got {nearest_k}")
    # It prints, and starts eight jobs.
    with redirect_stdout(io.StringIO()), parallel_config("sequential"):
        found = compute_prdc(real.float().numpy(), generated.float().numpy(), nearest_k)
    return {name: float(value) for name, value in found.items()}
