"""Parameters are declared once and read back with unit, default, range and shape."""

from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field, model_validator

from parhelion.errors import ParameterError
from parhelion.registry import CommaList, JobParams, option, options_of, show_value, validate
from parhelion.registry.validate import suggest


class Everything(JobParams):
    count: int = option(3, help="how many", unit="particles", ge=1, le=10)
    angle: float | None = option(None, help="turn", unit="degrees", gt=0, lt=360, default_text="from the map")
    name: str = option(help="a name", short="n")
    method: Literal["fast", "slow"] = option("fast", help="how")
    pair: tuple[Annotated[float, Field(ge=-1, le=10)], float] = option((0.8, 2.5), help="two", unit="µm")
    groups: CommaList[str] = option(("c1",), help="one per class")
    files: tuple[Path, ...] = option((), help="any number")
    turn: bool = option(False, help="a switch")

    @model_validator(mode="after")
    def _order(self) -> "Everything":
        if self.pair[0] > self.pair[1]:
            raise ValueError("--pair takes the lower value first")
        return self


OPTIONS = {o.name: o for o in options_of(Everything)}


def test_number_states_unit_default_and_range() -> None:
    o = OPTIONS["count"]
    assert (o.flag, o.unit, o.default_text, o.range_text, o.metavar) == (
        "--count",
        "particles",
        "3",
        "1 to 10",
        "N",
    )


def test_default_that_comes_from_elsewhere_is_told_in_words() -> None:
    assert OPTIONS["angle"].default_text == "from the map"
    assert OPTIONS["angle"].range_text == "above 0, below 360"
    assert OPTIONS["angle"].numeric


def test_required_choice_pair_list_and_switch() -> None:
    assert OPTIONS["name"].required
    assert OPTIONS["name"].short == "n"
    assert OPTIONS["method"].choices == ("fast", "slow")
    assert (OPTIONS["pair"].count, OPTIONS["pair"].metavar, OPTIONS["pair"].range_text) == (
        2,
        "LOW HIGH",
        "-1 to 10",
    )
    assert OPTIONS["groups"].comma
    assert OPTIONS["files"].count == 0
    assert OPTIONS["turn"].switch


def test_words_of_the_command_line_become_values() -> None:
    made = validate(
        Everything,
        {"name": "x", "count": "7", "pair": ["1", "2.5"], "groups": "c1,d7", "method": "slow"},
    )
    assert (made.count, made.pair, made.groups, made.method) == (7, (1.0, 2.5), ("c1", "d7"), "slow")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "--name is missing"),
        ({"name": "x", "count": "11"}, "--count: expected a whole number 1 to 10 (particles), found '11'"),
        ({"name": "x", "count": "two"}, "--count: expected a whole number"),
        ({"name": "x", "angle": "nan"}, "--angle: expected a number"),
        ({"name": "x", "method": "quick"}, "--method: expected one of fast, slow, found 'quick'"),
        ({"name": "x", "pair": ["1"]}, "--pair: expected 2 values"),
        ({"name": "x", "pair": ["-2", "1"]}, "--pair: expected a number -1 to 10"),
        ({"name": "x", "pair": ["2", "1"]}, "--pair takes the lower value first"),
        ({"name": "x", "cuont": "1"}, "unknown option --cuont; did you mean --count?"),
    ],
)
def test_wrong_values_are_explained_in_the_users_words(values: dict, said: str) -> None:
    with pytest.raises(ParameterError) as caught:
        validate(Everything, values)
    assert said in str(caught.value)


def test_all_errors_are_told_at_once() -> None:
    with pytest.raises(ParameterError) as caught:
        validate(Everything, {"count": "0", "method": "quick"})
    assert len(str(caught.value).splitlines()) == 3


def test_parameters_do_not_change() -> None:
    made = validate(Everything, {"name": "x"})
    with pytest.raises(ValueError, match="frozen"):
        made.count = 5


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "none"), (True, "yes"), (0.1, "0.1"), (300.0, "300"), ((0.8, 2.5), "0.8 2.5"), ((), "none")],
)
def test_values_are_shown_as_typed(value: object, shown: str) -> None:
    assert show_value(value) == shown


def test_suggestion_only_for_near_words() -> None:
    assert suggest("refien", ["refine", "mask"]) == "; did you mean refine?"
    assert suggest("zzz", ["refine", "mask"]) == ""
