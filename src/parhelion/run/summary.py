"""The report of a run: the job's sections between what was found and how it was run."""

from collections.abc import Mapping
from typing import Any

from parhelion.registry import Result, options_of, show_value
from parhelion.report import Report
from parhelion.report.units import show_quantity
from parhelion.run.context import Context
from parhelion.run.display import show_duration
from parhelion.run.folder import REPORT


def write_report(context: Context, record: Mapping[str, Any], result: Result) -> None:
    """Put the frame around the job's sections and write ``report.html``.

    A step's report is written as a page of its own too; its frame does not enter the whole.
    """
    page = Report(f"parhelion {context.job.name}", context.job.summary)
    if record["status"] != "finished":
        page.warning(f"This run {_ended(record)}. What was finished before is kept.")
    page.figures(result.figures)
    page.text(_sentence(record))
    page.notices(list(result.notices))
    page.include(context.report)
    page.section("Results").table(_outputs(context, result), heads=("file", "what it holds"))
    page.section("Parameters", folded=True).table(_parameters(context), heads=("option", "value", "unit"))
    _provenance(page.section("Provenance", folded=True), record)
    page.write(context.folder / REPORT)


def _ended(record: Mapping[str, Any]) -> str:
    return "was stopped by the user" if record["status"] == "cancelled" else f"failed: {record['error']}"


def _sentence(record: Mapping[str, Any]) -> str:
    return (
        f"{record['started'][:10]}, {show_duration(record['wall_seconds'])} "
        f"({show_duration(record['cpu_seconds'])} of CPU time) on {record['device']}, peak memory "
        f"{show_quantity('peak_bytes', record['peak_memory_bytes'])}."
    )


def _outputs(context: Context, result: Result) -> list[tuple[str, str]]:
    rows = []
    for output in context.job.outputs:
        found = result.outputs.get(output.name)
        paths = found if isinstance(found, list) else [found] if found else []
        rows += [(str(path.relative_to(context.folder)), output.help) for path in paths]
    return rows


def _parameters(context: Context) -> list[tuple[str, str, str]]:
    return [
        (o.flag, show_value(getattr(context.params, o.name)), "" if o.unit in (None, "1") else str(o.unit))
        for o in options_of(context.job.params)
    ]


def _provenance(section: Report, record: Mapping[str, Any]) -> None:
    section.text("Command: " + " ".join(record["command"]))
    inputs = [
        (i["path"], f"{i['size_bytes']:,}", i["modified"], i["header_sha256"][:16]) for i in record["inputs"]
    ]
    section.table(inputs, heads=("input", "bytes", "modified", "SHA-256 of its first 64 KiB"))
    section.table(list(record["versions"].items()), heads=("program", "version"))
