"""Run one call and give the verdict: "right", "clear error", or a third kind, which is a fault."""

from __future__ import annotations

import signal
import threading
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL.Image
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten

import diffaug_transforms

from .names import namespace
from .values import Call, both

PACKAGE = str(Path(diffaug_transforms.__file__).parent)
SECONDS = 20
RIGHT, CLEAR, THIRD = "right", "clear error", "third kind"
#: More different warnings than this in one call are a flood.
MANY_WARNINGS = 3


class Verdict(NamedTuple):
    """Attributes:
    kind: ``RIGHT``, ``CLEAR`` or ``THIRD``.
    reason: what is wrong; "" for the first two.
    """

    kind: str
    reason: str = ""


class TooLong(BaseException):
    """Raised by the alarm, so that no ``except Exception`` swallows it."""


NAMES = namespace()


def judge(call: Call) -> Verdict:
    """The verdict on a call. Errors in the arguments' own code are faults of this suite and are raised."""
    torch.manual_seed(0)
    arguments = [eval(code, NAMES) for code in call.arguments]
    keywords = {name: eval(code, NAMES) for name, code in call.keywords}
    before = fingerprint([arguments, keywords])
    expected = both([call.good, call.check.expects(arguments)])
    try:
        with warnings.catch_warnings(record=True) as caught, time_limit():
            warnings.simplefilter("always")
            result = eval(call.called, NAMES)(*arguments, **keywords)
    except TooLong:
        return Verdict(THIRD, f"more than {SECONDS} seconds")
    except Exception as error:
        verdict = judge_error(error)
        if verdict.kind == CLEAR and expected is True:
            return Verdict(THIRD, f"refused though right: {_told(error)}")
        return verdict
    if expected is False:
        wrong = " and ".join(call.bad) or "an input that must be refused"
        return Verdict(THIRD, f"taken in silence: {wrong}; the answer is of type {type(result).__name__}")
    problem = call.check.complaint(arguments, result)
    if problem is None and fingerprint([arguments, keywords]) != before:
        problem = "an input was changed in place"
    seen = {(str(warning.message), warning.filename, warning.lineno) for warning in caught}
    if problem is None and len(seen) > MANY_WARNINGS:
        problem = f"{len(seen)} warnings: {caught[0].message}"
    return Verdict(RIGHT) if problem is None else Verdict(THIRD, problem)


def judge_error(error: Exception) -> Verdict:
    """Whether an error is clear: an OSError, or a ValueError or TypeError that the package itself raised, in words; or
    the user's classifier's own error, with the package's note of what it got."""
    frames = traceback.extract_tb(error.__traceback__)
    own = isinstance(error, (ValueError, TypeError)) and frames[-1].filename.startswith(PACKAGE)
    own |= any("The classifier got images" in note for note in getattr(error, "__notes__", ()))
    if not (own or isinstance(error, OSError)) or len(str(error).split()) < 4:
        last = next((frame for frame in reversed(frames) if frame.filename.startswith(PACKAGE)), None)
        place = f" at {Path(last.filename).name}:{last.lineno}" if last else ""
        return Verdict(THIRD, f"foreign {_told(error)}{place}")
    return Verdict(CLEAR)


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"


def fingerprint(values: Any) -> list[Any]:
    """The bytes of all images, to see whether a call changed what it was given."""
    prints: list[Any] = []
    for leaf in tree_flatten(values)[0]:
        if isinstance(leaf, Tensor):
            plain = leaf.detach().as_subclass(Tensor).flatten()
            bits = plain.clone(memory_format=torch.contiguous_format).view(torch.uint8)
            prints.append((leaf.shape, leaf.requires_grad, leaf.grad is None, bits.numpy().tobytes()))
        elif isinstance(leaf, (np.ndarray, PIL.Image.Image)):
            prints.append(leaf.tobytes())
    return prints


@contextmanager
def time_limit() -> Iterator[None]:
    """Raise ``TooLong`` after ``SECONDS``."""

    def ring(*_: Any) -> None:
        raise TooLong

    if threading.current_thread() is not threading.main_thread():
        yield  # signals are for the main thread
        return
    previous = signal.signal(signal.SIGALRM, ring)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)
