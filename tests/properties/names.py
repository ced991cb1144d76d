"""The names that the code of a call may use: what is public, small networks and classifiers, builders of images."""

from __future__ import annotations

from collections import OrderedDict, defaultdict, namedtuple
from math import inf, nan
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from torch import Tensor, nn
from torchvision import tv_tensors
from torchvision.transforms import v2

import diffaug_transforms
from diffaug_transforms import ScoreNetwork, classifiers, figures, guidance, images, robustness, score, transforms
from diffaug_transforms.robustness import smoothing
from diffaug_transforms.score import NoiseSchedule, sampling
from tests.conftest import GaussianOracle, tiny_unet

SIZE, CLASSES = 16, 7
linear = NoiseSchedule.named("linear", 1000)
exploding_schedule = NoiseSchedule.variance_exploding(0.02, 100, 1000)
Sample = namedtuple("Sample", "image label")


def score_network(unet: nn.Module, **options: Any) -> ScoreNetwork:
    return ScoreNetwork(unet, linear, **options).requires_grad_(False).eval()


#: Unconditional, 16 pixels.
plain = score_network(tiny_unet())
grey = score_network(tiny_unet(channels=1))
#: Five classes and no null class; five classes and a null class.
classes = score_network(tiny_unet(num_class_embeds=5))
null = score_network(tiny_unet(num_class_embeds=6), null_class=5)
learned = score_network(tiny_unet(learned_variance=True), variance_type="learned_range")
#: The exact network of Gaussian images: the fastest.
exact = score_network(GaussianOracle(linear, size=SIZE))


def shrink(x: Tensor, sigma: Tensor) -> Tensor:
    """The exact denoiser of white noise."""
    return x / (1 + sigma.reshape(-1, 1, 1, 1) ** 2)


#: Any denoiser, for images of any size.
denoised = ScoreNetwork.from_denoiser(shrink, image_size=None, sigma_range=(0, inf))
exploding = ScoreNetwork(GaussianOracle(exploding_schedule, size=SIZE), exploding_schedule)


def linear_head(channels: int = 3) -> nn.Module:
    """A classifier of images of any size."""
    torch.manual_seed(1)
    layers = nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(16 * channels, CLASSES)
    return nn.Sequential(*layers).requires_grad_(False).eval()


def convolutional(dtype: torch.dtype = torch.float32) -> nn.Module:
    """A classifier with features that are at least 0 in front of its last layer."""
    torch.manual_seed(2)
    body = nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(*body, nn.Linear(8, CLASSES)).requires_grad_(False).eval().to(dtype)


class MeanChannel(nn.Module):
    """Makes one channel of any number of channels."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=1, keepdim=True)


class NoisyHead(nn.Module):
    """A classifier of noisy images: ``classifier(x_t, timesteps)``."""

    def __init__(self) -> None:
        super().__init__()
        self.head = linear_head()

    def forward(self, x_t: Tensor, timesteps: Tensor) -> Tensor:
        return self.head(x_t) + timesteps[:, None] / 1000


head, grey_head, convnet = linear_head(), linear_head(1), convolutional()
half_net, bfloat_net, double_net = map(convolutional, (torch.float16, torch.bfloat16, torch.float64))
noisy_head = NoisyHead()
#: A classifier of images with any number of channels, for what has no network that knows their number.
open_head = nn.Sequential(MeanChannel(), linear_head(1)).eval()


def small_encoder(**options: Any) -> guidance.GuidanceEncoder:
    """Five classes, 16 pixels, one level."""
    levels = {"block_out_channels": (32,), "down_block_types": ("AttnDownBlock2D",), "layers_per_block": 1}
    widths = {"attention_head_dim": 16, "norm_num_groups": 8}
    return guidance.GuidanceEncoder(**{"sample_size": SIZE, "num_classes": 5, **levels, **widths, **options}).eval()


encoder = small_encoder()
augmented_encoder = encoder.with_denoised_input().eval()
training_items = [(torch.full((3, 32, 32), 7, dtype=torch.uint8), 3), (torch.zeros(3, 32, 32, dtype=torch.uint8), 8)]

Shape = tuple[int, ...]


def guided_sample(*arguments: Any, **options: Any) -> Tensor:
    """Two images that a guide with these arguments makes in three steps."""
    guide = guidance.classifier_guide(*arguments, **options)
    return sampling.sample(exact, torch.randn(2, 3, SIZE, SIZE), [0, 300, 600], guide=guide, method="ddim")


def numbers(shape: Shape, values: str) -> Tensor:
    """Float numbers: in [0, 1], as normalised images have them, or wrong ones."""
    unit = torch.rand(shape)
    made = {
        "unit": unit,
        "rounding": unit * (1 + 4e-5),
        "zeros": torch.zeros(shape),
        "ones": torch.ones(shape),
        "bytes": (unit * 255).round(),
        "normalised": torch.randn(shape) * 2,
        "signed": unit * 2 - 1,
        "huge": unit * 1e30,
    }
    if values in made:
        return made[values]
    wrong = {"nan": nan, "inf": inf, "minus_inf": -inf}[values]
    return torch.where(unit < 0.5, wrong, unit)


def pixels(shape: Shape, dtype: str = "float32", values: str = "unit", layout: str = "plain") -> Tensor:
    """A tensor of images. Integer types get 0...255, bool gets both values."""
    kind = getattr(torch, dtype)
    floats = numbers(shape, values)
    if not (kind.is_floating_point or kind.is_complex):
        floats = (torch.rand(shape) * (1.99 if kind == torch.bool else 100)).floor()
    return laid_out(floats.to(kind), layout)


def laid_out(tensor: Tensor, layout: str) -> Tensor:
    """The same values in another layout, or as another kind of tensor."""
    if layout == "channels_last" and tensor.ndim == 4:
        return tensor.contiguous(memory_format=torch.channels_last)
    if layout == "strided":
        return torch.stack([tensor, tensor], dim=-1)[..., 0]
    if layout == "expanded" and tensor.ndim and tensor.shape[0]:
        return tensor[:1].expand(tensor.shape)
    if layout == "grad" and tensor.is_floating_point():
        return tensor.requires_grad_()
    if layout == "parameter" and tensor.is_floating_point():
        return nn.Parameter(tensor)
    return tensor


def array(shape: Shape, dtype: str = "uint8", values: str = "unit") -> np.ndarray:
    """A NumPy array of images."""
    if dtype == "object":
        return np.array([None] * int(np.prod(shape)), dtype=object).reshape(shape)
    if np.dtype(dtype).kind not in "fc":
        return (numbers(shape, "unit").numpy() * 255).astype(dtype)
    return numbers(shape, values).numpy().astype(dtype)


def picture(mode: str = "RGB", width: int = SIZE, height: int = SIZE) -> PIL.Image.Image:
    """A PIL image of any mode."""
    if not (width and height):
        return PIL.Image.new(mode, (width, height))
    red_green_blue = PIL.Image.fromarray(array((height, width, 3)))
    try:
        return red_green_blue.convert(mode)
    except ValueError:
        return PIL.Image.new(mode, (width, height))


def boxes(number: int = 1) -> tv_tensors.BoundingBoxes:
    return tv_tensors.BoundingBoxes([[1, 2, 3, 4]] * number, format="XYXY", canvas_size=(SIZE, SIZE))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Brightness(nn.Module):
    """Somebody's own augmentation."""

    def forward(self, image: Any) -> Any:
        return v2.functional.adjust_brightness(image, 0.5)


def normalized_logits(*arguments: Any, **options: Any) -> Tensor:
    """Logits of two images by a ``NormalizedClassifier`` with these arguments."""
    return classifiers.NormalizedClassifier(*arguments, **options)(pixels((2, 3, SIZE, SIZE)))


def namespace() -> dict[str, Any]:
    """Everything public, and everything above."""
    parts = (score, transforms, guidance, robustness, diffaug_transforms)
    public = {name: getattr(part, name) for part in parts for name in part.__all__}
    modules = {"classifiers": classifiers, "figures": figures, "images": images, "sampling": sampling}
    libraries = {"np": np, "torch": torch, "nn": nn, "v2": v2, "tv_tensors": tv_tensors, "Path": Path, "PIL": PIL}
    containers = {"OrderedDict": OrderedDict, "defaultdict": defaultdict}
    return {**public, **modules, **libraries, **containers, "smoothing": smoothing, **globals()}
