"""A small molecule of atoms, its aberrated images, and what is wrongly believed of them."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from parhelion.algorithms.ctf_refine.refine import CtfRefineResult, refine_ctf
from parhelion.algorithms.ctf_refine.settings import CtfRefineSettings
from parhelion.algorithms.simulate.particles import Microscope, SimulatedParticles, simulate_particles
from parhelion.contracts import SerialExecutor, SilentObserver
from parhelion.model.particles import ParticleSet
from parhelion.model.table import Table
from parhelion.model.volume import Volume

BOX, PIXEL, COUNT, PER_MICROGRAPH = 64, 1.5, 160, 20
RESOLUTION = 3.3


def atoms(box: int = BOX, pixel: float = PIXEL) -> Volume:
    """Atoms at random within 25 Å, as Gaussians of 0.7 Å."""
    rng = np.random.default_rng(7)
    places = rng.normal(0, 1, (500, 3))
    places *= (25 * rng.uniform(0, 1, 500) ** (1 / 3) / np.linalg.norm(places, axis=1))[:, None]
    axis = (np.arange(box) - box // 2) * pixel
    each = [np.exp(-((axis[None, :] - places[:, i : i + 1]) ** 2) / (2 * 0.9**2)) for i in range(3)]
    return Volume(
        data=np.einsum("az,ay,ax->zyx", each[2], each[1], each[0]).astype(np.float32),
        pixel_size_angstrom=pixel,
    )


class Images:
    """A particle source that simulates; rows in ``broken`` hold NaN."""

    def __init__(self, simulated: SimulatedParticles, broken: tuple[int, ...] = ()) -> None:
        self.box = simulated.box
        self.made = simulated.images(np.arange(len(simulated.particles)))
        self.made[list(broken)] = np.nan

    def images(self, views: np.ndarray) -> np.ndarray:
        return self.made[views]


class Listener(SilentObserver):
    """Keeps notices."""

    def __init__(self) -> None:
        self.notices: list[str] = []

    def notice(self, message: str) -> None:
        self.notices.append(message)


class Go:
    def check(self) -> None:
        pass


@dataclass
class Case:
    """Images, the truth, and the start of a refinement."""

    volume: Volume
    truth: ParticleSet
    start: ParticleSet
    images: Images
    defocus_error: np.ndarray

    def refine(
        self,
        maps: tuple[Volume, ...] | None = None,
        start: ParticleSet | None = None,
        mask: Volume | None = None,
        **settings: Any,
    ) -> tuple[CtfRefineResult, list[str]]:
        listener = Listener()
        settings.setdefault("resolution_limit_angstrom", RESOLUTION)
        found = refine_ctf(
            start or self.start, self.images, maps or (self.volume,), CtfRefineSettings(**settings),
            executor=SerialExecutor(), observer=listener, cancel=Go(), mask=mask,
        )  # fmt: skip
        return found, listener.notices


def mean_defocus(particles: ParticleSet) -> np.ndarray:
    return (particles.views.defocus_u_angstrom + particles.views.defocus_v_angstrom) / 2


def case(
    error_angstrom: float = 0.0, snr: float = 0.5, broken: tuple[int, ...] = (), **microscope: Any
) -> Case:
    """Images by a microscope, believed to have no aberrations and another defocus."""
    volume = atoms()
    microscope = {"defocus_range_um": (0.4, 0.8), **microscope}
    simulated = simulate_particles(
        volume, COUNT, snr=snr, microscope=Microscope(**microscope), shift_angstrom=2.0, seed=5
    )
    names = [f"mic{i // PER_MICROGRAPH}.mrc" for i in range(COUNT)]
    truth = replace(simulated.particles, extra=Table({"rlnMicrographName": np.array(names, dtype=object)}))
    error = np.random.default_rng(8).uniform(-error_angstrom, error_angstrom, COUNT)
    views = replace(
        truth.views,
        defocus_u_angstrom=truth.views.defocus_u_angstrom + error,
        defocus_v_angstrom=truth.views.defocus_v_angstrom + error,
    )
    plain = replace(
        truth.optics[0], beam_tilt_xy_mrad=(0.0, 0.0), odd_zernike=(), magnification=(1.0, 0.0, 0.0, 1.0)
    )
    start = replace(truth, views=views, optics=(plain,))
    return Case(
        volume=volume, truth=truth, start=start, images=Images(simulated, broken), defocus_error=error
    )


@pytest.fixture(scope="session")
def odd_case() -> Case:
    """Defocus errors up to 400 Å, beam tilt and trefoil."""
    return case(400.0, beam_tilt_xy_mrad=(1.0, -0.5), trefoil_rad_angstrom3=(0.0, 25.0))
