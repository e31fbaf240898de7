"""Moved frames and their sums: exact where theory says so, RELION's model of local motion, damage."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.fft
from scipy.ndimage import map_coordinates

from parhelion.algorithms.motion.align import MovieMotion, Transforms
from parhelion.algorithms.motion.exposure import Exposure
from parhelion.algorithms.motion.polynomial import LocalMotion
from parhelion.algorithms.motion.sums import SumSettings, runs_of_frames, sum_movie
from parhelion.algorithms.motion.warp import add_moved, warped
from parhelion.errors import ParameterError

Make = Callable[..., Any]
PLAIN = SumSettings(exposure_filter=False, spectrum_dose=0)


def motion_of(
    shift_px: np.ndarray, local: LocalMotion | None = None, dead: tuple[int, ...] = ()
) -> MovieMotion:
    track: Any = None
    return MovieMotion(
        shift_px=shift_px, error_px=np.zeros(len(shift_px)), dead=dead, track=track, local=local
    )


def smooth_image(shape: tuple[int, int], cut: float = 0.25) -> np.ndarray:
    rng = np.random.default_rng(2)
    y, x = scipy.fft.fftfreq(shape[0])[:, None], scipy.fft.rfftfreq(shape[1])[None, :]
    return scipy.fft.irfft2(
        scipy.fft.rfft2(rng.standard_normal(shape)) * (np.hypot(y, x) < cut), s=shape
    ).astype(np.float32)


@pytest.mark.parametrize("shape", [(64, 64), (60, 75)])
def test_whole_pixels_move_exactly(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    moved = np.zeros((shape[0], shape[1] // 2 + 1), np.complex64)
    add_moved(moved, scipy.fft.rfft2(image), shape, np.array([3.0, -5.0]))
    np.testing.assert_allclose(
        scipy.fft.irfft2(moved, s=shape), np.roll(image, (-5, 3), axis=(0, 1)), atol=1e-4
    )


def test_true_shifts_bring_back_the_specimen(make_movie: Make) -> None:
    movie = make_movie(dose=40.0, count=6)
    sums = sum_movie(Transforms(movie), motion_of(movie.true_shift_px), PLAIN, 1.5)
    assert np.corrcoef(sums.total.ravel(), movie.specimen.ravel())[0, 1] > 0.9
    blurred = sum_movie(Transforms(movie), motion_of(np.zeros((6, 2))), PLAIN, 1.5)
    assert np.corrcoef(blurred.total.ravel(), movie.specimen.ravel())[0, 1] < 0.6


@pytest.mark.parametrize("local", [None, LocalMotion(coefficients=np.full((2, 18), 2e-4))])
def test_halves_add_up(make_movie: Make, local: LocalMotion | None) -> None:
    movie = make_movie(size=(128, 96), count=7)
    settings = SumSettings(
        exposure_filter=False, unweighted=True, halves=True, spectrum_dose=0, first=2, last=6
    )
    motion = motion_of(movie.true_shift_px, local, dead=(3,))
    sums = sum_movie(Transforms(movie), motion, settings, 1.5)
    assert sums.frames == 4 and sums.even is not None and sums.odd is not None
    np.testing.assert_allclose(sums.even + sums.odd, sums.total, atol=1e-3)
    assert sums.unweighted is not None
    np.testing.assert_array_equal(sums.unweighted, sums.total)
    # frames 2 and 6 are even, 3 and 5 odd; frame 4 is dead
    assert sums.even.mean() == pytest.approx(np.mean([movie.frame(i).mean() for i in (1, 5)]) * 2, rel=1e-3)


def test_local_warp_is_that_of_exact_interpolation() -> None:
    shape = (120, 140)
    image = smooth_image(shape)
    local = LocalMotion(coefficients=np.random.default_rng(1).normal(0, 0.4, (2, 18)))
    transform = np.zeros((shape[0], shape[1] // 2 + 1), np.complex64)
    add_moved(transform, scipy.fft.rfft2(image), shape, np.zeros(2), spline=True)
    coefficients = scipy.fft.irfft2(transform, s=shape)
    found = warped(coefficients, local, 1.5)
    rows, columns = np.indices(shape).astype(float)
    shift = local.shift_px(1.5, (columns + 0.5) / shape[1] - 0.5, (rows + 0.5) / shape[0] - 0.5)
    expected = map_coordinates(image, [rows - shift[..., 1], columns - shift[..., 0]], order=5, mode="mirror")
    inside = (slice(12, -12), slice(12, -12))
    assert np.abs(shift).max() > 1.5
    assert np.abs(found - expected)[inside].std() < 0.03 * expected.std()


def test_frames_of_one_field_are_warped_together() -> None:
    slow = LocalMotion(coefficients=np.full((2, 18), 1e-4))
    fast = LocalMotion(coefficients=np.full((2, 18), 0.3))
    frames = np.arange(6)
    assert len(runs_of_frames(frames, None)) == 6
    assert len(runs_of_frames(frames, slow)) < 4
    assert len(runs_of_frames(frames, fast)) == 6
    assert [row for run in runs_of_frames(frames, slow) for row in run] == list(range(6))


def test_exposure_filter_keeps_the_noise_white() -> None:
    rng = np.random.default_rng(5)

    class Noise:
        count, shape = 8, (256, 256)

        def frame(self, index: int) -> np.ndarray:
            return rng.standard_normal(self.shape).astype(np.float32)

    exposure = Exposure(dose_per_frame=5.0, pre_exposure=0.0, voltage_kv=300, pixel_size_angstrom=1.0)
    motion = motion_of(np.zeros((8, 2)))
    for restore, least, most in ((True, 0.9, 1.1), (False, 0.0, 0.2)):
        settings = SumSettings(restore_power=restore, spectrum_dose=0)
        sums = sum_movie(Transforms(Noise()), motion, settings, 1.0, exposure=exposure)
        power = np.abs(scipy.fft.fft2(sums.total)) ** 2 / 256**2
        fine = np.hypot(*np.meshgrid(scipy.fft.fftfreq(256), scipy.fft.fftfreq(256))) > 0.3
        assert least <= power[fine].mean() / 8 <= most


def test_first_frames_carry_the_fine_detail() -> None:
    exposure = Exposure(dose_per_frame=2.0, pre_exposure=0.0, voltage_kv=300, pixel_size_angstrom=1.0)
    weights = exposure.weights(np.arange(10), np.array([0.01, 0.3]), True)
    assert weights[0, 1] > 2 * weights[5, 1]
    assert weights[0, 0] == pytest.approx(weights[9, 0], rel=0.2)


def test_power_spectrum_shows_rings_where_they_are(make_movie: Make) -> None:
    """A ring in the specimen's spectrum appears at its frequency, the centre at box // 2."""
    size, ring = 512, 0.15
    rng = np.random.default_rng(8)
    y, x = scipy.fft.fftfreq(size)[:, None], scipy.fft.rfftfreq(size)[None, :]
    shape = np.exp(-(((np.hypot(y, x) - ring) / 0.01) ** 2))
    image = scipy.fft.irfft2(scipy.fft.rfft2(rng.standard_normal((size, size))) * shape, s=(size, size))

    class Still:
        count, shape = 4, (size, size)

        def frame(self, index: int) -> np.ndarray:
            return (image + 0.05 * rng.standard_normal((size, size))).astype(np.float32)

    settings = SumSettings(exposure_filter=False, spectrum_dose=4.0, spectrum_box=128)
    sums = sum_movie(Transforms(Still()), motion_of(np.zeros((4, 2))), settings, 1.4)
    assert sums.spectrum is not None and sums.spectrum.shape == (128, 128)
    assert sums.spectrum_pixel_angstrom == pytest.approx(1.4, rel=0.01)
    row, column = np.indices((128, 128)) - 64
    radius = np.hypot(row, column) / 128
    assert abs(float(radius[sums.spectrum > 0.7 * sums.spectrum.max()].mean()) - ring) < 0.01


def test_impossible_sums_are_refused(make_movie: Make) -> None:
    movie = make_movie(size=(64, 64), count=3)
    motion = motion_of(np.zeros((3, 2)))
    with pytest.raises(ParameterError, match="frames 1 to 9"):
        sum_movie(Transforms(movie), motion, SumSettings(last=9, exposure_filter=False), 1.0)
    with pytest.raises(ParameterError, match="dose per frame"):
        sum_movie(Transforms(movie), motion, SumSettings(), 1.0)
    empty = motion_of(np.zeros((3, 2)), dead=(0, 1, 2))
    with pytest.raises(ParameterError, match="all empty"):
        sum_movie(Transforms(movie), empty, PLAIN, 1.0)
