"""What particles differ by: the component is the missing domain, and its mixture tells who lacks it."""

import numpy as np
import pytest
import torch

from parhelion.algorithms.simulate.particles import simulate_particles
from parhelion.contracts import SerialExecutor
from parhelion.engine.candidates import Candidates
from parhelion.engine.loader import ParticleLoader
from parhelion.engine.points import FourierPoints
from parhelion.engine.variability import centred_images, components, told_of, two_of
from parhelion.geometry.symmetry import symmetry_group
from parhelion.images.masks import spherical_mask
from parhelion.model.volume import Volume

BOX, PIXEL, COUNT, SHELL = 24, 5.0, 300, 8.0


def molecule(domain: float) -> np.ndarray:
    z, y, x = np.indices((BOX,) * 3) - BOX // 2
    data = np.exp(-(z**2 + (y + 3) ** 2 + x**2) / 18) + np.exp(-((z - 4) ** 2 + y**2 + (x + 3) ** 2) / 8)
    return (data + domain * np.exp(-((z + 3) ** 2 + (y - 4) ** 2 + x**2) / 8)).astype(np.float32)


class Images:
    box = BOX

    def __init__(self, data: np.ndarray) -> None:
        self.data = data

    def images(self, views: np.ndarray) -> np.ndarray:
        return self.data[views]


def centred(lacks: np.ndarray, snr: float = 0.1):
    made = [
        simulate_particles(
            Volume(data=molecule(domain), pixel_size_angstrom=PIXEL),
            COUNT,
            snr=snr,
            shift_angstrom=4.0,
            seed=2,
        )
        for domain in (1.0, 0.0)
    ]
    both = [m.images(np.arange(COUNT)) for m in made]
    particles = made[0].particles
    loader = ParticleLoader(
        particles=particles,
        source=Images(np.where(lacks[:, None, None], both[1], both[0])),
        points=FourierPoints(BOX, BOX // 2 - 1),
        diameter_angstrom=100.0,
        scale_images=False,
    )
    poses = Candidates(
        particle=torch.arange(COUNT),
        rotation=torch.from_numpy(particles.rotation),
        shift=torch.from_numpy(particles.shift_xyz_angstrom) / loader.extent_angstrom,
        weight=torch.ones(COUNT, dtype=torch.float64),
    )
    noise = torch.ones((1, BOX // 2), dtype=torch.float64)
    return loader, noise, poses


@pytest.fixture(scope="module")
def lacks() -> np.ndarray:
    return np.random.default_rng(0).random(COUNT) < 0.4


def analysed(lacks: np.ndarray):
    images = centred_images(*centred(lacks), SHELL)
    mask = spherical_mask(BOX, PIXEL, 50.0, 10.0)
    rng = np.random.default_rng(1)
    return images, components(images, mask, symmetry_group("C1"), SerialExecutor(), rng)


def test_the_first_component_is_what_is_missing(lacks) -> None:
    images, found = analysed(lacks)
    difference = molecule(1.0) - molecule(0.0)
    cut = (BOX - images.box) // 2
    # both grids span one extent: the coarse one is compared in Fourier space
    fine = np.fft.fftshift(np.fft.fftn(np.fft.ifftshift(difference)))
    fine = fine[(slice(cut, cut + images.box),) * 3]
    coarse = np.fft.fftshift(np.fft.fftn(np.fft.ifftshift(found.axes[0].numpy())))
    z, y, x = np.indices(coarse.shape) - images.box // 2
    inside = np.sqrt(z**2 + y**2 + x**2) < SHELL - 2
    a, b = fine[inside], coarse[inside]
    correlation = abs((a * b.conj()).sum()) / np.sqrt((abs(a) ** 2).sum() * (abs(b) ** 2).sum())
    assert correlation > 0.8
    assert found.strength[0] > 1.15 * found.strength[1]


def judged_by_others(lacks: np.ndarray) -> float:
    """The gain of two structures in every second particle, along the components of the others."""
    loader, noise, poses = centred(lacks)
    parts = [centred_images(loader, noise, poses.take(torch.arange(h, COUNT, 2)), SHELL) for h in (0, 1)]
    mask = spherical_mask(BOX, PIXEL, 50.0, 10.0)
    rng = np.random.default_rng(1)
    found = components(parts[0], mask, symmetry_group("C1"), SerialExecutor(), rng)
    return two_of(told_of(found, parts[1]), parts[1].weight, rng)[1]


def test_two_structures_are_told_apart(lacks) -> None:
    images, found = analysed(lacks)
    posterior, gain = two_of(found, images.weight, np.random.default_rng(2))
    right = ((posterior[:, 0] > 0.5).numpy() == lacks).mean()
    assert max(right, 1 - right) > 0.8
    assert gain > 0


def test_the_other_half_says_whether_there_are_two(lacks) -> None:
    assert judged_by_others(lacks) > 40
    assert judged_by_others(np.zeros(COUNT, bool)) < 10


def test_symmetry_is_imposed_on_components(lacks) -> None:
    images = centred_images(*centred(lacks), SHELL)
    mask = spherical_mask(BOX, PIXEL, 50.0, 10.0)
    found = components(images, mask, symmetry_group("C2"), SerialExecutor(), np.random.default_rng(1))
    axis = found.axes[0, 1:, 1:, 1:]
    turned = axis.flip(1, 2)
    assert float((axis - turned).norm() / axis.norm()) < 0.2
