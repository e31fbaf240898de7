"""Peaks keep their distance, and are found to a fraction of a pixel."""

import numpy as np

from parhelion.algorithms.picking.peaks import find_peaks


def bumps(places, heights, shape=(60, 80), width=2.0):
    y, x = np.indices(shape)
    score = np.zeros(shape)
    for (py, px), height in zip(places, heights):
        score = np.maximum(score, height * np.exp(-((y - py) ** 2 + (x - px) ** 2) / (2 * width**2)))
    return score.astype(np.float32)


EVERYWHERE = np.ones((60, 80), bool)


def test_positions_are_finer_than_pixels_and_highest_first() -> None:
    places, heights = [(20.3, 30.4), (40.0, 60.7)], [5.0, 9.0]
    yx, height = find_peaks(bumps(places, heights), EVERYWHERE, threshold=3, distance_yx=(5, 5))
    assert np.allclose(yx, places[::-1], atol=0.12)
    assert height[0] > height[1] > 4.5


def test_the_higher_of_two_near_peaks_stays() -> None:
    score = bumps([(20, 20), (20, 28), (20, 36)], [6.0, 7.0, 6.5])
    yx, _ = find_peaks(score, EVERYWHERE, threshold=3, distance_yx=(10, 10))
    assert np.allclose(yx, [(20, 28)], atol=0.1)
    # only the distance along x is shorter in the ellipse
    yx, _ = find_peaks(score, EVERYWHERE, threshold=3, distance_yx=(10, 7))
    assert len(yx) == 3


def test_threshold_area_and_limit() -> None:
    score = bumps([(10, 10), (30, 40), (50, 70)], [4.0, 5.0, 6.0])
    assert len(find_peaks(score, EVERYWHERE, threshold=4.5, distance_yx=(5, 5))[0]) == 2
    allowed = EVERYWHERE.copy()
    allowed[45:] = False
    assert len(find_peaks(score, allowed, threshold=3, distance_yx=(5, 5))[0]) == 2
    assert len(find_peaks(score, EVERYWHERE, threshold=3, distance_yx=(5, 5), limit=1)[0]) == 1
    assert find_peaks(score, EVERYWHERE, threshold=30, distance_yx=(5, 5))[0].shape == (0, 2)
