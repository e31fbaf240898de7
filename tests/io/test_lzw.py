"""LZW strips: the bytes that went in, for every kind of string, and nothing but None for damage."""

from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile

from parhelion.errors import FormatError
from parhelion.io import lzw
from parhelion.io.movies import open_movie

RNG = np.random.default_rng(12)
PIXELS = {
    "counts": RNG.poisson(1.0, (2, 120, 90)),
    "zero": np.zeros((2, 120, 90)),
    "one value": np.full((2, 120, 90), 7),
    "period": np.arange(2 * 120 * 90).reshape(2, 120, 90) % 5,
    "noise": RNG.integers(0, 256, (2, 120, 90)),
    "sparse": RNG.poisson(0.003, (2, 120, 90)),
    "runs": np.repeat(RNG.integers(0, 3, (2, 120, 9)), 10, axis=2),
}


def pages(path: Path) -> tuple[list[Any], bool]:
    with tifffile.TiffFile(path) as tiff:
        return list(tiff.pages), tiff.byteorder == "<"


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("strip", [120, 13])
@pytest.mark.parametrize("name", PIXELS)
def test_what_went_in(tmp_path: Path, name: str, dtype: str, strip: int) -> None:
    frames = PIXELS[name].astype(dtype)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, frames, compression="lzw", photometric="minisblack", rowsperstrip=strip)
    found, little = pages(path)
    for page, frame in zip(found, frames):
        np.testing.assert_array_equal(lzw.decode_page(path, page, little), frame)


@pytest.mark.parametrize("large", [False, True])
def test_tables_that_fill_up(tmp_path: Path, large: bool) -> None:
    """Noise empties the table every 4,000 strings; a strip of zeros holds strings of hundreds of bytes."""
    shape = (1, 700, 500)
    frames = RNG.integers(0, 256, shape).astype(np.uint8) if large else np.zeros(shape, np.uint8)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, frames, compression="lzw", photometric="minisblack", rowsperstrip=700)
    (page,), little = pages(path)
    np.testing.assert_array_equal(lzw.decode_page(path, page, little), frames[0])


def test_what_is_left_to_the_library(tmp_path: Path) -> None:
    frame = PIXELS["counts"][0]
    others: dict[str, dict[str, Any]] = {
        "deflate": {"compression": "deflate"},
        "differences": {"compression": "lzw", "predictor": 2},
        "tiles": {"compression": "lzw", "tile": (16, 16)},
        "signed": {"compression": "lzw", "dtype": np.int16},
        "turned bytes": {"compression": "lzw", "dtype": np.uint16, "byteorder": ">"},
    }
    for name, options in others.items():
        path, dtype = tmp_path / f"{name}.tif", options.pop("dtype", np.uint8)
        tifffile.imwrite(path, frame.astype(dtype), photometric="minisblack", **options)
        (page,), little = pages(path)
        assert lzw.decode_page(path, page, little) is None, name
        np.testing.assert_array_equal(open_movie(path).frame(0), frame[::-1])


def test_movies_are_decoded_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = PIXELS["counts"].astype(np.uint8)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, frames, compression="lzw", photometric="minisblack", rowsperstrip=50)
    monkeypatch.delattr("parhelion.io.movie_file.TiffMovie._by_library")
    movie = open_movie(path)
    assert movie.stored(1).dtype == np.uint8
    np.testing.assert_array_equal(movie.stored(1), frames[1, ::-1])


def test_damaged_strips(tmp_path: Path) -> None:
    """Any change gives other pixels or None: no crash, nothing written elsewhere."""
    frame = PIXELS["counts"][0].astype(np.uint8)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, frame, compression="lzw", photometric="minisblack", rowsperstrip=40)
    (page,), little = pages(path)
    sound, kinds = path.read_bytes(), set()
    first, count = page.dataoffsets[1], page.databytecounts[1]
    for _ in range(300):
        data = bytearray(sound)
        for place in RNG.integers(first, first + count, RNG.integers(1, 9)):
            data[place] = RNG.integers(256)
        path.write_bytes(data)
        found = lzw.decode_page(path, page, little)
        kinds.add(found is None)
        if found is not None:
            np.testing.assert_array_equal(found[:40], frame[:40])
            np.testing.assert_array_equal(found[80:], frame[80:])
    assert kinds == {True, False}


def test_a_strip_that_ends_early_is_named(tmp_path: Path) -> None:
    frame = PIXELS["counts"][0].astype(np.uint8)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, frame, compression="lzw", photometric="minisblack", rowsperstrip=120)
    (page,), little = pages(path)
    data = bytearray(path.read_bytes())
    short = imagecodecs.lzw_encode(frame[:100].tobytes())
    first, count = page.dataoffsets[0], page.databytecounts[0]
    data[first : first + count] = short + bytes(count - len(short))
    path.write_bytes(data)
    assert lzw.decode_page(path, page, little) is None
    with pytest.raises(FormatError, match="frame 1 of"):
        open_movie(path).frame(0)
