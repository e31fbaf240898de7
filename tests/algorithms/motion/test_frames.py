"""Corrected frames: each correction against what it must undo."""

import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from parhelion.algorithms.motion.frames import CorrectedFrames, binning_to
from parhelion.contracts import FrameSource
from parhelion.errors import InputError, ParameterError
from parhelion.fourier.crop import fourier_bin
from parhelion.io.movies import open_movie

RNG = np.random.default_rng(6)


class Frames:
    """Frames in memory."""

    def __init__(self, frames: np.ndarray, pixel_size_angstrom: float | None = 0.8) -> None:
        self.frames, self.count, self.shape = frames, len(frames), frames.shape[1:]
        self.pixel_size_angstrom = pixel_size_angstrom
        self.reads = 0

    def frame(self, index: int) -> np.ndarray:
        self.reads += 1
        return self.frames[index].astype(np.float32)


def test_nothing_to_correct() -> None:
    frames = RNG.poisson(2.0, (3, 33, 50))
    found = CorrectedFrames(Frames(frames))
    assert isinstance(found, FrameSource)
    assert (found.count, found.shape, found.pixel_size_angstrom) == (3, (33, 50), 0.8)
    assert found.findings == () and found.dead_frames == () and not found.bad_pixels.any()
    np.testing.assert_array_equal([found.frame(i) for i in range(3)], frames)


def test_dark_and_gain_undo_the_detector() -> None:
    """A detector with uneven pixels and an offset: the corrected frames are the exposure again."""
    exposure = RNG.uniform(90, 110, (4, 64, 48)).astype(np.float32)
    gain = RNG.uniform(0.7, 1.4, (64, 48)).astype(np.float32)
    dark = RNG.normal(20, 5, (64, 48)).astype(np.float32)
    recorded = exposure / gain + dark
    before = recorded.copy()
    found = CorrectedFrames(Frames(recorded), gain=gain, dark=dark)
    for i in range(4):
        np.testing.assert_allclose(found.frame(i), exposure[i], rtol=1e-4)
    np.testing.assert_array_equal(recorded, before)


def test_bad_pixels_of_every_kind() -> None:
    """From the list, with gain 0, burning, silent, in a dead line, and hit once: none is left, the mean and
    the noise are those of the rest, and good pixels are untouched."""
    frames = RNG.poisson(4.0, (12, 120, 100)).astype(np.float32)
    clean = frames.copy()
    gain = np.ones(frames.shape[1:], np.float32)
    gain[5, 6] = 0
    defects = np.zeros(gain.shape, bool)
    defects[20:24, 30:36] = True
    frames[:, 20:24, 30:36] = 77
    frames[:, 50, 50] = 4000
    frames[:, 70, 10] = 0
    frames[:, :, 90] = 0
    frames[3, 8, 9] = 60
    found = CorrectedFrames(Frames(frames), gain=gain, defects=defects)
    bad = found.bad_pixels
    expected = defects.copy()
    expected[5, 6] = expected[50, 50] = expected[70, 10] = expected[:, 90] = True
    np.testing.assert_array_equal(bad, expected)
    corrected = np.stack([found.frame(i) for i in range(12)])
    assert corrected[3, 8, 9] < 30
    untouched = np.broadcast_to(~bad, corrected.shape).copy()
    untouched[3, 8, 9] = False
    np.testing.assert_array_equal(corrected[untouched], clean[untouched])
    assert corrected[:, bad].mean() == pytest.approx(4, abs=0.2)
    assert corrected[:, bad].std() == pytest.approx(2, rel=0.1)
    # the replacement differs from frame to frame, so that it makes no pattern that alignment could find
    residual = corrected[:, bad] - 4
    assert np.corrcoef(residual)[np.triu_indices(12, 1)].mean() == pytest.approx(0, abs=0.05)


def test_replacement_does_not_depend_on_order_or_threads() -> None:
    frames = RNG.poisson(3.0, (6, 100, 40))
    frames[:, 5] = 0
    one = CorrectedFrames(Frames(frames), seed=5)
    with ThreadPoolExecutor(3) as pool:
        other = list(pool.map(CorrectedFrames(Frames(frames), seed=5, workers=2).frame, range(6)))
    for i in (3, 0, 5, 1, 4, 2):
        np.testing.assert_array_equal(one.frame(i), other[i])
    assert (CorrectedFrames(Frames(frames), seed=6).frame(0) != other[0]).any()


def test_dead_and_broken_frames() -> None:
    frames = RNG.poisson(3.0, (5, 64, 64)).astype(np.float32)
    frames[1] = 0
    frames[2, 10:12, 20] = (np.nan, -np.inf)
    found = CorrectedFrames(Frames(frames))
    assert found.dead_frames == (1,)
    assert "1 of 5 frames are empty and left out: 2" in found.findings[0]
    assert "not finite" in found.findings[1]
    assert np.isfinite(found.frame(2)).all() and not found.bad_pixels.any()
    assert not found.frame(1).any()
    with pytest.raises(InputError, match="none of the 2 frames of the movie shows anything"):
        CorrectedFrames(Frames(np.zeros((2, 32, 32))))


def test_a_wide_shadow_is_reported_and_left() -> None:
    frames = RNG.poisson(8.0, (5, 64, 64))
    frames[:, :, :20] = 0
    found = CorrectedFrames(Frames(frames))
    assert "never counted" in found.findings[0] and not found.bad_pixels.any()


def test_one_frame() -> None:
    frames = RNG.poisson(50.0, (1, 64, 64))
    frames[0, 3, 3] = 5000
    found = CorrectedFrames(Frames(frames))
    assert np.argwhere(found.bad_pixels).tolist() == [[3, 3]]
    assert found.frame(0).max() < 120


def test_gain_that_lies_otherwise_is_found() -> None:
    gain = RNG.normal(1, 0.05, (128, 128)).astype(np.float32)
    frames = RNG.poisson(3 / gain, (10, 128, 128))
    assert CorrectedFrames(Frames(frames), gain=gain).findings == ()
    (said,) = CorrectedFrames(Frames(frames), gain=gain[::-1]).findings
    assert "as it is and turned upside down" in said


@pytest.mark.parametrize("binning", [2, 1.6])
def test_binning(binning: float) -> None:
    frames = RNG.poisson(3.0, (2, 96, 120))
    found = CorrectedFrames(Frames(frames), binning=binning)
    y, x = found.binning_yx
    assert y == pytest.approx(x) and y == pytest.approx(binning, rel=0.07)
    assert found.pixel_size_angstrom == pytest.approx(0.8 * np.sqrt(y * x))
    np.testing.assert_allclose(
        found.frame(1), fourier_bin(frames[1].astype(np.float32), found.shape), rtol=1e-6
    )
    assert CorrectedFrames(Frames(frames, None)).pixel_size_angstrom is None


def spot(shape: tuple[int, int], xy: tuple[float, float]) -> np.ndarray:
    y, x = np.meshgrid(np.arange(shape[0]), np.arange(shape[1]), indexing="ij")
    return np.exp(-((x - xy[0]) ** 2 + (y - xy[1]) ** 2) / 18)


def cistem_source(xy: np.ndarray, angle_deg: float, major: float, minor: float) -> np.ndarray:
    """Where cisTEM's ``Image::CorrectMagnificationDistortion`` takes a pixel from, relative to the centre:
    turn, divide by the scales, turn back, written out as its loop has it."""
    a = np.radians(angle_deg)
    x, y = xy
    new_x = y * np.sin(-a) + x * np.cos(-a)
    new_y = y * np.cos(-a) - x * np.sin(-a)
    new_x, new_y = new_x / major, new_y / minor
    return np.array([new_y * np.sin(a) + new_x * np.cos(a), new_y * np.cos(a) - new_x * np.sin(a)])


@pytest.mark.parametrize("distortion", [(0.0, 1.1, 1.0), (30.0, 1.05, 0.95), (-70.0, 1.02, 1.0)])
def test_magnification_distortion_is_cistems(distortion: tuple[float, float, float]) -> None:
    """A spot is moved to where cisTEM's loop would find it, and grows as the magnification."""
    shape = (150, 180)
    centre = np.array([90.0, 75.0])
    for target in ((40.0, 15.0), (-30.0, 42.0)):
        source = centre + cistem_source(np.array(target), *distortion)
        recorded = 100 * spot(shape, tuple(source))[None] + RNG.normal(size=(1, *shape)) * 1e-3
        found = CorrectedFrames(Frames(recorded), magnification=distortion, hot_sigmas=1000)
        image = found.frame(0)
        weight = np.where(image > 1, image, 0)
        y, x = np.meshgrid(np.arange(shape[0]), np.arange(shape[1]), indexing="ij")
        place = np.array([(weight * x).sum(), (weight * y).sum()]) / weight.sum()
        np.testing.assert_allclose(place - centre, target, atol=0.02)
        assert image.sum() / recorded.sum() == pytest.approx(distortion[1] * distortion[2], rel=0.01)
        assert found.pixel_size_angstrom == pytest.approx(0.8 / (0.5 * (distortion[1] + distortion[2])))


@pytest.mark.parametrize(
    ("parameters", "kind", "message"),
    [
        ({"gain": np.ones((32, 33))}, InputError, "gain: the reference has 33 x 32 pixels .* 32 x 32"),
        ({"dark": np.ones((3, 32))}, InputError, "dark: the reference has 32 x 3"),
        ({"defects": np.zeros((31, 32), bool)}, InputError, "defects: "),
        ({"defects": np.ones((32, 32), bool)}, InputError, "no good pixel"),
        ({"binning": 0.5}, ParameterError, "at least 1"),
        ({"hot_sigmas": 0}, ParameterError, "above 0"),
        ({"magnification": (0, 2.0, 1.0)}, ParameterError, "scales between 0.8 and 1.25"),
        ({"magnification": (np.nan, 1.0, 1.0)}, ParameterError, "angle nan"),
    ],
)
def test_refused(parameters: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        CorrectedFrames(Frames(RNG.poisson(3.0, (2, 32, 32))), **parameters)


def test_no_frames() -> None:
    with pytest.raises(InputError, match="holds no frames"):
        CorrectedFrames(Frames(np.zeros((0, 32, 32))))


def test_binning_to_a_pixel_size() -> None:
    assert binning_to(0.5, 1.25) == 2.5
    assert binning_to(1.0, 1.5, (10, 1.02, 0.98)) == 1.5
    assert binning_to(1.0, 0.9995) == 1
    with pytest.raises(ParameterError, match="the detector's have 1 Å"):
        binning_to(1.0, 0.8)


def test_a_compressed_movie_is_read_once(tmp_path: Path) -> None:
    """Frames of small counts are kept from the survey, and forgotten when they were given out."""
    frames = RNG.poisson(2.0, (5, 64, 64)).astype(np.uint8)
    source = Frames(frames)
    found = CorrectedFrames(source, binning=2)
    for i in range(5):
        found.frame(i)
    assert source.reads == 5
    found.frame(0)
    assert source.reads == 6
    lean = Frames(frames)
    CorrectedFrames(lean, binning=2, keep=False).frame(0)
    assert lean.reads == 6
    tifffile.imwrite(tmp_path / "a.tif", frames, compression="lzw", photometric="minisblack")
    movie = CorrectedFrames(open_movie(tmp_path / "a.tif"))
    # the last row of a TIFF page comes first (io/tiff)
    np.testing.assert_array_equal(movie.frame(4), frames[4][::-1])
    assert movie.path == tmp_path / "a.tif"


def test_memory_stays_near_a_few_frames() -> None:
    """Scratch of a frame does not grow with the movie."""
    frames = RNG.poisson(2.0, (40, 256, 256)).astype(np.uint8)
    one = 256 * 256 * 4
    tracemalloc.start()
    try:
        found = CorrectedFrames(Frames(frames), binning=2, keep=False)
        for i in range(40):
            found.frame(i)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 10 * one
