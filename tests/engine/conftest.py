"""A small molecule, simulated particles of it with one or several views, and a problem to refine."""

from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from parhelion.algorithms.simulate.particles import Microscope, random_views, simulate_particles
from parhelion.contracts import SerialExecutor, SilentObserver
from parhelion.engine.batch import phase_ramp
from parhelion.engine.candidates import Candidates
from parhelion.engine.halves import split_halves
from parhelion.engine.loader import ParticleLoader
from parhelion.engine.loop import Problem
from parhelion.engine.noise import background_noise
from parhelion.engine.points import FourierPoints
from parhelion.engine.predict import fourier_volume
from parhelion.engine.schedule import Progress, ScheduleSettings, first_plan
from parhelion.engine.solvent import Solvent
from parhelion.engine.state import RefineState
from parhelion.geometry.symmetry import symmetry_group
from parhelion.kernels import dispatch
from parhelion.model.particles import OpticsGroup, ParticleSet, Views
from parhelion.model.volume import Volume

BOX, PIXEL = 32, 4.0
DIAMETER = 80.0


def blobs(box: int = BOX, symmetry: str = "C1", seed: int = 5, spread: float = 0.2) -> np.ndarray:
    """A molecule of Gaussian blobs, ``(box, box, box)`` float32, within 0.3 boxes of the centre."""
    rng = np.random.default_rng(seed)
    z, y, x = np.indices((box, box, box)) - box // 2
    data = np.zeros((box, box, box))
    for centre in rng.uniform(-spread * box, spread * box, (8, 3)):
        for operator in symmetry_group(symmetry).operators:
            cx, cy, cz = operator @ centre
            data += np.exp(-((z - cz) ** 2 + (y - cy) ** 2 + (x - cx) ** 2) / (2 * 1.6**2))
    return data.astype(np.float32)


@dataclass
class Images:
    """Images in memory as a ParticleSource."""

    data: np.ndarray

    @property
    def box(self) -> int:
        return self.data.shape[-1]

    def images(self, views: np.ndarray) -> np.ndarray:
        return self.data[views]


class NeverCancelled:
    """A Cancel that lets everything run."""

    def check(self) -> None:
        pass


class Workers:
    """An Executor of several threads."""

    def __init__(self, workers: int) -> None:
        from concurrent.futures import ThreadPoolExecutor

        self.workers = workers
        self._pool = ThreadPoolExecutor(workers)

    def map(self, function, items):
        return self._pool.map(function, items)


def single_particles(
    count: int, snr: float, seed: int = 1, symmetry: str = "C1"
) -> tuple[ParticleSet, Images, np.ndarray]:
    """Particles with one view each (true poses in the set), their images, and the molecule."""
    molecule = blobs(symmetry=symmetry)
    made = simulate_particles(
        Volume(data=molecule, pixel_size_angstrom=PIXEL), count, snr=snr, shift_angstrom=4.0, seed=seed
    )
    return made.particles, Images(made.images(np.arange(count))), molecule


def particles_without_poses(count: int) -> ParticleSet:
    """A table for images that the test makes itself."""
    group = OpticsGroup(
        name="scope",
        pixel_size_angstrom=PIXEL,
        voltage_kv=300.0,
        spherical_aberration_mm=2.7,
        amplitude_contrast=0.1,
    )
    views = random_views(count, BOX, Microscope(), np.random.default_rng(1))
    return ParticleSet(optics=(group,), views=views, count=count)


def tilt_series(count: int, views: int, snr: float, seed: int = 2) -> tuple[ParticleSet, Images, np.ndarray]:
    """Particles of ``views`` tilts about y, which share one pose and one three-dimensional shift."""
    rng = np.random.default_rng(seed)
    tilts = Rotation.from_euler("y", np.linspace(-50, 50, views)[:, None], degrees=True).as_matrix()
    rotation = Rotation.random(count, random_state=seed).as_matrix()
    shift = rng.uniform(-4, 4, (count, 3))
    molecule = blobs()
    every = np.einsum("vij,njk->nvik", tilts, rotation).reshape(-1, 3, 3)
    moved = np.einsum("vij,nj->nvi", tilts, shift).reshape(-1, 3)
    made = simulate_particles(
        Volume(data=molecule, pixel_size_angstrom=PIXEL), len(every), snr=snr, rotation=every, seed=seed
    )
    # in-plane shifts follow from the particle's own, where the simulation draws them at random
    made.particles.shift_xyz_angstrom[:, :2] = moved[:, :2]
    made.particles.shift_xyz_angstrom[:, 2] = 0
    old: Views = made.particles.views
    table = replace(
        old,
        particle=np.repeat(np.arange(count), views),
        tilt_rotation=np.tile(tilts, (count, 1, 1)),
    )
    particles = ParticleSet(
        optics=made.particles.optics,
        views=table,
        count=count,
        rotation=rotation,
        shift_xyz_angstrom=shift,
    )
    return particles, Images(made.images(np.arange(len(every)))), molecule


def loader_of(particles: ParticleSet, images: Images, max_shell: int = 13, **options) -> ParticleLoader:
    return ParticleLoader(
        particles=particles,
        source=images,
        points=FourierPoints(images.box, max_shell),
        diameter_angstrom=DIAMETER * 1.15,
        **options,
    )


def on_scale_of(loader: ParticleLoader, molecule: np.ndarray) -> np.ndarray:
    """The molecule in the units of the normalised images, by least squares at the true poses."""
    particles = loader.particles
    rotation = np.einsum("vij,njk->nvik", loader.tilts, particles.rotation).reshape(-1, 3, 3)
    batch = loader.batch(np.arange(len(particles)), len(loader.points))
    model = fourier_volume(torch.from_numpy(molecule), loader.points.max_shell)
    slices = dispatch.extract(
        model.data, torch.from_numpy(rotation), loader.points.kx, loader.points.ky, model.padding
    )
    ramp = phase_ramp(
        torch.from_numpy(particles.shift_xyz_angstrom / loader.extent_angstrom),
        batch.tilts,
        loader.points.kx,
        loader.points.ky,
    )
    signal = slices.view(batch.data.shape) * ramp * batch.ctf
    factor = (signal.conj() * batch.data).real.sum() / signal.abs().square().sum()
    return (molecule * float(factor)).astype(np.float32)


def problem_of(
    loader: ParticleLoader,
    symmetry: str = "C1",
    executor=None,
    search: bool = True,
    chunk: int = 16,
    grid_step_deg: float = 30.0,
) -> Problem:
    """Problem with a coarse grid."""
    schedule = ScheduleSettings(
        extent_angstrom=loader.extent_angstrom,
        diameter_angstrom=DIAMETER,
        initial_resolution_angstrom=20.0,
        max_shell=loader.points.max_shell,
        shift_angstrom=8.0,
        grid_step_deg=grid_step_deg,
        search=search,
    )
    return Problem(
        loader=loader,
        schedule=schedule,
        symmetry=symmetry_group(symmetry),
        solvent=Solvent.within(loader.box, loader.pixel_size_angstrom, DIAMETER),
        executor=executor or SerialExecutor(),
        observer=SilentObserver(),
        cancel=NeverCancelled(),
        seed=3,
        chunk=chunk,
    )


def state_of(problem: Problem, start: np.ndarray) -> RefineState:
    """The state before the first round, with ``start`` as both halves' map."""
    loader = problem.loader
    rng = np.random.default_rng(0)
    volume = torch.from_numpy(start.astype(np.float32))
    empty = torch.zeros(0, dtype=torch.float64)
    return RefineState(
        maps=(volume, volume.clone()),
        kept=Candidates(
            particle=torch.zeros(0, dtype=torch.long),
            rotation=empty.reshape(0, 3, 3),
            shift=empty.reshape(0, 3),
            weight=empty,
        ),
        noise=background_noise(loader, 500, rng),
        half=split_halves(len(loader.particles), rng),
        plan=first_plan(problem.schedule),
        progress=Progress(),
        fsc=np.zeros(0),
    )


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """As the runner's executor: chunks do not compete with torch's own threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def kit() -> SimpleNamespace:
    """The functions above: test modules cannot import each other."""
    return SimpleNamespace(
        BOX=BOX,
        PIXEL=PIXEL,
        DIAMETER=DIAMETER,
        Images=Images,
        NeverCancelled=NeverCancelled,
        Workers=Workers,
        blobs=blobs,
        loader_of=loader_of,
        on_scale_of=on_scale_of,
        particles_without_poses=particles_without_poses,
        problem_of=problem_of,
        single_particles=single_particles,
        state_of=state_of,
        tilt_series=tilt_series,
    )


@pytest.fixture(scope="session")
def clear() -> tuple[ParticleSet, Images, np.ndarray]:
    """Forty particles with little noise (SNR 5)."""
    return single_particles(40, snr=5.0)


@pytest.fixture(scope="session")
def noisy() -> tuple[ParticleSet, Images, np.ndarray]:
    """A hundred particles at an SNR of 0.5."""
    return single_particles(100, snr=0.5)
