"""Maps of cropped boxes back in boxes of the particles' own size, and the other way round."""

import numpy as np

from parhelion.engine.search_view import middle
from parhelion.model.volume import Volume


def padded(volume: Volume, box: int) -> Volume:
    """A map in the centre of a box of ``box`` voxels, 0 around it; as it is where it has that size."""
    if volume.box == box:
        return volume
    inner = middle(box, volume.box)
    data = np.zeros((box,) * 3, np.float32)
    data[inner, inner, inner] = volume.data
    return Volume(data=data, pixel_size_angstrom=volume.pixel_size_angstrom)


def cropped(volume: Volume, box: int) -> Volume:
    """The central ``box`` voxels of a map along every axis."""
    if volume.box == box:
        return volume
    inner = middle(volume.box, box)
    data = np.ascontiguousarray(volume.data[inner, inner, inner])
    return Volume(data=data, pixel_size_angstrom=volume.pixel_size_angstrom)
