"""The hand of a map, and poses that go with it."""

import numpy as np

from parhelion.errors import MetadataError
from parhelion.model.particles import ParticleSet
from parhelion.model.volume import Volume

MIRROR_X = np.diag([-1.0, 1.0, 1.0])
ALONG_BEAM = np.diag([1.0, 1.0, -1.0])


def mirror_x(volume: Volume) -> Volume:
    """The map with x inverted about voxel ``n // 2``: the other hand.

    On an even axis the first plane has no mirror image inside the box; it stays where it is, as in a
    periodic box.
    """
    flipped = volume.data[:, :, ::-1]
    if flipped.shape[2] % 2 == 0:
        flipped = np.roll(flipped, 1, axis=2)
    return Volume(data=np.ascontiguousarray(flipped), pixel_size_angstrom=volume.pixel_size_angstrom)


def poses_of_other_hand(particles: ParticleSet) -> ParticleSet:
    """The particles at poses that show in the map after ``mirror_x`` what they showed before.

    A projection is the same for a map and its mirror image along the beam: poses become
    ``diag(1, 1, −1) A diag(−1, 1, 1)``, and shifts stay (the one along the beam changes its sign). Raises
    MetadataError for particles without poses.
    """
    if particles.rotation is None or particles.shift_xyz_angstrom is None:
        raise MetadataError("particles without poses have none that could follow the map")
    shift = particles.shift_xyz_angstrom @ ALONG_BEAM
    return particles.with_poses(ALONG_BEAM @ particles.rotation @ MIRROR_X, shift)
