"""What a command prints at its end: a short table, or one JSON object."""

import json
from pathlib import Path
from typing import Any

from rich.markup import escape

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
    if result.estimate is not None:
        print("The inputs are fine. This run would need:")
        _print_rows(_estimate_rows(result.estimate))
        return
    rows = [(split_unit(name)[0], show_quantity(name, value)) for name, value in result.figures.items()]
    for name, found in result.outputs.items():
        rows.append((split_unit(name)[0], _shown(found if isinstance(found, list) else [found])))
    if result.folder is not None:
        rows.append(("Report", str(result.folder / REPORT)))
    _print_rows(rows)


def _print_rows(rows: list[tuple[str, str]]) -> None:
    """Two columns; paths are never broken or cut, so that they can be copied."""
    console = stdout_console()
    width = max((len(name) for name, _ in rows), default=0)
    for name, value in rows:
        console.print(f"[dim]{name:<{width}}[/]   {escape(value)}", soft_wrap=True)


def _shown(paths: list[Path]) -> str:
    return str(paths[0]) if len(paths) == 1 else f"{paths[0]} … {paths[-1].name} ({len(paths)} files)"


def _estimate_rows(estimate: Estimate) -> list[tuple[str, str]]:
    available = available_bytes()
    free = f" of {show_bytes(available)} available" if available is not None else ""
    rows = [("Memory", f"about {show_bytes(estimate.memory_bytes)}{free}")]
    if estimate.seconds is not None:
        rows.append(("Time", f"about {show_duration(estimate.seconds)}"))
    if estimate.disk_bytes:
        rows.append(("Disk", f"about {show_bytes(estimate.disk_bytes)}"))
    return rows + [("Note", note) for note in estimate.notes]
