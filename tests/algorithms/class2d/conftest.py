"""Views of a molecule turned in the plane, mixed with images of noise, and a quick classification."""

from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest

from parhelion.algorithms.class2d.classify import Class2dResult, classify
from parhelion.algorithms.class2d.settings import Class2dSettings
from parhelion.algorithms.simulate.particles import SimulatedParticles, simulate_particles
from parhelion.contracts import SerialExecutor, SilentObserver
from parhelion.geometry.rotations import from_relion
from parhelion.model.particles import ParticleSet
from parhelion.model.volume import Volume

BOX, PIXEL, DIAMETER = 32, 4.0, 84.0
VIEWS = ((0.0, 0.0), (0.0, 90.0), (70.0, 90.0))
"""rot and tilt of the views."""


@dataclass
class Images:
    """Images in memory as a ParticleSource."""

    data: np.ndarray

    @property
    def box(self) -> int:
        return self.data.shape[-1]

    def images(self, views: np.ndarray) -> np.ndarray:
        return self.data[views]


class Never:
    """A Cancel that lets everything run."""

    def check(self) -> None:
        pass


class Listener(SilentObserver):
    """Keeps notices and rows."""

    def __init__(self) -> None:
        self.notices: list[str] = []
        self.rows: list[dict] = []

    def notice(self, message: str) -> None:
        self.notices.append(message)

    def record(self, table: str, **values: float | int | str) -> None:
        self.rows.append(values)


@dataclass(frozen=True)
class Mixture:
    """Particles with their true view (-1: noise only), psi and shift."""

    particles: ParticleSet
    images: Images
    view: np.ndarray
    psi_deg: np.ndarray
    shift_angstrom: np.ndarray
    made: SimulatedParticles

    def clean(self, view: int, psi_deg: float = 0.0) -> np.ndarray:
        """The projection of a view ``(box, box)`` without CTF and noise, at the images' scale."""
        rotation = from_relion([VIEWS[view][0]], [VIEWS[view][1]], [psi_deg])
        return self.made.projector.images(rotation)[0] * self.made.signal_scale * PIXEL


def molecule() -> Volume:
    """An asymmetric molecule of Gaussian blobs, 32³ voxels of 4 Å."""
    rng = np.random.default_rng(5)
    z, y, x = np.indices((BOX, BOX, BOX)) - BOX // 2
    data = np.zeros((BOX, BOX, BOX))
    for cx, cy, cz in rng.uniform(-6.5, 6.5, (9, 3)):
        data += np.exp(-((z - cz) ** 2 + (y - cy) ** 2 + (x - cx) ** 2) / (2 * 1.5**2))
    return Volume(data=data.astype(np.float32), pixel_size_angstrom=PIXEL)


def mixture(per_view: int, noise: int, snr: float, seed: int = 1) -> Mixture:
    """``per_view`` images of each view and ``noise`` images of noise alone, in random order."""
    rng = np.random.default_rng(seed)
    count = per_view * len(VIEWS) + noise
    view = np.concatenate([np.repeat(np.arange(len(VIEWS)), per_view), np.full(noise, -1)])
    view = rng.permutation(view)
    psi = rng.uniform(0, 360, count)
    rot, tilt = np.array([VIEWS[max(v, 0)] for v in view]).T
    made = simulate_particles(
        molecule(), count, snr=snr, shift_angstrom=6.0, seed=seed, rotation=from_relion(rot, tilt, psi)
    )
    images = made.images(np.arange(count))
    images[view < 0] = rng.normal(size=(noise, BOX, BOX))
    return Mixture(
        replace(made.particles, rotation=None, shift_xyz_angstrom=None),
        Images(images),
        view,
        psi,
        made.particles.shift_xyz_angstrom[:, :2].copy(),
        made,
    )


def classified(mixed: Mixture, listener: Listener | None = None, **settings) -> Class2dResult:
    """A classification of few cycles."""
    names = ("references", "checkpoints", "resume", "executor")
    arguments = {"executor": SerialExecutor()}
    arguments |= {name: settings.pop(name) for name in names if name in settings}
    chosen = {
        "diameter_angstrom": DIAMETER,
        "classes": 6,
        "cycles": 12,
        "final_resolution_angstrom": 10.0,
        "start_average": 40,
        **settings,
    }
    return classify(
        mixed.particles,
        mixed.images,
        Class2dSettings(**chosen),
        observer=listener or Listener(),
        cancel=Never(),
        **arguments,
    )


@pytest.fixture
def class2d() -> SimpleNamespace:
    """What the tests of this folder share."""
    return SimpleNamespace(
        DIAMETER=DIAMETER,
        PIXEL=PIXEL,
        VIEWS=VIEWS,
        Listener=Listener,
        Never=Never,
        classified=classified,
        mixture=mixture,
    )


@pytest.fixture(scope="session")
def mixed() -> Mixture:
    return mixture(per_view=70, noise=60, snr=0.5)


@pytest.fixture(scope="session")
def found(mixed) -> Class2dResult:
    return classified(mixed)


@pytest.fixture(scope="session")
def mixture_of():
    """``mixture``, for fixtures of any scope."""
    return mixture
