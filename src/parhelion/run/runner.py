"""Runs a job: checks, estimate, folder, the job itself, its record and report, whatever happens."""

import contextlib
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from parhelion.errors import (
    Cancelled,
    InputError,
    OutputError,
    ParhelionError,
    ResourceError,
)
from parhelion.registry import Estimate, Job, JobParams, Result, input_files, validate
from parhelion.run.cancel import signals_cancel
from parhelion.run.context import Context, Services
from parhelion.run.devices import resolve
from parhelion.run.display import Display, show_duration
from parhelion.run.files import output_error
from parhelion.run.folder import LOG, check_folder, clear_results, make_folder
from parhelion.run.log import RunLog
from parhelion.run.memory import PROGRAM_BYTES, available_bytes, require
from parhelion.run.options import RunOptions
from parhelion.run.provenance import JobRecord, recorded_result
from parhelion.run.summary import write_report


class JobCrashed(ParhelionError):
    """A defect of parhelion ended a job; the traceback is in its log."""


def run_job(job: Job, values: Mapping[str, Any], options: RunOptions, display: Display) -> Result:
    """Run ``job`` with raw parameter ``values``; everything it does is recorded in the output folder.

    Raises a ParhelionError for every way a run can fail: InputError for what the user gave, ResourceError,
    OutputError, Cancelled, and JobCrashed for a defect.
    """
    params = validate(job.params, values)
    files = input_files(params)
    for _, path, kind in files:
        with reading(path):
            kind.check(path)
    earlier = check_folder(options.output, job, params, options, [path for _, path, _ in files])
    estimate = whole_estimate(job, params, options.workers())
    if options.dry_run:
        resolve(options.device)
        require(job.name, estimate.memory_bytes, available_bytes())
        return Result(estimate=estimate, folder=options.output)
    if earlier is not None and earlier["status"] == "finished":
        display.say(f"{options.output}: this {job.name} job is finished already")
        return recorded_result(earlier, options.output)
    require(job.name, estimate.memory_bytes, available_bytes())
    return _run(job, params, options, display, resume=earlier is not None)


def whole_estimate(job: Job, params: JobParams, threads: int) -> Estimate:
    """The job's estimate with the program's own memory and that of its threads added."""
    estimate = job.estimate(params)
    memory = estimate.memory_bytes + threads * estimate.per_thread_bytes
    program = PROGRAM_BYTES if job.computes else PROGRAM_BYTES // 3
    return replace(estimate, memory_bytes=memory + program)


def _run(job: Job, params: JobParams, options: RunOptions, display: Display, *, resume: bool) -> Result:
    folder = options.output
    make_folder(folder)
    log = RunLog(folder / LOG)
    services = Services(options, display, log)
    try:
        if options.overwrite:
            log.clear()
            clear_results(folder)
        context = Context(job, params, folder, services, resume=resume and job.resumable)
        if resume and not job.resumable:
            context.notice(f"{job.name} keeps nothing to go on from; it starts from the beginning")
        with signals_cancel(services.cancel, display.say):
            return execute(context)
    finally:
        display.close()
        services.executor.close()
        log.close()


def execute(context: Context) -> Result:
    """Run the context's job and record how it ends. Raises a ParhelionError of any kind."""
    job, folder, options = context.job, context.folder, context.services.options
    settings = options.model_dump(mode="json", exclude={"output", "dry_run", "print_json", "quiet"})
    record: JobRecord | None = None
    try:
        context.log(f"{job.name}: {context.params.model_dump_json()}")
        record = JobRecord.begin(job, context.params, settings, folder)
        if job.computes:
            context.services.choose_devices()
        found = job.run(context, context.params)
        result = replace(found, folder=folder, notices=tuple(context.notices))
        check_outputs(job, result)
        record.finish("finished", result, **_surroundings(context))
        _report(context, record, result)
    except (Exception, KeyboardInterrupt) as error:
        told = _explain(error, folder)
        _record_failure(context, record, told, error)
        if told is error:
            raise
        raise told from error
    context.log(f"finished in {show_duration(record.content['wall_seconds'])}")
    return result


def _report(context: Context, record: JobRecord, result: Result) -> None:
    """Write the report; a defect in it must not turn good results into a failed run."""
    try:
        write_report(context, record.content, result)
    except ParhelionError:
        raise
    except Exception as error:  # noqa: BLE001
        context.log("".join(traceback.format_exception(error)))
        context.notice(
            f"the report could not be made ({type(error).__name__}: {error}); the results are whole"
        )


def _surroundings(context: Context) -> dict[str, Any]:
    """What is known only after the run: where it computed, and its steps."""
    known: dict[str, Any] = {"device": context.services.device_text}
    return {**known, "steps": context.steps} if context.steps else known


def _explain(error: BaseException, folder: Path) -> ParhelionError:
    """The error as the user should read it."""
    if isinstance(error, ParhelionError):
        return error
    if isinstance(error, KeyboardInterrupt):
        return Cancelled("stopped at once at the user's request")
    if isinstance(error, OSError) and (told := output_error(error, folder)) is not None:
        return told
    if isinstance(error, FileNotFoundError) and error.filename:
        return InputError(f"no such file: {error.filename}")
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return ResourceError(
            f"the memory was not enough ({error}); use fewer threads, a smaller box or --device cpu"
        )
    return JobCrashed(
        f"a defect of parhelion ended this job ({type(error).__name__}: {error}); "
        f"please report it with {folder / LOG}, which holds the traceback"
    )


def _record_failure(
    context: Context, record: JobRecord | None, told: ParhelionError, error: BaseException
) -> None:
    """Note the failure everywhere it can be noted; a full disk must not hide the first error."""
    status = "cancelled" if isinstance(told, Cancelled) else "failed"
    with contextlib.suppress(OSError, OutputError):
        context.log(f"{status}: {told}")
        if not isinstance(error, ParhelionError):
            context.log("".join(traceback.format_exception(error)))
    if record is None:
        return
    partial = Result(folder=context.folder, notices=tuple(context.notices))
    with contextlib.suppress(OSError, OutputError):
        record.finish(status, partial, error=str(told), **_surroundings(context))
        _report(context, record, partial)


def check_outputs(job: Job, result: Result) -> None:
    """A job must deliver what it declares; anything else is a defect (RuntimeError)."""
    declared = {output.name: output for output in job.outputs}
    for name, found in result.outputs.items():
        paths = found if isinstance(found, list) else [found]
        missing = [str(path) for path in paths if not path.exists()]
        if name not in declared or missing:
            raise RuntimeError(f"{job.name}: output {name} is not declared or not written {missing}")
    for name, output in declared.items():
        if not output.optional and name not in result.outputs:
            raise RuntimeError(f"{job.name}: declared output {name} was not returned")


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Operating-system errors while reading an input become an InputError that names the file."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
