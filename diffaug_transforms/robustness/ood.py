"""Out-of-distribution scores of a trained classifier, from its penultimate features and its last layer alone.

    images --classifier--> features (B, n) --rule--> shaped features --last layer--> logits --confidence--> -ood_score

The rules and their percentiles are those of OpenOOD (github.com/Jingkang50/OpenOOD). All but ``msp`` are made for
pooled features that are at least 0, as after a ReLU. Behind a LayerNorm (vision transformers, ConvNeXt) features are
negative too and sum to about 0, so sums, largest shares and clipping tell nothing there. Each image's features are
shaped independently of the other images. The metrics at the end tell how well scores separate images out of
distribution (OOD) from images in distribution (ID).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..arguments import Normalize, as_normalize, as_number, check_choice, check_instance, shown
from ..classify import logits_of, to_own_dtype
from ..images import to_batch
from ..without_waiting import LateChecks


def react(features: Tensor, threshold: float) -> Tensor:
    """ReAct: features clipped from above at a threshold (Sun et al., arXiv 2111.12797). (B, n)."""
    return features.clamp(max=threshold)


def ash_b(features: Tensor, percentile: float = 90) -> Tensor:
    """ASH-B: the k largest features set to s1 / k, the others to 0 (Djurisic et al., arXiv 2209.09858). (B, n).

    s1 is the sum of all features. ``percentile``, here and below, is the share of the n features that are not among the
    k largest: k = n - round(n * percentile / 100). ValueError if k is 0.

    Example:
        >>> ash_b(torch.tensor([[4.0, 0.0, 3.0, 1.0]]), 50)
        tensor([[4., 0., 4., 0.]])
    """
    largest = _largest(features, percentile)
    means = features.sum(1, keepdim=True) / largest.shape[1]
    return torch.zeros_like(features).scatter(1, largest, means.expand(largest.shape))


def ash_p(features: Tensor, percentile: float = 90) -> Tensor:
    """ASH-P: the k largest features as they are, the others set to 0. (B, n)."""
    largest = _largest(features, percentile)
    return torch.zeros_like(features).scatter(1, largest, features.gather(1, largest))


def ash_s(features: Tensor, percentile: float = 90) -> Tensor:
    """ASH-S: the k largest features times exp(s1 / s2), the others set to 0. s2 is the sum of the k largest. (B, n)."""
    pruned = ash_p(features, percentile)
    return pruned * _sharpening(features, pruned)


def scale(features: Tensor, percentile: float = 85) -> Tensor:
    """SCALE: all features times the exp(s1 / s2) of ASH-S (Xu et al., arXiv 2310.00227). (B, n)."""
    return features * _sharpening(features, ash_p(features, percentile))


def _largest(features: Tensor, percentile: float) -> Tensor:
    """The indices of each row's k largest features, (B, k)."""
    n = features.shape[1]
    k = n - round(n * as_number("percentile", percentile, at_least=0, at_most=100) / 100)
    if k < 1:
        raise ValueError(f"percentile must leave at least one of the {n} features. Got {percentile}")
    return features.topk(k, dim=1).indices


def _sharpening(features: Tensor, pruned: Tensor) -> Tensor:
    s1, s2 = features.sum(1, keepdim=True), pruned.sum(1, keepdim=True)
    # A row of zeros stays a row of zeros. In OpenOOD and pytorch-ood, 0 / 0 makes its score NaN.
    return torch.where(s1 == s2, 1.0, s1 / s2).exp()


def energy(logits: Tensor) -> Tensor:
    """The negated energy, log sum exp (Liu et al., arXiv 2010.03759): (B, K) to (B,), higher = more confident."""
    return logits.logsumexp(1)


def max_softmax(logits: Tensor) -> Tensor:
    """MSP: the largest probability (Hendrycks and Gimpel, arXiv 1610.02136). (B, K) to (B,)."""
    return logits.softmax(1).amax(1)


@dataclass(frozen=True)
class Method:
    """``shape(features, percentile)``; if the method is fitted, ``shape(features, threshold)``."""

    shape: Callable[[Tensor, Any], Tensor]
    confidence: Callable[[Tensor], Tensor]
    percentile: float | None
    fitted: bool = False


#: How far the logits may be from the last layer's answer to the pooled features, as a share of the largest logit. TF32
#: and the order of sums account for less. Half a classifier (distilled DeiT) or a ReLU behind the layer is off by more.
TOLERANCE = {torch.float64: 1e-3, torch.float32: 1e-2, torch.float16: 5e-2, torch.bfloat16: 1e-1}
#: Negative features are warned of if they make up more than this share of the sum of magnitudes. Behind a LayerNorm
#: they make up half, behind airbench94's GELU and maximum about 0.5 %.
NEGATIVE_SHARE = 0.1
#: The percentiles are those of OpenOOD's configuration files.
METHODS = {
    "msp": Method(lambda features, percentile: features, max_softmax, None),
    "react": Method(react, energy, 90, fitted=True),
    "ash-b": Method(ash_b, energy, 90),
    "ash-p": Method(ash_p, energy, 90),
    "ash-s": Method(ash_s, energy, 90),
    "scale": Method(scale, energy, 85),
}
OOD_METHODS = tuple(METHODS)


class OODDetector(nn.Module):
    """How much images look out of distribution to a classifier: images in, ``ood_score`` (B,) out, higher = OOD.

    The method shapes the features in front of the classifier's last layer, and the shaped features go through that
    layer. The score is the negated confidence: -logsumexp(logits), or -max(softmax(logits)) for ``msp``. OpenOOD
    reports the confidence, and by default it searches the percentile on validation images that include OOD ones. Here
    the percentile is fixed.

    Args:
        classifier: any module from normalised images (B, C, H, W) to logits (B, K), in eval mode.
        layer: the name of its last layer, linear or a 1x1 convolution, as in ``named_modules()``: ``fc`` for
            torchvision's resnet50, ``model.8`` for the embedded classifiers. None means the last linear layer. Feature
            maps (B, n, H, W) in front of the layer are averaged over H and W. The layer must give the classifier's own
            logits for these features. Classifiers with two heads (distilled DeiT, EfficientFormer, VOLO) or with a
            step behind the layer (SqueezeNet) are refused at the call.
        method: one of ``OOD_METHODS``. ``ash-b`` is what OpenOOD calls ASH. ``react`` needs ``fit``. Use ``msp`` for
            classifiers with a LayerNorm in front of the layer: the other methods warn once if negative features make up
            more than a tenth of the sum of magnitudes.
        percentile: in [0, 100]. None means OpenOOD's: 85 for ``scale``, 90 for the others. ``msp`` has none.
        normalize: as for ``DiffAugEnsemble``.

    Raises:
        ValueError, TypeError: an argument is not as above, the layer does not give the classifier's logits, or images
            are not as in ``forward``.

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
        check_instance("classifier", classifier, nn.Module)
        check_choice("method", method, METHODS)
        check_instance("layer", layer, (str, type(None)))
        self.classifier = classifier
        self.normalize = as_normalize(normalize)
        self.layer = last_linear(classifier) if layer is None else layer
        if layer is not None and (not layer or layer not in dict(classifier.named_modules())):
            last = ", ".join(_linear_layers(classifier)[-3:]) or "none"
            message = f"layer must name the classifier's last layer; its last linear ones: {last}"
            raise ValueError(f"{message}. Got {layer!r}")
        if percentile is not None and METHODS[method].percentile is None:
            raise ValueError(f"{method} takes no percentile. Got {percentile}")
        if percentile is not None:
            percentile = as_number("percentile", percentile, at_least=0, at_most=100)
        self.method = method
        self.percentile: Any = METHODS[method].percentile if percentile is None else percentile
        # ReAct's threshold. It is a buffer, so it is saved with the module. NaN means that it is not fitted.
        self.register_buffer("threshold", torch.tensor(float("nan")))
        self._warned = self._fitted = False
        self._late_checks = LateChecks()

    def forward(self, images: Tensor) -> Tensor:
        """Scores (B,), float32, for images (B, C, H, W), uint8 or in [0, 1].

        Scores and features carry gradients only if ``images`` require them.
        """
        with _gradients_for(images):
            return self.score(self.features(images))

    def features(self, images: Tensor) -> Tensor:
        """Pooled penultimate features (B, n) of images as in ``forward``. They do not depend on the method."""
        calls: list[tuple[Tensor, Tensor]] = []
        layer = self.classifier.get_submodule(self.layer)
        hook = layer.register_forward_hook(lambda _, inputs, output: calls.append((inputs[0], output)))
        with hook, _gradients_for(images):
            logits = logits_of(self.classifier, self.normalize, to_batch(images, self._late_checks))
        shapes = [tuple(output.shape) for _, output in calls]
        if len(shapes) != 1 or shapes[0][:2] != logits.shape:
            made = f"Got {self.layer!r}, which makes {shapes}, and logits {tuple(logits.shape)}"
            raise ValueError(f"layer must be the classifier's last, called once for a batch. {made}")
        features, output = calls[0]
        features = features.mean((2, 3)) if features.ndim == 4 else features
        self._check_logits(logits, features.detach(), TOLERANCE.get(output.dtype, 1e-2))
        return features

    def score(self, features: Tensor) -> Tensor:
        """Scores (B,), float32, for pooled features (B, n). ValueError if ``react`` is not fitted."""
        method = METHODS[self.method]
        amount = self.threshold if method.fitted else self.percentile
        if method.fitted and not self._fitted:  # read once, because reading waits for the threshold's device
            if self.threshold.isnan():
                raise ValueError(f"{self.method} must be fitted to in-distribution images: call fit. Got no threshold")
            self._fitted = True
        _check_features(features)
        self._warn_of_negative(features)
        with _gradients_for(features):
            return -method.confidence(self._logits(method.shape(features.float(), amount)))

    def _logits(self, features: Tensor) -> Tensor:
        """What the last layer makes of pooled features, float32 (B, K)."""
        layer = self.classifier.get_submodule(self.layer)
        inputs = features[..., None, None] if isinstance(layer, nn.Conv2d) else features
        return layer(to_own_dtype(inputs, layer)).flatten(1).float()

    @torch.no_grad()
    def _check_logits(self, logits: Tensor, features: Tensor, tolerance: float) -> None:
        """ValueError unless the last layer gives the classifier's own logits for the pooled features."""
        if not len(logits):
            return
        own, largest = self._logits(features), logits.abs().max()
        off = (own - logits).abs().max() / largest.clamp(min=1e-12) if own.shape == logits.shape else largest * 0 + 1

        def error_of(measured: list[float]) -> ValueError | None:
            if not math.isfinite(measured[0]):
                return ValueError("classifier must return finite logits. Got NaN or infinite values")
            if measured[1] <= tolerance:
                return None
            return ValueError(
                "layer must give the classifier's own logits for its pooled features. "
                f"Got {self.layer!r}, whose answer is off by {measured[1]:.0%} of the largest logit: the classifier "
                "has a second head, or a step behind this layer"
            )

        self._late_checks.check(torch.stack([largest, off]), error_of)

    def _warn_of_negative(self, features: Tensor) -> None:
        """One warning, the first time that a method for features of at least 0 gets many negative ones."""
        if self._warned or self.method == "msp" or not features.numel():
            return

        def warn(measured: list[float]) -> None:
            lowest, share = measured
            if not share > NEGATIVE_SHARE or self._warned:  # NaN if all features are 0
                return
            self._warned = True
            warnings.warn(
                f"{self.method} is made for features of at least 0, as behind a ReLU, and this classifier's go down to "
                f'{lowest:.3g}, as behind a LayerNorm or a SiLU: use method="msp"',
                stacklevel=5,
            )

        features = features.detach().float()
        share = -features.clamp(max=0).sum() / features.abs().sum()
        self._late_checks.check(torch.stack([features.min(), share]), warn)

    @torch.no_grad()
    def fit(self, data: Tensor | Iterable[Any]) -> OODDetector:
        """Set ReAct's threshold to the percentile of all features of in-distribution images, taken as one list.

        OpenOOD takes validation images. Other methods need no ``fit``, and it does not change their scores.

        Args:
            data: features (N, n); images as in ``forward``; or batches of images, alone or as (images, labels), such
                as a DataLoader. Batches are moved to the classifier's device.

        Returns:
            The detector itself. ValueError if there are no features, or a feature is not finite.
        """
        if not METHODS[self.method].fitted:
            return self
        if isinstance(data, (str, bytes, Mapping)) or not isinstance(data, Iterable):
            raise TypeError(
                f"data must be features, images, or batches of images such as a DataLoader. Got {shown(data)}"
            )
        if isinstance(data, Tensor) and data.ndim == 2:
            features = data
        else:
            batches = [data] if isinstance(data, Tensor) else data
            parts = [self._batch_features(batch).cpu() for batch in batches]
            features = torch.cat(parts) if parts else torch.empty(0, 0)
        _check_features(features)
        if not features.numel() or not features.isfinite().all():
            raise ValueError(f"fit needs finite features of at least one image. Got shape {tuple(features.shape)}")
        # torch.quantile refuses more than 16 million values, so NumPy computes the percentile.
        self._fitted = False
        self.threshold.fill_(float(np.percentile(features.float().cpu().numpy(), self.percentile)))
        return self

    def _batch_features(self, batch: Any) -> Tensor:
        """The features of one of ``fit``'s batches, on the classifier's device."""
        images = batch[0] if isinstance(batch, (tuple, list)) and batch else batch
        if not isinstance(images, Tensor):
            raise TypeError(f"data's batches must be images, or (images, labels). Got {shown(batch)}")
        weight = next(self.classifier.parameters(), images)
        return self.features(images.to(weight.device))

    def extra_repr(self) -> str:
        return f"layer={self.layer!r}, method={self.method!r}, percentile={self.percentile}"


def _gradients_for(inputs: Any) -> AbstractContextManager[Any]:
    """Gradients are computed only if they were asked for: if the inputs require them."""
    return torch.set_grad_enabled(torch.is_grad_enabled() and getattr(inputs, "requires_grad", False))


def _check_features(features: Any) -> None:
    check_instance("features", features, Tensor)
    if features.ndim != 2 or not features.is_floating_point():
        raise ValueError(f"features must be floating point (N, n). Got {features.dtype} {tuple(features.shape)}")


def last_linear(classifier: nn.Module) -> str:
    """The name of the last linear layer. ValueError if there is none."""
    if names := _linear_layers(classifier):
        return names[-1]
    kind = type(classifier).__name__
    raise ValueError(f"classifier must have a linear layer, or layer must name its last layer. Got {kind}")


def _linear_layers(classifier: nn.Module) -> list[str]:
    return [name for name, module in classifier.named_modules() if isinstance(module, nn.Linear)]
