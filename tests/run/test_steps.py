"""A job made of others: folders, one report, finished steps are not run again."""

import json

import pytest

from parhelion.errors import InputError
from parhelion.registry import Result
from parhelion.run.runner import run_job
from parhelion.run.steps import run_step


def step(context, params):
    context.report.text(f"this is step {params.size}")
    context.notice(f"notice of {params.size}")
    context.path("result").write_text(str(params.size))
    return Result(figures={"size": params.size}, outputs={"result": context.path("result")})


def test_steps_have_folders_and_sections(make_job, options, display, tmp_path) -> None:
    inner = make_job(step, name="inner")

    def outer(context, params):
        found = [run_step(context, inner, f"Step {n}", {"size": n}) for n in (1, 2)]
        context.path("result").write_text("done")
        return Result(
            figures={"sum": sum(f.figures["size"] for f in found)}, outputs={"result": context.path("result")}
        )

    result = run_job(make_job(outer), {}, options(), display)
    out = tmp_path / "out"
    assert result.figures == {"sum": 3}
    assert result.notices == ("notice of 1", "notice of 2")
    assert json.loads((out / "job.json").read_text())["steps"] == ["01_inner", "02_inner"]
    assert (out / "02_inner" / "result.txt").read_text() == "2"
    assert json.loads((out / "02_inner" / "job.json").read_text())["status"] == "finished"
    text = (out / "report.html").read_text()
    assert text.index("Step 1") < text.index("this is step 1") < text.index("Step 2")
    assert "this is step 2" in (out / "02_inner" / "report.html").read_text()


def test_resume_skips_finished_steps_and_keeps_their_report(make_job, options, display, tmp_path) -> None:
    ran = []

    def counted(context, params):
        ran.append(params.size)
        return step(context, params)

    inner = make_job(counted, name="inner")

    def outer(context, params, fail):
        run_step(context, inner, "First", {"size": 1})
        if fail:
            raise InputError("interrupted")
        run_step(context, inner, "Second", {"size": 2})
        context.path("result").touch()
        return Result(outputs={"result": context.path("result")})

    with pytest.raises(InputError):
        run_job(make_job(lambda c, p: outer(c, p, True), resumable=True), {}, options(), display)
    run_job(make_job(lambda c, p: outer(c, p, False), resumable=True), {}, options(resume=True), display)
    assert ran == [1, 2]
    assert "this is step 1" in (tmp_path / "out" / "report.html").read_text()


def test_step_with_other_parameters_is_run_again(make_job, options, display, tmp_path) -> None:
    ran = []

    def counted(context, params):
        ran.append(params.size)
        return step(context, params)

    inner = make_job(counted, name="inner")
    sizes = iter([1, 5])

    def outer(context, params):
        run_step(context, inner, "Only", {"size": next(sizes)})
        if len(ran) == 1:
            raise InputError("interrupted")
        context.path("result").touch()
        return Result(outputs={"result": context.path("result")})

    with pytest.raises(InputError):
        run_job(make_job(outer, resumable=True), {}, options(), display)
    run_job(make_job(outer, resumable=True), {}, options(resume=True), display)
    assert ran == [1, 5]


def test_overwrite_clears_the_steps(make_job, options, display, tmp_path) -> None:
    inner = make_job(step, name="inner")

    def outer(context, params):
        if params.size:
            run_step(context, inner, "Step", {})
        context.path("result").touch()
        return Result(outputs={"result": context.path("result")})

    run_job(make_job(outer), {}, options(), display)
    run_job(make_job(outer), {"size": 0}, options(overwrite=True), display)
    assert not (tmp_path / "out" / "01_inner").exists()
