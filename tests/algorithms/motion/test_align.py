"""Tracks against the truth, in the conditions that movies come in."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from parhelion.algorithms.motion.align import MotionSettings, MovieMotion, align_movie
from parhelion.algorithms.motion.exposure import Exposure
from parhelion.algorithms.motion.kept import KeptFrames
from parhelion.errors import ParameterError

Make = Callable[..., Any]
Rms = Callable[[np.ndarray, np.ndarray], float]
WHOLE = MotionSettings(local=False)


def align(movie: Any, settings: MotionSettings = WHOLE, dead: tuple[int, ...] = ()) -> MovieMotion:
    return align_movie(KeptFrames(movie), 1.5, settings, dead=dead)


def test_track_is_found_as_well_as_it_says(movie: Any, rms: Rms) -> None:
    found = align(movie)
    error = rms(found.shift_px, movie.true_shift_px)
    assert error < 0.15
    assert 0.4 < error / np.sqrt((found.error_px**2).mean()) < 1.8
    assert found.findings == ()


def test_shifts_are_relative_to_the_middle_frame(movie: Any) -> None:
    np.testing.assert_allclose(align(movie).shift_px[8], 0)


def test_large_drift_at_half_an_electron(make_movie: Make, rms: Rms) -> None:
    movie = make_movie(size=(768, 768), dose=0.5, drift=50, count=20)
    assert rms(align(movie).shift_px, movie.true_shift_px) < 0.25


@pytest.mark.parametrize("drift", [0.0, 15.0])
def test_fixed_pattern_does_not_hold_frames_back(drift: float, make_movie: Make, rms: Rms) -> None:
    movie = make_movie(pattern=0.15, drift=drift)
    assert rms(align(movie).shift_px, movie.true_shift_px) < 0.3


def test_strong_pattern_is_told_from_the_specimen(make_movie: Make, rms: Rms) -> None:
    """Aligned without a pattern in the model, such frames stay where they are."""
    movie = make_movie(pattern=0.3, drift=15.0)
    found = align(movie)
    assert found.track.powers.pattern.max() > 0.01 * found.track.powers.noise.mean()
    assert rms(found.shift_px, movie.true_shift_px) < 0.3


def test_dead_frames_are_left_out_and_interpolated(movie: Any, rms: Rms) -> None:
    frames = [frame.copy() for frame in movie.frames]
    for dead in (5, 6):
        frames[dead][:] = 0
    found = align(replace(movie, frames=frames), dead=(5, 6))
    live = [i for i in range(16) if i not in (5, 6)]
    assert rms(found.shift_px[live], movie.true_shift_px[live]) < 0.15
    np.testing.assert_allclose(
        found.shift_px[5] - found.shift_px[4], (found.shift_px[7] - found.shift_px[4]) / 3
    )
    assert np.isinf(found.error_px[[5, 6]]).all()


def test_one_frame_stays(make_movie: Make) -> None:
    movie = make_movie(count=1)
    found = align(movie)
    np.testing.assert_array_equal(found.shift_px, 0)
    assert any("one frame" in finding for finding in found.findings)


def test_noise_alone_is_not_aligned(make_movie: Make) -> None:
    rng = np.random.default_rng(3)
    movie = make_movie(size=(64, 64), count=12)
    movie.frames = [rng.poisson(1.0, (384, 384)).astype(np.uint8) for _ in range(12)]
    found = align(movie)
    np.testing.assert_array_equal(found.shift_px, 0)
    assert any("too little signal" in finding for finding in found.findings)


def test_damage_in_the_model_helps_late_frames(make_movie: Make, rms: Rms) -> None:
    """Without damage in the movie, telling the model of some must not spoil the track."""
    movie = make_movie()
    exposure = Exposure(dose_per_frame=0.5, pre_exposure=0, voltage_kv=300, pixel_size_angstrom=1.5)
    found = align_movie(KeptFrames(movie), 1.5, WHOLE, exposure=exposure)
    assert rms(found.shift_px, movie.true_shift_px) < 0.2


def test_smoothing_follows_a_steady_track(make_movie: Make, rms: Rms) -> None:
    movie = make_movie(size=(256, 256), contrast=0.2, seed=4)
    steady = rms(align(movie).shift_px, movie.true_shift_px)
    rough = rms(align(movie, replace(WHOLE, smooth=False)).shift_px, movie.true_shift_px)
    assert steady < rough


def test_local_motion_is_found_and_its_absence_too(movie: Any, make_movie: Make, rms: Rms) -> None:
    settings = MotionSettings(patches=(3, 3))
    still = align_movie(KeptFrames(movie), 1.5, settings)
    assert still.local is None
    assert any("local motion" in finding for finding in still.findings)
    stretch = np.stack([np.linspace(0, 6, 16), np.linspace(0, -3, 16)], axis=1)
    moving = make_movie(size=(640, 640), field=stretch, contrast=0.25)
    found = align_movie(KeptFrames(moving), 1.5, settings)
    assert found.local is not None
    # content sampled further on by f · x lies at minus that: the shift to be added is f · x
    at = np.array([-0.3, 0.3])
    local = np.stack([found.local.shift_px(float(i), at, np.zeros(2)) for i in range(16)])
    difference = local[:, 1] - local[:, 0]
    assert rms(difference, 0.6 * stretch) < 0.35


def test_same_bytes_whatever_the_threads(movie: Any, rms: Rms) -> None:
    from concurrent.futures import ThreadPoolExecutor

    class Threads:
        workers = 3

        def map(self, function, items):  # type: ignore[no-untyped-def]
            with ThreadPoolExecutor(3) as pool:
                yield from pool.map(function, items)

    other = align_movie(KeptFrames(movie), 1.5, WHOLE, executor=Threads())
    np.testing.assert_array_equal(other.shift_px, align(movie).shift_px)


def test_frames_too_small_for_the_resolution_are_refused(make_movie: Make, rms: Rms) -> None:
    movie = make_movie(size=(32, 32), count=3)
    with pytest.raises(ParameterError, match="no frequency left"):
        align_movie(KeptFrames(movie), 1.5, MotionSettings(resolution_angstrom=60.0, mask_vertical=8))
