"""Where particles lie in the ice: random poses at random places that do not overlap."""

import math
from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from parhelion.errors import ParameterError
from parhelion.model.volume import Volume

SPACING = 1.05
DENSEST = 0.4
"""Share of a field that discs fill before placing one more takes very long (they jam at 0.547)."""
ATTEMPTS_PER_PARTICLE = 3000
EDGE_OF_MOLECULE = 0.1
"""Densities above this share of the greatest belong to the molecule."""
NEARLY_ALL = 0.998


@dataclass(frozen=True, kw_only=True)
class Placement:
    """``n`` particles: ``xy_px (n, 2)`` in pixels of the field from the middle of its first pixel;
    ``height_angstrom (n,)`` above the middle of the ice; ``rotation (n, 3, 3)``, ``x_image = A x_volume``."""

    xy_px: np.ndarray
    height_angstrom: np.ndarray
    rotation: np.ndarray

    def __len__(self) -> int:
        return len(self.xy_px)


def molecule_diameter_angstrom(volume: Volume) -> float:
    """Twice the distance from the centre of the box within which nearly all of the density lies."""
    z, y, x = np.nonzero(volume.data > EDGE_OF_MOLECULE * float(volume.data.max()))
    if not len(z):
        raise ParameterError("the map holds no positive density: there is no molecule to place")
    squared = sum((axis - n // 2) ** 2 for axis, n in zip((z, y, x), volume.data.shape, strict=True))
    radius = float(np.quantile(np.sqrt(squared), NEARLY_ALL))
    return 2 * (radius + 0.5) * volume.pixel_size_angstrom


def particles_that_fit(
    shape: tuple[int, int], pixel_size_angstrom: float, diameter_angstrom: float, edge_angstrom: float
) -> int:
    """How many particles can be placed in a field ``(height, width)`` of pixels."""
    sides = [n * pixel_size_angstrom - 2 * edge_angstrom for n in shape]
    if min(sides) <= 0:
        return 0
    disc = math.pi / 4 * (SPACING * diameter_angstrom) ** 2
    # centres keep away from the edge, discs reach beyond it
    area = math.prod(side + SPACING * diameter_angstrom for side in sides)
    return max(1, int(DENSEST * area / disc))


def random_placement(
    count: int,
    shape: tuple[int, int],
    pixel_size_angstrom: float,
    diameter_angstrom: float,
    ice_thickness_angstrom: float,
    edge_angstrom: float,
    generator: np.random.Generator,
) -> Placement:
    """``count`` particles, no two closer than their diameter, at least ``edge_angstrom`` from the edge of the
    field, wholly inside the ice. Raises ParameterError where they do not fit."""
    if ice_thickness_angstrom < diameter_angstrom:
        raise ParameterError(
            f"ice of {ice_thickness_angstrom:g} Å is thinner than the molecule ({diameter_angstrom:.0f} Å)"
        )
    most = particles_that_fit(shape, pixel_size_angstrom, diameter_angstrom, edge_angstrom)
    places = _places(
        min(count, most), shape, pixel_size_angstrom, diameter_angstrom, edge_angstrom, generator
    )
    if len(places) < count:
        height, width = shape
        raise ParameterError(
            f"{count} particles of {diameter_angstrom:.0f} Å do not fit without overlap into {width} x "
            f"{height} pixels of {pixel_size_angstrom:g} Å, {len(places)} do; ask for fewer or a larger field"
        )
    room = (ice_thickness_angstrom - diameter_angstrom) / 2
    return Placement(
        xy_px=places,
        height_angstrom=generator.uniform(-room, room, count),
        rotation=Rotation.random(count, rng=generator).as_matrix().reshape(count, 3, 3),
    )


def _places(
    count: int,
    shape: tuple[int, int],
    pixel_size_angstrom: float,
    diameter_angstrom: float,
    edge_angstrom: float,
    generator: np.random.Generator,
) -> np.ndarray:
    """Up to ``count`` positions ``(n, 2)`` in pixels, each drawn until it is clear of the earlier ones."""
    low = edge_angstrom / pixel_size_angstrom
    high = np.array([shape[1], shape[0]]) - 1.0 - low
    distance2 = (SPACING * diameter_angstrom / pixel_size_angstrom) ** 2
    placed = np.empty((count, 2))
    found = 0
    for _ in range(ATTEMPTS_PER_PARTICLE * count):
        if found == count:
            break
        trial = generator.uniform(low, high)
        if not found or ((placed[:found] - trial) ** 2).sum(axis=1).min() >= distance2:
            placed[found] = trial
            found += 1
    return placed[:found]
