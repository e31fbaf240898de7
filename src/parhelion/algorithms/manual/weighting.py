"""Who belongs to which class (Lyumkis et al., J. Struct. Biol. 183, 377, 2013)."""

import numpy as np

LEAST_SHARE = 1e-3
"""No class has a smaller prior: one that lost its particles may win some back."""
MOST_NATS = 10.0
"""A class that is less likely than the best by more than this has occupancy 0."""


def occupancies(log_p: np.ndarray, prior_percent: np.ndarray) -> np.ndarray:
    """Percentages ``(n, classes)`` from ``log_p`` ``(classes, n)`` and old percentages ``(n, classes)``.

    Proportional to the class's mean old occupancy times exp(log P), which is Bayes' rule with the classes'
    shares as priors. One class has 100 %.
    """
    share = np.maximum(prior_percent.mean(0) / 100, LEAST_SHARE)
    behind = log_p.max(0) - log_p
    weight = np.where(behind < MOST_NATS, share[:, None] * np.exp(-np.minimum(behind, MOST_NATS)), 0.0)
    return np.asarray(100 * weight / weight.sum(0)).T


def mean_sigma(sigma: np.ndarray, percent: np.ndarray) -> np.ndarray:
    """One sigma per particle ``(n,)``: that of its classes ``(classes, n)``, by occupancy."""
    return np.asarray((sigma * percent.T).sum(0) / 100)
