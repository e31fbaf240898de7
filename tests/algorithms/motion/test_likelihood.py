"""The likelihood: its slope, its powers, and what a pattern does to it."""

import numpy as np
import pytest

from parhelion.algorithms.motion.band import band_of, ramp
from parhelion.algorithms.motion.likelihood import Likelihood, Powers, frames_of, measure_powers


def model(pattern: float, shifts: np.ndarray, seed: int = 0) -> tuple[object, np.ndarray]:
    """Frames drawn from the model itself: signal of power 4, noise of 1, and a pattern."""
    rng = np.random.default_rng(seed)
    band = band_of((96, 80), 0.4, shells=8)
    shape = band.shell.shape

    def white(power: float, *size: int) -> np.ndarray:
        return np.sqrt(power / 2) * (rng.standard_normal(size) + 1j * rng.standard_normal(size))

    amplitude = np.linspace(1, 0.5, len(shifts))[:, None] * np.ones((1, 8))
    ramps = [part[:, 0] + 1j * part[:, 1] for part in band.ramps(shifts)]
    away = (ramps[0][:, :, None] * ramps[1][:, None, :]).conj()
    frames = amplitude[:, :1, None] * away * white(4.0, *shape) + white(pattern, *shape)
    frames = frames + white(1.0, len(shifts), *shape)
    planes = np.stack([frames.real, frames.imag], axis=1).astype(np.float32)
    return frames_of(band, planes, amplitude.astype(np.float32)), amplitude


SHIFTS = np.random.default_rng(1).normal(0, 4, (7, 2))


@pytest.mark.parametrize("pattern", [0.0, 3.0])
def test_slope_is_that_of_the_value(pattern: float) -> None:
    frames, _ = model(pattern, SHIFTS)
    powers = Powers(noise=np.ones(8), signal=np.full(8, 4.0), pattern=np.full(8, pattern))
    likelihood = Likelihood(frames=frames, powers=powers)
    at = SHIFTS + 0.3
    at[2] += 0.2
    _, slope = likelihood.evaluate(at)
    for frame, axis in ((0, 0), (2, 1), (6, 0)):
        step = np.zeros_like(at)
        step[frame, axis] = 1e-2
        numeric = (likelihood.evaluate(at + step)[0] - likelihood.evaluate(at - step)[0]) / 2e-2
        assert slope[frame, axis] == pytest.approx(numeric, rel=0.01, abs=0.5)


def test_value_is_the_gaussian_likelihood_of_the_model() -> None:
    """Against the density of the frames with the whole covariance matrix, at two tracks."""
    frames, amplitude = model(2.0, SHIFTS)
    powers = Powers(noise=np.ones(8), signal=np.full(8, 4.0), pattern=np.full(8, 2.0))
    likelihood = Likelihood(frames=frames, powers=powers)
    band = frames.band
    raw = (frames.data[:, 0] + 1j * frames.data[:, 1]) / amplitude[:, :1, None]

    def density(at: np.ndarray) -> float:
        ramps = [part[:, 0] + 1j * part[:, 1] for part in band.ramps(at)]
        away = amplitude[:, :1, None] * (ramps[0][:, :, None] * ramps[1][:, None, :]).conj()
        total = 0.0
        for y, x in zip(*np.nonzero(band.shell >= 0), strict=True):
            e, f = away[:, y, x], raw[:, y, x]
            covariance = np.eye(len(e)) + 4.0 * np.outer(e, e.conj()) + 2.0
            _, log_det = np.linalg.slogdet(covariance)
            total -= float((f.conj() @ np.linalg.solve(covariance, f)).real) + log_det
        return total

    first, second = SHIFTS, SHIFTS + np.random.default_rng(2).normal(0, 0.3, SHIFTS.shape)
    found = likelihood.evaluate(first)[0] - likelihood.evaluate(second)[0]
    assert found == pytest.approx(density(first) - density(second), rel=2e-3)
    assert likelihood.evaluate(first)[0] + likelihood.constant() == pytest.approx(density(first), rel=2e-3)


def test_powers_are_measured() -> None:
    frames, _ = model(3.0, SHIFTS)
    found = measure_powers(frames, SHIFTS)
    for power, true in ((found.noise, 1.0), (found.signal, 4.0), (found.pattern, 3.0)):
        assert np.average(power, weights=frames.band.shell_count) == pytest.approx(true, rel=0.1)


def test_still_frames_have_no_pattern() -> None:
    """What does not move could be either; it is taken for specimen."""
    frames, _ = model(0.0, np.zeros((7, 2)))
    assert not measure_powers(frames, np.zeros((7, 2))).pattern.any()


def test_climb_ends_at_the_expected_error() -> None:
    """Errors of many draws agree with the information (Cramér and Rao)."""
    errors, expected = [], 0.0
    for seed in range(12):
        frames, _ = model(0.0, SHIFTS, seed)
        powers = measure_powers(frames, SHIFTS, allow_pattern=False)
        likelihood = Likelihood(frames=frames, powers=powers)
        found, _, _ = likelihood.climb(SHIFTS, np.zeros((7, 7)), threshold_px=1e-3, iterations=20)
        error = found - SHIFTS
        errors.append(error - error.mean(axis=0))
        covariance = np.linalg.pinv(likelihood.information(), rcond=1e-9, hermitian=True)
        expected += float(np.trace(covariance)) / 7 / 12
    assert np.sqrt((np.array(errors) ** 2).mean() / expected) == pytest.approx(1.0, abs=0.2)


def test_ramp_moves_content() -> None:
    image = np.zeros((16, 16))
    image[5, 7] = 1
    moved = ramp(np.fft.fftfreq(16).astype(np.float32), np.array([3.0]))[0]
    transform = np.fft.fft2(image) * (moved[0] + 1j * moved[1])[None, :]
    assert np.unravel_index(np.fft.ifft2(transform).real.argmax(), (16, 16)) == (5, 10)
