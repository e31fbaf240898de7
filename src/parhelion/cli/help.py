"""Help pages, made from what jobs declare."""

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from parhelion import jobs
from parhelion.registry import Job, Option, options_of
from parhelion.run.options import RunOptions

WIDEST = 110


def stdout_console() -> Console:
    """A console on standard output, not wider than is comfortable to read."""
    console = Console(highlight=False)
    return Console(highlight=False, width=min(console.width, WIDEST))


def show_overview(version: str) -> None:
    """What ``parhelion --help`` prints."""
    console = stdout_console()
    console.print(f"[bold]parhelion[/] {version}: from electron micrographs to maps of molecules\n")
    console.print("Usage: parhelion JOB --input FILE … --output FOLDER \\[options]\n")
    table = Table.grid(padding=(0, 3))
    table.add_column(style="bold cyan", no_wrap=True)
    table.add_column()
    for name, summary in jobs.summaries().items():
        table.add_row(name, escape(summary))
    console.print(Padding(table, (0, 0, 0, 2)))
    console.print(
        "\n[bold]parhelion JOB --help[/] explains a job with unit, default and range of every option."
    )
    console.print("[bold]parhelion JOB --schema[/] prints its parameters as a JSON schema.")


def show_job(job: Job) -> None:
    """What ``parhelion JOB --help`` prints."""
    console = stdout_console()
    console.print(f"[bold]parhelion {job.name}[/]: {escape(job.summary)}\n")
    if job.description:
        for paragraph in job.description.split("\n\n"):
            console.print(escape(" ".join(paragraph.split())) + "\n")
    own = options_of(job.params)
    common = options_of(RunOptions)
    console.print(f"Usage: {escape(usage(job, [*own, *common]))}\n")
    for heading, options in _groups(own, "Options") + _groups(common, "Common options"):
        console.print(f"[bold]{heading}[/]")
        console.print(_table(options))
    console.print("[bold]Writes into the output folder[/]")
    outputs = Table.grid(padding=(0, 3))
    outputs.add_column(style="cyan", no_wrap=True)
    for output in job.outputs:
        outputs.add_row(output.file, escape(output.help) + (" (where asked for)" if output.optional else ""))
    outputs.add_row("report.html, job.json, log.txt", "what was found, how it was run, what was said")
    console.print(Padding(outputs, (0, 0, 0, 2)))


def usage(job: Job, options: list[Option]) -> str:
    """The command with its required options."""
    required = [f"{option.flag} {option.metavar}".strip() for option in options if option.required]
    return " ".join(["parhelion", job.name, *required, "[options]"])


def details(option: Option) -> str:
    """Unit, default and range of an option, as help shows them behind its text."""
    several = option.comma or option.count == 0
    parts = [f"{'any' if several else 'one'} of {', '.join(option.choices)}"] if option.choices else []
    if option.unit and option.unit != "1":
        parts.append(f"unit: {option.unit}")
    if option.required:
        parts.append("required")
    elif option.default is not False:
        parts.append(f"default: {option.default_text}")
        if option.switch:
            parts.append(f"{option.negative} turns it off")
    if option.range_text:
        parts.append(f"range: {option.range_text}")
    return ", ".join(parts)


def without_heading_first(options: list[Option]) -> list[Option]:
    """What every run needs before what belongs to a heading, wherever it was declared."""
    return sorted(options, key=lambda option: option.group is not None)


def _groups(options: list[Option], fallback: str) -> list[tuple[str, list[Option]]]:
    found: dict[str, list[Option]] = {}
    for option in without_heading_first(options):
        found.setdefault(option.group or fallback, []).append(option)
    return list(found.items())


def _table(options: list[Option]) -> Padding:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(style="cyan", no_wrap=True, max_width=30)
    table.add_column()
    for option in options:
        short = f"-{option.short}," if option.short else ""
        more = details(option)
        text = escape(option.help) + (f" [dim]({escape(more)})[/]" if more else "")
        word = ("WORD,…" if option.comma else "WORD") if option.choices else option.metavar
        words = f" {word}" if word else ""
        table.add_row(short, option.flag + escape(words), text)
    return Padding(table, (0, 0, 1, 2))
