"""How much each particle counts in a map: by its occupancy, by its score, by the exposure it has seen.

A score above the average makes fine detail of its particle count more: with ``s`` the spatial frequency
both sums of a reconstruction are multiplied by ``exp(B s²)``, ``B = (score − average) · constant · 0.25``
(Lyumkis et al. 2013, J. Struct. Biol. 183, 377; the constant is that of FREALIGN and cisTEM). Since scores
grow with defocus whatever the particle is worth, the straight line that they follow is taken out of them
first.
"""

from dataclasses import dataclass

import numpy as np

from parhelion.engine.score_weights import best_scores, mean_defocus, score_bfactor, without_defocus
from parhelion.errors import InputError, MetadataError, ParameterError
from parhelion.model.occupancy import occupancies
from parhelion.model.particles import ParticleSet

__all__ = [
    "ParticleWeights",
    "WeightSettings",
    "particle_weights",
    "score_bfactor",
    "without_defocus",
]

SCORE, OCCUPANCY = "cisTEMScore", "cisTEMOccupancy"
EXPOSURES = ("cisTEMPreExposure", "cisTEMTotalExposure")


@dataclass(frozen=True, kw_only=True)
class WeightSettings:
    """What makes particles count differently.

    ``classes`` numbers the maps that are made, each of its own particles; None puts all particles into one.
    ``score_threshold`` 0 keeps all, up to 1 this share of the best particles, above 1 those of at least this
    score.
    ``score_constant_angstrom2`` None takes 2 where the particles have scores, 0 for none.
    """

    classes: tuple[int, ...] | None = None
    occupancy: bool = True
    score_constant_angstrom2: float | None = None
    adjust_scores: bool = True
    score_threshold: float = 0.0
    exposure: bool = False


@dataclass(frozen=True, kw_only=True)
class ParticleWeights:
    """``share`` ``(maps, n)`` says how much of a particle goes into each map (0: nothing), ``bfactor``
    ``(n,)`` is ``B`` in Å², ``exposure`` ``(n,)`` in e⁻/Å², None where it does not count."""

    share: np.ndarray
    bfactor: np.ndarray
    exposure: np.ndarray | None


USUAL_CONSTANT = 2.0


def particle_weights(particles: ParticleSet, settings: WeightSettings) -> ParticleWeights:
    """The weights of ``n`` particles. They depend on the whole table, so parts of it fit together.

    Raises MetadataError where a column is missing that was asked for, InputError where nothing is left.
    """
    share = _shares(particles, settings)
    scores = _scores(particles, settings)
    constant = settings.score_constant_angstrom2
    bfactor = np.zeros(len(particles))
    if scores is not None:
        total = share.sum(0)
        if settings.adjust_scores:
            scores = without_defocus(scores, mean_defocus(particles), total)
        if settings.score_threshold > 0:
            share = share * best_scores(scores, total, settings.score_threshold)
            total = share.sum(0)
        constant = USUAL_CONSTANT if constant is None else constant
        if constant and total.sum() > 0:
            bfactor = score_bfactor(scores, total, constant)
    empty = np.flatnonzero(share.sum(1) <= 0)
    if len(empty):
        number = settings.classes[empty[0]] if settings.classes else None
        where = "" if number is None else f" in class {number}"
        raise InputError(f"no particle{where} has a weight above 0; check occupancies and --score-threshold")
    return ParticleWeights(
        share=share, bfactor=bfactor, exposure=_exposure(particles) if settings.exposure else None
    )


def _shares(particles: ParticleSet, settings: WeightSettings) -> np.ndarray:
    """Occupancies as fractions ``(maps, n)``: of classes where they are asked for, else of the particle."""
    percent = occupancies(particles)
    if settings.classes is None:
        if settings.occupancy and percent is None and OCCUPANCY in particles.extra:
            return _column(particles, OCCUPANCY)[None].clip(0) / 100
        return np.ones((1, len(particles)))
    if settings.occupancy and percent is not None:
        number = percent.shape[1]
        table = percent / 100
    elif particles.class_number is not None:
        number = int(particles.class_number.max())
        table = particles.class_number[:, None] == np.arange(1, number + 1)
    else:
        raise MetadataError(
            "the particles have neither classes (rlnClassNumber) nor occupancies; leave out --classes, or "
            "classify them first"
        )
    beyond = [k for k in settings.classes if not 1 <= k <= number]
    if beyond:
        raise ParameterError(f"--classes {beyond[0]}: the particles have classes 1 to {number}")
    return np.asarray(table[:, [k - 1 for k in settings.classes]].T, np.float64)


def _scores(particles: ParticleSet, settings: WeightSettings) -> np.ndarray | None:
    if SCORE in particles.extra:
        return _column(particles, SCORE)
    if settings.score_constant_angstrom2 or settings.score_threshold > 0:
        raise MetadataError(
            f"the particles have no scores ({SCORE}), which score weights and thresholds need; refine-manual "
            "writes them"
        )
    return None


def _column(particles: ParticleSet, label: str) -> np.ndarray:
    values = np.asarray(particles.extra[label], np.float64)
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise MetadataError(f"{label} of particle {bad[0] + 1} is no finite number (of {len(bad)} such)")
    return values


def _exposure(particles: ParticleSet) -> np.ndarray:
    """Exposure of each particle in the middle of its image, e⁻/Å²."""
    missing = [label for label in EXPOSURES if label not in particles.extra]
    if missing:
        raise MetadataError(f"the particles have no column {missing[0]}, which --exposure-weights needs")
    before, after = (_column(particles, label) for label in EXPOSURES)
    bad = np.flatnonzero((before < 0) | (after < before))
    if len(bad):
        raise MetadataError(
            f"particle {bad[0] + 1} was exposed to {after[bad[0]]:g} e⁻/Å² in all, {before[bad[0]]:g} "
            "before; the total must not be less"
        )
    return np.asarray((before + after) / 2)
