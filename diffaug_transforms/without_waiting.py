"""Small values on their way to a device and back, without the host's waiting for it.

``kept_on`` copies constants once, ``send`` copies values of the host. ``LateChecks`` reads checks at a later call, and
``held_within`` checks indices so.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

#: From the values to the error that they deserve, or None.
ErrorOf = Callable[[list[float]], Exception | None]


@lru_cache(maxsize=256)
def kept_on(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Constants (N,) on a device other than the CPU. They are kept, because each copy to it would wait for it."""
    with torch.inference_mode(False):  # they may be used outside of it later
        return torch.tensor(values, dtype=dtype, device=device)


def send(values: Tensor, device: torch.device) -> Tensor:
    """The same values on a device. From the CPU to CUDA they go through pinned memory, so that the host goes on."""
    if values.device.type == "cpu" and device.type == "cuda":
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)


class LateChecks:
    """What was measured on devices in earlier calls and has not been read yet.

    Attributes:
        waiting: the values on their way to the host, the event after which they are there, and their check.
    """

    def __init__(self) -> None:
        self.waiting: list[tuple[Tensor, Any, ErrorOf]] = []

    def check(self, values: Tensor, error_of: ErrorOf) -> None:
        """Raise the error that values (N,) deserve: now on the CPU, in a later call if they are on a device."""
        if values.device.type != "cpu":
            self.add(values, error_of)
        elif error := error_of(values.tolist()):
            raise error

    def add(self, values: Tensor, error_of: ErrorOf) -> None:
        """Send values (N,) to the host, without waiting for them."""
        copied, event = values.to("cpu", non_blocking=True), torch.Event(values.device)
        event.record()
        self.waiting.append((copied, event, error_of))

    def read(self) -> None:
        """Raise the first error of earlier calls whose values have come by now."""
        while self.waiting and self.waiting[0][1].query():
            values, _, error_of = self.waiting.pop(0)
            if error := error_of(values.tolist()):
                error.add_note("This is about what an earlier call was given. On a device it is checked late.")
                raise error

    def __reduce__(self) -> tuple[type, tuple[()]]:
        """A copy, or what comes out of a pickle, waits for nothing."""
        return LateChecks, ()


def held_within(indices: Tensor, number: int, late_checks: LateChecks, error_of: ErrorOf) -> Tensor:
    """Indices (N,) of a device, those beyond 0...number-1 moved to the nearest; their error comes in a later call.

    An index out of range would end the process, and to read one would wait for the device.
    """
    if not indices.numel():
        return indices
    late_checks.add(torch.stack(torch.aminmax(indices)), error_of)
    return indices.clamp(0, number - 1)
