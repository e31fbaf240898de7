"""An output folder is refused, gone on with, or cleared of an earlier run's results and of nothing else."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from parhelion.errors import InputError, OutputError, ParameterError
from parhelion.registry import Result
from parhelion.run.runner import run_job


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def test_folder_with_results_is_refused(make_job, options, display, out) -> None:
    run_job(make_job(), {}, options(), display)
    with pytest.raises(OutputError, match=r"holds a finished thing job.*--resume.*--overwrite"):
        run_job(make_job(), {}, options(), display)


def test_a_killed_run_is_called_interrupted(make_job, options, display, out) -> None:
    run_job(make_job(), {}, options(), display)
    record = json.loads((out / "job.json").read_text())
    program = [sys.executable, "-c", "import os; print(os.getpid())"]
    gone = int(subprocess.run(program, capture_output=True, check=True).stdout)
    for process, state in ((gone, "an interrupted"), (os.getpid(), "a running")):
        (out / "job.json").write_text(json.dumps({**record, "status": "running", "process": process}))
        with pytest.raises(OutputError, match=f"holds {state} thing job; --resume"):
            run_job(make_job(), {}, options(), display)


def test_a_run_that_failed_with_nothing_written_is_in_nobodys_way(make_job, options, display, out) -> None:
    def refuses(context, params):
        raise InputError("size 1 cannot be used")

    def breaks(context, params):
        context.path("result").write_text("half of it")
        raise InputError("size 2 cannot be used")

    with pytest.raises(InputError, match="size 1"):
        run_job(make_job(refuses), {}, options(), display)
    with pytest.raises(InputError, match="size 2"):
        run_job(make_job(breaks), {"size": 2}, options(), display)
    with pytest.raises(OutputError, match="it holds a failed thing job"):
        run_job(make_job(), {"size": 3}, options(), display)
    assert "size 1 cannot be used" in (out / "log.txt").read_text()


def test_folder_with_other_files_is_refused(make_job, options, display, out) -> None:
    out.mkdir()
    (out / "thesis.tex").touch()
    for changes in ({}, {"resume": True}):
        with pytest.raises(OutputError, match="files that parhelion did not make"):
            run_job(make_job(), {}, options(**changes), display)


def test_empty_folder_is_taken(make_job, options, display, out) -> None:
    out.mkdir()
    assert run_job(make_job(), {}, options(), display).figures == {"size": 1}


def test_file_is_no_folder(make_job, options, display, out) -> None:
    out.touch()
    with pytest.raises(OutputError, match="is a file"):
        run_job(make_job(), {}, options(), display)


def test_unwritable_folder_is_told(make_job, options, display, tmp_path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        run_job(make_job(), {}, options(output=tmp_path / "file" / "out"), display)


def test_overwrite_replaces_results_and_keeps_files_of_others(make_job, options, display, out) -> None:
    def old(context, params):
        (context.checkpoints / "round").touch()
        context.record("rounds", round=1, x=2.0)
        context.path("result").write_text("old")
        return Result(outputs={"result": context.path("result")})

    def new(context, params):
        assert not context.path("result").exists()
        assert not (out / "checkpoints").exists()
        assert not (out / "history.json").exists()
        context.path("result").write_text("new")
        return Result(outputs={"result": context.path("result")})

    run_job(make_job(old), {}, options(), display)
    (out / "thesis.tex").touch()
    run_job(make_job(new), {}, options(overwrite=True), display)
    assert (out / "result.txt").read_text() == "new"
    assert (out / "thesis.tex").exists()


def test_input_is_never_overwritten(make_job, options, display, out) -> None:
    run_job(make_job(), {}, options(), display)
    with pytest.raises(InputError, match="is an input and would be replaced"):
        run_job(make_job(), {"input": out / "result.txt"}, options(overwrite=True), display)
    assert (out / "result.txt").exists()


def test_record_that_names_files_outside_deletes_nothing_there(
    make_job, options, display, out, tmp_path
) -> None:
    run_job(make_job(), {}, options(), display)
    precious = tmp_path / "precious"
    precious.touch()
    kept = json.loads((out / "job.json").read_text())
    kept["outputs"]["result"] = "../precious"
    kept["steps"] = [".."]
    (out / "job.json").write_text(json.dumps(kept))
    run_job(make_job(), {}, options(overwrite=True), display)
    assert precious.exists()


def test_finished_job_is_not_run_again_by_resume(make_job, options, display) -> None:
    def never(context, params):
        raise RuntimeError("ran again")

    run_job(make_job(), {"size": 5}, options(), display)
    result = run_job(make_job(never), {"size": 5}, options(resume=True), display)
    assert result.figures == {"size": 5}
    assert result.outputs["result"].read_text() == "5"


def test_resume_of_a_failed_job_gets_its_checkpoints_and_history(make_job, options, display) -> None:
    def fails(context, params):
        (context.checkpoints / "state").write_text("round 2")
        context.record("rounds", round=1, x=1.0)
        context.record("rounds", round=2, x=2.0)
        raise InputError("interrupted")

    def goes_on(context, params):
        assert context.resume
        assert (context.checkpoints / "state").read_text() == "round 2"
        context.record("rounds", round=2, x=2.5)
        context.record("rounds", round=3, x=3.0)
        context.path("result").touch()
        return Result(
            figures={"rounds": len(context.history["rounds"])}, outputs={"result": context.path("result")}
        )

    with pytest.raises(InputError):
        run_job(make_job(fails, resumable=True), {}, options(), display)
    result = run_job(make_job(goes_on, resumable=True), {}, options(resume=True), display)
    assert result.figures == {"rounds": 3}


def test_job_without_checkpoints_says_that_it_starts_again(make_job, options, display) -> None:
    def fails(context, params):
        raise InputError("interrupted")

    with pytest.raises(InputError):
        run_job(make_job(fails), {}, options(), display)
    result = run_job(make_job(), {}, options(resume=True), display)
    assert result.notices == ("thing keeps nothing to go on from; it starts from the beginning",)


@pytest.mark.parametrize(
    ("values", "changes", "said"),
    [({"size": 2}, {}, "--size was 1, is 2"), ({}, {"seed": 9}, "--seed was 1, is 9")],
)
def test_resume_with_other_parameters_is_refused(make_job, options, display, values, changes, said) -> None:
    run_job(make_job(), {}, options(), display)
    with pytest.raises(ParameterError, match=said):
        run_job(make_job(), values, options(resume=True, **changes), display)


def test_resume_as_another_job_is_refused(make_job, options, display) -> None:
    run_job(make_job(), {}, options(), display)
    with pytest.raises(ParameterError, match="holds a thing job"):
        run_job(make_job(name="other"), {}, options(resume=True), display)


@pytest.mark.parametrize("text", ["{", "[]", '{"a": 1}'])
def test_damaged_record_is_told(make_job, options, display, out, text) -> None:
    out.mkdir()
    (out / "job.json").write_text(text)
    with pytest.raises(OutputError, match=r"job\.json"):
        run_job(make_job(), {}, options(resume=True), display)
