"""Occupancies from likelihoods."""

import numpy as np
import pytest

from parhelion.algorithms.manual.weighting import mean_sigma, occupancies


def test_occupancies_are_bayes_rule_with_the_classes_shares() -> None:
    log_p = np.array([[-100.0, -50.0, -10.0], [-101.0, -48.0, -80.0]])
    prior = np.array([[90.0, 10.0], [60.0, 40.0], [60.0, 40.0]])
    percent = occupancies(log_p, prior)
    share = np.array([0.7, 0.3])
    expected = share[0] * np.exp(1.0) / (share[0] * np.exp(1.0) + share[1])
    assert percent[0, 0] == pytest.approx(100 * expected)
    expected = share[1] * np.exp(2.0) / (share[1] * np.exp(2.0) + share[0])
    assert percent[1, 1] == pytest.approx(100 * expected)
    # 70 nats behind: none at all, as in cisTEM
    assert percent[2].tolist() == [100.0, 0.0]
    assert np.allclose(percent.sum(1), 100)


def test_one_class_has_everything() -> None:
    assert occupancies(np.array([[-3.0, -9.0]]), np.full((2, 1), 100.0)).tolist() == [[100.0], [100.0]]


def test_a_class_that_lost_its_particles_may_win_one_back() -> None:
    percent = occupancies(np.array([[-20.0], [-12.0]]), np.array([[100.0, 0.0]]))
    assert percent[0, 1] > 50


def test_a_particle_has_one_sigma_by_occupancy() -> None:
    sigma = mean_sigma(np.array([[2.0, 4.0], [6.0, 8.0]]), np.array([[75.0, 25.0], [0.0, 100.0]]))
    assert sigma.tolist() == [3.0, 8.0]
