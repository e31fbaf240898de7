"""The Python API: every job as a function of the same name (``parhelion.refine(…)``)."""

import inspect
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from parhelion import jobs
from parhelion.registry import Job, Option, Result, options_of, validate
from parhelion.run.options import RunOptions, split_options

COMMAND_LINE_ONLY = ("print_json",)


def names() -> list[str]:
    """The functions that there are."""
    return [name.replace(" ", "_").replace("-", "_") for name in jobs.names()]


@cache
def function(name: str) -> Callable[..., Result]:
    """The function of this job, with its signature and documentation; AttributeError where there is none."""
    by_identifier = dict(zip(names(), jobs.names(), strict=True))
    if name not in by_identifier:
        raise AttributeError(f"module 'parhelion' has no attribute {name!r}")
    job = jobs.load(by_identifier[name])

    def call(**options: Any) -> Result:
        from parhelion.run.display import Display
        from parhelion.run.runner import run_job

        options.setdefault("quiet", True)
        common, own = split_options(options)
        checked = validate(RunOptions, common)
        return run_job(job, own, checked, Display(quiet=checked.quiet))

    shown = [o for o in (*options_of(job.params), *options_of(RunOptions)) if o.name not in COMMAND_LINE_ONLY]
    call.__name__ = call.__qualname__ = name
    call.__doc__ = _documentation(job, shown)
    call.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [_parameter(option) for option in sorted(shown, key=lambda o: not o.required)],
        return_annotation=Result,
    )
    return call


def _parameter(option: Option) -> inspect.Parameter:
    default = inspect.Parameter.empty if option.required else option.default
    if option.name == "quiet":
        default = True
    kind = Path if option.type is Path else option.type
    return inspect.Parameter(option.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)


def _documentation(job: Job, options: list[Option]) -> str:
    lines = [f"{job.summary}.", "", job.description, "", "Parameters:"]
    for option in options:
        unit = f" [{option.unit}]" if option.unit and option.unit != "1" else ""
        default = "required" if option.required else f"default {option.default_text}"
        lines.append(f"    {option.name}{unit}: {option.help} ({default})")
    lines += ["", "Returns a Result: ``figures`` and ``outputs`` by name, ``folder``, ``notices``."]
    return "\n".join(lines)
