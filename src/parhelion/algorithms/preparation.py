"""What refinements do before they start: particles checked, references brought to the particles' grid."""

from dataclasses import replace

import numpy as np

from parhelion.contracts import Observer
from parhelion.errors import InputError, MetadataError, ParameterError
from parhelion.fourier.resample import resample_volume
from parhelion.images.masks import automatic_mask, radius_grid
from parhelion.model.particles import ParticleSet
from parhelion.model.volume import Volume

LEAST_PARTICLES = 4
LEAST_OF_NOISE_GROUP = 50
"""Images that a noise spectrum is estimated from; smaller groups share one."""
NAMED = 5
CYCLES_OF_START = 4.5
"""Cycles per particle diameter that a starting map keeps: its outline and no detail to be biased by."""
COARSEST_START_ANGSTROM, FINEST_START_ANGSTROM = 60.0, 20.0
GRID_TOLERANCE = 1e-3
BLACK_SKEWNESS = -1.0
"""Maps of white protein have some +5 or more, noise has none."""
MASK_GROWTH = 1.15
"""Images are masked by a circle this much wider than the particle, for shifts and delocalised signal."""


def check_count(particles: ParticleSet) -> None:
    """MetadataError unless there are enough particles for two half sets."""
    if len(particles) < LEAST_PARTICLES:
        raise MetadataError(
            f"{len(particles)} particles are too few for two half sets; at least {LEAST_PARTICLES} are needed"
        )


def with_noise_groups(particles: ParticleSet) -> ParticleSet:
    """The particles with noise groups numbered from 0; groups of fewer than 50 images become one."""
    group = particles.views.noise_group
    numbers, member, sizes = np.unique(group, return_inverse=True, return_counts=True)
    small = sizes < LEAST_OF_NOISE_GROUP
    if small.any() and len(numbers) > 1:
        # a small group alone has nobody to share with but the largest
        home = int(np.argmax(sizes)) if sizes[small].sum() < LEAST_OF_NOISE_GROUP else int(np.argmax(small))
        target = np.where(small, home, np.arange(len(numbers)))
        member = np.unique(target[member], return_inverse=True)[1]
    return replace(particles, views=replace(particles.views, noise_group=member.astype(np.int64)))


def name_images(particles: ParticleSet, rows: np.ndarray) -> str:
    """``000012@stack.mrcs, … and 3 more`` for the images of these particles."""
    views = particles.views
    which = np.flatnonzero(np.isin(views.particle, rows))
    names = [
        f"{int(views.image_index[v]) + 1:06d}@{views.image_path[int(views.path_id[v])]}"
        for v in which[:NAMED]
    ]
    more = len(which) - len(names)
    return ", ".join(names) + (f" and {more} more" if more else "")


def on_grid_of(volume: Volume, box: int, pixel_size_angstrom: float, observer: Observer, what: str) -> Volume:
    """``volume`` on the particles' grid, resampled with a notice where it has another one."""
    same_pixel = abs(volume.pixel_size_angstrom / pixel_size_angstrom - 1) <= GRID_TOLERANCE
    if volume.data.shape == (box, box, box) and same_pixel:
        return volume
    shape = " x ".join(str(n) for n in volume.data.shape)
    observer.notice(
        f"the {what} ({shape} voxels of {volume.pixel_size_angstrom:.4g} Å) was resampled to the particles' "
        f"grid, {box} voxels of {pixel_size_angstrom:.4g} Å"
    )
    return resample_volume(volume, box, pixel_size_angstrom)


def warn_of_black(volume: Volume, observer: Observer) -> None:
    """A notice where the densities of a reference are skewed as those of a map with black protein are."""
    deviation = volume.data.astype(np.float64) - float(volume.data.mean(dtype=np.float64))
    spread = float(np.sqrt((deviation**2).mean()))
    if spread > 0 and float((deviation**3).mean()) < BLACK_SKEWNESS * spread**3:
        observer.notice(
            "the reference looks black (its strongest densities are negative), protein must be white in it: "
            "invert it, or the poses will mean nothing"
        )


def diameter_of(volume: Volume, observer: Observer) -> float:
    """The diameter in Å of the smallest sphere about the box's centre that holds the molecule.

    Raises InputError where no molecule stands out from the solvent.
    """
    try:
        made = automatic_mask(volume, extend_angstrom=0.0, edge_angstrom=0.0)
    except InputError as error:
        raise InputError(f"the diameter cannot be found in the reference ({error}); give it") from None
    radius = float(radius_grid(volume.data.shape)[made.mask.data > 0.5].max())
    found = 2 * radius * volume.pixel_size_angstrom
    diameter = min(5 * np.ceil(found / 5), min(volume.data.shape) * volume.pixel_size_angstrom)
    observer.notice(f"the particle's diameter is taken from the reference: {diameter:.0f} Å")
    return float(diameter)


def check_diameter(diameter_angstrom: float, box: int, pixel_size_angstrom: float) -> None:
    """ParameterError where a particle of this diameter does not fit into the box."""
    extent = box * pixel_size_angstrom
    if diameter_angstrom > extent * (1 + 1e-6):
        raise ParameterError(
            f"a diameter of {diameter_angstrom:g} Å does not fit into the box of {box} pixels "
            f"({extent:.0f} Å); check the diameter and the particles' pixel size "
            f"({pixel_size_angstrom:.4g} Å)"
        )
    if diameter_angstrom < 8 * pixel_size_angstrom:
        raise ParameterError(
            f"a diameter of {diameter_angstrom:g} Å is less than 8 pixels of {pixel_size_angstrom:.4g} Å; "
            "check the diameter and the particles' pixel size"
        )


def check_shift_range(shift_angstrom: float, box: int, pixel_size_angstrom: float) -> None:
    """ParameterError where particles are to be looked for outside their images."""
    reach = box * pixel_size_angstrom / 2
    if shift_angstrom > reach:
        raise ParameterError(
            f"a shift range of {shift_angstrom:g} Å (--shift-range) reaches beyond the images, whose edge is "
            f"{reach:.0f} Å from the centre"
        )


def start_resolution(diameter_angstrom: float, pixel_size_angstrom: float) -> float:
    """To which resolution in Å a starting map is filtered by default."""
    wanted = diameter_angstrom / CYCLES_OF_START
    return max(min(max(wanted, FINEST_START_ANGSTROM), COARSEST_START_ANGSTROM), 3 * pixel_size_angstrom)


def highest_shell(box: int, pixel_size_angstrom: float, limit_angstrom: float | None) -> int:
    """One shell below Nyquist, or the shell of ``limit_angstrom``; ParameterError if it is too coarse."""
    nyquist = box // 2 - 1
    if limit_angstrom is None:
        return nyquist
    shell = int(box * pixel_size_angstrom / limit_angstrom)
    if shell < 4:
        raise ParameterError(
            f"a resolution limit of {limit_angstrom:g} Å leaves {shell} shells of the box's "
            f"{box * pixel_size_angstrom:.0f} Å; at least 4 are needed, choose a finer limit"
        )
    return min(nyquist, shell)


def mask_diameter(
    diameter_angstrom: float, box: int, pixel_size_angstrom: float, edge_pixels: float
) -> float:
    """Diameter in Å of the circle that masks images; its soft edge stays within the box."""
    return min(diameter_angstrom * MASK_GROWTH, (box - 2 * edge_pixels) * pixel_size_angstrom)
