"""Every check of a constructor's or a function's arguments, stated once: a value in, the checked value out.

Errors name the constraint and echo the value: "p must be in [0, 1]. Got 1.5". A value of another kind is a TypeError, a
value out of range a ValueError. Images and labels are checked in ``images.py`` and ``labels.py``, entries of files in
``files.py``.
"""

from __future__ import annotations

import math
import numbers
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .without_waiting import kept_on

#: The largest noise level on pixels in [0, 1] that is taken. Noise of 1 hides all of an image.
MAX_PIXEL_SIGMA = 2
#: What wrappers of a classifier take as ``normalize``.
Normalize = Callable[[Tensor], Tensor] | tuple[Sequence[float], Sequence[float]] | None
#: The types that networks and classifiers compute in.
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
#: The modes of ``torch.compile``.
COMPILE_MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
#: The types of timesteps and labels.
INTEGERS = (torch.int64, torch.int32)


def as_number(
    name: str,
    value: Any,
    *,
    at_least: float = -math.inf,
    at_most: float = math.inf,
    above: float = -math.inf,
    below: float = math.inf,
) -> float:
    """A finite number within its limits, as it is; NumPy's numbers become Python's.

    Example:
        >>> as_number("p", 1.5, at_least=0, at_most=1)
        Traceback (most recent call last):
        ValueError: p must be in [0, 1]. Got 1.5
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number. Got {shown(value)}")
    number = value if isinstance(value, (int, float)) else float(value)
    if not (abs(number) <= sys.float_info.max and at_least <= number <= at_most and above < number < below):
        raise ValueError(f"{name} must be {_limits(at_least, at_most, above, below)}. Got {number!s:.80}")
    return number


def as_pixel_sigma(name: str, value: Any, **limits: float) -> float:
    """A noise level on pixels in [0, 1]. One that is larger than ``MAX_PIXEL_SIGMA`` is meant for pixels in 0...255."""
    sigma = as_number(name, value, **limits)
    if sigma > MAX_PIXEL_SIGMA:
        raise ValueError(
            f"{name} is on pixels in [0, 1] and must be at most {MAX_PIXEL_SIGMA}. Got {sigma!s:.80}: if it is for "
            "0...255, divide it by 255"
        )
    return sigma


def _limits(at_least: float, at_most: float, above: float, below: float) -> str:
    """The words for a range: "in [0, 1]", "at least 1", "finite and above 0"."""
    low, high = max(at_least, above), min(at_most, below)
    if math.isfinite(low) and math.isfinite(high):
        return f"in {'[' if low == at_least else '('}{low}, {high}{']' if high == at_most else ')'}"
    if math.isfinite(low):
        return f"at least {low}" if low == at_least else f"finite and above {low}"
    return f"at most {high}" if math.isfinite(high) else "finite"


def as_integer(name: str, value: Any, at_least: int, at_most: int | None = None) -> int:
    """An integer within its limits as an int. Floating point numbers and truth values are refused."""
    scalar = hasattr(value, "__index__") and not isinstance(value, (bool, Tensor)) and not getattr(value, "shape", ())
    if not scalar:
        raise TypeError(f"{name} must be an integer. Got {shown(value)}")
    number = int(value)
    if number < at_least or (at_most is not None and number > at_most):
        limits = f"at least {at_least}" if at_most is None else f"in {at_least}...{at_most}"
        raise ValueError(f"{name} must be {limits}. Got {number!s:.80}")
    return number


def as_optional_integer(name: str, value: Any, at_least: int, at_most: int | None = None) -> int | None:
    """``as_integer``, or None."""
    return None if value is None else as_integer(name, value, at_least, at_most)


def as_path(name: str, value: Any) -> Path:
    """A path, from a string or a ``Path``."""
    if not isinstance(value, (str, Path)):
        raise TypeError(f"{name} must be a path. Got {shown(value)}")
    return Path(value)


def check_callable(name: str, value: Any, kind: str) -> None:
    """TypeError unless it can be called, or is None. ``kind`` says what it should be: "a transform"."""
    if value is not None and (not callable(value) or isinstance(value, type)):
        raise TypeError(f"{name} must be {kind} or None. Got {shown(value)}")


def check_instance(name: str, value: Any, kind: type | tuple[type, ...], hint: str = "") -> None:
    """TypeError unless it is of a class, or of one of several."""
    if not isinstance(value, kind):
        names = " or ".join(one.__name__ for one in (kind if isinstance(kind, tuple) else (kind,)))
        article = "an" if names[0] in "AEIOU" else "a"
        raise TypeError(f"{name} must be {article} {names}{hint}. Got {shown(value)}")


def check_tensor(name: str, value: Any, dtypes: tuple[torch.dtype, ...], wanted: str) -> None:
    """TypeError unless it is a tensor of one of the dtypes. ``wanted`` describes it: "an int64 tensor (B,)"."""
    if not isinstance(value, Tensor) or value.dtype not in dtypes:
        raise TypeError(f"{name} must be {wanted}. Got {value.dtype if isinstance(value, Tensor) else shown(value)}")


def as_names(name: str, value: Any) -> tuple[str, ...]:
    """Names in a list or tuple, as a tuple."""
    if not isinstance(value, (list, tuple)) or not all(isinstance(one, str) for one in value):
        raise TypeError(f"{name} must be a list of names, such as ['cat', 'dog']. Got {shown(value)}")
    return tuple(value)


def check_flags(**flags: Any) -> None:
    """TypeError unless each value is True or False."""
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise TypeError(f"{name} must be True or False. Got {shown(value)}")


def check_choice(name: str, value: Any, choices: Iterable[str]) -> None:
    """ValueError unless the value is one of the names."""
    names = tuple(choices)
    if not isinstance(value, str) or value not in names:
        raise ValueError(f"{name} must be one of {', '.join(names)}. Got {shown(value)}")


def check_generator(generator: Any) -> None:
    """TypeError unless it is a ``torch.Generator`` or None."""
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(
            f"generator must be a torch.Generator or None. Got {shown(generator)}: torch.Generator().manual_seed(0)"
        )


def check_classifier(classifier: Any) -> None:
    """TypeError unless it can be called. A warning if it is a ``Sequential`` that ends in ``Softmax``."""
    if not callable(classifier) or isinstance(classifier, type):
        raise TypeError(
            "classifier must be a module from images to logits, such as timm.create_model(NAME, pretrained=True). "
            f"Got {shown(classifier)}"
        )
    last = classifier
    while isinstance(last, nn.Sequential) and len(last):
        last = last[-1]
    if isinstance(last, nn.Softmax):
        text = "classifier ends in Softmax, so it returns probabilities. It must return logits: leave the Softmax out"
        warnings.warn(text, stacklevel=3)


def check_compile(mode: Any) -> None:
    """TypeError or ValueError unless it is True, False, or a mode of ``torch.compile``."""
    if not isinstance(mode, bool) and (not isinstance(mode, str) or mode not in COMPILE_MODES):
        kind = ValueError if isinstance(mode, str) else TypeError
        raise kind(f"compile must be True, False, or one of {', '.join(COMPILE_MODES)}. Got {shown(mode)}")


def check_dtype(dtype: Any) -> None:
    """TypeError unless it is a ``torch.dtype`` or None; ValueError unless networks can compute in it."""
    if dtype is None:
        return
    if not isinstance(dtype, torch.dtype):
        raise TypeError(f"dtype must be a torch.dtype, such as torch.bfloat16, or None. Got {shown(dtype)}")
    if dtype not in FLOATS:
        raise ValueError(f"dtype must be float16, bfloat16, float32 or float64. Got {dtype}")


def as_timesteps(timesteps: Iterable[int] | int | None) -> tuple[int, ...] | None:
    """``timesteps`` as a tuple of ints >= 0; None stays None. Whether they are below T is checked once T is known."""
    if timesteps is None:
        return None
    if isinstance(timesteps, Tensor) or hasattr(timesteps, "tolist"):
        timesteps = timesteps.tolist()  # also of NumPy's arrays and integers
    if isinstance(timesteps, (str, bytes)) or not (hasattr(timesteps, "__index__") or isinstance(timesteps, Iterable)):
        raise TypeError(f"timesteps must be integers, or one integer. Got {shown(timesteps)}")
    steps = tuple(timesteps) if isinstance(timesteps, Iterable) else (timesteps,)
    if not steps:
        raise ValueError("timesteps must hold at least one timestep. Got none")
    for t in steps:
        if isinstance(t, bool) or not hasattr(t, "__index__"):
            raise TypeError(f"timesteps must be integers. Got {shown(t)}")
        if t < 0:
            raise ValueError(f"timesteps must be at least 0. Got {t}")
    return tuple(int(t) for t in steps)


def as_normalize(normalize: Any) -> Callable[[Tensor], Tensor]:
    """The step before a classifier: ``ChannelNormalize`` for ``(mean, std)``, nothing for None, a callable as it is.

    mean and std are one number for each channel, or one for all channels.
    """
    if normalize is None:
        return nn.Identity()
    if callable(normalize) and not isinstance(normalize, type):
        return normalize
    if isinstance(normalize, (str, bytes)) or not isinstance(normalize, Sequence) or len(normalize) != 2:
        raise TypeError(f"normalize must be (mean, std), a callable or None. Got {shown(normalize)}")
    mean, std = (_per_channel(name, values) for name, values in zip(("mean", "std"), normalize))
    if len(mean) != len(std) and 1 not in (len(mean), len(std)):
        raise ValueError(f"normalize must have as many means as stds. Got {len(mean)} and {len(std)}")
    for value in std:
        as_number("std", value, above=0)
    if max(mean) > 1:
        raise ValueError(
            f"normalize is for images in [0, 1], so mean must be at most 1. Got {max(mean)!s:.80}: if mean and std are "
            "for 0...255, divide both by 255"
        )
    return ChannelNormalize(mean, std)


class ChannelNormalize(nn.Module):
    """(images - mean) / std for images (B, C, H, W). Unlike ``v2.Normalize`` it copies mean and std to a device once.

    Attributes:
        mean, std: one number for each channel, or one for all.
    """

    def __init__(self, mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.mean, self.std = mean, std

    def forward(self, images: Tensor) -> Tensor:
        channels = images.shape[1]
        if not {len(self.mean), len(self.std)} <= {1, channels}:
            raise ValueError(
                f"normalize must have one mean and std, or one for each of the images' {channels} channels. "
                f"Got {self.mean} and {self.std}"
            )
        kind: Any = {"dtype": images.dtype, "device": images.device}
        if images.device.type == "cpu" or torch.compiler.is_compiling():
            mean, std = torch.tensor(self.mean, **kind), torch.tensor(self.std, **kind)
        else:
            mean, std = kept_on(tuple(self.mean), **kind), kept_on(tuple(self.std), **kind)
        return (images - mean.reshape(-1, 1, 1)) / std.reshape(-1, 1, 1)

    def extra_repr(self) -> str:
        return f"mean={self.mean}, std={self.std}"


def _per_channel(name: str, values: Any) -> list[float]:
    """One number, or a sequence of numbers, as a list."""
    if hasattr(values, "tolist"):  # a tensor or an array
        values = values.tolist()
    several = isinstance(values, Sequence) and not isinstance(values, (str, bytes)) and values
    return [as_number(name, value) for value in (values if several else [values])]


def listed(names: Sequence[str], most: int = 10) -> str:
    """Names with commas between them. Of more than ``most`` names the others are counted.

    Example:
        >>> listed(["cat", "dog", "owl"], most=2)
        'cat, dog and 1 more'
    """
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def counted(number: int, noun: str) -> str:
    """A number of things, in words.

    Example:
        >>> counted(1, "image"), counted(2000, "image")
        ('1 image', '2,000 images')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def shown(value: Any) -> str:
    """A value as error messages show it: its repr, shortened, or its type if that is long."""
    if isinstance(value, nn.Module):
        return type(value).__name__
    if shape := getattr(value, "shape", ()):
        return f"{type(value).__name__} of shape {tuple(shape)}"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
