"""Outliers, hot pixels and what replaces them."""

import numpy as np
import pytest

from parhelion.errors import ParameterError
from parhelion.images.bad_pixels import hot_pixels, moments, outlier_limits, replace_pixels

RNG = np.random.default_rng(4)


def test_moments() -> None:
    image = RNG.normal(40_000, 3, (100, 77)).astype(np.float32)
    mean, variance = moments(image)
    assert mean == pytest.approx(image.mean(dtype=np.float64), rel=1e-7)
    assert variance == pytest.approx(image.var(dtype=np.float64), rel=1e-4)
    without = np.array([0, 5, 7000])
    image.reshape(-1)[without] = 1e6
    assert moments(image, without)[1] == pytest.approx(variance, rel=1e-2)


@pytest.mark.parametrize("dose", [0.01, 0.5, 1, 30])
def test_no_count_of_a_sound_detector_is_an_outlier(dose: float) -> None:
    """Poisson's tail is long at low dose: twelve standard deviations are not enough there."""
    image = RNG.poisson(dose, (1500, 1500)).astype(np.float32)
    low, high = outlier_limits(*moments(image), 12)
    assert low < image.min() and image.max() < high
    # an X-ray leaves some hundred electrons in a pixel
    assert high < dose + 12 * dose**0.5 + 25


def test_hot_pixels_behind_a_hotter_one() -> None:
    image = RNG.normal(10, 1, (200, 200)).astype(np.float32)
    bad = np.zeros(image.shape, bool)
    bad[0, 0] = True
    image[0, 0] = 1e9
    image[3, 4], image[9, 9], image[50, 60], image[80, 80] = 1e6, 300, 60, -40
    found = hot_pixels(image, bad, 12)
    assert sorted(map(tuple, np.argwhere(found).tolist())) == [(3, 4), (9, 9), (50, 60), (80, 80)]
    assert not hot_pixels(np.full((20, 20), 3, np.float32), np.zeros((20, 20), bool), 12).any()


def test_replaced_pixels_have_the_neighbours_mean_and_noise() -> None:
    y = np.arange(256)[:, None]
    clean = RNG.poisson(5 + y / 8, (256, 256)).astype(np.float32)
    bad = RNG.random(clean.shape) < 0.02
    bad[:, 100:103] = True
    bad[40:80, 150:190] = True
    image = np.where(bad, 1e6, clean).astype(np.float32)
    replace_pixels(image, bad, np.random.default_rng(0))
    np.testing.assert_array_equal(image[~bad], clean[~bad])
    for where in (bad & (y < 128), bad & (y >= 128)):
        replaced = image[where]
        expected = (5 + y / 8 + 0 * image)[where]
        assert (replaced - expected).mean() == pytest.approx(0, abs=0.35)
        assert (replaced - expected).std() == pytest.approx(np.sqrt(expected.mean()), rel=0.1)


def test_replacement_is_repeatable() -> None:
    bad = RNG.random((50, 60)) < 0.3
    images = [RNG.normal(size=bad.shape).astype(np.float32)] * 2
    first, second = (image.copy() for image in images)
    for image in (first, second):
        replace_pixels(image, bad, np.random.default_rng((7, 3)))
    np.testing.assert_array_equal(first, second)
    replace_pixels(second, bad, np.random.default_rng((7, 4)))
    assert (first != second).any()


def test_one_good_pixel_is_enough_and_none_is_not() -> None:
    bad = np.ones((9, 40), bool)
    with pytest.raises(ParameterError, match="every pixel"):
        replace_pixels(np.zeros(bad.shape, np.float32), bad, RNG)
    bad[0, 0] = False
    image = np.full(bad.shape, np.nan, np.float32)
    image[0, 0] = 5
    replace_pixels(image, bad, RNG)
    assert (image == 5).all()
