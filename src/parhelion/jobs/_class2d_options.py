"""What jobs that make 2D classes share: how good particles are chosen, and what is written of classes."""

from typing import Any, Literal

from parhelion.registry import Output, option

Select = Literal["auto", "none"]

CLASSES = Output(name="classes", file="classes.mrcs", help="class averages, the largest class first")
SELECTED = Output(name="selected", file="selected.star", help="particles of good classes", optional=True)


def select_option() -> Any:
    """``--select``."""
    return option("auto", help="auto writes the particles of good classes to selected.star")


def select_score_option() -> Any:
    """``--select-score``."""
    return option(
        None,
        help="score from which on a class counts as good",
        unit="1",
        ge=0,
        le=1,
        default_text="0.2, or a third of what the best classes reach where that is less",
    )


def select_sigma_option() -> Any:
    """``--select-sigma``."""
    return option(
        3.5,
        help="of good classes, leave out particles whose noise (cisTEMSigma) is less than that of the others "
        "by more than this: their background holds something else",
        unit="standard deviations",
        ge=1,
        le=1000,
    )


def check_selection(select: Select, given: set[str]) -> None:
    """ValueError where some of the ``given`` options say how to choose although nothing is chosen."""
    for name in ("select_score", "select_sigma"):
        if select == "none" and name in given:
            raise ValueError(f"--{name.replace('_', '-')} belongs to --select auto")
