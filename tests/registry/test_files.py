"""Typed inputs expand patterns, exist, and are found among the parameters."""

from pathlib import Path

import pytest

from parhelion.errors import FormatError, InputError
from parhelion.jobs._inputs import File, Files, check_map, check_model
from parhelion.registry import JobParams, input_files, option, validate


class Params(JobParams):
    input: Files = option(help="files", short="i")
    mask: File | None = option(None, help="one more")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.mrc", "a.mrc", "other.txt"):
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


def test_pattern_expands_in_sorted_order(folder: Path) -> None:
    made = validate(Params, {"input": str(folder / "*.mrc")})
    assert [path.name for path in made.input] == ["a.mrc", "b.mrc"]


def test_one_path_several_and_a_list_are_taken(folder: Path) -> None:
    assert len(validate(Params, {"input": folder / "a.mrc"}).input) == 1
    assert len(validate(Params, {"input": [str(folder / "a.mrc"), folder / "b.mrc"]}).input) == 2


def test_every_input_is_found_with_its_parameter(folder: Path) -> None:
    made = validate(Params, {"input": str(folder / "*.mrc"), "mask": folder / "other.txt"})
    assert [(name, path.name, kind.kind) for name, path, kind in input_files(made)] == [
        ("input", "a.mrc", "file"),
        ("input", "b.mrc", "file"),
        ("mask", "other.txt", "file"),
    ]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("a.mcr", "no such file.*did you mean a.mrc"),
        ("*.tif", "no file matches"),
        ("no/such.mrc", "nor the folder"),
        (".", "is a folder"),
    ],
)
def test_missing_files_are_told_with_a_suggestion(folder: Path, name: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        validate(Params, {"input": str(folder / name)})


def test_single_input_takes_no_pattern_of_many(folder: Path) -> None:
    with pytest.raises(InputError, match="matches 2"):
        validate(Params, {"input": folder / "a.mrc", "mask": str(folder / "*.mrc")})


def test_schema_names_the_kind_of_file() -> None:
    schema = Params.model_json_schema()
    assert schema["properties"]["input"]["items"]["kind"] == "file"


def test_files_of_another_kind_are_refused(folder: Path) -> None:
    with pytest.raises(FormatError, match="1 bytes"):
        check_map(folder / "a.mrc")
    with pytest.raises(FormatError, match="neither an atomic model nor a map"):
        check_model(folder / "other.txt")
