"""Maps and poses after the frame of a map was turned and moved."""

import numpy as np

from parhelion.algorithms.map_comparison import Pose, moved_volume
from parhelion.errors import MetadataError
from parhelion.model.particles import ParticleSet
from parhelion.model.volume import Volume


def volume_in_frame(volume: Volume, rotation: np.ndarray, shift_xyz_angstrom: np.ndarray) -> Volume:
    """The map with each point ``x`` (Å from voxel ``n // 2``) moved to ``rotation @ x + shift``."""
    extent = volume.box * volume.pixel_size_angstrom
    pose = Pose(rotation=rotation, flipped=False, shift=shift_xyz_angstrom / extent, score=0.0)
    return Volume(
        data=moved_volume(np.asarray(volume.data, np.float32), pose),
        pixel_size_angstrom=volume.pixel_size_angstrom,
    )


def particles_in_frame(
    particles: ParticleSet, rotation: np.ndarray, shift_xyz_angstrom: np.ndarray
) -> ParticleSet:
    """The particles with poses that show in the moved map what they showed in the one before.

    With ``x' = F x + t`` poses become ``A Fᵀ`` and shifts ``s + A Fᵀ t``. Raises MetadataError for particles
    without poses.
    """
    if particles.rotation is None or particles.shift_xyz_angstrom is None:
        raise MetadataError("particles without poses have none that could follow the map")
    turned = particles.rotation @ rotation.T
    shift = particles.shift_xyz_angstrom + turned @ shift_xyz_angstrom
    shift[:, 2] = particles.shift_xyz_angstrom[:, 2]  # a projection does not know how high the particle is
    return particles.with_poses(turned, shift)
