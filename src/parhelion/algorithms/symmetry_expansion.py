"""Each particle once per operator of a point group: every asymmetric unit becomes a particle of its own."""

from dataclasses import replace

import numpy as np

from parhelion.contracts import Observer
from parhelion.errors import MetadataError
from parhelion.geometry.symmetry import SymmetryGroup
from parhelion.model.particles import ParticleSet

SOURCE, OPERATOR = "parhelionExpandedFrom", "parhelionOperator"
"""Columns that say which particle (row of the input) a copy is of, and by which operator (both from 1)."""


def expand_by_symmetry(
    particles: ParticleSet, group: SymmetryGroup, generator: np.random.Generator
) -> ParticleSet:
    """``len(group)`` copies of each particle, one after the other, at the poses ``A R``.

    All copies show the same image; in the frame of the map, the i-th copy has the i-th asymmetric unit where
    the first has its own. Copies stay in one half set; where there are none, half sets are drawn here, image
    by image, since a later job would part copies of one image. Raises MetadataError for particles without
    poses, of tilt series, or expanded before.
    """
    if particles.rotation is None or particles.shift_xyz_angstrom is None:
        raise MetadataError("particles without poses cannot be expanded by symmetry; refine them first")
    if len(particles.views) != len(particles):
        raise MetadataError("particles of tilt series cannot be expanded by symmetry")
    if OPERATOR in particles.extra:
        raise MetadataError(
            f"the particles were expanded by symmetry before ({OPERATOR} says so); take the "
            "table from before that"
        )
    copies, count = len(group), len(particles)
    row = np.repeat(np.arange(count), copies)
    operator = np.tile(np.arange(copies), count)
    half = particles.half if particles.half is not None else halves_of_images(particles, generator)
    views = particles.views
    names = ("image_path", "particle", "tilt_rotation", "dose")
    changed = {name: getattr(views, name)[row] for name in views.__dataclass_fields__ if name not in names}
    tilt, dose = (None if v is None else v[row] for v in (views.tilt_rotation, views.dose))
    extra = particles.extra.take(row) if len(particles.extra) else particles.extra
    return replace(
        particles,
        count=len(row),
        views=replace(views, **changed, particle=np.arange(len(row)), tilt_rotation=tilt, dose=dose),
        rotation=particles.rotation[row] @ group.operators[operator],
        shift_xyz_angstrom=particles.shift_xyz_angstrom[row],
        half=half[row],
        class_number=None if particles.class_number is None else particles.class_number[row],
        extra=extra.with_columns({SOURCE: row + 1, OPERATOR: operator + 1}),
    )


def image_numbers(particles: ParticleSet) -> np.ndarray:
    """A number per single particle that those share which show the same image, from 0 without gaps."""
    views = particles.views
    key = views.image_index.astype(np.int64) * len(views.image_path) + views.path_id
    return np.asarray(np.unique(key, return_inverse=True)[1])


def halves_of_images(particles: ParticleSet, generator: np.random.Generator) -> np.ndarray:
    """Half sets 1 and 2 of equal size, the same for particles that share an image."""
    image = image_numbers(particles)
    drawn = generator.permutation(1 + np.arange(int(image.max()) + 1) % 2)
    return drawn[image]


def keep_copies_together(particles: ParticleSet, observer: Observer) -> ParticleSet:
    """The particles with half sets in which copies of one image do not meet, where images repeat.

    Half sets are drawn where there are none; given ones are kept, with a notice where they part copies: their
    FSC would show the noise that the copies share.
    """
    if len(particles.views) != len(particles):
        return particles
    image = image_numbers(particles)
    if int(image.max()) + 1 == len(image):
        return particles
    if particles.half is None:
        observer.notice("several particles show one image; half sets were drawn so that they stay together")
        return replace(particles, half=halves_of_images(particles, np.random.default_rng(11)))
    first = np.full(int(image.max()) + 1, 3)
    last = np.zeros_like(first)
    np.minimum.at(first, image, particles.half)
    np.maximum.at(last, image, particles.half)
    parted = int((first != last).sum())
    if parted:
        observer.notice(
            f"{parted} images are in both half sets, at different poses: the half maps share their "
            "noise, and the "
            "resolution will look better than it is"
        )
    return particles
