"""The options that every job takes beside its own parameters."""

import os
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, model_validator

from parhelion.registry import JobParams, option

COMMON = "Common options"


def _known_device(text: str) -> str:
    kind, _, numbers = text.partition(":")
    listed = [n for n in numbers.split(",") if n] if numbers else []
    valid = text in ("auto", "cpu", "cuda") or (
        kind == "cuda" and listed and all(n.isdigit() for n in listed)
    )
    if not valid or len(set(listed)) != len(listed):
        raise ValueError("expected auto, cpu, cuda or cuda:0,1")
    return text


def _home(path: Path) -> Path:
    return path.expanduser()


class RunOptions(JobParams):
    """Where and how a job runs; the same for all jobs."""

    output: Annotated[Path, AfterValidator(_home)] = option(
        help="folder for the results; made if it is not there", short="o", group=COMMON
    )
    device: Annotated[str, AfterValidator(_known_device)] = option(
        "auto", help="where to compute: auto, cpu, cuda (all GPUs) or cuda:0,1 (these GPUs)", group=COMMON
    )
    threads: int | None = option(
        None,
        help="CPU threads to use",
        unit="threads",
        ge=1,
        le=4096,
        default_text="all that this process may use",
        group=COMMON,
    )
    seed: int = option(1, help="seed of all random numbers", unit="1", ge=0, le=2**63 - 1, group=COMMON)
    resume: bool = option(False, help="go on where the last run in this folder stopped", group=COMMON)
    overwrite: bool = option(False, help="replace the results of an earlier run in this folder", group=COMMON)
    dry_run: bool = option(False, help="check the inputs, estimate memory and time, do nothing", group=COMMON)
    checksum: bool = option(
        False, help="record the checksum of every input in full, also above 64 MiB", group=COMMON
    )
    print_json: bool = option(
        False,
        help="print one JSON object with outputs and key figures on standard output",
        flag="--json",
        group=COMMON,
    )
    quiet: bool = option(False, help="show no progress and no notices (the log keeps them)", group=COMMON)

    @model_validator(mode="after")
    def _either(self) -> "RunOptions":
        if self.resume and self.overwrite:
            raise ValueError("--resume and --overwrite exclude each other: go on, or start anew")
        return self

    def workers(self) -> int:
        """Number of threads: as asked, else every core that this process may use."""
        return self.threads or usable_cores()


def usable_cores() -> int:
    """Cores that this process may use, a container's quota included."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = Path("/sys/fs/cgroup/cpu.max")
    if quota.is_file():
        allowed, _, period = quota.read_text().strip().partition(" ")
        if allowed.isdigit() and period.isdigit():
            cores = min(cores, max(1, round(int(allowed) / int(period))))
    return cores


def common_names() -> set[str]:
    """Names that no job may use for a parameter of its own."""
    return set(RunOptions.model_fields)


def split_options(values: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a caller gave, divided into common options and the job's own parameters."""
    common = {k: v for k, v in values.items() if k in common_names()}
    return common, {k: v for k, v in values.items() if k not in common}
