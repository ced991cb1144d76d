"""DeiT III's recipe for vision transformers (Touvron et al., ECCV 2022): the clean view, its labels and its loss.

    image ──crop, flip, augmentation──▶ clean ──MixUp or CutMix──▶ mixed images, soft labels ──▶ the clean view's loss
      └──────────────────────────────▶ DiffAug ───────────────────▶ the image's own label ─────▶ + CE(diffaug)

Only the clean view changes. DiffAug keeps the unmixed original and its class, as one more view of the paper's loss.
"""

from __future__ import annotations

import argparse
import random
from typing import Any

import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F
from sample_views import geometry
from torch import Tensor, nn
from torchvision.transforms import v2

from diffaug_transforms.transforms import ViewsLoss


def add_deit_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("DeiT III's recipe", "for the clean view; DiffAug's view stays as it is")
    augment = "three (3-Augment), or timm's RandAugment by its name, such as rand-m9-mstd0.5-inc1"
    group.add_argument("--augment", help=augment)
    group.add_argument("--mixup", type=float, default=0.0, help="alpha of MixUp, such as 0.8")
    group.add_argument("--cutmix", type=float, default=0.0, help="alpha of CutMix, such as 1; with both, half and half")
    group.add_argument("--label-smoothing", type=float, default=0.0, help="share that goes to all classes, such as 0.1")
    group.add_argument("--bce", action="store_true", help="binary cross-entropy, where every mixed class counts fully")
    group.add_argument("--drop-path", type=float, default=0.0, help="stochastic depth of a timm model, such as 0.2")
    group.add_argument("--repeats", type=int, default=1, help="repeated augmentation: crops of an image in a batch")


def check_deit_arguments(args: argparse.Namespace) -> None:
    """ValueError if options exclude each other."""
    if args.augment and args.augment != "three" and not args.augment.startswith("rand-"):
        raise ValueError(f"augment must be three or a RandAugment such as rand-m9-mstd0.5-inc1. Got {args.augment!r}")
    if (args.mixup or args.cutmix) and "augmix" in args.recipe:
        raise ValueError(f"mixup and cutmix need a recipe without AugMix, whose JSD compares views. Got {args.recipe}")
    if args.bce and args.label_smoothing:
        raise ValueError("bce has no label smoothing: its targets are 0 and 1")
    if args.drop_path and not args.model.startswith("timm/"):
        raise ValueError(f"drop-path needs a timm model. Got {args.model}")


def build_with_drop_path(name: str, num_classes: int, pretrained: bool, drop_path: float) -> nn.Module:
    """A timm model with stochastic depth. Its weights have the same names. ValueError if it takes no such rate."""
    import timm

    bare = name.removeprefix("timm/")
    try:
        return timm.create_model(bare, pretrained=pretrained, num_classes=num_classes, drop_path_rate=drop_path)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"timm cannot make the model {name!r} with drop-path={drop_path}: {error}") from error


def clean_transform(size: int, augment: str | None) -> v2.Transform:
    """The crop and the flip of the clean view, and an augmentation after them. Then the crop is bicubic, as DeiT's."""
    if augment is None:
        return geometry(size)[0]
    crop = geometry(size, v2.InterpolationMode.BICUBIC)[0]
    return v2.Compose([crop, three_augment() if augment == "three" else RandAugment(augment, size)])


def three_augment() -> v2.Transform:
    """One of grey, solarize and blur, each as likely; then brightness, contrast and saturation change by up to 0.3."""
    solarize = v2.RandomSolarize(threshold=128, p=1.0)
    blur = v2.GaussianBlur(kernel_size=13, sigma=(0.1, 2.0))
    choice = v2.RandomChoice([v2.Grayscale(num_output_channels=3), solarize, blur])
    return v2.Compose([choice, v2.ColorJitter(brightness=0.3, contrast=0.3, saturation=0.3)])


class RandAugment(v2.Transform):
    """timm's RandAugment of PIL images, whose draws follow torch's.

    timm draws from ``random`` and NumPy. Here one draw of torch seeds both, so an image's seed fixes all its draws. At
    magnitude 10 timm posterizes to 0 bits. Older versions of Pillow make that black, newer ones raise an error. So the
    largest magnitude is 9.99.

    Args:
        name: as timm's, such as "rand-m9-mstd0.5-inc1".
        size: side of the images, for the largest shift.
    """

    def __init__(self, name: str, size: int) -> None:
        super().__init__()
        from timm.data import IMAGENET_DEFAULT_MEAN, rand_augment_transform

        grey = tuple(round(255 * mean) for mean in IMAGENET_DEFAULT_MEAN)
        bicubic = PIL.Image.Resampling.BICUBIC
        options: dict[str, Any] = {"translate_const": int(size * 0.45), "img_mean": grey, "interpolation": bicubic}
        options["magnitude_max"] = 9.99
        self.augment = rand_augment_transform(name, options)

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        seed = int(torch.randint(2**32, ()))
        random.seed(seed)
        np.random.seed(seed)
        return self.augment(inpt)


def mixing(args: argparse.Namespace, num_classes: int) -> v2.Transform | None:
    """MixUp or CutMix of (images, labels), drawn for each batch; with both alphas each is as likely. None: neither.

    Each image is mixed with the one before it. DeiT's code mixes the first with the last, the second with the last but
    one, and so on; batches are shuffled, so the pairs are random either way.
    """
    ways: list[v2.Transform] = []
    if args.mixup:
        ways.append(v2.MixUp(alpha=args.mixup, num_classes=num_classes))
    if args.cutmix:
        ways.append(v2.CutMix(alpha=args.cutmix, num_classes=num_classes))
    return v2.RandomChoice(ways) if ways else None


def mix_clean(mix: v2.Transform | None, views: dict[str, Tensor], labels: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """The views with the clean one mixed, and the clean view's targets: classes (B,), or probabilities (B, K)."""
    if mix is None:
        return views, labels
    clean, targets = mix(v2.functional.to_dtype(views["clean"], torch.float32, scale=True), labels)
    return {**views, "clean": clean}, targets


class RecipeLoss(nn.Module):
    """DeiT III's loss of the clean view, and the paper's loss of all other views.

    Args:
        views_loss: for the other views, with their own labels. Without ``bce``, ``label_smoothing`` and mixed targets
            the result is that of ``views_loss`` over all views.
        bce: binary cross-entropy, the mean over the classes. Every class with a share in a mixed image has target 1.
        label_smoothing: for the cross-entropy of the clean view.
    """

    def __init__(self, views_loss: ViewsLoss, bce: bool = False, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.views_loss, self.bce, self.label_smoothing = views_loss, bce, label_smoothing
        self.other_views = ViewsLoss(**{**views_loss.weights, "clean": 0.0}, jsd=views_loss.jsd, kinds=views_loss.kinds)

    def forward(self, logits: dict[str, Tensor], labels: Tensor, targets: Tensor) -> Tensor:
        """The loss, a scalar.

        Args:
            logits: (B, K) by the name of the view.
            labels: int64 (B,), the images' own classes.
            targets: of the clean view: the same, or probabilities (B, K) after MixUp and CutMix.
        """
        if not self.bce and not self.label_smoothing and targets is labels:
            return self.views_loss(logits, labels)
        clean = self.views_loss.weights["clean"] * self.clean_loss(logits["clean"].float(), targets)
        return clean + self.other_views(logits, labels)

    def clean_loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        if not self.bce:
            return F.cross_entropy(logits, targets, label_smoothing=self.label_smoothing)
        shares = targets if targets.is_floating_point() else F.one_hot(targets, logits.shape[1])
        return F.binary_cross_entropy_with_logits(logits, (shares > 0).to(logits.dtype))
