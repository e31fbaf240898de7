"""The command line from words to exit code, on a small real job."""

import json
from pathlib import Path

import numpy as np
import pytest

from parhelion import jobs
from parhelion.cli.main import main
from parhelion.cli.parser import parse
from parhelion.io.mrc import write_volume
from parhelion.model.volume import Volume


@pytest.fixture
def maps(tmp_path: Path) -> list[str]:
    rng = np.random.default_rng(3)
    paths = []
    for name in ("a", "b"):
        data = rng.normal(size=(16, 16, 16)).astype(np.float32)
        write_volume(tmp_path / f"{name}.mrc", Volume(data=data, pixel_size_angstrom=2.0))
        paths.append(str(tmp_path / f"{name}.mrc"))
    return paths


def test_json_has_figures_and_outputs(maps, tmp_path, capsys) -> None:
    code = main(["fsc", "-i", *maps, "-o", str(tmp_path / "out"), "--json", "--quiet", "--device", "cpu"])
    captured = capsys.readouterr()
    answer = json.loads(captured.out)
    assert code == 0
    assert captured.err == ""
    assert answer["status"] == "finished"
    assert isinstance(answer["resolution_angstrom"], float)
    assert Path(answer["fsc"]).is_file()
    assert Path(answer["report"]).is_file()


def test_ordinary_run_prints_what_was_found_and_where(maps, tmp_path, capsys) -> None:
    assert main(["fsc", "-i", *maps, "-o", str(tmp_path / "out"), "--device", "cpu"]) == 0
    captured = capsys.readouterr()
    assert "Resolution" in captured.out
    assert "Å" in captured.out
    assert "report.html" in captured.out
    assert "computing on CPU" in captured.err


def test_dry_run_prints_the_estimate(maps, tmp_path, capsys) -> None:
    assert main(["fsc", "-i", *maps, "-o", str(tmp_path / "out"), "--dry-run"]) == 0
    assert "Memory" in capsys.readouterr().out
    assert main(["fsc", "-i", *maps, "-o", str(tmp_path / "out"), "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["memory_bytes"] > 0
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["fsk"], "unknown command 'fsk'; did you mean fsc?"),
        (["simulate"], "simulate needs a subcommand; there is: movies, particles"),
        (["simulate", "partikles"], "no subcommand 'partikles'"),
        (["fsc", "--maskk", "x"], "fsc has no option --maskk; did you mean --mask?"),
        (["fsc", "stray"], "unexpected 'stray'"),
        (["fsc", "-i"], "expects 2 arguments"),
        (["fsc", "-o", "out"], "--input is missing"),
        (["fsc", "-o", "out", "-i", "no.mrc", "no.mrc"], "no such file: no.mrc"),
        (["fsc", "-o", "out", "--threads", "0"], "--threads: expected a whole number 1 to 4096"),
        (["fsc", "-o", "out", "--resume", "--overwrite"], "exclude each other"),
    ],
)
def test_mistakes_end_with_code_2_and_one_message(words, said, capsys) -> None:
    assert main(words) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.startswith("parhelion: ")
    assert "Traceback" not in error


def test_mistakes_with_json_are_json_too(capsys) -> None:
    assert main(["fsc", "--json", "-o", "out"]) == 2
    answer = json.loads(capsys.readouterr().out)
    assert answer["status"] == "failed"
    assert "--input is missing" in answer["error"]


def test_occupied_folder_ends_with_code_1(maps, tmp_path, capsys) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "x").touch()
    assert main(["fsc", "-i", *maps, "-o", str(tmp_path / "out")]) == 1
    assert "is not empty" in capsys.readouterr().err


@pytest.mark.parametrize("number", ["-3", "-0.5", "-.5", "-1e-3", "-2.5E+04"])
def test_negative_numbers_are_values_in_any_notation(number) -> None:
    assert parse(jobs.load("mask"), ["--threshold", number]) == {"threshold": number}
