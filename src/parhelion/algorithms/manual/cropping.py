"""Smaller boxes around particles: less to transform and to insert while a refinement is under way."""

from dataclasses import dataclass, field

import numpy as np

from parhelion.contracts import ParticleSource
from parhelion.model.volume import Volume

RADII = 3.0
"""Edge of a cropped box in outer mask radii, so that half a radius of background is left on every side."""


def cropped_box(box: int, pixel_size_angstrom: float, outer_radius_angstrom: float) -> int:
    """The even edge in pixels that images are cropped to, never more than ``box``."""
    wanted = RADII * outer_radius_angstrom / pixel_size_angstrom
    return min(box, 2 * int(np.ceil(wanted / 2)))


@dataclass(eq=False)
class CroppedSource:
    """The central ``box`` x ``box`` pixels of another source's images, pixel n // 2 at the centre."""

    source: ParticleSource
    box: int
    first: int = field(init=False)

    def __post_init__(self) -> None:
        self.first = self.source.box // 2 - self.box // 2

    def images(self, views: np.ndarray) -> np.ndarray:
        """As ``contracts.ParticleSource``."""
        inner = slice(self.first, self.first + self.box)
        return np.ascontiguousarray(self.source.images(views)[:, inner, inner])


def padded(volume: Volume, box: int) -> Volume:
    """A map in the centre of a box of ``box`` voxels, 0 around it; as it is where it has that size."""
    if volume.box == box:
        return volume
    first = box // 2 - volume.box // 2
    inner = slice(first, first + volume.box)
    data = np.zeros((box,) * 3, np.float32)
    data[inner, inner, inner] = volume.data
    return Volume(data=data, pixel_size_angstrom=volume.pixel_size_angstrom)


def cropped(volume: Volume, box: int) -> Volume:
    """The central ``box`` voxels of a map along every axis."""
    if volume.box == box:
        return volume
    first = volume.box // 2 - box // 2
    inner = slice(first, first + box)
    data = np.ascontiguousarray(volume.data[inner, inner, inner])
    return Volume(data=data, pixel_size_angstrom=volume.pixel_size_angstrom)
