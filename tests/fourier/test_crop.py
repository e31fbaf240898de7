"""Fourier binning of rectangular frames."""

import numpy as np
import pytest

from parhelion.errors import ParameterError
from parhelion.fourier.crop import binned_shape, fourier_bin, low_transform


def wave(shape: tuple[int, int], ky: int, kx: int, phase: float) -> np.ndarray:
    y, x = np.meshgrid(np.arange(shape[0]) / shape[0], np.arange(shape[1]) / shape[1], indexing="ij")
    return np.cos(2 * np.pi * (ky * y + kx * x) + phase)


@pytest.mark.parametrize("shape", [(64, 64), (66, 90), (63, 77)])
def test_waves_below_nyquist_stay_and_others_go(shape: tuple[int, int]) -> None:
    """The result is the same function at fewer points, from the first pixel on."""
    small = (34, 44)
    for ky, kx, phase in ((0, 0, 0.0), (3, 5, 1.0), (-16, 21, 0.3), (16, 0, 2.0)):
        image = wave(shape, ky, kx, phase).astype(np.float32)
        found = fourier_bin(image, small)
        assert found.shape == small and found.dtype == np.float32
        np.testing.assert_allclose(found, wave(small, ky, kx, phase), atol=2e-6)
    for ky, kx in ((17, 0), (0, 22), (20, 3), (-17, 30)):
        assert np.abs(fourier_bin(wave(shape, ky, kx, 0.7).astype(np.float32), small)).max() < 2e-6


def test_white_noise_keeps_its_spectral_density() -> None:
    image = np.random.default_rng(0).normal(size=(256, 192)).astype(np.float32)
    small = fourier_bin(image, (128, 96), workers=2)
    assert small.mean() == pytest.approx(image.mean(), abs=1e-6)
    assert small.std() == pytest.approx(0.5, rel=0.03)


@pytest.mark.parametrize(
    ("shape", "binning", "expected"),
    [
        ((4096, 4096), 2, (2048, 2048)),
        ((4092, 5760), 2, (2046, 2880)),
        ((8184, 11520), 4, (2046, 2880)),
        ((4096, 4096), 1, (4096, 4096)),
        ((3711, 3839), 1, (3711, 3839)),
    ],
)
def test_whole_binnings(shape: tuple[int, int], binning: float, expected: tuple[int, int]) -> None:
    assert binned_shape(shape, binning) == expected


@pytest.mark.parametrize("shape", [(4096, 4096), (4092, 5760), (3710, 3838), (7420, 7676), (3711, 3839)])
@pytest.mark.parametrize("binning", [1.3, 1.5, 1.7, 2.0, 3.3, 4.9])
def test_any_binning(shape: tuple[int, int], binning: float) -> None:
    """Sizes are even, pixels stay square to 0.1 %, and have the wanted size to 0.6 %."""
    found = binned_shape(shape, binning)
    assert found[0] % 2 == found[1] % 2 == 0
    y, x = shape[0] / found[0], shape[1] / found[1]
    assert y / x == pytest.approx(1, abs=1e-3)
    assert y == pytest.approx(binning, rel=6e-3)


def test_impossible_binning() -> None:
    for binning in (0.5, np.nan, np.inf):
        with pytest.raises(ParameterError, match="expected at least 1"):
            binned_shape((64, 64), binning)
    with pytest.raises(ParameterError, match="fewer than 16"):
        binned_shape((64, 64), 5)


@pytest.mark.parametrize("shape", [(150, 96), (64, 75)])
def test_low_columns_are_those_of_the_whole_transform(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(4).standard_normal(shape).astype(np.float32)
    whole = np.fft.rfft2(image)
    for columns in (1, 20, shape[1] // 2 + 1):
        np.testing.assert_allclose(low_transform(image, columns), whole[:, :columns], atol=1e-3)
