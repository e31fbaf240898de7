"""What a refinement package needs before its first refinement: random parameters, and a box big enough."""

from dataclasses import replace

import numpy as np

from parhelion.geometry.rotations import random_rotations
from parhelion.model.occupancy import with_occupancies, without_occupancies
from parhelion.model.particles import ParticleSet
from parhelion.optics.wavelength import electron_wavelength_angstrom

USUAL_BOX = 2.2
"""Box in units of the largest dimension, cisTEM's default."""


def random_parameters(particles: ParticleSet, classes: int, rng: np.random.Generator) -> ParticleSet:
    """The particles with random orientations, shifts of 0, and random occupancies of 0 to 200/K per cent in
    each of ``classes`` = K > 1, which decide their classes."""
    count = len(particles)
    turned = particles.with_poses(random_rotations(count, rng), np.zeros((count, 3)))
    return with_classes(turned, classes, rng)


def with_classes(particles: ParticleSet, classes: int, rng: np.random.Generator) -> ParticleSet:
    """The particles with random occupancies in ``classes`` classes, or in the only one."""
    count = len(particles)
    if classes > 1:
        return with_occupancies(particles, rng.uniform(0, 200 / classes, (count, classes)))
    return replace(without_occupancies(particles), class_number=np.ones(count, np.int64))


def fast_box(least_pixels: float) -> int:
    """The smallest even size of at least ``least_pixels`` that has no factors but 2 and 3."""
    size = max(2, 2 * int(np.ceil(least_pixels / 2)))
    while not _factors_to_three(size):
        size += 2
    return size


def usual_box(largest_dimension_angstrom: float, pixel_size_angstrom: float) -> int:
    """2.2 times the largest dimension, rounded up to a fast size, in pixels."""
    return fast_box(USUAL_BOX * largest_dimension_angstrom / pixel_size_angstrom)


def delocalisation_angstrom(particles: ParticleSet, resolution_angstrom: float) -> np.ndarray:
    """How far from a particle each view's CTF spreads the detail of a resolution, Å: the slope of its phase,
    ``|λ Δf s − Cs λ³ s³|`` at the larger defocus."""
    views, s = particles.views, 1 / resolution_angstrom
    wavelength = np.array([electron_wavelength_angstrom(g.voltage_kv) for g in particles.optics])
    spherical = 1e7 * np.array([g.spherical_aberration_mm for g in particles.optics])
    own = wavelength[views.optics_group]
    defocus = np.maximum(np.abs(views.defocus_u_angstrom), np.abs(views.defocus_v_angstrom))
    return np.asarray(np.abs(own * defocus * s - spherical[views.optics_group] * own**3 * s**3))


def box_for_ctf(
    particles: ParticleSet, largest_dimension_angstrom: float, resolution_angstrom: float
) -> tuple[int, float]:
    """The box (pixels) that holds all signal to a resolution of 95 of 100 images, and its spread (Å)."""
    spread = float(np.percentile(delocalisation_angstrom(particles, resolution_angstrom), 95))
    extent = largest_dimension_angstrom + 2 * spread
    return fast_box(extent / particles.optics[0].pixel_size_angstrom), spread


def _factors_to_three(size: int) -> bool:
    for factor in (2, 3):
        while size % factor == 0:
            size //= factor
    return size == 1
