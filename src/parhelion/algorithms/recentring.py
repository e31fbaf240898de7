"""Particles brought to the centres of their boxes, by whole pixels, and back to the images they came from.

A shift of a class average's particle says how far it lies from the centre of its box. Moved by whole pixels,
an image keeps every value: what leaves it on one side comes in on the other, outside the particle's mask.
What is left of the shift is for the search to find.
"""

from dataclasses import replace

import numpy as np

from parhelion.errors import MetadataError
from parhelion.model.particles import ParticleSet


def whole_pixels(particles: ParticleSet) -> np.ndarray:
    """By how many pixels (x, y) each image has to move, ``(n, 2)``. Raises MetadataError without shifts."""
    if particles.shift_xyz_angstrom is None or len(particles.views) != len(particles):
        raise MetadataError("particles without shifts, or with several images each, cannot be re-centred")
    pixel = np.array([group.pixel_size_angstrom for group in particles.optics])
    size = pixel[particles.views.optics_group][:, None]
    return np.rint(particles.shift_xyz_angstrom[:, :2] / size).astype(np.int64)


def moved_images(images: np.ndarray, by_pixels: np.ndarray) -> np.ndarray:
    """Images ``(n, y, x)`` whose content went by ``by_pixels`` ``(n, 2)`` (x, y)."""
    return np.stack([np.roll(image, (y, x), (0, 1)) for image, (x, y) in zip(images, by_pixels)])


def returned(found: ParticleSet, before: ParticleSet, by_pixels: np.ndarray) -> ParticleSet:
    """``found`` in the re-centred stack, with the images and shifts of the particles ``before``.

    Image i of the re-centred stack is that of particle i of ``before``, moved by ``by_pixels`` ``(n, 2)``.
    """
    row = found.views.image_index
    origin = before.take(row)
    pixel = np.array([group.pixel_size_angstrom for group in before.optics])
    size = pixel[origin.views.optics_group][:, None]
    shift = None
    if found.shift_xyz_angstrom is not None:
        shift = found.shift_xyz_angstrom.copy()
        shift[:, :2] += by_pixels[row] * size
    views = replace(
        found.views,
        image_path=origin.views.image_path,
        path_id=origin.views.path_id,
        image_index=origin.views.image_index,
    )
    extra = found.extra.without("rlnImageName")
    return replace(found, views=views, shift_xyz_angstrom=shift, extra=extra)
