"""What a person sees while a job runs: progress with time left, and notices."""

import threading
import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn
from rich.progress import TimeElapsedColumn as Elapsed
from rich.progress import TimeRemainingColumn as Remaining

PLAIN_INTERVAL_SECONDS = 20.0


def show_duration(seconds: float) -> str:
    """``45 s``, ``3 min 20 s`` or ``2 h 05 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


class Display:
    """Draws on standard error: live bars on a terminal, a line now and then elsewhere, nothing if quiet."""

    def __init__(self, *, quiet: bool = False, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True, highlight=False, soft_wrap=True)
        self._quiet = quiet
        self._lock = threading.RLock()
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._stages: dict[str, tuple[float, float]] = {}

    def say(self, message: str, style: str = "") -> None:
        """One line for the user."""
        if not self._quiet:
            with self._lock:
                self.console.print(message, style=style or None, markup=False)

    def notice(self, message: str) -> None:
        """A fact the user should know."""
        self.say(f"note: {message}", style="yellow")

    def progress(self, stage: str, done: float, total: float) -> None:
        """``done`` of ``total`` units of ``stage`` are finished."""
        if self._quiet:
            return
        with self._lock:
            if self.console.is_terminal:
                self._draw(stage, done, total)
            else:
                self._print(stage, done, total)

    def close(self) -> None:
        """End the bars; what was drawn stays."""
        with self._lock:
            if self._bars is not None:
                self._bars.stop()
                self._bars = None

    def _draw(self, stage: str, done: float, total: float) -> None:
        if self._bars is None:
            columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
            left = TextColumn("left", style="dim")
            self._bars = Progress(*columns, Elapsed(), Remaining(), left, console=self.console)
            self._bars.start()
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task(stage, total=total)
        self._bars.update(self._tasks[stage], completed=done, total=total)

    def _print(self, stage: str, done: float, total: float) -> None:
        now = time.monotonic()
        started, last = self._stages.setdefault(stage, (now, now))
        finished = done >= total
        if not finished and now - last < PLAIN_INTERVAL_SECONDS:
            return
        self._stages[stage] = (started, now)
        if finished:
            del self._stages[stage]
            self.say(f"{stage}: done in {show_duration(now - started)}")
        elif done > 0:
            left = (now - started) * (total - done) / done
            self.say(f"{stage}: {done / total:.0%}, {show_duration(left)} left")
