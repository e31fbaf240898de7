"""Each particle once per operator of a point group: every asymmetric unit becomes a particle of its own."""

from dataclasses import replace

import numpy as np

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
    half = particles.half if particles.half is not None else _halves_of_images(particles, generator)
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


def _halves_of_images(particles: ParticleSet, generator: np.random.Generator) -> np.ndarray:
    """Half sets 1 and 2 of equal size, the same for particles that share an image."""
    views = particles.views
    key = np.stack([views.path_id, views.image_index])
    image = np.unique(key, axis=1, return_inverse=True)[1].reshape(-1)
    count = int(image.max()) + 1
    drawn = generator.permutation(1 + np.arange(count) % 2)
    return drawn[image]
