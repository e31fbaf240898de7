"""STAR tables: what comes back, which files of other programs are read, what is refused and why."""

import resource
from pathlib import Path

import numpy as np
import pytest
import starfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from parhelion.errors import FormatError, InputError, MetadataError, OutputError
from parhelion.io.star import read_star, write_star
from parhelion.model.table import Table

REFUSED = {
    "sample.star": r"line 20: found 5 values for 4 columns: 'Mars",
    "no_input.star": r"line 28: found 2 values for 3 columns",
}


def read(tmp_path: Path, text: str) -> dict[str, Table]:
    path = tmp_path / "t.star"
    path.write_text(text)
    return read_star(path)


def test_every_file_of_other_programs(test_data: Path) -> None:
    files = sorted(test_data.glob("**/*.star"))
    assert len(files) >= 27
    for path in files:
        if path.name in REFUSED:
            with pytest.raises(FormatError, match=REFUSED[path.name]):
                read_star(path)
            continue
        ours = read_star(path)
        theirs = starfile.read(path, always_dict=True)
        assert set(ours) == set(theirs), path.name
        for name, table in ours.items():
            columns = theirs[name]
            assert list(table) == list(columns), path.name
            for label, values in table.items():
                expected = np.atleast_1d(np.asarray(columns[label], dtype=object))
                assert len(values) == len(expected)
                if values.dtype == object:
                    assert [str(v) for v in expected] == values.tolist()
                else:
                    np.testing.assert_allclose(values, expected.astype(float), rtol=1e-14)


def test_loops_and_single_values(tmp_path: Path) -> None:
    blocks = read(
        tmp_path,
        "# comment\n\ndata_general\n_rlnOne 1\n_rlnTwo   2.5\n_rlnWord  hello\n_rlnMinus -3\n\n\n"
        "data_particles\n\nloop_ \n_rlnA #1 [explained here]\n_rlnB\n_rlnMicrographName #3\n"
        "  1  2.5\t10\n\n 2 -1e-3 020  \n# between\n 3 nan 0x3\n# version\n\n"
        "data_empty\n\nloop_\n_rlnX #1\n\n",
    )
    assert list(blocks) == ["general", "particles", "empty"]
    general = blocks["general"]
    assert (general["rlnOne"].dtype, general["rlnTwo"][0], general["rlnWord"][0]) == (np.int64, 2.5, "hello")
    particles = blocks["particles"]
    assert particles["rlnA"].tolist() == [1, 2, 3]
    assert particles["rlnB"][:2].tolist() == [2.5, -1e-3] and np.isnan(particles["rlnB"][2])
    # names stay as they are written
    assert particles["rlnMicrographName"].tolist() == ["10", "020", "0x3"]
    assert blocks["empty"].rows == 0 and list(blocks["empty"]) == ["rlnX"]


def test_windows_line_ends_and_no_line_end(tmp_path: Path) -> None:
    path = tmp_path / "t.star"
    path.write_bytes(b"data_\r\n\r\nloop_\r\n_rlnA #1\r\n_rlnB #2\r\n1 2\r\n3 4")
    assert read_star(path)[""]["rlnB"].tolist() == [2, 4]


def test_quotes_and_comments(tmp_path: Path) -> None:
    table = read(
        tmp_path,
        "data_x\nloop_\n_rlnA\n_rlnB\n'two words' 1 # a remark\n\"it's\" 2\n'' 3\nit's 4\na#b 5\n",
    )["x"]
    assert table["rlnA"].tolist() == ["two words", "it's", "", "it's", "a#b"]
    assert table["rlnB"].tolist() == [1, 2, 3, 4, 5]


def test_identifiers_keep_their_digits(tmp_path: Path) -> None:
    table = read(tmp_path, "data_x\nloop_\n_uid\n_mixed\n_word\n18446744073709551615 1 True\n3 1_0 False\n")[
        "x"
    ]
    assert table["uid"].tolist() == ["18446744073709551615", "3"]
    assert table["mixed"].tolist() == ["1", "1_0"]
    assert table["word"].tolist() == ["True", "False"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no data_ block"),
        ("hello world\n", r"line 1: found 'hello world' before any data_"),
        ("data_a\nloop_\n1 2\n", "loop_ is not followed by _labels"),
        ("data_a\nloop_\n_x\n_y\n1 2\n3\n4 5\n", r"line 6: found 1 values for 2 columns: '3'"),
        ("data_a\nloop_\n_x\n_y\n1 2\n3 4 5\n", r"line 6: found 3 values for 2 columns"),
        ("data_a\nloop_\n_x\n_y\n1\n2\n", r"line 5: found 1 values for 2 columns"),
        ("data_a\nloop_\n_x\n_x\n1 2\n", "_x appears twice"),
        ("data_a\n_x 1\n_x 2\n", "_x appears twice"),
        ("data_a\n_x\n", "followed by 0 values"),
        ("data_a\n_x 1 2\n", "followed by 2 values"),
        ("data_a\n_x 1\nloop_\n_y\n1\n", "a loop_ and single values"),
        ("data_a\nloop_\n_y\n1\nloop_\n_z\n2\n", "a second loop_"),
        ("data_a\n_x 1\ndata_a\n_x 1\n", "data_a twice"),
        ("data_a\nwhat\n", "expected data_, loop_ or a _label"),
    ],
)
def test_what_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        read(tmp_path, text)


def test_binary_files(tmp_path: Path) -> None:
    path = tmp_path / "t.star"
    path.write_bytes(b"data_\0")
    with pytest.raises(FormatError, match="binary"):
        read_star(path)
    path.write_bytes(b"data_a\n_x \xff\n")
    with pytest.raises(FormatError, match="byte 10"):
        read_star(path)
    with pytest.raises(InputError, match="No such file"):
        read_star(tmp_path / "none.star")


values = st.one_of(
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=3, max_size=3).map(np.array),
    st.lists(st.floats(), min_size=3, max_size=3).map(np.array),
    st.lists(
        st.text(
            st.characters(codec="utf-8", exclude_categories=["C", "Z"], exclude_characters='"') | st.just(" ")
        ),
        min_size=3,
        max_size=3,
    ).map(lambda texts: np.array(texts, dtype=object)),
)


@given(columns=st.lists(values, min_size=1, max_size=4))
@settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_written_comes_back(tmp_path: Path, columns: list[np.ndarray]) -> None:
    path = tmp_path / "t.star"
    # a label that ends in Name keeps texts that look like numbers
    table = Table({f"c{i}" + ("Name" if c.dtype == object else ""): c for i, c in enumerate(columns)})
    write_star(path, {"a": table, "b": table.take(np.array([1]))}, comments=("a remark",))
    back = read_star(path)
    for name, expected in (("a", table), ("b", table.take(np.array([1])))):
        assert list(back[name]) == list(expected)
        for label in expected:
            np.testing.assert_array_equal(back[name][label], expected[label])


def test_large_tables_keep_their_order(tmp_path: Path) -> None:
    n = 250_000
    table = Table(
        {"i": np.arange(n), "f": np.arange(n) / 7, "s": np.array([f"{i}@a" for i in range(n)], object)}
    )
    write_star(tmp_path / "t.star", {"particles": table})
    back = read_star(tmp_path / "t.star")["particles"]
    for label in table:
        np.testing.assert_array_equal(back[label], table[label])


def test_what_cannot_be_written(tmp_path: Path) -> None:
    path = tmp_path / "t.star"
    for text in ("two\nlines", 'a "quote"'):
        with pytest.raises(OutputError, match="does not fit into a STAR file"):
            write_star(path, {"a": Table({"x": np.array([text], object)})})
    with pytest.raises(OutputError, match="one value per row"):
        write_star(path, {"a": Table({"x": np.zeros((2, 2))})})
    with pytest.raises(MetadataError):
        Table({"x": np.zeros(2), "y": np.zeros(3)})
    assert list(tmp_path.iterdir()) == []


def test_full_disk(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(OutputError, match=r"cannot write .*t\.star"):
            write_star(tmp_path / "t.star", {"a": Table({"x": np.arange(100_000)})})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


def test_quoted_rows_are_read_alike_by_both_parsers(tmp_path: Path) -> None:
    """Single quotes go the fast way, a comment in the same rows the careful one."""
    rows = ["1 'a b' 'x.mrc' ''", "2 it''s '' 'c'", "3 'd' plain '5'"]
    tables = []
    for name, last in (("fast.star", ""), ("slow.star", " # a comment")):
        head = "data_\n\nloop_\n_x\n_text\n_fileName\n_other\n"
        (tmp_path / name).write_text(head + "\n".join(rows) + last + "\n")
        (table,) = read_star(tmp_path / name).values()
        tables.append({label: column.tolist() for label, column in table.items()})
    assert tables[0] == tables[1]
    assert tables[0]["fileName"] == ["x.mrc", "", "plain"]
    assert tables[0]["text"] == ["a b", "it''s", "d"]
    assert tables[0]["other"] == ["", "c", "5"]


def test_a_quote_that_is_not_closed_takes_no_line_with_it(tmp_path: Path) -> None:
    (tmp_path / "a.star").write_text("data_\n\nloop_\n_a\n_b\n'one 5\n'two 6\n")
    (table,) = read_star(tmp_path / "a.star").values()
    assert table["a"].tolist() == ["'one", "'two"]
    assert table["b"].tolist() == [5, 6]
