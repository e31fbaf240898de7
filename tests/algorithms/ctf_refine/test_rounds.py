"""A beam tilt from half maps as a user has them: blurred by what is still wrong, better in a second round."""

from dataclasses import replace

import numpy as np

from parhelion.algorithms.ctf_refine.refine import refine_ctf
from parhelion.algorithms.ctf_refine.settings import CtfRefineSettings
from parhelion.algorithms.reconstruct import ReconstructSettings, reconstruct
from parhelion.algorithms.simulate.particles import Microscope, simulate_particles
from parhelion.contracts import SerialExecutor, SilentObserver
from parhelion.model.particles import ParticleSet

from .conftest import Go, Images, atoms, mean_defocus

COUNT, DEFOCUS_ERROR_ANGSTROM = 400, 400.0
TILT_MRAD = np.array([1.0, -0.5])


def wrongly_believed(truth: ParticleSet) -> ParticleSet:
    """The same particles in two halves, with other defoci and no beam tilt."""
    rng = np.random.default_rng(9)
    error = rng.uniform(-1, 1, COUNT) * DEFOCUS_ERROR_ANGSTROM
    views = replace(
        truth.views,
        defocus_u_angstrom=truth.views.defocus_u_angstrom + error,
        defocus_v_angstrom=truth.views.defocus_v_angstrom + error,
    )
    return replace(
        truth,
        views=views,
        optics=(replace(truth.optics[0], beam_tilt_xy_mrad=(0.0, 0.0)),),
        half=(rng.permutation(COUNT) % 2 + 1).astype(np.int8),
    )


def test_two_rounds_from_half_maps_find_the_tilt() -> None:
    microscope = Microscope(defocus_range_um=(0.4, 0.8), beam_tilt_xy_mrad=(1.0, -0.5))
    made = simulate_particles(atoms(), COUNT, snr=0.3, microscope=microscope, shift_angstrom=2.0, seed=2)
    images, known = Images(made), wrongly_believed(made.particles)
    common = {"executor": SerialExecutor(), "observer": SilentObserver(), "cancel": Go()}
    off, resolution, defocus = [], [], []
    for _ in range(2):
        maps = reconstruct(known, images, ReconstructSettings(), **common)
        assert maps.half_maps is not None
        found = refine_ctf(
            known, images, maps.half_maps, CtfRefineSettings(trefoil=False), mask=maps.mask, **common
        )
        known = found.particles
        off.append(np.linalg.norm(known.optics[0].beam_tilt_xy_mrad - TILT_MRAD) / np.linalg.norm(TILT_MRAD))
        resolution.append(found.resolution_used_angstrom)
        defocus.append(np.sqrt(((mean_defocus(known) - mean_defocus(made.particles)) ** 2).mean()))
        assert np.linalg.norm(found.blocks[0].error) < 0.03
    assert off[0] < 0.08 and off[1] < 0.05
    # what is corrected is no longer blurred
    assert resolution[1] < resolution[0] and defocus[1] < defocus[0]
