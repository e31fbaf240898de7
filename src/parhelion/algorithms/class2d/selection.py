"""Which classes show a molecule: a score per class, and the choice by it.

The score is made of three factors, all between 0 and 1:

- **detail**: the mean correlation of the averages of two halves of the class's particles, ring by ring from
  30 Å (a quarter of the diameter where that is finer) to 10 Å, nothing finer than what was classified by.
  Views of one molecule agree there; ice, carbon and aggregates share an outline and no detail. The more
  particles a class has, the better its halves agree, so that size counts too.
- **centring**: 1 where the average's centre of mass is the box's centre, falling to 0 at a quarter of the
  diameter.
- **explained**: the share of its particles with positive evidence, those that the averages explain better
  than noise alone, all classes and poses counted. Noise aligned to an average agrees with it, and so do its
  halves; it has no evidence.
"""

from dataclasses import dataclass

import numpy as np
import torch

from parhelion.algorithms.class2d.maximisation import centres_of
from parhelion.errors import ParameterError

COARSEST_ANGSTROM, FINEST_ANGSTROM = 30.0, 10.0
"""Of the rings that are looked at."""
LEAST_CYCLES = 4.0
"""Of the coarsest ring, per diameter."""
FARTHEST = 0.25
THRESHOLD = 0.2
"""Score from which on a class counts as good. A map's signal grows with the good particles G in it, its noise
with all N: G²/N is largest when every class is kept whose good share exceeds half of that of the whole. On
β-galactosidase picks classes of well-resolved views reach 0.35 to 0.7; those between 0.2 and 0.3 are mixed, a
third to two thirds of them good; below it is less. Noise alone stays near 0."""
BEST_SHARE, OF_BEST = 0.25, 1 / 3
"""Where even the quarter of the particles in the best classes scores below 0.6, images are noisy or few:
there, a third of its score is enough."""
SIGNAL = 1 / 3
"""Correlation of half averages at which the whole average has as much signal as noise."""


@dataclass(frozen=True, kw_only=True)
class ClassQuality:
    """Per class ``(c,)``: score, its factors, and the resolution in Å at which signal falls to noise."""

    score: np.ndarray
    detail: np.ndarray
    centring: np.ndarray
    explained: np.ndarray
    resolution_angstrom: np.ndarray


def class_quality(
    averages: np.ndarray,
    frc: np.ndarray,
    extent_angstrom: float,
    diameter_angstrom: float,
    finest_angstrom: float,
    explained: np.ndarray | None = None,
) -> ClassQuality:
    """Quality of ``averages`` ``(c, box, box)`` with the correlation of their halves ``frc`` ``(c, s)``.

    ``extent_angstrom`` is the box's edge, ``finest_angstrom`` the resolution limit of the last cycles,
    ``explained`` ``(c,)`` that of ``explained_share``, all where it is None.
    """
    shells = np.arange(frc.shape[1])
    last = min(extent_angstrom / finest_angstrom, shells[-1])
    low = max(extent_angstrom / COARSEST_ANGSTROM, LEAST_CYCLES * extent_angstrom / diameter_angstrom)
    low, high = min(low, last - 2), min(extent_angstrom / FINEST_ANGSTROM, last)
    ring = (shells >= low - 0.5) & (shells <= high + 0.5) & (shells > 0)
    detail = np.clip(frc[:, ring].mean(axis=1), 0, 1)
    pixel = extent_angstrom / averages.shape[-1]
    off = np.hypot(*centres_of(torch.from_numpy(averages)).T) * pixel / (FARTHEST * diameter_angstrom)
    centring = np.clip(1 - off**2, 0, 1)
    share = np.ones(len(frc)) if explained is None else explained
    return ClassQuality(
        score=detail * centring * share,
        detail=detail,
        centring=centring,
        explained=share,
        resolution_angstrom=_resolutions(frc, extent_angstrom, last),
    )


def explained_share(category: np.ndarray, evidence: np.ndarray, classes: int) -> np.ndarray:
    """Per class the share of its particles (``category``, ``evidence`` ``(n,)``) with positive evidence."""
    members = np.bincount(category, minlength=classes)
    return np.bincount(category, evidence > 0, minlength=classes) / np.maximum(members, 1)


def _resolutions(frc: np.ndarray, extent_angstrom: float, last: float) -> np.ndarray:
    """Where each curve first falls below SIGNAL, between shells; the limit where it does not."""
    found = np.full(len(frc), extent_angstrom / last)
    for number, curve in enumerate(frc):
        below = np.flatnonzero(curve[1 : int(last) + 1] < SIGNAL) + 1
        if not len(below):
            continue
        shell = float(below[0])
        if below[0] > 1:
            before, after = curve[below[0] - 1], curve[below[0]]
            shell = below[0] - 1 + (before - SIGNAL) / max(before - after, 1e-9)
        found[number] = extent_angstrom / max(shell, 0.5)
    return found


def score_threshold(score: np.ndarray, members: np.ndarray) -> float:
    """The score from which on classes of these ``members`` ``(c,)`` count as good."""
    order = np.argsort(-np.asarray(score))
    inside = np.cumsum(members[order]) - members[order] < BEST_SHARE * members.sum()
    best = order[inside & (members[order] > 0)]
    if not len(best):
        return THRESHOLD
    return min(THRESHOLD, OF_BEST * float(np.average(np.asarray(score)[best], weights=members[best])))


def good_classes(score: np.ndarray, threshold: float = THRESHOLD) -> np.ndarray:
    """Which classes ``(c,)`` count as good. Raises ParameterError for a threshold outside 0…1."""
    if not 0 <= threshold <= 1:
        raise ParameterError(f"a class score lies between 0 and 1, the threshold is {threshold:g}")
    return np.asarray(score) >= threshold
