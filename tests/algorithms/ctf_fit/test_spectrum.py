"""Where frequencies end up, what is averaged, and what is refused."""

from collections.abc import Callable

import numpy as np
import pytest

from parhelion.algorithms.ctf_fit.spectrum import (
    given_spectrum,
    spectrum_of_image,
    spectrum_of_movie,
    tile_size,
)
from parhelion.errors import FormatError, ParameterError


class Frames:
    """A movie in memory."""

    def __init__(self, frames: np.ndarray) -> None:
        self._frames = frames
        self.count = len(frames)
        self.shape = frames.shape[1:]

    def frame(self, index: int) -> np.ndarray:
        return self._frames[index]


@pytest.mark.parametrize("shape", [(640, 640), (500, 700), (256, 256)])
@pytest.mark.parametrize("pixel", [0.6, 1.0, 1.5])
def test_a_wave_appears_at_its_frequency(shape: tuple[int, int], pixel: float) -> None:
    y, x = np.indices(shape)
    frequency = np.array([0.03, -0.05])  # y, x in 1/Å
    image = np.cos(2 * np.pi * pixel * (frequency[0] * y + frequency[1] * x))
    found = spectrum_of_image(image, pixel, 256)
    peak = np.array(np.unravel_index(found.amplitude.argmax(), found.amplitude.shape)) - 128
    peak = peak if peak[0] > 0 else -peak
    assert peak * found.step_per_angstrom == pytest.approx(frequency, abs=found.step_per_angstrom)


def test_small_pixels_are_brought_to_about_one_point_four() -> None:
    image = np.random.default_rng(0).normal(size=(400, 400))
    assert spectrum_of_image(image, 0.5, 256).pixel_size_angstrom == pytest.approx(1.4, rel=0.03)
    assert spectrum_of_image(image, 0.5, 256, resample=False).pixel_size_angstrom == 0.5
    assert spectrum_of_image(image, 2.0, 256).pixel_size_angstrom == 2.0
    assert tile_size(512, 0.885) % 2 == 0


@pytest.mark.parametrize("pixel", [0.9, 1.4, 0.7])
def test_white_noise_is_flat_and_mates_agree(pixel: float) -> None:
    image = np.random.default_rng(1).normal(size=(720, 720))
    amplitude = spectrum_of_image(image, pixel, 128).amplitude[1:, 1:]
    mates = amplitude[::-1, ::-1]
    off_axis = np.abs(np.arange(127) - 63) > 2
    assert np.abs(amplitude - mates)[:, off_axis].max() < 1e-5
    y, x = np.indices(amplitude.shape) - 63
    radius = np.hypot(y, x)
    inner = amplitude[(radius > 10) & (radius < 30)].mean()
    outer = amplitude[(radius > 40) & (radius < 60)].mean()
    assert inner == pytest.approx(outer, rel=0.01)


def test_powers_of_sums_of_frames_are_averaged() -> None:
    rng = np.random.default_rng(2)
    frames = rng.poisson(3.0, (7, 300, 300)).astype(np.float32)
    found = spectrum_of_movie(Frames(frames), 1.5, 128, frames_to_average=3)
    # frames 1 to 3, and 4 to 7
    parts = [
        spectrum_of_image(part.sum(axis=0), 1.5, 128).amplitude ** 2 for part in (frames[:3], frames[3:])
    ]
    assert found.amplitude == pytest.approx(np.sqrt(np.mean(parts, axis=0)), rel=1e-4)


def test_drift_between_sums_does_not_blur_the_rings(
    micrograph: Callable[..., np.ndarray], truth: type
) -> None:
    image = micrograph(truth(signal=3.0), n=512)
    frames = np.stack([np.roll(image, 4 * i, axis=1) for i in range(6)])
    apart = spectrum_of_movie(Frames(frames), 1.5, 256, frames_to_average=1).amplitude
    still = spectrum_of_image(image, 1.5, 256).amplitude
    assert np.corrcoef(apart.ravel(), still.ravel())[0, 1] > 0.99


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((64, 64)), "empty: every pixel is 0"),
        (np.full((64, 64), np.nan), "4096 values that are not finite"),
        (np.minimum(np.random.default_rng(3).normal(0, 100, (64, 64)), -20), "highest value.*saturated"),
        (np.maximum(np.random.default_rng(3).normal(0, 100, (64, 64)), 20), "lowest value.*blank"),
        (np.zeros((8, 8)), "at least 16 x 16"),
        (np.zeros((2, 64, 64)), "at least 16 x 16"),
    ],
)
def test_images_without_information_are_refused_by_name(image: np.ndarray, message: str) -> None:
    with pytest.raises(FormatError, match=f"some.mrc.*{message}"):
        spectrum_of_image(image, 1.0, 128, what="some.mrc")


def test_sparse_counts_are_not_taken_for_saturation() -> None:
    image = np.random.default_rng(4).poisson(0.3, (256, 256))
    assert spectrum_of_image(image, 1.0, 128).amplitude.mean() > 0


def test_a_movie_with_dead_frames_names_them() -> None:
    frames = np.random.default_rng(5).poisson(3.0, (6, 64, 64)).astype(np.float32)
    frames[3:] = 0
    with pytest.raises(FormatError, match=r"frames 4 to 6 is empty"):
        spectrum_of_movie(Frames(frames), 1.0, 128, frames_to_average=3)


def test_given_spectra() -> None:
    values = np.random.default_rng(6).uniform(1, 2, (128, 128))
    assert given_spectrum(values**2, 1.4, powers=True).amplitude == pytest.approx(values, rel=1e-6)
    with pytest.raises(FormatError, match="square of at least 128"):
        given_spectrum(values[:, :100], 1.4)
    with pytest.raises(FormatError, match="negative"):
        given_spectrum(values - 1.5, 1.4)


@pytest.mark.parametrize("size", [64, 255])
def test_sizes_that_cannot_be(size: int) -> None:
    with pytest.raises(ParameterError, match="even size of at least 128"):
        spectrum_of_image(np.random.default_rng(7).normal(size=(64, 64)), 1.0, size)
