"""The class score and its factors; the choice of classes and of particles in them."""

import numpy as np
import pytest

from parhelion.algorithms.class2d.selection import (
    class_quality,
    compactness,
    disturbed,
    explained_share,
    good_classes,
    score_threshold,
)
from parhelion.errors import ParameterError

EXTENT, DIAMETER, SHELLS = 240.0, 160.0, 30


def spot(dx: float = 0.0) -> np.ndarray:
    y, x = np.indices((64, 64)) - 32
    return np.exp(-((x - dx) ** 2 + y**2) / 20).astype(np.float32)


def curve(value: float, low: int, high: int) -> np.ndarray:
    """Correlation 1 below shell ``low``, ``value`` to ``high``, then none."""
    shells = np.arange(SHELLS)
    return np.where(shells < low, 1.0, np.where(shells <= high, value, 0.0))


def quality(frc, averages=None, finest=8.0):
    images = np.stack([spot()] * len(frc)) if averages is None else averages
    return class_quality(images, np.array(frc), EXTENT, DIAMETER, finest)


def test_only_rings_from_30_to_10_angstrom_count() -> None:
    found = quality([curve(0.6, 8, 24), curve(0.6, 20, 29), curve(0.0, 8, 24)])
    np.testing.assert_allclose(found.detail[[0, 2]], [0.6, 0.0], atol=1e-6)
    assert found.detail[1] > 0.8  # outside the rings low frequencies change nothing, inside they do


def test_detail_beyond_the_limit_is_not_asked_for() -> None:
    assert quality([curve(0.8, 8, 15)], finest=16.0).detail[0] == pytest.approx(0.8)
    assert quality([curve(0.8, 8, 15)], finest=8.0).detail[0] < 0.45


def test_an_average_off_its_centre_loses_its_score() -> None:
    averages = np.stack([spot(0), spot(5), spot(12)])
    found = quality([curve(0.9, 8, 29)] * 3, averages)
    assert found.centring[0] == pytest.approx(1, abs=1e-3)
    assert 0.6 < found.centring[1] < 0.85  # 18.75 of 40 Å
    assert found.score[2] == pytest.approx(0, abs=1e-6)
    np.testing.assert_allclose(found.score, found.detail * found.centring * found.compactness)


def test_resolution_is_where_signal_falls_to_noise() -> None:
    found = quality([curve(1.0, 1, 12), curve(1.0, 1, 29), curve(0.0, 1, 29)])
    assert EXTENT / 13 < found.resolution_angstrom[0] < EXTENT / 12
    assert found.resolution_angstrom[1] == pytest.approx(EXTENT / 29)
    assert found.resolution_angstrom[2] == EXTENT


def test_a_class_of_noise_is_explained_by_noise() -> None:
    category, evidence = np.array([0, 0, 0, 0, 1, 1]), np.array([5.0, 3.0, 9.0, -1.0, -4.0, -2.0])
    share = explained_share(category, evidence, 3)
    np.testing.assert_allclose(share, [0.75, 0, 0])
    averages = np.stack([spot()] * 3)
    found = class_quality(averages, np.array([curve(0.6, 8, 24)] * 3), EXTENT, DIAMETER, 8.0, share)
    np.testing.assert_allclose(found.score, found.detail * found.centring * share)
    assert found.score[0] > 0.4 > found.score[1] == 0


def step_across(place: float, width: float = 4.0) -> np.ndarray:
    """A soft edge of carbon through the box."""
    return np.tanh((np.indices((64, 64))[1] - 32 - place) / width).astype(np.float32)


def test_edges_go_on_to_the_rim_and_particles_do_not() -> None:
    y, x = np.indices((64, 64)) - 32
    rod = np.exp(-(x**2) / 150 - y**2 / 20)  # 160 Å long
    hollow = np.exp(-((np.hypot(x, y) - 14) ** 2) / 10)
    averages = np.stack([spot(), rod, hollow, step_across(0), step_across(9)]).astype(np.float32)
    found = compactness(averages, 3.75, DIAMETER, 100.0)
    np.testing.assert_allclose(found, [1, 1, 1, 0, 0], atol=0.01)
    some = np.stack([hollow + 0.4 * step_across(0), hollow + 0.2 * step_across(0)]).astype(np.float32)
    assert 0 < compactness(some, 3.75, DIAMETER, 100.0)[0] < 1 == compactness(some, 3.75, DIAMETER, 100.0)[1]
    np.testing.assert_array_equal(compactness(averages, 3.75, DIAMETER, 81.0), 1)  # the mask leaves no ring
    judged = class_quality(averages, np.array([curve(0.6, 8, 24)] * 5), EXTENT, DIAMETER, 8.0)
    assert (judged.score[3:] == 0).all() and (judged.score[:3] > 0.4).all()


def test_particles_with_a_disturbed_background_are_left_out() -> None:
    rng = np.random.default_rng(4)
    sigma = rng.normal(1.0, 0.03, 500)
    sigma[:20], sigma[20:30] = 0.85, 1.2
    inside = np.ones(500, bool)
    inside[400:] = False
    found = disturbed(sigma, inside)
    assert found[:20].all() and found[20:].sum() <= 2  # more noise than others is no reason
    assert disturbed(sigma, inside, 8.0).sum() == 0
    assert not disturbed(np.ones(9), np.ones(9, bool)).any()
    assert not disturbed(sigma, np.zeros(500, bool)).any()


def test_noisy_images_lower_the_threshold() -> None:
    members = np.array([50, 30, 20, 100])
    assert score_threshold(np.array([0.7, 0.65, 0.4, 0.1]), members) == 0.2
    # the best quarter of 200 particles are the first class: a third of its score
    assert score_threshold(np.array([0.3, 0.28, 0.15, 0.02]), members) == pytest.approx(0.1)
    assert score_threshold(np.array([0.1, 0.3, 0.1, 0.1]), members) == pytest.approx(
        (30 * 0.3 + 50 * 0.1) / 240
    )
    assert score_threshold(np.array([0.2, 0.1]), np.array([0, 0])) == 0.2


def test_the_threshold_chooses() -> None:
    np.testing.assert_array_equal(good_classes(np.array([0.5, 0.2, 0.1])), [True, True, False])
    np.testing.assert_array_equal(good_classes(np.array([0.5, 0.3]), 0.4), [True, False])
    with pytest.raises(ParameterError, match="between 0 and 1"):
        good_classes(np.array([0.5]), 1.5)
