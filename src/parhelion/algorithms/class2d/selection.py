"""Which classes show a molecule: a score per class, and the choice of particles by it.

The score is made of four factors, all between 0 and 1:

- **detail**: the mean correlation of the averages of two halves of the class's particles, ring by ring from
  30 Å (a quarter of the diameter where that is finer) to 10 Å, nothing finer than what was classified by.
  Views of one molecule agree there; ice, carbon and aggregates share an outline and no detail. The more
  particles a class has, the better its halves agree, so that size counts too.
- **centring**: 1 where the average's centre of mass is the box's centre, falling to 0 at a quarter of the
  diameter.
- **explained**: the share of its particles with positive evidence, those that the averages explain better
  than noise alone, all classes and poses counted. Noise aligned to an average agrees with it, and so do its
  halves; it has no evidence.
- **compactness**: 1 where the average is empty around the particle, falling to 0 as the ring between the
  diameter and the mask's rim is nearly as full as the inside. Edges of carbon, contamination and aggregates
  have detail and evidence, and go on up to the rim.

Of good classes those particles are left out that the averages explain no better than noise does, and those
whose background holds something else (``disturbed``).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy import ndimage

from parhelion.algorithms.class2d.maximisation import centres_of
from parhelion.engine.loader import EDGE_PIXELS
from parhelion.errors import ParameterError

if TYPE_CHECKING:
    from parhelion.algorithms.class2d.classify import Class2dResult
    from parhelion.algorithms.class2d.settings import Class2dSettings

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
INSIDE, OUTSIDE, BLUR = 0.45, 0.5, 1 / 18
"""Of the diameter: radii up to which an average is particle and from which on it is empty, and by how much it
is blurred before, against noise."""
FEWEST_IN_RING = 50
"""Pixels."""
EMPTY, FULL = 0.4, 0.9
"""Power in the ring over that inside, per area. On β-galactosidase picks classes of views have 0.08 to 0.35,
mixed ones up to 0.4, contamination 0.5 to 0.9; simulated views 0.1 to 0.2, edges 0.6 to 1."""
DEVIATIONS = 3.5
"""Robust standard deviations by which a particle's noise may be less than that of others. On β-galactosidase
picks 2.5 % are below; a map explains 31 nats of them, 75 of the others, 23 of those in classes that are no
good. Of simulated edges of carbon nine in ten are below."""
DEVIATION_PER_MAD = 1.4826
SIGNAL = 1 / 3
"""Correlation of half averages at which the whole average has as much signal as noise."""


@dataclass(frozen=True, kw_only=True)
class ClassQuality:
    """Per class ``(c,)``: score, its factors, and the resolution in Å at which signal falls to noise."""

    score: np.ndarray
    detail: np.ndarray
    centring: np.ndarray
    explained: np.ndarray
    compactness: np.ndarray
    resolution_angstrom: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """Per class quality, ``members`` and whether it is ``good`` ``(c,)``; per particle ``chosen`` ``(n,)``.

    ``threshold`` is the score that chose; ``unexplained`` and ``disturbed`` count what was left out of good
    classes, each particle once.
    """

    quality: ClassQuality
    members: np.ndarray
    good: np.ndarray
    threshold: float
    chosen: np.ndarray
    unexplained: int
    disturbed: int


def judge(
    found: "Class2dResult",
    settings: "Class2dSettings",
    threshold: float | None = None,
    deviations: float = DEVIATIONS,
) -> Judgement:
    """The good classes and particles of a classification.

    ``threshold`` is the score from which on a class is good, None for that of ``score_threshold``;
    ``deviations`` those of ``disturbed``. Raises ParameterError for a threshold outside 0…1.
    """
    quality = class_quality(
        found.averages,
        found.frc,
        found.extent_angstrom,
        settings.diameter_angstrom,
        settings.final_resolution_angstrom,
        explained_share(found.category, found.evidence, len(found.averages)),
        settings.mask_radius,
    )
    members = np.bincount(found.category, minlength=len(found.averages))
    if threshold is None:
        threshold = score_threshold(quality.score, members)
    good = good_classes(quality.score, threshold) & (members > 0)
    inside = good[found.category]
    explained = inside & (found.evidence > 0)
    chosen = explained & ~disturbed(found.sigma, inside, deviations)
    return Judgement(
        quality=quality,
        members=members,
        good=good,
        threshold=threshold,
        chosen=chosen,
        unexplained=int(inside.sum() - explained.sum()),
        disturbed=int(explained.sum() - chosen.sum()),
    )


def class_quality(
    averages: np.ndarray,
    frc: np.ndarray,
    extent_angstrom: float,
    diameter_angstrom: float,
    finest_angstrom: float,
    explained: np.ndarray | None = None,
    mask_radius_angstrom: float | None = None,
) -> ClassQuality:
    """Quality of ``averages`` ``(c, box, box)`` with the correlation of their halves ``frc`` ``(c, s)``.

    ``extent_angstrom`` is the box's edge, ``finest_angstrom`` the resolution limit of the last cycles,
    ``explained`` ``(c,)`` that of ``explained_share``, all where it is None. Averages are masked at
    ``mask_radius_angstrom``, where None by the box alone.
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
    rim = extent_angstrom / 2 - EDGE_PIXELS * pixel
    compact = compactness(averages, pixel, diameter_angstrom, min(mask_radius_angstrom or rim, rim))
    return ClassQuality(
        score=detail * centring * share * compact,
        detail=detail,
        centring=centring,
        explained=share,
        compactness=compact,
        resolution_angstrom=_resolutions(frc, extent_angstrom, last),
    )


def explained_share(category: np.ndarray, evidence: np.ndarray, classes: int) -> np.ndarray:
    """Per class the share of its particles (``category``, ``evidence`` ``(n,)``) with positive evidence."""
    members = np.bincount(category, minlength=classes)
    return np.bincount(category, evidence > 0, minlength=classes) / np.maximum(members, 1)


def compactness(
    averages: np.ndarray, pixel_size_angstrom: float, diameter_angstrom: float, rim_angstrom: float
) -> np.ndarray:
    """Per average ``(c, box, box)`` how empty it is between the particle and the mask's rim, 0 to 1.

    1 where the mask leaves no such ring.
    """
    axis = (np.arange(averages.shape[-1]) - averages.shape[-1] // 2) * pixel_size_angstrom
    radius = np.hypot(axis[:, None], axis)
    ring = (radius >= OUTSIDE * diameter_angstrom) & (radius <= rim_angstrom)
    if np.count_nonzero(ring) < FEWEST_IN_RING:
        return np.ones(len(averages))
    blur = BLUR * diameter_angstrom / pixel_size_angstrom
    power = ndimage.gaussian_filter(averages.astype(np.float64), (0, blur, blur)) ** 2
    inside = power[:, radius <= INSIDE * diameter_angstrom].mean(axis=1)
    full = power[:, ring].mean(axis=1) / np.maximum(inside, 1e-30)
    return np.clip((FULL - full) / (FULL - EMPTY), 0, 1)


def disturbed(sigma: np.ndarray, inside: np.ndarray, deviations: float = DEVIATIONS) -> np.ndarray:
    """Which particles ``(n,)`` have less noise (``sigma`` of ``weights``) than those ``inside`` ``(n,)``.

    Images are brought to one deviation of the background around the particle, so that noise alone would be
    equal everywhere. Where the background holds something more (an edge of carbon, ice, a neighbour), less
    noise is left. Disturbed is what lies below the median by more than ``deviations`` robust standard
    deviations, those of the median absolute difference.
    """
    if not inside.any():
        return np.zeros(len(sigma), bool)
    middle = np.median(sigma[inside])
    spread = DEVIATION_PER_MAD * np.median(np.abs(sigma[inside] - middle))
    return (sigma < middle - deviations * spread) & (spread > 0)


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
