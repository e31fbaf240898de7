"""Filters act on frequencies as their formulas say."""

import numpy as np
import pytest

from parhelion.errors import ParameterError
from parhelion.fourier.fft import rfft3
from parhelion.fourier.filters import (
    apply_bfactor,
    gaussian,
    highpass,
    lowpass,
    randomise_phases,
    whiten,
)
from parhelion.fourier.shells import shell_index, spectrum
from parhelion.model.volume import Volume

BOX, PIXEL = 32, 2.0


@pytest.fixture
def noise():
    data = np.random.default_rng(0).normal(size=(BOX,) * 3).astype(np.float32)
    return Volume(data=data, pixel_size_angstrom=PIXEL)


def test_lowpass_and_highpass_split_the_map(noise):
    low, high = lowpass(noise, 8.0), highpass(noise, 8.0)
    np.testing.assert_allclose(low.data + high.data, noise.data, atol=1e-5)
    power = spectrum(low.data)
    assert power[10:].max() < 1e-6  # 8 Å is shell 8; the edge is two shells wide
    np.testing.assert_allclose(power[:7], spectrum(noise.data)[:7], rtol=1e-3)


def test_a_gaussian_blurs_a_point_to_its_sigma():
    data = np.zeros((BOX,) * 3, np.float32)
    data[BOX // 2, BOX // 2, BOX // 2] = 1
    out = gaussian(Volume(data=data, pixel_size_angstrom=PIXEL), 5.0).data
    axis = (np.arange(BOX) - BOX // 2) * PIXEL
    assert out.sum() == pytest.approx(1, rel=1e-4)
    assert (out.sum((0, 1)) * axis**2).sum() == pytest.approx(25.0, rel=1e-3)


def test_bfactors_cancel_and_follow_the_formula(noise):
    back = apply_bfactor(apply_bfactor(noise, 150.0), -150.0)
    np.testing.assert_allclose(back.data, noise.data, atol=1e-3)
    ratio = np.abs(rfft3(apply_bfactor(noise, 150.0).data)[0, 0, 5] / rfft3(noise.data)[0, 0, 5])
    assert ratio == pytest.approx(np.exp(-150 / 4 * (5 / (BOX * PIXEL)) ** 2), rel=1e-4)


def test_whitening_flattens_the_spectrum(noise):
    blurred = apply_bfactor(noise, 300.0)
    np.testing.assert_allclose(spectrum(whiten(blurred.data, 3)), 1, rtol=1e-3)


def test_random_phases_keep_amplitudes_and_low_shells(noise):
    out = randomise_phases(noise.data, 6, np.random.default_rng(3))
    before, after = rfft3(noise.data), rfft3(out)
    index = shell_index((BOX,) * 3).numpy()
    np.testing.assert_allclose(after[index < 6], before[index < 6], atol=1e-3)
    np.testing.assert_allclose(np.abs(after), np.abs(before), atol=2e-2)
    agreement = (after * before.conj()).real[index >= 6].sum() / (np.abs(before) ** 2)[index >= 6].sum()
    assert abs(agreement) < 0.05
    again = randomise_phases(noise.data, 6, np.random.default_rng(3))
    np.testing.assert_array_equal(out, again)


def test_a_resolution_that_is_not_positive_is_refused(noise):
    with pytest.raises(ParameterError, match="positive"):
        lowpass(noise, 0.0)
