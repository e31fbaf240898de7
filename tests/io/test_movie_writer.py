"""Movies written as detectors do: what was written is read again, and other programs read it."""

import mrcfile
import numpy as np
import pytest
import tifffile

from parhelion.errors import OutputError, ParameterError
from parhelion.io.movie_writer import write_movie
from parhelion.io.movies import open_movie

SHAPE = (30, 44)


@pytest.fixture
def counts():
    frames = np.random.default_rng(0).poisson(3.0, (4, *SHAPE)).astype(np.uint8)
    frames[1, 2, 3] = 255
    return frames


@pytest.mark.parametrize("suffix", [".tif", ".mrc"])
def test_frames_come_back_in_the_order_of_rows(tmp_path, counts, suffix):
    path = tmp_path / f"movie{suffix}"
    write_movie(path, iter(counts), 4, SHAPE, np.uint8, 1.25)
    movie = open_movie(path)
    assert (movie.count, movie.shape) == (4, SHAPE)
    assert movie.pixel_size_angstrom == pytest.approx(1.25)
    assert all(np.array_equal(movie.frame(i), counts[i]) for i in range(4))


def test_other_programs_read_the_files(tmp_path, counts):
    write_movie(tmp_path / "a.tif", iter(counts), 4, SHAPE, np.uint8, 1.0)
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        assert len(tiff.pages) == 4
        assert tiff.pages[0].compression.name == "LZW"
        assert tiff.pages[0].dtype == np.uint8
        assert np.array_equal(tiff.asarray()[:, ::-1], counts)
    write_movie(tmp_path / "a.mrc", iter(counts), 4, SHAPE, np.uint8, 1.0)
    with mrcfile.open(tmp_path / "a.mrc") as mrc:
        assert mrc.header.mode == 1
        assert np.array_equal(mrc.data, counts)
    large = counts.astype(np.uint16) * 200
    write_movie(tmp_path / "b.mrc", iter(large), 4, SHAPE, np.uint16, 1.0)
    with mrcfile.open(tmp_path / "b.mrc") as mrc:
        assert mrc.header.mode == 6
        assert np.array_equal(mrc.data, large)


def test_what_cannot_be_written_is_refused_and_leaves_no_file(tmp_path, counts):
    with pytest.raises(ParameterError, match="announced"):
        write_movie(tmp_path / "a.tif", iter(counts), 5, SHAPE, np.uint8, 1.0)
    with pytest.raises(OutputError, match="were not written"):
        write_movie(tmp_path / "a.mrc", iter(counts), 5, SHAPE, np.uint8, 1.0)
    with pytest.raises(ParameterError, match=r"\.tif or \.mrc"):
        write_movie(tmp_path / "a.png", iter(counts), 4, SHAPE, np.uint8, 1.0)
    with pytest.raises(ParameterError, match="uint8"):
        write_movie(tmp_path / "a.tif", iter(counts), 4, SHAPE, np.float32, 1.0)
    assert not list(tmp_path.iterdir())
