"""Small values on their way to a device and back, without the host's waiting for it.

``kept_on`` copies constants once. ``LateChecks`` reads checks of values at a later call.
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


class LateChecks:
    """What was measured on devices in earlier calls and has not been read yet.

    Attributes:
        waiting: the values on their way to the host, the event after which they are there, and their check.
    """

    def __init__(self) -> None:
        self.waiting: list[tuple[Tensor, Any, ErrorOf]] = []

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
                error.add_note("This is about the images of an earlier call. On a device they are checked late.")
                raise error

    def __reduce__(self) -> tuple[type, tuple[()]]:
        """A copy, or what comes out of a pickle, waits for nothing."""
        return LateChecks, ()
