"""What jobs that are made of others share: a step's files in the folder of the whole."""

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from parhelion.registry import Result
    from parhelion.run.context import Context


def place(context: "Context", name: str, step: "Result", output: str | None = None) -> Path:
    """Put a step's ``output`` (default: of the same name) where the whole job's output ``name`` goes.

    A hard link where the file system has them, else a copy: nothing is stored twice without need.
    """
    found = step.outputs[output or name]
    if not isinstance(found, Path):
        raise TypeError(f"output {output or name} of the step holds several files")
    target = context.path(name)
    if target.exists() and target.samefile(found):
        return target
    fresh = target.with_name(f".{target.name}.new")
    fresh.unlink(missing_ok=True)
    try:
        os.link(found, fresh)
    except OSError:
        shutil.copy2(found, fresh)
    fresh.replace(target)
    return target


def number(step: "Result", name: str) -> float | None:
    """A figure of a step, where it is a number."""
    value = step.figures.get(name)
    return float(value) if isinstance(value, int | float) else None
