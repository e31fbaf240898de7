"""Coordinates of other programs become pixels that count from the middle of the first one."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from parhelion.errors import FormatError, InputError, MetadataError
from parhelion.io.coordinates import (
    read_coordinates,
    without_duplicates,
    write_coordinates,
    write_coordinates_per_micrograph,
)
from parhelion.io.star import read_star
from parhelion.model.micrographs import Coordinates
from parhelion.model.table import Table

NAMES = ("a/one.mrc", "a/two.mrc")
STAR = """data_particles
loop_
_rlnMicrographName
_rlnCoordinateX
_rlnCoordinateY
_rlnAutopickFigureOfMerit
_rlnClassNumber
a/two.mrc 10.5 20 1.5 3
a/one.mrc 30 40 0.5 4
a/two.mrc 50 60 2.5 5
"""


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_one_table_with_micrograph_names(tmp_path) -> None:
    path = write(tmp_path, "picks.star", STAR)
    found = read_coordinates([path])
    assert found.names == ("a/two.mrc", "a/one.mrc")
    joined = read_coordinates([path], names=NAMES)
    assert joined.names == NAMES
    assert joined.micrograph.tolist() == [1, 0, 1]
    assert joined.xy_px[0].tolist() == [10.5, 20]
    assert joined.figure_of_merit.tolist() == [1.5, 0.5, 2.5]
    assert joined.extra["rlnClassNumber"].tolist() == [3, 4, 5]


def test_joined_by_file_name_where_folders_differ(tmp_path) -> None:
    joined = read_coordinates([write(tmp_path, "p.star", STAR)], names=["/x/two.mrc", "/x/one.mrc"])
    assert joined.micrograph.tolist() == [0, 1, 0]


def test_positions_of_other_micrographs_are_left_out(tmp_path) -> None:
    notes: list[str] = []
    path = write(tmp_path, "p.star", STAR)
    assert len(read_coordinates([path], names=NAMES[:1], notes=notes)) == 1
    assert any("2 of 3 positions" in note and "a/two.mrc" in note for note in notes)
    with pytest.raises(MetadataError, match="it begins with"):
        read_coordinates([path], names=["z.mrc"])


def test_one_file_per_micrograph(tmp_path) -> None:
    text = "data_\nloop_\n_rlnCoordinateX\n_rlnCoordinateY\n1 2\n3 4\n"
    paths = [write(tmp_path, f"{stem}_autopick.star", text) for stem in ("one", "two")]
    joined = read_coordinates(paths, names=NAMES)
    assert joined.micrograph.tolist() == [0, 0, 1, 1]
    assert read_coordinates(paths).names == ("one", "two")


def test_relion_4_lists_the_files(tmp_path) -> None:
    (tmp_path / "Movies").mkdir()
    text = "data_\nloop_\n_rlnCoordinateX\n_rlnCoordinateY\n1 2\n"
    write(tmp_path, "Movies/two_autopick.star", text)
    listed = "data_coordinate_files\nloop_\n_rlnMicrographName\n_rlnMicrographCoordinates\n"
    path = write(tmp_path, "autopick.star", listed + "a/two.mrc Movies/two_autopick.star\n")
    assert read_coordinates([path], names=NAMES).micrograph.tolist() == [1]


def test_cistem_text_is_in_angstrom(tmp_path) -> None:
    path = write(tmp_path, "positions.txt", "# image x y\n1 20 40\ntwo.mrc 30 60\n")
    joined = read_coordinates([path], names=NAMES, pixel_size_angstrom=[2.0, 3.0])
    assert joined.micrograph.tolist() == [0, 1]
    np.testing.assert_allclose(joined.xy_px, [[10, 20], [10, 20]])
    with pytest.raises(MetadataError, match="pixel size"):
        read_coordinates([path], names=NAMES)


def test_eman_box_is_corner_and_size(tmp_path) -> None:
    path = write(tmp_path, "one.box", "10\t20\t64\t64\n-5 0 65 65 -3\n")
    joined = read_coordinates([path], names=NAMES)
    assert joined.xy_px.tolist() == [[42, 52], [27, 32]]
    assert joined.micrograph.tolist() == [0, 0]


def test_spider_documents_count_from_one(test_data) -> None:
    folder = test_data / "formats" / "spider"
    plain = read_coordinates([folder / "doc_merge_1.dat"])
    assert plain.xy_px[0].tolist() == pytest.approx([583.87, 2922.4])
    numbered = read_coordinates([folder / "dockey_doc.dat"])
    assert numbered.xy_px[0].tolist() == pytest.approx([252.93, 2320.6])
    peaks = read_coordinates([folder / "pk3d_doc.dat"])
    assert peaks.xy_px[0].tolist() == pytest.approx([-4, -22])


def test_csv_with_and_without_heads(tmp_path) -> None:
    path = write(tmp_path, "picks.csv", "micrograph,x,y,score\na/one.mrc,1,2,0.5\na/two.mrc,3,4,0.6\n")
    joined = read_coordinates([path], names=NAMES)
    assert joined.micrograph.tolist() == [0, 1]
    assert joined.figure_of_merit.tolist() == [0.5, 0.6]
    bare = read_coordinates([write(tmp_path, "two.csv", "5,6\n7,8\n")], names=NAMES)
    assert bare.micrograph.tolist() == [1, 1]
    assert bare.xy_px.tolist() == [[5, 6], [7, 8]]
    named = read_coordinates([write(tmp_path, "n.csv", "one.mrc, 5, 6\n")], names=NAMES)
    assert named.micrograph.tolist() == [0]


def test_positions_that_are_not_finite_are_left_out(tmp_path) -> None:
    notes: list[str] = []
    text = STAR.replace("30 40", "nan 40")
    found = read_coordinates([write(tmp_path, "p.star", text)], notes=notes)
    assert len(found) == len(found.figure_of_merit) == 2
    assert any("1 of 3 positions are not finite" in note for note in notes)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("p.star", "data_\nloop_\n_rlnImageName\nx\n", "0 tables with rlnCoordinateX"),
        ("p.star", STAR.replace("10.5", "ten"), "'ten'"),
        ("p.box", "1 2 3\n", "line 1: 3 values"),
        ("p.csv", "a,b,c\n1,2,3\n", "numbers are expected"),
        ("p.csv", "x,z\n1,2\n", "x and y are expected"),
        ("p.csv", "x,y\n1\n", "row 2: 1 values"),
        ("p.txt", "hello\n", "cisTEM"),
        ("p.txt", "", "no coordinates"),
    ],
)
def test_what_is_no_coordinates_is_said(tmp_path, name, text, said) -> None:
    with pytest.raises(InputError, match=said) as caught:
        read_coordinates([write(tmp_path, name, text)], pixel_size_angstrom=1)
    assert name in str(caught.value)


def test_what_is_written_comes_back(tmp_path) -> None:
    first = read_coordinates([write(tmp_path, "p.star", STAR)], names=(*NAMES, "empty.mrc"))
    write_coordinates(tmp_path / "out.star", first)
    again = read_coordinates([tmp_path / "out.star"], names=first.names)
    np.testing.assert_array_equal(again.xy_px, first.xy_px)
    np.testing.assert_array_equal(again.micrograph, first.micrograph)
    np.testing.assert_array_equal(again.extra["rlnClassNumber"], [3, 4, 5])
    written = write_coordinates_per_micrograph(tmp_path, first)
    assert [path.name for path in written] == [
        "one_autopick.star",
        "two_autopick.star",
        "empty_autopick.star",
    ]
    assert read_star(written[1])[""]["rlnCoordinateX"].tolist() == [10.5, 50]
    parts = read_coordinates(written, names=first.names)
    assert sorted(map(tuple, parts.xy_px)) == sorted(map(tuple, first.xy_px))


def test_of_duplicates_the_best_stays() -> None:
    xy = np.array([[0, 0], [3, 0], [6, 0], [100, 0], [0, 1]], dtype=float)
    made = Coordinates(
        names=("a", "b"),
        micrograph=np.array([0, 0, 0, 0, 1]),
        xy_px=xy,
        figure_of_merit=np.array([1.0, 5.0, 2.0, np.nan, 1.0]),
        extra=Table({"n": np.arange(5)}),
    )
    left = without_duplicates(made, 4)
    assert left.extra["n"].tolist() == [1, 3, 4]
    plain = without_duplicates(Coordinates(names=("a",), micrograph=np.zeros(3, int), xy_px=xy[:3]), 4)
    assert plain.xy_px[:, 0].tolist() == [0, 6]
    with pytest.raises(InputError, match="at least 0"):
        without_duplicates(made, -1)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["x.star", "x.box", "x.csv", "x.txt", "x.dat"]),
    st.integers(0, len(STAR)),
    st.binary(max_size=8),
)
def test_damaged_files_end_in_a_message(tmp_path, name, at, put) -> None:
    path = tmp_path / name
    path.write_bytes(STAR.encode()[:at] + put if name.endswith(".star") else put + b"\n" + put)
    try:
        found = read_coordinates([path], pixel_size_angstrom=1)
    except InputError as error:
        assert name in str(error)
        assert not isinstance(error, FormatError) or str(tmp_path) in str(error)
    else:
        assert np.isfinite(found.xy_px).all()
