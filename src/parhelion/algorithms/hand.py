"""The hand of a map."""

import numpy as np

from parhelion.model.volume import Volume


def mirror_x(volume: Volume) -> Volume:
    """The map with x inverted about voxel ``n // 2``: the other hand.

    On an even axis the first plane has no mirror image inside the box; it stays where it is, as in a
    periodic box.
    """
    flipped = volume.data[:, :, ::-1]
    if flipped.shape[2] % 2 == 0:
        flipped = np.roll(flipped, 1, axis=2)
    return Volume(data=np.ascontiguousarray(flipped), pixel_size_angstrom=volume.pixel_size_angstrom)
