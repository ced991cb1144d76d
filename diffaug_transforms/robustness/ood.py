"""Out-of-distribution scores of a trained classifier, from its penultimate features and its last layer alone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..images import Normalize, as_normalize, to_batch
from .ood_rules import METHODS, OOD_METHODS


class OODDetector(nn.Module):
    """How much images look out of distribution to a classifier: images in, ``ood_score`` (B,) out, higher = OOD.

    Features in front of the classifier's last layer are shaped by the method (``ood_rules.py``) and go through that
    layer. The score is the confidence negated: -logsumexp(logits), for ``msp`` -max(softmax(logits)). OpenOOD reports
    the confidence, and by default searches the percentile on validation images with OOD ones; here it is fixed.

    Args:
        classifier: any module from normalised images (B, C, H, W) to logits (B, K), in eval mode.
        layer: the name of its last layer, linear or a 1x1 convolution, as in ``named_modules()``: ``fc`` for
            torchvision's resnet50, ``model.8`` for the embedded classifiers. None: the last linear one. Maps
            (B, n, H, W) in front of it are averaged over H and W.
        method: one of ``OOD_METHODS``. ``ash-b`` is what OpenOOD calls ASH. ``react`` needs ``fit``.
        percentile: in [0, 100]; None: OpenOOD's 90, for ``scale`` 85. ``msp`` has none.
        normalize: as DiffAugEnsemble's.

    Raises:
        ValueError: an argument is not as above; a layer that is not the last; images that are not as in ``forward``.

    Example:
        >>> hidden, head = torch.nn.Linear(3 * 16 * 16, 20), torch.nn.Linear(20, 5)
        >>> classifier = torch.nn.Sequential(torch.nn.Flatten(), hidden, torch.nn.ReLU(), head)
        >>> detector = OODDetector(classifier, method="react").fit(torch.rand(8, 3, 16, 16))
        >>> detector(torch.rand(2, 3, 16, 16)).shape
        torch.Size([2])
    """

    threshold: Tensor

    def __init__(
        self,
        classifier: nn.Module,
        layer: str | None = None,
        method: str = "scale",
        *,
        percentile: float | None = None,
        normalize: Normalize = None,
    ) -> None:
        super().__init__()
        self.classifier = classifier
        self.normalize = as_normalize(normalize)
        self.layer = last_linear(classifier) if layer is None else _check_layer(classifier, layer)
        self.method = method
        self.percentile: Any = _check_percentile(method, percentile)
        # ReAct's; a buffer, so that it is saved with the module. NaN: not fitted.
        self.register_buffer("threshold", torch.tensor(float("nan")))

    def forward(self, images: Tensor) -> Tensor:
        """Scores (B,), float32, of images uint8 or in [0, 1], (B, C, H, W)."""
        return self.score(self.features(images))

    def features(self, images: Tensor) -> Tensor:
        """Pooled penultimate features (B, n) of images as in ``forward``; every method scores the same ones."""
        calls: list[tuple[Tensor, Tensor]] = []
        layer = self.classifier.get_submodule(self.layer)
        with layer.register_forward_hook(lambda _, inputs, output: calls.append((inputs[0], output))):
            logits = self.classifier(self.normalize(to_batch(images)))
        shapes = [tuple(output.shape) for _, output in calls]
        if len(shapes) != 1 or shapes[0][:2] != logits.shape:
            made = f"Got {self.layer!r}, which makes {shapes}, and logits {tuple(logits.shape)}"
            raise ValueError(f"layer must be the classifier's last, called once for a batch. {made}")
        features = calls[0][0]
        return features.mean((2, 3)) if features.ndim == 4 else features

    def score(self, features: Tensor) -> Tensor:
        """Scores (B,), float32, of pooled features (B, n). ValueError for ``react`` without ``fit``."""
        method = METHODS[self.method]
        amount = self.percentile
        if method.fitted:
            amount = float(self.threshold)
            if np.isnan(amount):
                raise ValueError(f"{self.method} must be fitted to in-distribution images: call fit. Got no threshold")
        shaped = method.shape(features.float(), amount).to(features.dtype)
        layer = self.classifier.get_submodule(self.layer)
        logits = layer(shaped[..., None, None] if isinstance(layer, nn.Conv2d) else shaped)
        return -method.confidence(logits.flatten(1).float())

    @torch.no_grad()
    def fit(self, data: Tensor | Iterable[Any]) -> OODDetector:
        """Set ReAct's threshold to the percentile of all features of in-distribution images, taken as one list.

        OpenOOD takes validation images. Other methods need no ``fit`` and give the same scores after it.

        Args:
            data: features (N, n); or images as in ``forward``; or batches of them, alone or as (images, labels), such
                as a DataLoader, which are moved to the classifier's device.

        Raises:
            ValueError: no features, or such that are not finite.
        """
        if not METHODS[self.method].fitted:
            return self
        features = data if isinstance(data, Tensor) and data.ndim == 2 else self._all_features(data)
        if not features.numel() or not features.isfinite().all():
            raise ValueError(f"fit needs finite features of at least one image. Got shape {tuple(features.shape)}")
        # Not torch.quantile, which refuses more than 16 million values.
        self.threshold.fill_(float(np.percentile(features.float().cpu().numpy(), self.percentile)))
        return self

    def _all_features(self, data: Tensor | Iterable[Any]) -> Tensor:
        device = next(self.classifier.parameters()).device
        batches = [data] if isinstance(data, Tensor) else data
        images = (batch[0] if isinstance(batch, (tuple, list)) else batch for batch in batches)
        features = [self.features(batch.to(device)).cpu() for batch in images]
        return torch.cat(features) if features else torch.empty(0, 0)

    def extra_repr(self) -> str:
        return f"layer={self.layer!r}, method={self.method!r}, percentile={self.percentile}"


def last_linear(classifier: nn.Module) -> str:
    """The name of the last linear layer. ValueError without one."""
    names = _linear_layers(classifier)
    if not names:
        kind = type(classifier).__name__
        raise ValueError(f"classifier must have a linear layer, or layer name its last. Got {kind}")
    return names[-1]


def _linear_layers(classifier: nn.Module) -> list[str]:
    return [name for name, module in classifier.named_modules() if isinstance(module, nn.Linear)]


def _check_layer(classifier: nn.Module, layer: str) -> str:
    if not layer or layer not in dict(classifier.named_modules()):
        last = ", ".join(_linear_layers(classifier)[-3:]) or "none"
        raise ValueError(f"layer must name the classifier's last layer; its last linear ones: {last}. Got {layer!r}")
    return layer


def _check_percentile(method: str, percentile: float | None) -> float | None:
    """The percentile, or the method's own for None."""
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(OOD_METHODS)}. Got {method!r}")
    default = METHODS[method].percentile
    if percentile is None:
        return default
    if default is None:
        raise ValueError(f"{method} takes no percentile. Got {percentile}")
    if not 0 <= percentile <= 100:
        raise ValueError(f"percentile must be in [0, 100]. Got {percentile}")
    return percentile
