"""Shell sums, spectra and FSC against closed forms and brute force."""

import numpy as np
import pytest
import torch

from parhelion.errors import ParameterError
from parhelion.fourier.shells import fsc, resolution_at, shell_index, shell_mean, shell_sums, spectrum


@pytest.mark.parametrize("n", [8, 9])
def test_shell_sums_count_every_coefficient_of_the_full_transform(n):
    grid = np.fft.fftfreq(n) * n
    radius = np.rint(np.sqrt(sum(g**2 for g in np.meshgrid(grid, grid, grid)))).astype(int)
    expected = np.bincount(radius.ravel())[: n // 2 + 1]
    ones = torch.ones(n, n, n // 2 + 1)
    np.testing.assert_array_equal(shell_sums(ones, (n, n, n)).numpy(), expected)


@pytest.mark.parametrize("n", [12, 13])
def test_fsc_equals_the_formula_on_full_transforms(n):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, n, n, n))
    b += 0.7 * a
    fa, fb = np.fft.fftn(a), np.fft.fftn(b)
    grid = np.fft.fftfreq(n) * n
    radius = (
        np.rint(np.sqrt(sum(g**2 for g in np.meshgrid(grid, grid, grid, indexing="ij")))).astype(int).ravel()
    )

    def per_shell(values):
        return np.bincount(radius, values.ravel())[: n // 2 + 1]

    cross = per_shell((fa * fb.conj()).real)
    expected = cross / np.sqrt(per_shell(np.abs(fa) ** 2) * per_shell(np.abs(fb) ** 2))
    np.testing.assert_allclose(fsc(a, b), expected, atol=1e-12)
    assert fsc(a, b).dtype == np.float64


def test_fsc_is_one_with_itself_minus_one_with_its_negative_and_zero_without_power():
    a = np.random.default_rng(1).normal(size=(10, 10, 10))
    np.testing.assert_allclose(fsc(a, 3 * a), 1)
    np.testing.assert_allclose(fsc(a, -a), -1)
    np.testing.assert_array_equal(fsc(a, np.zeros_like(a)), 0)


def test_spectrum_of_white_noise_is_flat_and_a_wave_falls_into_its_shell():
    noise = np.random.default_rng(2).normal(size=(32, 32, 32))
    np.testing.assert_allclose(spectrum(noise)[3:], 1, atol=0.2)
    wave = np.cos(2 * np.pi * 5 * np.arange(32) / 32)[None, None, :] * np.ones((32, 32, 1))
    assert spectrum(wave).argmax() == 5


def test_different_boxes_and_shapes_that_are_not_cubic_are_refused():
    with pytest.raises(ParameterError, match="one box"):
        fsc(np.zeros((4, 4, 4)), np.zeros((6, 6, 6)))
    with pytest.raises(ParameterError, match="cubic"):
        shell_index((4, 4, 6))


def test_resolution_is_interpolated_between_shells():
    curve = np.array([1, 1, 0.9, 0.5, 0.1, 0.3])
    # between shell 3 (0.5) and 4 (0.1): 0.143 lies 0.8925 of the way
    assert resolution_at(curve, 0.143, 10, 2.0) == pytest.approx(20 / 3.8925, rel=1e-4)
    assert resolution_at(curve, 0.05, 10, 2.0) == pytest.approx(4.0)
    assert resolution_at(np.array([1, 0.1, 0.1]), 0.5, 10, 2.0) == pytest.approx(20.0)


def test_shell_mean_of_the_radius_is_the_shell():
    index = shell_index((16, 16)).to(torch.float64)
    np.testing.assert_allclose(shell_mean(index, (16, 16)), np.arange(9))
