"""Lists and images of a detector's defects."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from parhelion.errors import FormatError, InputError, ParhelionError
from parhelion.io.defects import read_defects

FUZZ = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
SERIALEM = """# made by hand
CameraSizeX 12
CameraSizeY 8
RotationAndFlip 0
WasScaled 0
BadColumns 3 4
BadRows 6
BadPixels 9 1 11 7
PartialBadColumn 7 2 0 1
PartialBadRow 4 1 10 11
"""


@pytest.fixture
def text(tmp_path: Path) -> Callable[[str], Path]:
    def write(content: str) -> Path:
        path = tmp_path / "defects.txt"
        path.write_text(content)
        return path

    return write


def expected_of_serialem() -> np.ndarray:
    bad = np.zeros((8, 12), bool)
    bad[:, 3:5] = bad[6] = True
    bad[1, 9] = bad[7, 11] = True
    bad[0:2, 7:9] = True
    bad[4, 10:12] = True
    return bad


def test_rectangles_count_in_the_rows_of_the_frames(text: Callable[[str], Path]) -> None:
    path = text("# x y w h\n1 0 2 3\n\n5,6,10,10\n-1 -1 2 2\n")
    bad = np.zeros((8, 10), bool)
    bad[0:3, 1:3] = bad[6:, 5:] = bad[0, 0] = True
    notes: list[str] = []
    np.testing.assert_array_equal(read_defects(path, (8, 10), notes=notes), bad)
    np.testing.assert_array_equal(read_defects(path, (8, 10), rows_from_top=True), bad)
    assert notes == [f"defects.txt: {bad.sum()} of 80 pixels are marked as bad"]


def test_serialem_counts_from_the_top(text: Callable[[str], Path]) -> None:
    path = text(SERIALEM)
    np.testing.assert_array_equal(read_defects(path, (8, 12), rows_from_top=True), expected_of_serialem())
    np.testing.assert_array_equal(read_defects(path, (8, 12)), expected_of_serialem()[::-1])


def test_serialem_on_super_resolution_frames(text: Callable[[str], Path]) -> None:
    found = read_defects(text(SERIALEM), (16, 24), rows_from_top=True)
    np.testing.assert_array_equal(found, np.kron(expected_of_serialem(), np.ones((2, 2), bool)))


def test_serialem_usable_area_and_cut_frames(text: Callable[[str], Path]) -> None:
    """Frames lie in the middle of the camera; what lies beyond it is as its edge."""
    path = text("CameraSizeX 100\nCameraSizeY 60\nUsableArea 2 1 57 98\n")
    bad = np.ones((60, 100), bool)
    bad[2:58, 1:99] = False
    np.testing.assert_array_equal(read_defects(path, (60, 100), rows_from_top=True), bad)
    np.testing.assert_array_equal(read_defects(path, (58, 98), rows_from_top=True), bad[1:-1, 1:-1])
    larger = read_defects(path, (62, 104), rows_from_top=True)
    np.testing.assert_array_equal(larger, np.pad(bad, ((1, 1), (2, 2)), mode="edge"))


def test_image_of_defects(tmp_path: Path) -> None:
    bad = np.zeros((5, 7), np.uint8)
    bad[1, 2], bad[4, 0] = 1, 3
    tifffile.imwrite(tmp_path / "d.tif", bad[::-1])
    np.testing.assert_array_equal(read_defects(tmp_path / "d.tif", (5, 7)), bad > 0)
    turned = read_defects(tmp_path / "d.tif", (7, 5), rotation=1)
    np.testing.assert_array_equal(turned, np.rot90(bad > 0, -1))
    with pytest.raises(InputError, match=r"has 7 x 5 pixels, the frames 5 x 7 .* quarter turn"):
        read_defects(tmp_path / "d.tif", (7, 5))


@pytest.mark.parametrize(
    ("content", "kind", "message"),
    [
        ("1 2 3\n", FormatError, "has 3 words"),
        ("1 2 x 4\n", FormatError, "no line of a list"),
        ("1 2 0 4\n", FormatError, "is empty"),
        ("20 2 3 4\n", InputError, "lies outside frames of 10 x 8"),
        ("0 0 10 8\n", FormatError, "every pixel"),
        ("BadColumns 3\n", FormatError, "CameraSizeX"),
        ("CameraSizeX 10\nCameraSizeY 8\nPartialBadRow 3\n", FormatError, "needs 4 numbers"),
        ("CameraSizeX 8\nCameraSizeY 10\nBadRows 3\n", InputError, "quarter turn"),
        ("CameraSizeX 1000000\nCameraSizeY 1000000\nBadRows 3\n", InputError, "has 1000000 x 1000000 pixels"),
    ],
)
def test_lists_that_are_refused(
    text: Callable[[str], Path], content: str, kind: type[ParhelionError], message: str
) -> None:
    with pytest.raises(kind, match=message):
        read_defects(text(content), (8, 10))


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read"):
        read_defects(tmp_path / "none.txt", (8, 10))


WORDS = (
    "CameraSizeX CameraSizeY BadPixels BadColumns BadRows PartialBadRow UsableArea 1 5 8 10 -3 1e9 nan x # \n"
)


@FUZZ
@given(tokens=st.lists(st.sampled_from([*WORDS.split(" "), "\n", "\n"]), max_size=40))
def test_random_lists(text: Callable[[str], Path], tokens: list[str]) -> None:
    path = text(" ".join(tokens))
    try:
        assert read_defects(path, (8, 10)).shape == (8, 10)
    except ParhelionError as error:
        assert "defects.txt" in str(error)
