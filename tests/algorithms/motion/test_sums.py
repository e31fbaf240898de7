"""Moved frames and their sums: exact where theory says so, RELION's model of local motion, damage."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.fft
from scipy.ndimage import map_coordinates

from parhelion.algorithms.motion.align import MovieMotion
from parhelion.algorithms.motion.exposure import Exposure
from parhelion.algorithms.motion.factors import TOLERANCE, add_weighted, factors, weight_frequencies
from parhelion.algorithms.motion.interpolation import add_moved, blocks, run_length, tap_weights
from parhelion.algorithms.motion.kept import KeptFrames
from parhelion.algorithms.motion.polynomial import LocalMotion
from parhelion.algorithms.motion.sums import SumSettings, sum_movie
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


def moved(image: np.ndarray, field: np.ndarray) -> np.ndarray:
    """The image moved by a field ``(2, 6)``, block by block."""
    out = np.zeros((2, *image.shape), np.float32)
    shares = np.array([1.0, 0.0], np.float32)
    for top, bottom, left, right in blocks(image.shape):
        part = np.zeros((2, bottom - top, right - left), np.float32)
        length = run_length(field, image.shape[1])
        add_moved(image, field, tap_weights(), length, shares, part, top, bottom, left, right)
        out[:, top:bottom, left:right] += part
    assert not out[1].any()
    return out[0]


def whole(x: float, y: float) -> np.ndarray:
    field = np.zeros((2, 6))
    field[:, 0] = x, y
    return field


@pytest.mark.parametrize("shape", [(64, 64), (60, 75), (130, 1100)])
def test_whole_pixels_move_exactly(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    for x, y in ((3, -5), (0, 0), (-70, 61)):
        np.testing.assert_array_equal(moved(image, whole(x, y)), np.roll(image, (y, x), axis=(0, 1)))


@pytest.mark.parametrize(("cut", "least"), [(0.3, 0.9998), (0.4, 0.9995)])
def test_parts_of_pixels_move_as_in_fourier_space(cut: float, least: float) -> None:
    shape, image = (128, 200), smooth_image((128, 200), cut)
    y, x = scipy.fft.fftfreq(128)[:, None], scipy.fft.rfftfreq(200)[None, :]
    for shift in ((0.5, 0.5), (-7.31, 2.7), (0.25, -130.4)):
        ramp = np.exp(-2j * np.pi * (shift[0] * x + shift[1] * y))
        exact = scipy.fft.irfft2(scipy.fft.rfft2(image) * ramp, s=shape)
        found = moved(image, whole(*shift))
        assert np.corrcoef(found.ravel(), exact.ravel())[0, 1] > least
        assert found.std() == pytest.approx(exact.std(), rel=0.02)


def test_a_constant_stays(make_movie: Make) -> None:
    field = np.random.default_rng(3).normal(0, 2, (2, 6))
    np.testing.assert_allclose(moved(np.full((100, 90), 7, np.float32), field), 7, rtol=1e-6)


def test_true_shifts_bring_back_the_specimen(make_movie: Make) -> None:
    movie = make_movie(dose=40.0, count=6)
    sums = sum_movie(KeptFrames(movie), motion_of(movie.true_shift_px), PLAIN, 1.5)
    assert np.corrcoef(sums.total.ravel(), movie.specimen.ravel())[0, 1] > 0.9
    blurred = sum_movie(KeptFrames(movie), motion_of(np.zeros((6, 2))), PLAIN, 1.5)
    assert np.corrcoef(blurred.total.ravel(), movie.specimen.ravel())[0, 1] < 0.6


@pytest.mark.parametrize("local", [None, LocalMotion(coefficients=np.full((2, 18), 2e-4))])
def test_halves_add_up(make_movie: Make, local: LocalMotion | None) -> None:
    movie = make_movie(size=(128, 96), count=7)
    settings = SumSettings(
        exposure_filter=False, unweighted=True, halves=True, spectrum_dose=0, first=2, last=6
    )
    motion = motion_of(movie.true_shift_px, local, dead=(3,))
    sums = sum_movie(KeptFrames(movie), motion, settings, 1.5)
    assert sums.frames == 4 and sums.even is not None and sums.odd is not None
    np.testing.assert_allclose(sums.even + sums.odd, sums.total, atol=1e-3)
    assert sums.unweighted is not None
    np.testing.assert_array_equal(sums.unweighted, sums.total)
    # frames 2 and 6 are even, 3 and 5 odd; frame 4 is dead
    assert sums.even.mean() == pytest.approx(np.mean([movie.frame(i).mean() for i in (1, 5)]) * 2, rel=1e-3)


def test_local_motion_is_that_of_exact_interpolation() -> None:
    shape = (220, 340)
    image = smooth_image(shape)
    local = LocalMotion(coefficients=np.random.default_rng(1).normal(0, 0.4, (2, 18)))
    found = moved(image, local.field(1.5))
    rows, columns = np.indices(shape).astype(float)
    shift = local.shift_px(1.5, (columns + 0.5) / shape[1] - 0.5, (rows + 0.5) / shape[0] - 0.5)
    expected = map_coordinates(image, [rows - shift[..., 1], columns - shift[..., 0]], order=5, mode="mirror")
    inside = (slice(12, -12), slice(12, -12))
    assert np.abs(shift).max() > 1.5
    assert np.abs(found - expected)[inside].std() < 0.03 * expected.std()


def test_runs_are_short_where_the_field_is_steep() -> None:
    gentle, steep = whole(30.0, 4.0), whole(30.0, 4.0)
    gentle[0, 1], steep[1, 2] = 1.0, 16.0
    assert run_length(whole(30, 4), 2048) == run_length(gentle, 2048) == 128
    assert run_length(steep, 2048) == 32
    assert run_length(steep, 128) == 8


def test_weights_are_a_few_products() -> None:
    exposure = Exposure(dose_per_frame=1.25, pre_exposure=0.0, voltage_kv=300, pixel_size_angstrom=0.8)
    frequency = weight_frequencies(500)
    for restore in (True, False):
        weights = exposure.weights(np.arange(40), frequency, restore)
        shares, curves = factors(weights)
        assert shares.shape[0] == 40 and 2 <= shares.shape[1] == len(curves) <= 6
        error = np.sqrt(((shares @ curves - weights) ** 2).sum(axis=0) / (weights**2).sum(axis=0))
        assert error.max() <= 1.1 * TOLERANCE
    shares, curves = factors(np.ones((5, 9)))
    assert shares.shape == (5, 1)
    np.testing.assert_allclose(shares @ curves, 1, atol=1e-6)


def test_weighted_transforms() -> None:
    shape, rng = (40, 30), np.random.default_rng(2)
    image = rng.standard_normal(shape)
    total = np.ones((40, 16), np.complex64)
    curve = np.linspace(0, 1, 400, dtype=np.float32)
    transform = scipy.fft.rfft2(image.astype(np.float32))
    add_weighted(total, transform, shape, curve)
    radius = np.hypot(scipy.fft.fftfreq(40)[:, None], scipy.fft.rfftfreq(30)[None, :])
    np.testing.assert_allclose(total, 1 + transform * radius / np.sqrt(0.5), atol=0.1)
    add_weighted(total, -total, shape, None)
    assert not total.any()


@pytest.mark.parametrize("spectrum_dose", [0.0, 1.0, 3.0])
def test_frames_read_again_give_the_same(make_movie: Make, spectrum_dose: float) -> None:
    """What is kept, and how many frames are worked on together, leaves the bytes alone."""
    movie = make_movie(size=(128, 140), count=7)
    exposure = Exposure(dose_per_frame=1.0, pre_exposure=0.0, voltage_kv=300, pixel_size_angstrom=1.5)
    local = LocalMotion(coefficients=np.full((2, 18), 2e-3))
    settings = SumSettings(halves=True, unweighted=True, spectrum_dose=spectrum_dose)
    motion = motion_of(movie.true_shift_px, local, dead=(2,))
    one, other = (
        sum_movie(KeptFrames(movie, keep), motion, settings, 1.5, exposure=exposure) for keep in (True, False)
    )
    for name in ("total", "unweighted", "even", "odd", "spectrum"):
        mine, its = getattr(one, name), getattr(other, name)
        assert (mine is None) == (its is None) == (name == "spectrum" and spectrum_dose == 0)
        if mine is not None:
            np.testing.assert_array_equal(mine, its)


def test_weighted_sum_is_that_of_transforms(make_movie: Make) -> None:
    movie = make_movie(size=(96, 100), count=5)
    exposure = Exposure(dose_per_frame=4.0, pre_exposure=1.0, voltage_kv=300, pixel_size_angstrom=1.5)
    shift = np.round(movie.true_shift_px)
    sums = sum_movie(
        KeptFrames(movie), motion_of(shift), SumSettings(spectrum_dose=0), 1.5, exposure=exposure
    )
    radius = np.hypot(scipy.fft.fftfreq(96)[:, None], scipy.fft.rfftfreq(100)[None, :])
    expected = np.zeros((96, 51), np.complex128)
    for i, (x, y) in enumerate(shift.astype(int)):
        weight = exposure.weights(np.array([i]), radius.ravel(), False)
        expected += scipy.fft.rfft2(np.roll(movie.frame(i), (y, x), axis=(0, 1))) * weight.reshape(
            radius.shape
        )
    power = np.sqrt(
        sum(exposure.weights(np.array([i]), radius.ravel(), False) ** 2 for i in range(5)) / 5
    ).reshape(radius.shape)
    exact = scipy.fft.irfft2(expected / power, s=(96, 100))
    assert np.abs(sums.total - exact).max() < 0.02 * exact.std()


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
        sums = sum_movie(KeptFrames(Noise()), motion, settings, 1.0, exposure=exposure)
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
    sums = sum_movie(KeptFrames(Still()), motion_of(np.zeros((4, 2))), settings, 1.4)
    assert sums.spectrum is not None and sums.spectrum.shape == (128, 128)
    assert sums.spectrum_pixel_angstrom == pytest.approx(1.4, rel=0.01)
    row, column = np.indices((128, 128)) - 64
    radius = np.hypot(row, column) / 128
    assert abs(float(radius[sums.spectrum > 0.7 * sums.spectrum.max()].mean()) - ring) < 0.01


def test_impossible_sums_are_refused(make_movie: Make) -> None:
    movie = make_movie(size=(64, 64), count=3)
    motion = motion_of(np.zeros((3, 2)))
    with pytest.raises(ParameterError, match="frames 1 to 9"):
        sum_movie(KeptFrames(movie), motion, SumSettings(last=9, exposure_filter=False), 1.0)
    with pytest.raises(ParameterError, match="dose per frame"):
        sum_movie(KeptFrames(movie), motion, SumSettings(), 1.0)
    empty = motion_of(np.zeros((3, 2)), dead=(0, 1, 2))
    with pytest.raises(ParameterError, match="all empty"):
        sum_movie(KeptFrames(movie), empty, PLAIN, 1.0)
