"""Stopping a run: an interrupt sets a flag, the computation ends at its next safe point."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from parhelion.errors import Cancelled


class CancelFlag:
    """Raised by Ctrl-C or a termination request, looked at by ``check`` between chunks and rounds."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        """Ask the computation to stop."""
        self._event.set()

    def check(self) -> None:
        """Raise Cancelled if the computation was asked to stop."""
        if self._event.is_set():
            raise Cancelled("stopped at the user's request")


@contextmanager
def signals_cancel(flag: CancelFlag, tell: Callable[[str], None]) -> Iterator[None]:
    """Within this context the first SIGINT or SIGTERM sets ``flag``; a second SIGINT interrupts at once.

    Outside the main thread, where Python delivers no signals, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        flag.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        tell("stopping at the next safe point; press Ctrl-C again to stop at once")

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
