"""What a run leaves behind, however it ends."""

import errno
import json
import os
import re
from pathlib import Path

import pytest

from parhelion.errors import (
    Cancelled,
    InputError,
    OutputError,
    ParameterError,
    ResourceError,
)
from parhelion.registry import Estimate, Result
from parhelion.run import memory
from parhelion.run.runner import JobCrashed, run_job


def record(folder: Path) -> dict:
    return json.loads((folder / "job.json").read_text())


def test_good_run_leaves_result_record_log_and_report(make_job, options, display, tmp_path) -> None:
    (tmp_path / "in.txt").write_text("hello")
    result = run_job(make_job(), {"size": "7", "input": tmp_path / "in.txt"}, options(), display)
    out = tmp_path / "out"
    assert result.figures == {"size": 7}
    assert result.outputs["result"].read_text() == "7"
    kept = record(out)
    assert (kept["job"], kept["status"], kept["parameters"]["size"]) == ("thing", "finished", 7)
    assert kept["outputs"] == {"result": "result.txt"}
    assert kept["inputs"][0]["size_bytes"] == 5
    assert kept["wall_seconds"] >= 0
    assert kept["peak_memory_bytes"] > 1e6
    assert "finished" in (out / "log.txt").read_text()
    assert "Do a thing" in (out / "report.html").read_text()


def test_report_needs_no_network(make_job, options, display, tmp_path) -> None:
    def run(context, params):
        context.report.fsc({"a": [1, 0.9, 0.4, 0.1, 0.0]}, 8, 2.0)
        context.report.history([{"round": 1, "x": 1.0}, {"round": 2, "x": 2.0}])
        context.path("result").touch()
        return Result(outputs={"result": context.path("result")})

    run_job(make_job(run), {}, options(), display)
    text = (tmp_path / "out" / "report.html").read_text()
    loaded = re.findall(r'(?:src|href)="([^"]*)"', text)
    assert all(address.startswith(("data:", "#")) for address in loaded)
    assert "<script" not in text
    assert "@import" not in text


def test_dry_run_checks_and_estimates_but_writes_nothing(make_job, options, display, tmp_path) -> None:
    needs = Estimate(memory_bytes=10**6, per_thread_bytes=10**7, seconds=3.0)
    result = run_job(make_job(needs=needs), {}, options(dry_run=True, threads=3), display)
    assert result.estimate.memory_bytes == 31 * 10**6 + memory.PROGRAM_BYTES // 3
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("dry_run", [False, True])
def test_too_large_a_job_is_refused_with_numbers(make_job, options, display, tmp_path, dry_run) -> None:
    job = make_job(needs=Estimate(memory_bytes=10**15))
    with pytest.raises(ResourceError, match=r"needs about 1000000\.\d GB.*are available"):
        run_job(job, {}, options(dry_run=dry_run), display)
    assert not (tmp_path / "out").exists()


def test_users_error_keeps_its_message(make_job, options, display, tmp_path) -> None:
    def run(context, params):
        raise InputError("particle 7 is NaN")

    with pytest.raises(InputError, match="particle 7 is NaN"):
        run_job(make_job(run), {}, options(), display)
    kept = record(tmp_path / "out")
    assert (kept["status"], kept["error"]) == ("failed", "particle 7 is NaN")
    assert "Traceback" not in (tmp_path / "out" / "log.txt").read_text()
    assert "particle 7 is NaN" in (tmp_path / "out" / "report.html").read_text()


def test_defect_is_named_and_its_traceback_logged(make_job, options, display, tmp_path) -> None:
    def run(context, params):
        return 1 / 0

    with pytest.raises(JobCrashed, match=r"ZeroDivisionError.*log\.txt"):
        run_job(make_job(run), {}, options(), display)
    assert "Traceback" in (tmp_path / "out" / "log.txt").read_text()
    assert record(tmp_path / "out")["status"] == "failed"


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "out/map.mrc"), OutputError, "disk is full"),
        (PermissionError(errno.EACCES, "Permission denied", "x.mrc"), OutputError, "x.mrc"),
        (FileNotFoundError(errno.ENOENT, "No such file", "gone.mrcs"), InputError, "no such file: gone.mrcs"),
        (MemoryError(), ResourceError, "memory was not enough"),
        (KeyboardInterrupt(), Cancelled, "at once"),
    ],
)
def test_what_the_system_says_becomes_a_message(make_job, options, display, error, kind, said) -> None:
    def run(context, params):
        raise error

    with pytest.raises(kind, match=said):
        run_job(make_job(run), {}, options(), display)


def test_failed_run_deletes_nothing(make_job, options, display, tmp_path) -> None:
    def run(context, params):
        context.path("result").write_text("half done")
        raise InputError("no")

    with pytest.raises(InputError):
        run_job(make_job(run), {}, options(), display)
    assert (tmp_path / "out" / "result.txt").read_text() == "half done"


def test_full_disk_does_not_hide_the_first_error(make_job, options, display, tmp_path, monkeypatch) -> None:
    def run(context, params):
        def full(*args, **kwargs):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr("parhelion.io.atomic.os.fsync", full)
        raise InputError("the first error")

    with pytest.raises(InputError, match="the first error"):
        run_job(make_job(run), {}, options(), display)
    assert record(tmp_path / "out")["status"] == "running"


def test_defect_in_the_report_does_not_spoil_the_results(
    make_job, options, display, tmp_path, monkeypatch
) -> None:
    def broken(*args):
        raise ValueError("plot")

    monkeypatch.setattr("parhelion.run.runner.write_report", broken)
    result = run_job(make_job(), {}, options(), display)
    assert result.figures == {"size": 1}
    assert record(tmp_path / "out")["status"] == "finished"
    assert "the report could not be made (ValueError: plot)" in display.console.file.getvalue()


def test_report_that_cannot_be_written_fails_the_run(make_job, options, display, tmp_path) -> None:
    def run(context, params):
        (context.folder / "report.html").mkdir()
        context.path("result").write_text("kept")
        return Result(outputs={"result": context.path("result")})

    with pytest.raises(OutputError, match=r"report\.html"):
        run_job(make_job(run), {}, options(), display)
    assert record(tmp_path / "out")["status"] == "failed"
    assert (tmp_path / "out" / "result.txt").read_text() == "kept"


def test_undeclared_and_missing_outputs_are_defects(make_job, options, display) -> None:
    def undeclared(context, params):
        return Result(outputs={"other": context.folder})

    def missing(context, params):
        return Result()

    with pytest.raises(JobCrashed, match="not declared"):
        run_job(make_job(undeclared), {}, options(), display)
    with pytest.raises(JobCrashed, match="was not returned"):
        run_job(make_job(missing), {}, options(overwrite=True), display)


def test_cancelled_run_is_recorded_so(make_job, options, display, tmp_path) -> None:
    def run(context, params):
        context.services.cancel.set()
        context.check()

    with pytest.raises(Cancelled):
        run_job(make_job(run), {}, options(), display)
    assert record(tmp_path / "out")["status"] == "cancelled"


def test_second_run_in_the_same_folder_is_refused(make_job, options, display) -> None:
    def run(context, params):
        with pytest.raises(OutputError, match="another parhelion job is writing"):
            run_job(make_job(), {}, options(overwrite=True), display)
        context.path("result").touch()
        return Result(outputs={"result": context.path("result")})

    run_job(make_job(run), {}, options(), display)


def test_wrong_device_stops_the_run_before_it_starts(make_job, options, display, monkeypatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ResourceError, match="no usable GPU"):
        run_job(make_job(computes=True), {}, options(device="cuda"), display)


def test_device_in_use_is_said(make_job, options, display, tmp_path) -> None:
    run_job(make_job(computes=True), {}, options(device="cpu"), display)
    assert "computing on CPU" in display.console.file.getvalue()
    assert record(tmp_path / "out")["device"].startswith("CPU (")


def test_resume_and_overwrite_exclude_each_other(options) -> None:
    with pytest.raises(ValueError, match="exclude each other"):
        options(resume=True, overwrite=True)


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:a", "cuda:0,0", "cpu:1"])
def test_unknown_devices_are_refused(options, device) -> None:
    with pytest.raises(ValueError, match="expected auto, cpu, cuda"):
        options(device=device)


def test_unknown_parameter_is_refused_before_anything_is_written(
    make_job, options, display, tmp_path
) -> None:
    with pytest.raises(ParameterError, match="unknown option --sise; did you mean --size"):
        run_job(make_job(), {"sise": 3}, options(), display)
    assert not (tmp_path / "out").exists()
