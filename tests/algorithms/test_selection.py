"""Conditions on columns: what they mean, and that nothing else is ever understood."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parhelion.algorithms.selection import columns_used, rows_where
from parhelion.errors import ParameterError

COLUMNS = {
    "res": np.array([3.0, 5.0, np.nan, 8.0]),
    "n": np.array([1, 2, 3, 4]),
    "name": np.array(["a/x.mrc", "a/y.mrc", "b/x.mrc", "b/z.mrc"], dtype=object),
}


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("res < 5", [1, 0, 0, 0]),
        ("res <= 5 or n == 4", [1, 1, 0, 1]),
        ("not res < 5", [0, 1, 1, 1]),
        ("4 < res < 9 and n != 2", [0, 0, 0, 1]),
        ("n in (1, 4)", [1, 0, 0, 1]),
        ("n not in (1, 4)", [0, 1, 1, 0]),
        ("(res - 3) * 2 + -1 > n", [0, 1, 0, 1]),
        ("n % 2 == 0", [0, 1, 0, 1]),
        ("abs(n - 3) > 1", [1, 0, 0, 0]),
        ("res > mean(res)", [0, 0, 0, 1]),
        ("n >= percentile(n, 50)", [0, 0, 1, 1]),
        ("name == 'b/x.mrc'", [0, 0, 1, 0]),
        ("name in ('a/y.mrc', 'b/z.mrc')", [0, 1, 0, 1]),
        ("startswith(name, 'a/') and contains(name, 'x')", [1, 0, 0, 0]),
        ("endswith(name, 'z.mrc')", [0, 0, 0, 1]),
        ("1 < 2", [1, 1, 1, 1]),
    ],
)
def test_conditions(condition, expected) -> None:
    assert rows_where(condition, COLUMNS).tolist() == [bool(one) for one in expected]


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        ("reso < 5", "did you mean res"),
        ("res = 5", "compared with =="),
        ("res < 5 && n > 1", "write and"),
        ("res", "is a value, not a condition"),
        ("res and n > 1", "not plain values"),
        ("n == (1, 2)", "compared with in"),
        ("n in 3", "values in parentheses"),
        ("name < 5", "texts stand in quotes"),
        ("name + 1 > 2", "calculated with"),
        ("sqrt(n, n) > 1", "not understood"),
        ("percentile(n, 200) > 1", "0 to 100"),
        ("contains(n, 'x')", "column of texts"),
        ("", "no condition"),
        ("res <", "no condition"),
        ("n is 3", "not understood"),
        ("-" * 100 + "n > 1", "nested too deeply"),
        ("__import__('os').system('true') == 0", "not understood"),
        ("().__class__ == 1", "not understood"),
        ("[n for n in (1,)] == 1", "not understood"),
        ("(lambda: 1)() == 1", "not understood"),
        ("name[0] == 'a'", "not understood"),
        ("n > 1" + " " * 20000, "characters"),
        ("n > 1" + "0" * 400, "too large"),
        ("n > 'a'", "texts stand in quotes"),
    ],
)
def test_what_is_no_condition_is_said(condition, said) -> None:
    with pytest.raises(ParameterError, match=said):
        rows_where(condition, COLUMNS)


@given(st.text(max_size=40))
def test_any_text_is_a_condition_or_an_error(text) -> None:
    try:
        found = rows_where(text, COLUMNS)
    except ParameterError:
        return
    assert found.shape == (4,)


def test_columns_used_come_in_order() -> None:
    assert columns_used("n > 1 and abs(res) < 3 and n < 9", COLUMNS) == ["n", "res"]


@pytest.mark.parametrize(
    "condition", ["a / 0 > 1", "a / (b - b) < 3", "(a - 10) ** 0.5 > 1", "a ** 9999 > 1"]
)
def test_what_is_no_number_is_said_rather_than_compared(condition) -> None:
    columns = {"a": np.array([1.0, 2.0, np.nan]), "b": np.array([3.0, 4.0, 5.0])}
    with pytest.raises(ParameterError, match=r"is no number for [12] of 3 rows"):
        rows_where(condition, columns)
    assert rows_where("a / b > 0.4", columns).tolist() == [False, True, False]
