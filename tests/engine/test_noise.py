"""Noise power: from the background of images, and from residuals at known poses."""

import numpy as np
import pytest
import torch

from parhelion.algorithms.simulate.particles import colour_noise, simulate_particles
from parhelion.engine.accumulate import noise_sums
from parhelion.engine.candidates import Candidates
from parhelion.engine.noise import background_noise, on_points, smooth_floor
from parhelion.engine.predict import fourier_volume
from parhelion.model.volume import Volume


def with_images(kit, images: np.ndarray, groups: np.ndarray | None = None):
    from dataclasses import replace

    particles = kit.particles_without_poses(len(images))
    if groups is not None:
        particles = replace(particles, views=replace(particles.views, noise_group=groups))
    return kit.loader_of(particles, kit.Images(images))


def test_white_noise_has_power_one(kit) -> None:
    images = np.random.default_rng(1).normal(3.0, 7.0, size=(400, kit.BOX, kit.BOX)).astype(np.float32)
    power = background_noise(with_images(kit, images), 400, np.random.default_rng(2))
    assert power.shape == (1, 14)
    np.testing.assert_allclose(power[0, 2:].numpy(), 1, rtol=0.06)
    assert float(power[0, 2:].mean()) == pytest.approx(1, rel=0.02)


def test_coloured_noise_is_recovered_per_group(kit) -> None:
    rng = np.random.default_rng(3)
    shells = np.arange(kit.BOX // 2 + 1)
    spectra = [1 / (1 + (shells / 5) ** 2), 0.2 + shells / 16]
    groups = np.repeat([0, 1], 300)
    images = np.stack(
        [colour_noise(rng.normal(size=(kit.BOX,) * 2).astype(np.float32), spectra[g]) for g in groups]
    )
    found = background_noise(with_images(kit, images, groups), 600, rng).numpy()
    for group, spectrum in enumerate(spectra):
        # below shell 4 the narrow background and its subtracted mean blur a steep spectrum
        ratio = found[group, 4:13] / spectrum[4:13]
        np.testing.assert_allclose(ratio / ratio.mean(), 1, atol=0.12)


def test_residuals_at_the_true_poses_are_the_noise(kit) -> None:
    """What is left of masked images once the signal is taken out, freed of the mask's energy."""
    molecule = kit.blobs()
    made = simulate_particles(
        Volume(data=molecule, pixel_size_angstrom=kit.PIXEL), 200, snr=0.3, shift_angstrom=3.0, seed=4
    )
    loader = kit.loader_of(made.particles, kit.Images(made.images(np.arange(200))))
    batch = loader.batch(np.arange(200), len(loader.points))
    poses = Candidates(
        particle=torch.arange(200),
        rotation=torch.from_numpy(made.particles.rotation),
        shift=torch.from_numpy(made.particles.shift_xyz_angstrom / loader.extent_angstrom),
        weight=torch.ones(200, dtype=torch.float64),
    )
    scale = made.signal_scale * kit.PIXEL
    true = fourier_volume(torch.from_numpy(molecule * scale), 13)
    empty = fourier_volume(torch.zeros((kit.BOX,) * 3), 13)
    power = {}
    for name, volume in (("true", true), ("empty", empty)):
        sums = noise_sums(batch, poses, volume, loader.points, 1)
        assert float(sums.weight[0]) == 200
        power[name] = (sums.power[0] / sums.weight[0] / loader.mask_energy)[2:].numpy()
    assert power["true"].mean() == pytest.approx(1, rel=0.06)
    assert power["empty"][:4].mean() > 1.3


def test_empty_shells_take_a_typical_value_and_points_their_shells() -> None:
    from parhelion.engine.points import FourierPoints

    power = smooth_floor(torch.tensor([0.0, 2.0, 2.0, 0.0, 3.0], dtype=torch.float64))
    assert power.tolist() == [2.0, 2.0, 2.0, 2.0, 3.0]
    points = FourierPoints(16, 4)
    laid = on_points(power[None], points)
    assert laid.shape == (1, len(points))
    assert (laid[0, points.shell == 4] == 3).all()
