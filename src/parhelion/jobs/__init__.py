"""The job types, one file each; a folder holds the subcommands of one command.

``names`` and ``summaries`` look at the files without importing them, so that help stays fast; ``load``
imports the one job asked for. A file or folder whose name starts with an underscore is no job.
"""

import ast
import importlib
from functools import cache
from pathlib import Path
from typing import cast

from parhelion.errors import ParameterError
from parhelion.registry import Job
from parhelion.registry.validate import suggest


@cache
def _files() -> dict[str, Path]:
    """Source file of each job by name, in alphabetical order."""
    home = Path(__file__).parent
    files = [path.relative_to(home) for path in (*home.glob("*.py"), *home.glob("*/*.py"))]
    jobs = [path for path in files if not any(part.startswith("_") for part in path.parts)]
    named = {" ".join(path.with_suffix("").parts).replace("_", "-"): home / path for path in jobs}
    return dict(sorted(named.items()))


def names() -> list[str]:
    """Every job as a person types it (``simulate particles``)."""
    return list(_files())


def summaries() -> dict[str, str]:
    """One line about every job, read from the first line of its file's docstring."""
    found = {}
    for name, path in _files().items():
        doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        found[name] = doc.partition("\n")[0].rstrip(".")
    return found


def load(name: str) -> Job:
    """The declaration of this job; ParameterError, with a suggestion, where there is none."""
    if name not in _files():
        raise ParameterError(f"unknown command {name!r}{suggest(name, names())} (parhelion --help lists all)")
    module = importlib.import_module("parhelion.jobs." + name.replace(" ", ".").replace("-", "_"))
    return cast(Job, module.JOB)
