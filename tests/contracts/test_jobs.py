"""What every registered job must have: whatever is added to ``jobs/`` is held to this."""

import json
import re
from pathlib import Path

import pytest

from parhelion import jobs
from parhelion.cli import document
from parhelion.cli.main import main
from parhelion.registry import options_of
from parhelion.run.options import common_names

HERE = Path(__file__).parent
DOCS = HERE.parents[1] / "docs" / "jobs"
TESTS = HERE.parent / "jobs"
ALSO_NEEDED = {
    "extract": ["--box", "32"],
    "project-map": ["--step", "30"],
    "resample": ["--box", "24"],
    "select": ["--count", "1"],
    "simulate particles": ["--pixel-size", "3"],
    "spa": ["--diameter", "90"],
}
"""What some jobs ask for beside their required options before they look at their input."""


@pytest.fixture(params=jobs.names())
def job(request):
    return jobs.load(request.param)


def test_help_states_every_option_with_unit_default_and_range(job, capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert main([*job.name.split(), "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for option in options_of(job.params):
        assert option.flag in shown
        assert option.help.split()[0] in shown
        if option.unit not in (None, "1"):
            assert f"unit: {option.unit}" in shown
        if option.range_text:
            assert " ".join(f"range: {option.range_text}".split()) in shown
    for output in job.outputs:
        assert output.file in shown


def test_options_are_declared_in_full(job) -> None:
    for option in options_of(job.params):
        assert option.help, f"{option.flag} has no help"
        assert not option.help.endswith("."), f"{option.flag}: help is a phrase"
        if option.numeric:
            assert option.unit, f"{option.flag} is a number without a unit"
        if not option.required and option.default is None:
            assert option.default_text, f"{option.flag} does not say where its default comes from"


def test_names_do_not_collide(job) -> None:
    own = {option.name for option in options_of(job.params)}
    assert not own & common_names()
    shorts = [option.short for option in options_of(job.params) if option.short]
    assert len(set(shorts)) == len(shorts)
    assert not {"o", "h"} & set(shorts)
    assert len({output.name for output in job.outputs}) == len(job.outputs)


def test_summary_and_outputs_are_told(job) -> None:
    assert 5 < len(job.summary) < 90
    assert job.outputs
    assert all(output.help for output in job.outputs)


def test_schema_is_valid_json_with_units(job) -> None:
    schema = json.loads(json.dumps(job.params.model_json_schema()))
    assert schema["additionalProperties"] is False
    for option in options_of(job.params):
        described = schema["properties"][option.name]
        assert described["description"] == option.help
        assert described.get("unit") == option.unit


def test_documentation_page_is_up_to_date(job) -> None:
    path = DOCS / job.page
    assert path.is_file(), "run scripts/docs"
    assert path.read_text(encoding="utf-8") == document.page(job), "run scripts/docs"


def test_test_module_exists(job) -> None:
    assert (TESTS / f"test_{job.identifier}.py").is_file()


def test_estimate_can_be_called(job) -> None:
    assert callable(job.estimate)
    assert callable(job.run)


def test_unknown_option_is_refused(job, tmp_path, capsys) -> None:
    assert main([*job.name.split(), "-o", str(tmp_path / "out"), "--no-such-option", "1"]) == 2
    assert "has no option --no-such-option" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_missing_input_is_refused(job, tmp_path, capsys) -> None:
    files = [o for o in options_of(job.params) if o.required]
    words = [w for o in files for w in (o.flag, *[str(tmp_path / "missing")] * max(o.count, 1))]
    if not files:
        pytest.skip("the job needs no input")
    assert main([*job.name.split(), *words, "-o", str(tmp_path / "out")]) == 2
    assert "no such file" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_garbage_input_is_refused(job, tmp_path, capsys) -> None:
    """A file that is not of its kind ends in a message that names it, never in a traceback."""
    files = [o for o in options_of(job.params) if o.required]
    if not files:
        pytest.skip("the job needs no input")
    garbage = tmp_path / "garbage.mrc"
    garbage.write_bytes(b"\x01\x02 not a map" * 7)
    words = [w for o in files for w in (o.flag, *[str(garbage)] * max(o.count, 1))]
    words += ALSO_NEEDED.get(job.name, [])
    assert main([*job.name.split(), *words, "-o", str(tmp_path / "out"), "--device", "cpu"]) == 2
    error = capsys.readouterr().err
    assert "garbage.mrc" in error
    assert "Traceback" not in error


def test_pages_of_documentation_are_neither_missing_nor_left_over() -> None:
    made = document.pages()
    assert {path.name for path in DOCS.glob("*.md")} == set(made)
    for name in ("README.md", document.COMMON_PAGE):
        assert (DOCS / name).read_text(encoding="utf-8") == made[name], "run scripts/docs"


def test_every_test_of_a_job_has_its_job() -> None:
    known = {jobs.load(name).identifier for name in jobs.names()}
    found = {re.sub(r"^test_", "", path.stem) for path in TESTS.glob("test_*.py")}
    assert found <= known
