"""How evenly a set of views covers Fourier space."""

import numpy as np

from parhelion.geometry.so3 import sphere_grid
from parhelion.geometry.symmetry import SymmetryGroup

DIRECTION_ORDER, VIEW_ORDER = 3, 2
BAND_DEG = 3.0
CHUNK = 20_000


def fourier_sampling(
    rotation: np.ndarray, group: SymmetryGroup | None = None, directions: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Directions ``(d, 3)`` in the map's frame, and how often central slices pass there, relative to the
    mean.

    A view along ``w`` (the third row of a pose ``(n, 3, 3)``) samples the great circle normal to ``w``; the
    directions within 3 degrees of it count. With ``group`` every view counts for its mates as well. Without
    ``directions`` some 400 on a hemisphere are taken.
    """
    if directions is None:
        directions = sphere_grid(DIRECTION_ORDER)
        directions = directions[directions[:, 2] > -1e-9]
    views = np.asarray(rotation)[:, 2, :]
    operators = np.eye(3)[None] if group is None else group.operators
    count = np.zeros(len(directions))
    sine = np.sin(np.radians(BAND_DEG))
    for operator in operators:
        turned = views @ operator
        for start in range(0, len(turned), CHUNK):
            count += (np.abs(directions @ turned[start : start + CHUNK].T) < sine).sum(axis=1)
    return directions, count / max(count.mean(), 1e-12)


def view_density(rotation: np.ndarray, group: SymmetryGroup | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Directions ``(d, 3)`` all over the sphere, and how many particles were seen along each, relative to the
    mean. A view counts at the nearest direction, with ``group`` each of its mates a part."""
    directions = sphere_grid(VIEW_ORDER)
    operators = np.eye(3)[None] if group is None else group.operators
    views = np.asarray(rotation)[:, 2, :]
    count = np.zeros(len(directions))
    for operator in operators:
        turned = views @ operator
        for start in range(0, len(turned), CHUNK):
            nearest = (turned[start : start + CHUNK] @ directions.T).argmax(axis=1)
            count += np.bincount(nearest, minlength=len(directions))
    return directions, count / max(count.mean(), 1e-12)


def sampling_compensation(sampling: np.ndarray) -> float:
    """The harmonic mean of a sampling with mean 1: 1 for even coverage, 0 where directions are missing.

    Noise variance in Fourier space goes as one over the sampling, so this is the factor by which uneven
    views lower the mean signal-to-noise ratio (Baldwin & Lyumkis 2020, Prog. Biophys. Mol. Biol. 150, 160).
    """
    if np.any(sampling <= 0):
        return 0.0
    return float(1 / np.mean(1 / sampling))
