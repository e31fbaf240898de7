"""Runs chunks of work on several threads, results in order."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from parhelion.contracts import Cancel

T = TypeVar("T")
R = TypeVar("R")

QUEUED_PER_WORKER = 1
"""Chunks that wait beside the one each worker computes: memory stays bounded, no worker idles."""


class ThreadExecutor:
    """Maps a function over chunks on ``workers`` threads; each chunk computes on one core.

    Threads suffice because the hot loops (torch, NumPy, Numba without the interpreter lock) run outside
    Python. While a map runs, torch's own threading is set to one thread so that chunks do not compete;
    it is given back afterwards.
    """

    def __init__(self, workers: int, cancel: Cancel) -> None:
        self.workers = workers
        self._cancel = cancel
        self._pool: ThreadPoolExecutor | None = None

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """Results in the order of ``items``.

        The first chunk that fails ends the map with its exception; Cancelled is raised between chunks.
        """
        import torch

        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield from self._ordered(function, items) if self.workers > 1 else self._serial(function, items)
        finally:
            torch.set_num_threads(before)

    def _serial(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        for item in items:
            self._cancel.check()
            yield function(item)

    def _ordered(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.workers, "chunk", initializer=_one_thread)
        flying: deque[Future[R]] = deque()
        try:
            for item in items:
                self._cancel.check()
                flying.append(self._pool.submit(function, item))
                if len(flying) >= self.workers * (1 + QUEUED_PER_WORKER):
                    yield flying.popleft().result()
            while flying:
                self._cancel.check()
                yield flying.popleft().result()
        finally:
            for future in flying:
                future.cancel()

    def close(self) -> None:
        """Wait for running chunks and end the threads."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)
