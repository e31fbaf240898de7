"""A job that does what a test tells it to."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from parhelion.jobs._inputs import File
from parhelion.registry import Estimate, Job, JobParams, Output, Result, declare, option
from parhelion.run.context import Context
from parhelion.run.display import Display
from parhelion.run.options import RunOptions


class Params(JobParams):
    size: int = option(1, help="a number", unit="1", ge=0)
    input: File | None = option(None, help="a file")


def write_result(context: Context, params: Params) -> Result:
    """The ordinary run: one output and one figure."""
    context.path("result").write_text(str(params.size))
    return Result(figures={"size": params.size}, outputs={"result": context.path("result")})


@pytest.fixture
def make_job() -> Callable[..., Job]:
    def make(run: Callable[[Context, Params], Result] = write_result, **changes: Any) -> Job:
        needs = changes.pop("needs", Estimate(memory_bytes=1000))
        return declare(
            "parhelion.jobs." + changes.pop("name", "thing"),
            "Do a thing.",
            params=Params,
            run=run,
            estimate=lambda params: needs,
            outputs=(Output(name="result", file="result.txt", help="the size"),),
            **{"computes": False, **changes},
        )

    return make


@pytest.fixture
def display() -> Display:
    """Writes into memory: ``display.console.file.getvalue()``."""
    return Display(console=Console(file=io.StringIO(), width=200))


@pytest.fixture
def options(tmp_path: Path) -> Callable[..., RunOptions]:
    def make(**changes: Any) -> RunOptions:
        return RunOptions(**{"output": tmp_path / "out", "threads": 2, **changes})

    return make
