"""The protocols that the engine and the algorithms are written against; ``io`` and ``run`` implement them."""

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np

T = TypeVar("T")
R = TypeVar("R")


@runtime_checkable
class ParticleSource(Protocol):
    """Reads the pixels of views, wherever they are."""

    @property
    def box(self) -> int:
        """Edge of the images in pixels."""
        ...

    def images(self, views: np.ndarray) -> np.ndarray:
        """Images ``(len(views), box, box)`` float32, protein white, of these view rows."""
        ...


@runtime_checkable
class FrameSource(Protocol):
    """Reads the frames of one movie, wherever they are and whatever is corrected on the way."""

    count: int
    shape: tuple[int, int]

    def frame(self, index: int) -> np.ndarray:
        """Frame ``index`` ``(y, x)`` float32."""
        ...


class Executor(Protocol):
    """Maps a function over chunks, in order, on as many workers as the run profile grants."""

    workers: int

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """Results in the order of ``items``; at most a few chunks are in flight at a time."""
        ...


class Observer(Protocol):
    """Hears what a long computation does; draws progress, writes history, keeps pictures."""

    def notice(self, message: str) -> None:
        """A fact the user should know; shown, logged and kept for the report."""
        ...

    def progress(self, stage: str, done: float, total: float) -> None:
        """``done`` of ``total`` units of ``stage`` are finished."""
        ...

    def record(self, table: str, **values: float | int | str) -> None:
        """One row of a history table, for example one refinement round."""
        ...


class Cancel(Protocol):
    """Says whether the user wants the computation to stop."""

    def check(self) -> None:
        """Raise ``errors.Cancelled`` if so."""
        ...


class SilentObserver:
    """An observer for library use and tests: hears everything, says nothing."""

    def notice(self, message: str) -> None:
        """Ignored."""

    def progress(self, stage: str, done: float, total: float) -> None:
        """Ignored."""

    def record(self, table: str, **values: float | int | str) -> None:
        """Ignored."""


class SerialExecutor:
    """Runs chunks one after the other in the calling thread."""

    workers = 1

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """See Executor."""
        return map(function, items)
