"""A job type and what belongs to it.

A job file builds its ``Job`` with ``declare`` and imports nothing heavy at module level, so that help
stays fast.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from parhelion.registry.options import JobParams

JOBS_PACKAGE = "parhelion.jobs."


@dataclass(frozen=True, kw_only=True)
class Output:
    """One kind of file that a job writes in its output folder.

    ``file`` is a name (``map.mrc``) or a pattern (``map_*.mrc``); ``optional`` marks what appears only
    under some parameters.
    """

    name: str
    file: str
    help: str
    optional: bool = False


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a job will need: its own peak memory (without the program itself), disk space and time.

    ``per_thread_bytes`` comes on top of ``memory_bytes`` for every thread that the run uses.
    """

    memory_bytes: int
    per_thread_bytes: int = 0
    seconds: float | None = None
    disk_bytes: int = 0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a job found: key figures by name (with unit suffix) and files by the name of the output.

    A job's ``run`` fills ``figures`` and ``outputs``; the runner adds the rest. ``estimate`` is there
    after a dry run, which has no figures.
    """

    figures: Mapping[str, float | int | str | None] = field(default_factory=dict)
    outputs: Mapping[str, Path | list[Path]] = field(default_factory=dict)
    folder: Path | None = None
    notices: tuple[str, ...] = ()
    estimate: Estimate | None = None


@dataclass(frozen=True, kw_only=True)
class Job:
    """One job type; ``name`` is as a person types it (``simulate particles``)."""

    name: str
    summary: str
    description: str
    params: type[JobParams]
    outputs: tuple[Output, ...]
    run: Callable[[Any, Any], Result]
    estimate: Callable[[Any], Estimate]
    resumable: bool = False
    computes: bool = True

    @property
    def identifier(self) -> str:
        """The name as a Python identifier (``simulate_particles``)."""
        return self.name.replace(" ", "_").replace("-", "_")

    @property
    def page(self) -> str:
        """File name of the documentation page."""
        return self.name.replace(" ", "-") + ".md"


def declare(
    module: str,
    doc: str | None,
    *,
    params: type[JobParams],
    run: Callable[[Any, Any], Result],
    estimate: Callable[[Any], Estimate],
    outputs: tuple[Output, ...],
    resumable: bool = False,
    computes: bool = True,
) -> Job:
    """Build a job in its file: ``JOB = declare(__name__, __doc__, params=Params, …)``.

    The module's path gives the name (``jobs/project_map.py`` is ``project-map``,
    ``jobs/simulate/particles.py`` is ``simulate particles``), the first line of its docstring the
    summary, the rest the description. ``resumable`` says that ``run`` continues from what an earlier
    run left in ``context.checkpoints``; ``computes=False`` marks a job that needs no torch and therefore
    no device.
    """
    summary, _, description = (doc or "").strip().partition("\n")
    return Job(
        name=module.removeprefix(JOBS_PACKAGE).replace(".", " ").replace("_", "-"),
        summary=summary.strip().rstrip("."),
        description=description.strip(),
        params=params,
        outputs=outputs,
        run=run,
        estimate=estimate,
        resumable=resumable,
        computes=computes,
    )
