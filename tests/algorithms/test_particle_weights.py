"""Weights of particles: scores, occupancies, exposures, each against the formula it stands for."""

from dataclasses import replace

import numpy as np
import pytest

from parhelion.algorithms.particle_weights import (
    WeightSettings,
    particle_weights,
    score_bfactor,
    without_defocus,
)
from parhelion.algorithms.simulate.particles import simulate_particles
from parhelion.errors import InputError, MetadataError, ParameterError
from parhelion.model.occupancy import with_occupancies
from parhelion.model.volume import Volume

COUNT = 12
SCORES = np.arange(10.0, 10 + COUNT)


@pytest.fixture(scope="module")
def bare():
    data = np.zeros((16, 16, 16), np.float32)
    data[6:10, 7:9, 8] = 1
    return simulate_particles(Volume(data=data, pixel_size_angstrom=4.0), COUNT, snr=1.0, seed=1).particles


def having(particles, **columns):
    return replace(particles, extra=particles.extra.with_columns(columns))


def test_b_is_the_score_above_the_average_times_a_quarter_of_the_constant(bare) -> None:
    scored = having(bare, cisTEMScore=SCORES)
    found = particle_weights(scored, WeightSettings(score_constant_angstrom2=4.0, adjust_scores=False))
    np.testing.assert_allclose(found.bfactor, (SCORES - SCORES.mean()) * 4.0 * 0.25)
    assert particle_weights(scored, WeightSettings(score_constant_angstrom2=0.0)).bfactor.max() == 0
    usual = particle_weights(scored, WeightSettings(adjust_scores=False))
    np.testing.assert_allclose(usual.bfactor, found.bfactor / 2)
    assert not particle_weights(bare, WeightSettings()).bfactor.any()


def test_the_average_goes_by_occupancy_and_outliers_are_clipped() -> None:
    scores = np.array([0.0] * 30 + [10.0] * 10)
    weight = np.array([1.0] * 30 + [3.0] * 10)
    assert score_bfactor(scores, weight, 4.0)[0] == pytest.approx(-5.0)
    wild = np.r_[np.zeros(99), 100.0]
    assert score_bfactor(wild, np.ones(100), 4.0)[-1] == pytest.approx(3 * wild.std())


def test_scores_do_not_follow_defocus_once_adjusted(bare) -> None:
    rng = np.random.default_rng(2)
    defocus = rng.uniform(5e3, 3e4, 200)
    own = rng.normal(size=200)
    weight = rng.uniform(0.2, 1, 200)
    adjusted = without_defocus(own + 1e-3 * defocus + 5, defocus, weight)
    centred = defocus - np.average(defocus, weights=weight)
    assert abs(np.average(adjusted * centred, weights=weight)) < 1e-6
    assert np.average(adjusted, weights=weight) == pytest.approx(
        np.average(own + 1e-3 * defocus + 5, weights=weight)
    )
    assert np.corrcoef(adjusted, own)[0, 1] > 0.95


def test_thresholds_are_a_share_or_a_score(bare) -> None:
    scored = having(bare, cisTEMScore=SCORES)
    settings = WeightSettings(adjust_scores=False)
    third = particle_weights(scored, replace(settings, score_threshold=1 / 3)).share[0]
    assert np.flatnonzero(third).tolist() == [8, 9, 10, 11]
    best = particle_weights(scored, replace(settings, score_threshold=19.5)).share[0]
    assert np.flatnonzero(best).tolist() == [10, 11]
    assert particle_weights(scored, replace(settings, score_threshold=1.0)).share.sum() == COUNT
    half = having(scored, cisTEMOccupancy=np.where(SCORES > 20, 300.0, 100.0))
    assert np.flatnonzero(
        particle_weights(half, replace(settings, score_threshold=0.2)).share[0]
    ).tolist() == [11]
    with pytest.raises(InputError, match="--score-threshold"):
        particle_weights(scored, replace(settings, score_threshold=500.0))
    with pytest.raises(MetadataError, match="cisTEMScore"):
        particle_weights(bare, replace(settings, score_threshold=0.5))


def test_shares_are_occupancies(bare) -> None:
    alone = particle_weights(having(bare, cisTEMOccupancy=np.full(COUNT, 25.0)), WeightSettings())
    np.testing.assert_allclose(alone.share, 0.25)
    ignored = having(bare, cisTEMOccupancy=np.full(COUNT, 25.0))
    assert particle_weights(ignored, WeightSettings(occupancy=False)).share.min() == 1
    percent = np.random.default_rng(1).dirichlet(np.ones(3), COUNT) * 100
    mixed = with_occupancies(bare, percent)
    found = particle_weights(mixed, WeightSettings(classes=(1, 3)))
    np.testing.assert_allclose(found.share, percent[:, [0, 2]].T / 100)
    hard = particle_weights(mixed, WeightSettings(classes=(1, 3), occupancy=False)).share
    np.testing.assert_array_equal(hard[1], percent.argmax(1) == 2)
    with pytest.raises(ParameterError, match="classes 1 to 3"):
        particle_weights(mixed, WeightSettings(classes=(4,)))
    with pytest.raises(MetadataError, match="neither classes"):
        particle_weights(bare, WeightSettings(classes=(1,)))


def test_exposures_are_those_of_the_middle_of_the_image(bare) -> None:
    seen = having(bare, cisTEMPreExposure=np.full(COUNT, 10.0), cisTEMTotalExposure=np.full(COUNT, 30.0))
    assert particle_weights(seen, WeightSettings(exposure=True)).exposure.tolist() == [20.0] * COUNT
    assert particle_weights(seen, WeightSettings()).exposure is None
    with pytest.raises(MetadataError, match="cisTEMPreExposure"):
        particle_weights(bare, WeightSettings(exposure=True))
    wrong = having(seen, cisTEMTotalExposure=np.full(COUNT, 5.0))
    with pytest.raises(MetadataError, match="must not be less"):
        particle_weights(wrong, WeightSettings(exposure=True))


def test_scores_of_another_scale_do_no_harm(bare) -> None:
    wild = having(bare, cisTEMScore=1e6 * SCORES)
    assert np.abs(particle_weights(wild, WeightSettings(adjust_scores=False)).bfactor).max() == 100.0
