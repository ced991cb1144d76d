"""Read ahead and write behind: decoding, the network and encoding run side by side, with bounded memory.

    items --read_ahead, threads--> results, in order --> the caller: network --> WriteBehind, threads --> files

The order is the items' own whatever the number of threads, so results do not depend on it.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
#: Pictures that are decoded and wait take at most so many bytes, or one picture a thread.
WAITING_BYTES = 2**29


def thread_count() -> int:
    """How many threads read, and how many write."""
    return min(8, os.cpu_count() or 1)


@contextmanager
def threads(number: int | None = None) -> Iterator[ThreadPoolExecutor]:
    """A pool of threads. After an error or Ctrl-C it finishes what has begun and drops what waits."""
    pool = ThreadPoolExecutor(number or thread_count())
    try:
        yield pool
    except BaseException:
        pool.shutdown(cancel_futures=True)
        raise
    pool.shutdown()


def read_ahead(
    pool: ThreadPoolExecutor,
    read: Callable[[Item], Result],
    items: Iterable[Item],
    most: int,
    size: Callable[[Result], int],
) -> Iterator[tuple[Item, Result]]:
    """(item, read(item)) in the items' order, while threads read the next ones.

    Args:
        most: so many items are read ahead, or fewer if that would take more than ``WAITING_BYTES``.
        size: the bytes of a result.
    """
    left = iter(items)
    at_least = thread_count()
    waiting: deque[tuple[Item, Future[Result]]] = deque()
    window, largest = at_least, 1
    while True:
        for item in islice(left, max(0, window - len(waiting))):
            waiting.append((item, pool.submit(read, item)))
        if not waiting:
            return
        item, future = waiting.popleft()
        result = future.result()
        largest = max(largest, size(result))
        window = max(at_least, min(most, WAITING_BYTES // largest))
        yield item, result


class WriteBehind:
    """Batches of work that threads do while the caller goes on, at most ``most`` batches at once.

    Args:
        done: called in the caller's thread with each result.
    """

    def __init__(self, pool: ThreadPoolExecutor, done: Callable[[Result], object], most: int = 2) -> None:
        self.pool, self.done, self.most = pool, done, most
        self.batches: deque[list[Future]] = deque()

    def add(self, work: Callable[[Item], Result], items: Iterable[Item]) -> None:
        """Do work on items later. Waits for the oldest batch if there are too many, and raises what failed in it."""
        while len(self.batches) >= self.most:
            self._finish_one()
        self.batches.append([self.pool.submit(work, item) for item in items])

    def finish(self) -> None:
        """Wait for all batches."""
        while self.batches:
            self._finish_one()

    def _finish_one(self) -> None:
        for future in self.batches.popleft():
            self.done(future.result())
