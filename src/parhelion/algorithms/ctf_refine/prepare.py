"""What a CTF refinement asks of its particles, and how their images are read."""

from dataclasses import replace

import numpy as np
import torch

from parhelion.algorithms import preparation as prepare
from parhelion.algorithms.ctf_refine.model import UNDISTORTED
from parhelion.algorithms.ctf_refine.settings import CtfRefineSettings
from parhelion.contracts import ParticleSource
from parhelion.engine.loader import EDGE_PIXELS, ParticleLoader
from parhelion.engine.points import FourierPoints
from parhelion.errors import MetadataError
from parhelion.model.particles import ParticleSet

MICROGRAPH = "rlnMicrographName"


def check_particles(particles: ParticleSet) -> None:
    """MetadataError for particles without poses, of tilt series, or multiplied by their CTF.

    The last keep the CTF that they were multiplied by, whatever a table says later.
    """
    if particles.rotation is None or particles.shift_xyz_angstrom is None:
        raise MetadataError("the particles have no poses; refine them first")
    if len(particles.views) != len(particles):
        raise MetadataError("CTFs of single particles are refined, found particles of tilt series")
    for group in particles.optics:
        if group.ctf_premultiplied:
            raise MetadataError(
                f"optics group {group.name} has images that were multiplied by their CTF "
                "(rlnCtfDataAreCtfPremultiplied), which a refined CTF would no longer describe; refine with "
                "images that were not, then multiply them anew"
            )


def number_micrographs(particles: ParticleSet, settings: CtfRefineSettings) -> np.ndarray:
    """Micrograph of each particle ``(n,)``, numbered within optics groups; the groups where none is needed.

    Raises MetadataError where names are needed and missing.
    """
    group = particles.views.optics_group
    if "micrograph" not in (settings.defocus, settings.astigmatism):
        return np.unique(group, return_inverse=True)[1].astype(np.int64)
    if MICROGRAPH not in particles.extra:
        raise MetadataError(
            f"the particles do not say which micrograph they are from ({MICROGRAPH}); it is needed to refine "
            "defocus or astigmatism per micrograph. Astigmatism can be refined per optics group instead"
        )
    names = np.unique(particles.extra[MICROGRAPH].astype(str), return_inverse=True)[1]
    pairs = np.stack([group, names], axis=1)
    return np.unique(pairs, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)


def undistorted_loader(
    particles: ParticleSet,
    source: ParticleSource,
    settings: CtfRefineSettings,
    cache_bytes: int,
    device: torch.device,
) -> ParticleLoader:
    """Images as they are, without correction for odd aberrations and magnification: the model has them.

    They are masked by the largest circle only, since defocus carries fine detail far out of the particle.
    """
    box, pixel = source.box, particles.optics[0].pixel_size_angstrom
    bare = tuple(
        replace(group, beam_tilt_xy_mrad=(0.0, 0.0), odd_zernike=(), magnification=UNDISTORTED)
        for group in particles.optics
    )
    shell = prepare.highest_shell(box, pixel, settings.resolution_limit_angstrom)
    return ParticleLoader(
        particles=replace(particles, optics=bare),
        source=source,
        points=FourierPoints(box, shell),
        diameter_angstrom=(box - 2 * EDGE_PIXELS) * pixel,
        cache_bytes=cache_bytes,
        device=device,
    )
