"""A job as a step of another: its own numbered folder, its report a section of the whole."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from parhelion.errors import ParameterError
from parhelion.registry import Job, Result, validate
from parhelion.run.context import Context
from parhelion.run.files import write_json
from parhelion.run.folder import CHECKPOINTS, check_same, read_record
from parhelion.run.provenance import recorded_result
from parhelion.run.runner import execute

REPORT_COPY = "report.json"


def run_step(parent: Context, job: Job, title: str, values: Mapping[str, Any]) -> Result:
    """Run ``job`` with raw parameter ``values`` as the next step of ``parent``.

    It works in a numbered folder inside the parent's (``01_abinitio``), with its own record; its report
    becomes the section ``title`` of the parent's report. When resuming, a step that is finished with the
    same parameters is not run again.
    """
    name = f"{len(parent.steps) + 1:02d}_{job.identifier}"
    parent.steps.append(name)
    params = validate(job.params, values)
    child = Context(job, params, parent.folder / name, parent.services, resume=False)
    child.report = parent.report.section(title)
    earlier = _earlier(child) if parent.resume else None
    if earlier is not None and earlier["status"] == "finished" and _restore_report(child):
        parent.log(f"{name}: finished in an earlier run")
        result = recorded_result(earlier, child.folder)
    else:
        child.folder.mkdir(exist_ok=True)
        if earlier is not None and job.resumable:
            child = _resumed(child)
        parent.services.display.say(title, style="bold")
        result = execute(child)
        write_json(child.checkpoints / REPORT_COPY, child.report.to_json())
    for notice in result.notices:
        if notice not in parent.notices:
            parent.notices.append(notice)
    return replace(result, folder=child.folder)


def _resumed(child: Context) -> Context:
    again = Context(child.job, child.params, child.folder, child.services, resume=True)
    again.report = child.report
    return again


def _earlier(child: Context) -> dict[str, Any] | None:
    """The record of this step's earlier run, if it had the same parameters."""
    try:
        record = read_record(child.folder)
        if record is not None:
            check_same(child.folder, child.job, child.params, child.seed, record)
    except ParameterError as error:
        child.log(f"{error}; the step starts anew")
        return None
    return record


def _restore_report(child: Context) -> bool:
    copy = child.folder / CHECKPOINTS / REPORT_COPY
    if not copy.is_file():
        return False
    child.report.fill(json.loads(copy.read_text(encoding="utf-8")))
    return True
