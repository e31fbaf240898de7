"""The grey scale of a starting map, found from the particles."""

import numpy as np
import pytest
import torch

from parhelion.engine.noise import background_noise
from parhelion.engine.scale import reference_scale
from parhelion.geometry.symmetry import symmetry_group


def scale_of(kit, loader, volume: np.ndarray) -> float:
    noise = background_noise(loader, 100, np.random.default_rng(0))
    return reference_scale(
        loader,
        torch.from_numpy(volume.astype(np.float32)),
        noise,
        symmetry_group("C1"),
        limit=5.0,
        shift_radius=0.07,
        sample=40,
        rng=np.random.default_rng(1),
    )


def test_the_scale_undoes_any_units(kit, clear) -> None:
    """The same particles against a map in other units: factors are inverse, and near the simulation's."""
    particles, images, molecule = clear
    loader = kit.loader_of(particles, images)
    once, again = scale_of(kit, loader, molecule), scale_of(kit, loader, molecule * 1000)
    assert once / again == pytest.approx(1000, rel=1e-3)
    # normalised images: what the background's deviation divides the simulation's scale by
    from parhelion.algorithms.simulate.particles import simulate_particles
    from parhelion.model.volume import Volume

    made = simulate_particles(
        Volume(data=molecule, pixel_size_angstrom=kit.PIXEL), 40, snr=5.0, shift_angstrom=4.0, seed=1
    )
    outside = loader.mask.numpy() < 0.01
    deviation = np.median(images.data[:, outside].std(1))
    assert once == pytest.approx(made.signal_scale * kit.PIXEL / deviation, rel=0.25)


def test_nothing_in_common_gives_nothing(kit, clear) -> None:
    particles, images, molecule = clear
    loader = kit.loader_of(particles, images)
    assert scale_of(kit, loader, np.zeros_like(molecule)) == 0
    assert scale_of(kit, loader, -molecule) < 0.4 * scale_of(kit, loader, molecule)
