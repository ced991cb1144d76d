"""Calls that load weights, kept away from what the calling thread is doing: tracing, modes, a failed trace."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any


def in_own_thread(function: Callable[..., Any], *args: Any) -> Any:
    """Call a function in a thread of its own, and wait for its result or its exception.

    PyTorch keeps its modes by thread: tracing, fake tensors, inference mode, autocast, the default device. None of them
    may reach the weights of a network that is loaded while they are on.
    """
    answer: Future[Any] = Future()

    def call() -> None:
        try:
            answer.set_result(function(*args))
        except BaseException as error:  # the caller gets it
            answer.set_exception(error)

    threading.Thread(target=call, daemon=True).start()
    return answer.result()


def error_of(function: Callable[..., Any], *args: Any) -> str | None:
    """The name and message of the exception that a function raises, or None."""
    try:
        function(*args)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None
