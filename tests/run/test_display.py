"""Progress is drawn on a terminal, printed as lines elsewhere, and silent if quiet."""

import io

import pytest
from rich.console import Console

from parhelion.run import display as module
from parhelion.run.display import Display, show_duration


def shown(display: Display) -> str:
    return display.console.file.getvalue()


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def test_lines_with_time_left(clock) -> None:
    display = Display(console=Console(file=io.StringIO(), width=100))
    for done, at in ((0, 0), (1, 5), (5, 50), (10, 100)):
        clock[0] = 100.0 + at
        display.progress("search", done, 10)
    assert shown(display) == "search: 50%, 50 s left\nsearch: done in 1 min 40 s\n"


def test_bars_on_a_terminal() -> None:
    display = Display(console=Console(file=io.StringIO(), width=100, force_terminal=True))
    display.progress("search", 1, 2)
    display.progress("search", 2, 2)
    display.close()
    assert "search" in shown(display)
    assert "100%" in shown(display)


def test_quiet_says_nothing() -> None:
    display = Display(quiet=True, console=Console(file=io.StringIO()))
    display.notice("a fact")
    display.progress("search", 2, 2)
    assert shown(display) == ""


def test_brackets_are_not_markup() -> None:
    display = Display(console=Console(file=io.StringIO(), width=100))
    display.notice("columns [red] and [/]")
    assert shown(display) == "note: columns [red] and [/]\n"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.52, "0.5 s"), (45.4, "45 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")]
)
def test_durations(seconds: float, text: str) -> None:
    assert show_duration(seconds) == text
