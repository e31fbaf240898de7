"""Work on each of many micrographs: failures are left out and named, finished ones are not repeated."""

import errno
import json

import numpy as np
import pytest

from parhelion.errors import Cancelled, FormatError, InputError, OutputError
from parhelion.io.mrc import StackWriter
from parhelion.jobs._micrographs import MicrographFiles, each, largest_shape, read
from parhelion.registry import JobParams, Result, input_files, option, validate
from parhelion.run.runner import run_job

NAMES = [f"m{i}.mrc" for i in range(6)]


class Inputs(JobParams):
    input: MicrographFiles = option(help="micrographs")


def image(path, count=1, shape=(8, 12)):
    with StackWriter(path, count, shape, 1.3) as writer:
        writer.write(0, np.zeros((count, *shape), np.float32) + np.arange(shape[1], dtype=np.float32))
    return path


def job_of(make_job, work, *, parallel=True, seen=None):
    def run(context, params):
        outcome = each(context, NAMES, work, "Doing things", parallel=parallel)
        if seen is not None:
            seen.append(outcome)
        context.path("result").write_text("done")
        return Result(figures=outcome.figures(), outputs={"result": context.path("result")})

    return make_job(run, resumable=True)


@pytest.mark.parametrize("parallel", [True, False])
def test_one_that_fails_is_named_and_the_others_finish(
    make_job, options, display, parallel, tmp_path
) -> None:
    def work(i):
        if i == 2:
            raise FormatError("it is truncated")
        if i == 4:
            raise OSError(errno.EIO, "Input/output error", "m4.mrc")
        return {"square": np.float64(i * i), "name": NAMES[i]}

    seen = []
    result = run_job(job_of(make_job, work, parallel=parallel, seen=seen), {}, options(), display)
    (outcome,) = seen
    assert outcome.kept.tolist() == [0, 1, 3, 5]
    assert [row["square"] for row in outcome.done()] == [0, 1, 9, 25]
    assert outcome.failed[2] == "it is truncated"
    assert set(outcome.failed) == {2, 4}
    assert result.figures == {"micrographs": 4, "failed_micrographs": 2, "failed": "m2.mrc, m4.mrc"}
    assert any("m2.mrc is left out: it is truncated" in note for note in result.notices)
    assert "it is truncated" in (tmp_path / "out" / "report.html").read_text()


def test_all_that_fail_are_an_error(make_job, options, display) -> None:
    def work(i):
        raise FormatError(f"number {i} is empty")

    with pytest.raises(InputError, match="all 6 files failed; the first, m0"):
        run_job(job_of(make_job, work), {}, options(), display)


def test_what_would_meet_every_file_ends_the_run(make_job, options, display, tmp_path) -> None:
    def unwritten():
        try:
            raise OSError(errno.EIO, "Input/output error")
        except OSError as error:
            raise OutputError("cannot write") from error

    def full():
        raise OSError(errno.ENOSPC, "No space left", "m1.mrc")

    def cancelled():
        raise Cancelled("stop")

    for number, (fail, expected) in enumerate(
        ((unwritten, OutputError), (full, OutputError), (cancelled, Cancelled))
    ):
        job = job_of(make_job, lambda i, fail=fail: fail())
        with pytest.raises(expected):
            run_job(job, {}, options(output=tmp_path / str(number)), display)


def test_values_that_do_not_fit_concern_one_file(make_job, options, display) -> None:
    def work(i):
        if i == 1:
            raise OutputError("values from nan to nan do not fit float32")
        return {}

    result = run_job(job_of(make_job, work), {}, options(), display)
    assert result.figures["failed"] == "m1.mrc"


def test_a_resumed_run_does_only_what_is_missing(make_job, options, display, tmp_path) -> None:
    ran = []

    def cut(i):
        ran.append(i)
        if i == 3:
            raise Cancelled("stop")
        return {"value": i}

    with pytest.raises(Cancelled):
        run_job(job_of(make_job, cut, parallel=False), {}, options(), display)
    rows = sorted((tmp_path / "out" / "checkpoints").glob("rows_*/*.json"))
    assert len(rows) == 3
    rows[1].write_text("{ damaged")
    other = json.loads(rows[2].read_text())
    rows[2].write_text(json.dumps({**other, "name": "another.mrc"}))
    ran.clear()
    seen = []

    def whole(i):
        ran.append(i)
        return {"value": i}

    run_job(job_of(make_job, whole, parallel=False, seen=seen), {}, options(resume=True), display)
    assert ran == [1, 2, 3, 4, 5]
    assert [row["value"] for row in seen[0].done()] == list(range(6))


def test_a_run_that_starts_anew_forgets_earlier_rows(make_job, options, display) -> None:
    ran = []

    def work(i):
        ran.append(i)
        return {}

    job = job_of(make_job, work)
    run_job(job, {}, options(), display)
    run_job(job, {}, options(overwrite=True), display)
    assert sorted(ran) == sorted([*range(6), *range(6)])


def test_the_input_is_a_table_or_images_of_which_one_can_be_used(tmp_path) -> None:
    good, bad = image(tmp_path / "a.mrc"), tmp_path / "b.mrc"
    bad.write_bytes(b"nothing of the kind")
    assert validate(Inputs, {"input": [str(bad), str(good)]}).input == (bad, good)
    assert validate(Inputs, {"input": str(tmp_path / "*.mrc")}).input == (good, bad)
    with pytest.raises(InputError, match=r"b\.mrc is no image file"):
        validate(Inputs, {"input": [bad]})
    with pytest.raises(InputError, match="no such file"):
        validate(Inputs, {"input": [tmp_path / "c.mrc"]})
    table = tmp_path / "in.star"
    table.write_text("data_\nloop_\n_rlnMicrographName\na.mrc\n")
    params = validate(Inputs, {"input": table})
    assert [path for _, path, _ in input_files(params)] == [table]
    table.write_text("data_\nloop_\n_rlnImageName\n1@a.mrcs\n")
    with pytest.raises(InputError, match="neither movies nor micrographs"):
        validate(Inputs, {"input": table})


def test_notes_of_reading_become_notices(tmp_path, make_job, options, display) -> None:
    paths = [image(tmp_path / "a.mrc"), image(tmp_path / "b.mrc", shape=(16, 20))]

    def run(context, params):
        found = read(context, paths, voltage=300, cs=2.7, amplitude_contrast=0.1)
        assert largest_shape([tmp_path / "no.mrc", *found.path]) == (1, 16, 20)
        context.path("result").write_text("done")
        return Result(outputs={"result": context.path("result")})

    result = run_job(make_job(run), {}, options(), display)
    assert any("1.3 Å, from the files' headers" in note for note in result.notices)
    with pytest.raises(InputError, match=r"no\.mrc"):
        largest_shape([tmp_path / "no.mrc"])
