"""A small molecule, noisy images of it with known poses, and a way to refine them by hand."""

from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial.transform import Rotation

from parhelion.algorithms.manual.refinement import ManualResult, refine_manual
from parhelion.algorithms.manual.settings import ManualSettings
from parhelion.algorithms.simulate.particles import simulate_particles
from parhelion.contracts import SerialExecutor, SilentObserver
from parhelion.model.particles import ParticleSet
from parhelion.model.volume import Volume

BOX, PIXEL, COUNT = 32, 4.0, 120


class Never:
    def check(self) -> None:
        pass


class Images:
    def __init__(self, data: np.ndarray) -> None:
        self.data, self.box = data, data.shape[-1]

    def images(self, views: np.ndarray) -> np.ndarray:
        return self.data[views]


@dataclass(frozen=True)
class Data:
    """Particles with true poses, their images and the map."""

    particles: ParticleSet
    images: Images
    truth: Volume

    def near(self, degrees: float = 6.0, angstrom: float = 2.0, seed: int = 9) -> ParticleSet:
        """The particles with poses that are off by about this much."""
        rng = np.random.default_rng(seed)
        count = len(self.particles)
        turn = Rotation.from_rotvec(rng.normal(0, np.radians(degrees) / np.sqrt(3), (count, 3))).as_matrix()
        shift = self.particles.shift_xyz_angstrom.copy()
        shift[:, :2] += rng.normal(0, angstrom, (count, 2))
        return self.particles.with_poses(turn @ self.particles.rotation, shift)


def molecule(domain: float = 0.0) -> Volume:
    """Gaussian blobs; the domain is a large one at (x, y, z) = (24, 0, 0) Å."""
    z, y, x = np.indices((BOX,) * 3) - BOX // 2
    rng = np.random.default_rng(5)
    data = np.zeros((BOX,) * 3)
    for cz, cy, cx in rng.uniform(-6, 6, (10, 3)):
        data += np.exp(-((z - cz) ** 2 + (y - cy) ** 2 + (x - cx) ** 2) / (2 * 1.2**2))
    data += domain * np.exp(-(z**2 + y**2 + (x - 6) ** 2) / (2 * 2.0**2))
    return Volume(data=data.astype(np.float32), pixel_size_angstrom=PIXEL)


def simulated(volume: Volume, count: int = COUNT, snr: float = 1.0, seed: int = 1) -> Data:
    """Images of ``volume`` with CTF, shifts and noise."""
    made = simulate_particles(volume, count, snr=snr, shift_angstrom=4.0, seed=seed)
    return Data(made.particles, Images(made.images(np.arange(count))), volume)


def mixed(snr: float, each: int = 80) -> tuple[Data, np.ndarray]:
    """As many particles with the domain as without, in random order, and which is which."""
    parts = [simulated(molecule(domain), each, snr, seed) for domain, seed in ((1.5, 1), (0.0, 2))]
    count = 2 * each
    views = [p.particles.views for p in parts]
    joined = {
        name: np.concatenate([getattr(v, name) for v in views])
        for name in ("defocus_u_angstrom", "defocus_v_angstrom", "defocus_angle_deg", "phase_shift_deg")
    }
    rest = {
        name: np.resize(getattr(views[0], name), count)
        for name in ("path_id", "optics_group", "ctf_bfactor_angstrom2", "ctf_scale", "noise_group")
    }
    particles = ParticleSet(
        optics=parts[0].particles.optics,
        views=replace(views[0], image_index=np.arange(count), particle=np.arange(count), **joined, **rest),
        count=count,
        rotation=np.concatenate([p.particles.rotation for p in parts]),
        shift_xyz_angstrom=np.concatenate([p.particles.shift_xyz_angstrom for p in parts]),
    )
    order = np.random.default_rng(3).permutation(count)
    images = Images(np.concatenate([p.images.data for p in parts])[order])
    return Data(particles.take(order), images, parts[0].truth), np.repeat([0, 1], each)[order]


def refined(
    images: Images,
    particles: ParticleSet,
    references: tuple[Volume, ...] = (),
    keywords: dict[str, object] | None = None,
    **settings: object,
) -> ManualResult:
    """What ``refine_manual`` finds, with limits that suit the box."""
    usual = {
        "outer_radius_angstrom": 52.0,
        "high_limit_angstrom": 12.0,
        "low_limit_angstrom": 150.0,
        "shift_range_xy_angstrom": (12.0, 12.0),
    }
    return refine_manual(
        particles,
        images,
        references,
        ManualSettings(**{**usual, **settings}),  # type: ignore[arg-type]
        **{
            "executor": SerialExecutor(),
            "observer": SilentObserver(),
            "cancel": Never(),
            **(keywords or {}),
        },  # type: ignore[arg-type]
    )
