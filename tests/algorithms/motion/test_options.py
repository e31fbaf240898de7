"""Each option of the alignment does what its help says."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from parhelion.algorithms.motion.align import MotionSettings, MovieMotion, align_movie
from parhelion.algorithms.motion.band import band_of
from parhelion.algorithms.motion.kept import KeptFrames
from parhelion.algorithms.motion.likelihood import Frames, frames_of, measure_powers
from parhelion.algorithms.motion.search import SearchSettings, _blocks, _coarse, _Windows, first_tracks
from parhelion.fourier.crop import low_transform

Make = Callable[..., Any]
Rms = Callable[[np.ndarray, np.ndarray], float]
WHOLE = MotionSettings(local=False)
SEARCH = SearchSettings(detail_px=10.0, max_shift_px=40.0, min_shift_px=0.0, bfactor_px2=1500 / 1.5**2)


def align(movie: Any, **changes: Any) -> MovieMotion:
    return align_movie(KeptFrames(movie), 1.5, replace(WHOLE, **changes))


def in_band(movie: Any) -> Frames:
    band = band_of(movie.shape, 0.3)
    data = np.stack(
        [band.crop(low_transform(movie.frame(i), len(band.frequency_x))) for i in range(movie.count)]
    )
    return frames_of(band, data, np.ones((movie.count, len(band.shell_count)), np.float32))


def noise_of(frames: Frames) -> np.ndarray:
    return measure_powers(frames, np.zeros((len(frames.data), 2))).noise


def test_min_shift_distrusts_frames_that_do_not_move(make_movie: Make) -> None:
    """A strong fixed pattern holds the first line at rest unless small shifts are distrusted."""
    movie = make_movie(pattern=0.8, drift=40.0, contrast=0.2)
    frames = in_band(movie)
    windows = _Windows(_coarse(frames, _blocks(16), noise_of(frames), SEARCH), movie.shape, SEARCH)
    assert not windows._line(0.0).any()
    line = windows._line(8.0)[:, ::-1] * windows.step
    true = movie.true_shift_px - movie.true_shift_px.mean(axis=0)
    assert np.corrcoef(line.ravel(), true.ravel())[0, 1] > 0.9


def test_max_shift_bounds_the_search(make_movie: Make) -> None:
    """The first line spans twice as much at most, and no round moves a frame further."""
    movie = make_movie(drift=60.0, contrast=0.25)
    frames, count = in_band(movie), movie.count
    ends = {}
    for most in (6.0, 40.0):
        settings = replace(SEARCH, max_shift_px=most)
        data = _coarse(frames, _blocks(count), noise_of(frames), settings)
        windows = _Windows(data, movie.shape, settings)
        line = windows._line(0.0)
        ends[most] = float(np.abs((line[-1] - line[0]) * windows.step).max())
        reach = int(np.ceil(most / windows.step.min()))
        moved = np.array([windows._best(i, line, reach) for i in range(count)]) - line
        assert 0 < np.abs(moved).max() <= reach
    # to two points of the grid
    assert ends[6.0] <= 12 + 2 * float(windows.step.max()) < ends[40.0]
    narrow = first_tracks(frames, noise_of(frames), replace(SEARCH, max_shift_px=2.0))
    wide = first_tracks(frames, noise_of(frames), SEARCH)
    true = movie.true_shift_px - movie.true_shift_px.mean(axis=0)
    assert np.abs(wide[1] - true).max() < 3 < np.abs(narrow[1] - true).max()


def test_max_iterations_ends_the_climb(movie: Any, rms: Rms) -> None:
    many, one = align(movie), align(movie, max_iterations=1)
    assert one.track.iterations < many.track.iterations
    assert rms(one.shift_px, movie.true_shift_px) > rms(many.shift_px, movie.true_shift_px)


def test_termination_threshold_ends_the_climb(movie: Any) -> None:
    fine, coarse = align(movie, threshold_angstrom=0.003), align(movie, threshold_angstrom=5.0)
    assert coarse.track.iterations < fine.track.iterations
    assert 0.003 < np.abs(coarse.shift_px - fine.shift_px).max() < 5.0 / 1.5


def test_bfactor_broadens_the_peaks_of_the_search(movie: Any) -> None:
    frames = in_band(movie)
    blocks, sharpness = _blocks(16), []
    for bfactor in (0.0, 500.0, 5000.0):
        settings = replace(SEARCH, bfactor_px2=bfactor)
        windows = _Windows(_coarse(frames, blocks, noise_of(frames), settings), movie.shape, settings)
        peak = windows.pairs[np.arange(16), np.arange(16)].mean(axis=0)
        y, x = (n // 2 for n in peak.shape)
        sharpness.append(1 - peak[y, x + 1] / peak[y, x])
    assert sharpness[0] > 1.2 * sharpness[1] > 1.4 * sharpness[2]


@pytest.mark.parametrize("lines", ["rows", "columns"])
def test_the_cross_keeps_lines_of_the_detector_out(lines: str, make_movie: Make, rms: Rms) -> None:
    """Lines that flicker together from frame to frame are the brightest thing there is, on the cross only."""
    movie, rng = make_movie(), np.random.default_rng(9)
    line = rng.normal(0, 6.0, movie.shape[0] if lines == "rows" else movie.shape[1])
    frames = [f + (line[:, None] if lines == "rows" else line[None, :]) for f in movie.frames]
    spoilt = replace(movie, frames=frames)
    bar = "mask_vertical" if lines == "rows" else "mask_horizontal"
    masked, open_ = align(spoilt), align(spoilt, **{bar: 0})
    assert rms(masked.shift_px, movie.true_shift_px) < 0.3
    assert rms(open_.shift_px, movie.true_shift_px) > 1.5 * rms(masked.shift_px, movie.true_shift_px)
