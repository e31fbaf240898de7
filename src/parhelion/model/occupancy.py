"""Occupancies of several classes, carried by the particles themselves.

A particle belongs to every class to some degree; the degrees are percentages that add up to 100, as in
cisTEM's tables. They are extra columns ``parhelionOccupancy1`` … of the particle table, one per class, so
that selecting, sorting, splitting and converting particles keeps them.
"""

import re
from dataclasses import replace

import numpy as np

from parhelion.errors import MetadataError
from parhelion.model.particles import ParticleSet

__all__ = ["OCCUPANCY_COLUMN", "occupancies", "with_occupancies", "without_occupancies"]

OCCUPANCY_COLUMN = "parhelionOccupancy"
_NUMBERED = re.compile(rf"{OCCUPANCY_COLUMN}([1-9]\d*)$")


def occupancies(particles: ParticleSet) -> np.ndarray | None:
    """Percentages ``(n, classes)`` float64, None where the particles carry none.

    Raises MetadataError where a class is missing in between or a value is negative or no number.
    """
    found = {int(m.group(1)): name for name in particles.extra if (m := _NUMBERED.match(name))}
    if not found:
        return None
    if sorted(found) != list(range(1, len(found) + 1)):
        raise MetadataError(
            f"columns {OCCUPANCY_COLUMN}N exist for N = {sorted(found)}; "
            "classes are numbered from 1 without gaps"
        )
    table = np.stack([np.asarray(particles.extra[found[k]], np.float64) for k in sorted(found)], axis=1)
    bad = ~np.isfinite(table).all(1) | (table < 0).any(1)
    if bad.any():
        raise MetadataError(
            f"{bad.sum()} particles have an occupancy that is negative or no number, "
            f"the first in row {np.flatnonzero(bad)[0] + 1}; percentages from 0 to 100 are expected"
        )
    return table


def with_occupancies(particles: ParticleSet, percent: np.ndarray) -> ParticleSet:
    """The particles with ``percent`` ``(n, classes)`` instead of what they carried; classes follow them.

    A particle's class is that of its highest occupancy, the first of equals.
    """
    if percent.ndim != 2 or len(percent) != len(particles):
        raise MetadataError(f"occupancies {percent.shape} for {len(particles)} particles; one row for each")
    bare = without_occupancies(particles)
    columns = {f"{OCCUPANCY_COLUMN}{k + 1}": percent[:, k] for k in range(percent.shape[1])}
    return replace(
        bare, class_number=percent.argmax(1).astype(np.int64) + 1, extra=bare.extra.with_columns(columns)
    )


def without_occupancies(particles: ParticleSet) -> ParticleSet:
    """The particles without any occupancy column; class numbers stay."""
    names = [name for name in particles.extra if _NUMBERED.match(name)]
    return replace(particles, extra=particles.extra.without(*names)) if names else particles
