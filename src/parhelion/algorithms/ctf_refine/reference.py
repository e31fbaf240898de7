"""What particles are compared with, and up to which resolution that says something.

With two half maps each particle is compared with the map of the *other* half set. In its own map a particle
finds its own noise again, carried there with the CTF that is to be tested: that pulls towards no change, with
as much weight as a shell's noise has against its signal. The other map's noise knows nothing of the particle.
On 500 simulated particles with defocus errors of 231 Å and half maps of their own one round left 35 Å against
the other half's map and 123 Å against the own one (45 and 64 Å where only shells with an FSC above 0.5 were
used), and the half maps of the refined particles agreed with each other no better than with the truth.
"""

from dataclasses import dataclass

import numpy as np
import torch

from parhelion.algorithms import preparation as prepare
from parhelion.algorithms.postprocess.gold_standard import gold_standard_fsc
from parhelion.contracts import Observer
from parhelion.engine.halves import crossing_shell
from parhelion.engine.predict import FourierVolume, fourier_volume
from parhelion.errors import InputError, MetadataError, ParameterError
from parhelion.images.masks import automatic_mask
from parhelion.model.particles import ParticleSet
from parhelion.model.volume import Volume

USEFUL_FSC = 0.143
LOWEST_SHELLS = 3
COARSEST_ANGSTROM = 30.0
"""Detail coarser than this says nothing about the CTF, and much about ice and solvent."""
ROOM_FOR_STRETCH = 1.1


@dataclass(frozen=True, kw_only=True)
class References:
    """One or two transforms, which of them each particle is compared with, and the shells that count.

    ``fsc`` is the correlation of the half maps inside the mask, None for a single map.
    """

    volumes: tuple[FourierVolume, ...]
    of_particle: np.ndarray
    lowest_shell: float
    highest_shell: int
    fsc: np.ndarray | None
    mask: Volume


def prepare_references(
    maps: tuple[Volume, ...],
    mask: Volume | None,
    particles: ParticleSet,
    box: int,
    limit_angstrom: float | None,
    observer: Observer,
    device: torch.device,
) -> References:
    """The maps on the particles' grid, masked and transformed.

    Raises MetadataError where two half maps meet particles without half sets, ParameterError for a limit
    that leaves nothing.
    """
    pixel = particles.optics[0].pixel_size_angstrom
    names = ("reference",) if len(maps) == 1 else ("first half map", "second half map")
    fitting = [prepare.on_grid_of(volume, box, pixel, observer, name) for volume, name in zip(maps, names)]
    for volume, name in zip(fitting, names):
        if not np.isfinite(volume.data).all() or float(np.ptp(volume.data)) == 0:
            raise InputError(f"the {name} is constant or holds values that are not finite")
    mean = Volume(
        data=np.asarray(sum(volume.data for volume in fitting), np.float32) / len(fitting),
        pixel_size_angstrom=pixel,
    )
    if mask is None:
        found = automatic_mask(mean).mask
    else:
        found = prepare.on_grid_of(mask, box, pixel, observer, "mask")
    inside = Volume(data=np.clip(found.data, 0, 1).astype(np.float32), pixel_size_angstrom=pixel)
    highest, fsc = _highest(fitting, inside, box, pixel, limit_angstrom)
    extent = box * pixel
    lowest = min(extent / COARSEST_ANGSTROM, highest / 3)
    if highest < LOWEST_SHELLS + lowest:
        raise ParameterError(
            f"{highest} shells of the box's {extent:.0f} Å, up to {extent / max(highest, 1):.1f} Å, are "
            "too few to see a CTF; a better reference or a finer --resolution-limit is needed"
        )
    # slices of stretched images reach a little further out
    reach = int(np.ceil(highest * ROOM_FOR_STRETCH * _largest_stretch(particles))) + 2
    volumes = tuple(
        fourier_volume(torch.from_numpy(volume.data * inside.data).float().to(device), reach)
        for volume in fitting
    )
    return References(
        volumes=volumes,
        of_particle=_of_particle(particles, len(maps)),
        lowest_shell=lowest,
        highest_shell=highest,
        fsc=fsc,
        mask=inside,
    )


def _highest(
    maps: list[Volume], mask: Volume, box: int, pixel: float, limit_angstrom: float | None
) -> tuple[int, np.ndarray | None]:
    """The last shell that is used, and the half maps' FSC."""
    highest = prepare.highest_shell(box, pixel, limit_angstrom)
    if len(maps) == 1:
        return highest, None
    curve = gold_standard_fsc(maps[0], maps[1], mask).corrected
    if limit_angstrom is None:
        highest = min(highest, int(crossing_shell(curve, USEFUL_FSC)))
    return highest, curve


def _largest_stretch(particles: ParticleSet) -> float:
    matrices = [np.reshape(group.magnification, (2, 2)) for group in particles.optics]
    return max(1.0, *(float(np.linalg.norm(matrix, 2)) for matrix in matrices))


def _of_particle(particles: ParticleSet, maps: int) -> np.ndarray:
    if maps == 1:
        return np.zeros(len(particles), np.int64)
    half = particles.half
    if half is None or not np.isin(half, (1, 2)).all():
        missing = len(particles) if half is None else int((~np.isin(half, (1, 2))).sum())
        raise MetadataError(
            f"{missing} of {len(particles)} particles belong to no half set (rlnRandomSubset), so that two "
            "half maps cannot be told apart for them; give the table of the refinement that made the half "
            "maps, or one map as --reference"
        )
    return np.where(half == 1, 1, 0).astype(np.int64)
