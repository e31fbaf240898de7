"""The output folder: refused if it holds something, gone on with, or cleared of an earlier run's results."""

import json
import os
import platform
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from parhelion.errors import InputError, OutputError, ParameterError
from parhelion.registry import Job, JobParams, show_value
from parhelion.run.options import RunOptions
from parhelion.run.provenance import FILE

CHECKPOINTS = "checkpoints"
HISTORY = "history.json"
LOG = "log.txt"
REPORT = "report.html"
OWN_FILES = (FILE, HISTORY, REPORT)


def read_record(folder: Path) -> dict[str, Any] | None:
    """The ``job.json`` of an earlier run in this folder, or None; OutputError where it cannot be read."""
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise OutputError(f"{path} is no valid JSON ({error}); choose another output folder") from None
    if not isinstance(content, dict) or "job" not in content or "status" not in content:
        raise OutputError(f"{path} was not written by parhelion; choose another output folder")
    return content


def check_folder(
    folder: Path, job: Job, params: JobParams, options: RunOptions, inputs: Iterable[Path]
) -> dict[str, Any] | None:
    """Whether the job may write here; changes nothing. Returns the earlier record when resuming.

    A run that failed before it wrote anything, such as one whose input could not be used, is in nobody's way.

    Raises OutputError for a folder that holds something (without --resume or --overwrite), and
    ParameterError where the earlier run is of another job or has other parameters.
    """
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder} is a file; --output names a folder")
    if not folder.exists() or not any(folder.iterdir()):
        return None
    record = read_record(folder)
    if options.overwrite:
        _protect_inputs(folder, job, record, inputs)
        return None
    if options.resume and record is not None:
        check_same(folder, job, params, options.seed, record)
        return record
    if record is not None and _left_nothing(folder, record):
        return None
    held = f"{_state(record)} {record['job']} job" if record else "files that parhelion did not make"
    again = "--resume goes on with it, " if job.resumable else "--resume starts it again, "
    if record is not None and record["status"] == "finished":
        again = "--resume leaves it as it is, "
    raise OutputError(
        f"output folder {folder} is not empty, it holds {held}; "
        + (again if record else "")
        + "--overwrite replaces the results, or choose another folder"
    )


def _left_nothing(folder: Path, record: dict[str, Any]) -> bool:
    """Whether a failed run left its record only."""
    files = {path.name for path in folder.rglob("*") if not path.is_dir()}
    return record["status"] == "failed" and files <= {FILE, LOG, REPORT}


def _state(record: dict[str, Any]) -> str:
    """How the earlier run stands, with its article; one that was killed could not say so itself."""
    status = str(record["status"])
    process = record.get("process")
    if status == "running" and record.get("host") == platform.node() and isinstance(process, int):
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return "an interrupted"
        except OSError:
            return "a running"
    return f"a {status}"


def make_folder(folder: Path) -> None:
    """Make the folder and try to write in it; OutputError where that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".parhelion-write-test"
        probe.write_bytes(b"x")
        probe.unlink()
    except OSError as error:
        raise OutputError(f"output folder {folder} cannot be written: {error.strerror}") from None


def clear_results(folder: Path) -> None:
    """Remove what the earlier run recorded as its own; files of anybody else stay."""
    record = read_record(folder)
    if record is None:
        return
    for step in record.get("steps", []):
        inside = folder / step
        if inside.is_dir() and folder.resolve() in inside.resolve().parents:
            clear_results(inside)
            if not any(inside.iterdir()):
                inside.rmdir()
    for path in _recorded(folder, record):
        path.unlink(missing_ok=True)
        if path.parent != folder and path.parent.is_dir() and not any(path.parent.iterdir()):
            path.parent.rmdir()
    if (folder / CHECKPOINTS).is_dir():
        shutil.rmtree(folder / CHECKPOINTS)
    for name in OWN_FILES:
        (folder / name).unlink(missing_ok=True)


def _recorded(folder: Path, record: dict[str, Any]) -> list[Path]:
    listed = [one for v in record.get("outputs", {}).values() for one in (v if isinstance(v, list) else [v])]
    paths = [folder / one for one in listed]
    return [path for path in paths if folder.resolve() in path.resolve().parents]


def _protect_inputs(folder: Path, job: Job, record: dict[str, Any] | None, inputs: Iterable[Path]) -> None:
    """An input must not be among the files that this run would replace."""
    replaced = {path.resolve() for path in _recorded(folder, record or {})}
    for output in job.outputs:
        replaced.update(path.resolve() for path in folder.glob(output.file))
    for path in inputs:
        if path.resolve() in replaced:
            raise InputError(
                f"{path} is an input and would be replaced by --overwrite; choose another output folder"
            )


def check_same(folder: Path, job: Job, params: JobParams, seed: int, record: dict[str, Any]) -> None:
    """Raise ParameterError where the recorded run is of another job, other parameters or another seed."""
    if record["job"] != job.name:
        raise ParameterError(
            f"{folder} holds a {record['job']} job, --resume cannot go on with it as {job.name}"
        )
    before = {**record["parameters"], "seed": record["options"]["seed"]}
    now = {**params.model_dump(mode="json"), "seed": seed}
    changed = [
        f"--{name.replace('_', '-')} was {show_value(before.get(name))}, is {show_value(now.get(name))}"
        for name in sorted({*before, *now})
        if before.get(name) != now.get(name)
    ]
    if changed:
        raise ParameterError(
            f"--resume goes on with the parameters of the run in {folder}; changed: {'; '.join(changed)}"
        )
