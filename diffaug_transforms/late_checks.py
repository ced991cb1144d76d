"""Checks of values on a device that are read at a later call. Reading them at once would make the host wait for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

#: From the values to the error that they deserve, or None.
ErrorOf = Callable[[list[float]], Exception | None]


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
