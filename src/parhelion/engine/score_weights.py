"""Particles that fit better make fine detail count more: B-factors from scores (Lyumkis et al. 2013)."""

import numpy as np

from parhelion.model.particles import ParticleSet

MOST_DEVIATIONS = 3.0
"""Scores are clipped this many standard deviations from their mean: an outlier must not become the map."""
MOST_ANGSTROM2 = 100.0
"""Largest ``B``, for scores of another scale than FREALIGN's 0 to 100."""


def score_of(log_likelihood: np.ndarray, power: np.ndarray) -> np.ndarray:
    """100 times the correlation of images and projections, from what a pose explains of their ``power``.

    At the likeliest scale the gain in log-likelihood is the power of the projection itself.
    """
    return np.asarray(100 * np.sqrt(np.clip(log_likelihood, 0, None) / np.maximum(power, 1e-30)))


def without_defocus(scores: np.ndarray, defocus_angstrom: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Scores ``(n,)`` less the straight line that they follow over ``defocus_angstrom``; their mean stays."""
    if weight.sum() <= 0:
        return scores
    centred = defocus_angstrom - np.average(defocus_angstrom, weights=weight)
    spread = np.average(centred**2, weights=weight)
    if spread < 1e-6:
        return scores
    slope = np.average(centred * scores, weights=weight) / spread
    return np.asarray(scores - slope * centred)


def best_scores(scores: np.ndarray, weight: np.ndarray, threshold: float) -> np.ndarray:
    """Which particles ``(n,)`` reach the threshold: all (0), the best that make up this share of all
    ``weight`` (up to 1), or those of at least this score."""
    if threshold <= 0:
        return np.ones(len(scores), bool)
    if threshold > 1:
        return np.asarray(scores >= threshold)
    order = np.argsort(-scores, kind="stable")
    reached = np.cumsum(weight[order])
    count = int(np.searchsorted(reached, threshold * reached[-1] * (1 - 1e-12))) + 1
    kept = np.zeros(len(scores), bool)
    kept[order[:count]] = True
    return kept


def mean_defocus(particles: ParticleSet) -> np.ndarray:
    """Mean defocus in Å of each particle's views ``(n,)``."""
    views = particles.views
    mean = (views.defocus_u_angstrom + views.defocus_v_angstrom) / 2
    total = np.bincount(views.particle, weights=mean, minlength=len(particles))
    return np.asarray(total / np.bincount(views.particle, minlength=len(particles)).clip(1))


def score_bfactor(scores: np.ndarray, weight: np.ndarray, constant_angstrom2: float) -> np.ndarray:
    """``B`` ``(n,)`` in Å² of every particle, positive where fine detail counts more than on average."""
    mean = np.average(scores, weights=weight)
    deviation = np.sqrt(np.average((scores - mean) ** 2, weights=weight))
    clipped = np.clip(scores - mean, -MOST_DEVIATIONS * deviation, MOST_DEVIATIONS * deviation)
    return np.asarray(np.clip(0.25 * constant_angstrom2 * clipped, -MOST_ANGSTROM2, MOST_ANGSTROM2))
