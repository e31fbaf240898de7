"""Documentation pages of the jobs, in Markdown, from what they declare."""

import sys
from pathlib import Path

from parhelion import jobs
from parhelion.cli.help import usage, without_heading_first
from parhelion.errors import ParameterError
from parhelion.io.atomic import write_text
from parhelion.registry import Job, Option, options_of
from parhelion.run.options import RunOptions

COMMON_PAGE = "common-options.md"


def pages() -> dict[str, str]:
    """File name → Markdown of every page, the index included."""
    found = {"README.md": index(), COMMON_PAGE: common()}
    for name in jobs.names():
        job = jobs.load(name)
        found[job.page] = page(job)
    return found


def page(job: Job) -> str:
    """The page of one job."""
    options = options_of(job.params)
    required = [*options, *options_of(RunOptions)]
    lines = [f"# {job.name}", "", f"{job.summary}.", ""]
    if job.description:
        lines += [job.description, ""]
    lines += ["```", usage(job, required), "```", ""]
    lines += [f"In Python: `parhelion.{job.identifier}({_call(required)})`.", ""]
    lines += ["## Options", "", *_table(options), ""]
    lines += [f"and the [common options]({COMMON_PAGE}).", "", "## Results", ""]
    lines += ["| name | file | what it holds |", "|---|---|---|"]
    for output in job.outputs:
        lines.append(
            f"| `{output.name}` | `{output.file}` | {output.help}{' (optional)' if output.optional else ''} |"
        )
    return "\n".join(lines) + "\n"


def common() -> str:
    """The page of the options that all jobs share."""
    lines = [
        "# Common options",
        "",
        "Every job takes these. Beside its results it leaves `report.html` (self-contained), `job.json`",
        "(parameters, inputs, versions, times) and `log.txt` in the output folder.",
        "",
        *_table(options_of(RunOptions)),
    ]
    return "\n".join(lines) + "\n"


def index() -> str:
    """The list of jobs."""
    lines = ["# Jobs", "", "Made by `scripts/docs` from the jobs' declarations.", ""]
    lines += ["| job | what it does |", "|---|---|"]
    for name, summary in jobs.summaries().items():
        lines.append(f"| [{name}]({name.replace(' ', '-')}.md) | {summary} |")
    return "\n".join([*lines, "", f"All take the [common options]({COMMON_PAGE}).", ""])


def _call(options: list[Option]) -> str:
    return ", ".join([*(f"{option.name}=…" for option in options if option.required), "…"])


def _table(options: list[Option]) -> list[str]:
    rows = ["| option | unit | default | range | meaning |", "|---|---|---|---|---|"]
    for option in without_heading_first(options):
        flags = f"`{option.flag}`" + (f", `-{option.short}`" if option.short else "")
        unit = "" if option.unit in (None, "1") else str(option.unit)
        default = "required" if option.required else option.default_text
        if option.switch and option.default:
            default += f" (`{option.negative}`)"
        allowed = option.range_text or ", ".join(f"`{choice}`" for choice in option.choices)
        cells = [flags, unit, default, allowed, option.help]
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return rows


def main() -> None:
    """Write all pages into the folder named on the command line; pages of jobs that are gone go."""
    if len(sys.argv) != 2:
        raise ParameterError("usage: python -m parhelion.cli.document FOLDER")
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    made = pages()
    for old in folder.glob("*.md"):
        if old.name not in made:
            old.unlink()
    for name, text in made.items():
        write_text(folder / name, text)


if __name__ == "__main__":
    main()
