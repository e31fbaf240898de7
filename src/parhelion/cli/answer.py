"""What a command prints at its end: a short table, or one JSON object."""

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from parhelion.cli.help import stdout_console
from parhelion.registry import Estimate, Job, Result
from parhelion.report.units import show_quantity, split_unit
from parhelion.run.display import show_duration
from parhelion.run.files import plain
from parhelion.run.folder import REPORT
from parhelion.run.memory import available_bytes, show_bytes


def as_json(job: Job, result: Result) -> dict[str, Any]:
    """Figures and outputs by name beside what identifies the run (the content of ``--json``)."""
    answer: dict[str, Any] = {"job": job.name, "status": "finished", "output": str(result.folder)}
    if result.estimate is not None:
        return {
            **answer,
            "status": "dry run",
            "memory_bytes": result.estimate.memory_bytes,
            "available_memory_bytes": available_bytes(),
            "disk_bytes": result.estimate.disk_bytes,
            "seconds": result.estimate.seconds,
            "notes": list(result.estimate.notes),
        }
    outputs = {k: [str(p) for p in v] if isinstance(v, list) else str(v) for k, v in result.outputs.items()}
    report = str(result.folder / REPORT) if result.folder else None
    return {**answer, **result.figures, **outputs, "report": report, "notices": list(result.notices)}


def print_json(answer: dict[str, Any]) -> None:
    """One JSON object on standard output; numbers that are not finite become null."""
    finite = {k: None if isinstance(v, float) and v - v != 0 else v for k, v in answer.items()}
    print(json.dumps(finite, ensure_ascii=False, default=plain))


def print_result(result: Result) -> None:
    """What was found and where it is."""
    console = stdout_console()
    if result.estimate is not None:
        _print_estimate(console, result.estimate)
        return
    table = Table.grid(padding=(0, 3))
    table.add_column(style="dim")
    for name, value in result.figures.items():
        table.add_row(split_unit(name)[0], show_quantity(name, value), style="bold")
    for name, found in result.outputs.items():
        paths = found if isinstance(found, list) else [found]
        table.add_row(split_unit(name)[0], _shown(paths))
    if result.folder is not None:
        table.add_row("Report", str(result.folder / REPORT))
    console.print(table)


def _shown(paths: list[Path]) -> str:
    return str(paths[0]) if len(paths) == 1 else f"{paths[0]} … {paths[-1].name} ({len(paths)} files)"


def _print_estimate(console: Console, estimate: Estimate) -> None:
    available = available_bytes()
    table = Table.grid(padding=(0, 3))
    table.add_column(style="dim")
    free = f" of {show_bytes(available)} available" if available is not None else ""
    table.add_row("Memory", f"about {show_bytes(estimate.memory_bytes)}{free}")
    if estimate.seconds is not None:
        table.add_row("Time", f"about {show_duration(estimate.seconds)}")
    if estimate.disk_bytes:
        table.add_row("Disk", f"about {show_bytes(estimate.disk_bytes)}")
    for note in estimate.notes:
        table.add_row("Note", note)
    console.print("The inputs are fine. This run would need:")
    console.print(table)
