"""Orientations that come in half turns are searched by half the products, with the same outcome."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from parhelion.engine.noise import background_noise, on_points
from parhelion.engine.predict import fourier_volume
from parhelion.engine.search import global_search, half_turn_rows, score, shift_grid, slice_bank
from parhelion.geometry.rotations import random_rotations
from parhelion.geometry.so3 import so3_grid
from parhelion.geometry.symmetry import symmetry_group
from parhelion.kernels import dispatch

IDENTITY = torch.eye(3, dtype=torch.float64)[None]


@pytest.fixture(scope="module")
def problem(kit):
    """A whitened batch, the reference, and a turned grid of a twofold molecule."""
    particles, images, molecule = kit.single_particles(10, 0.5)
    loader = kit.loader_of(particles, images)
    noise = on_points(background_noise(loader, 100, np.random.default_rng(0)), loader.points)
    count = loader.points.count(6)
    batch = loader.batch(np.arange(10), count).whitened(noise)
    volume = fourier_volume(torch.from_numpy(molecule * 0.8), 13)
    turn = random_rotations(1, np.random.default_rng(3))[0]
    grid = torch.from_numpy(so3_grid(1, symmetry=symmetry_group("C2"), turn=turn))
    return loader, batch, volume, grid, count


def search(problem, precision, paired: bool):
    """Hits of a search with or without the shortcut; the prior prefers the middle."""
    loader, batch, volume, grid, count = problem
    bank = slice_bank(volume, grid, batch.tilts, loader.points, count, precision)
    assert bank.pairs is not None
    shifts = shift_grid(0.06, 0.03)
    prior = (-20 * shifts.square().sum(-1).float()).expand(len(batch), -1)
    centres = torch.full((len(batch), 3), 0.01, dtype=torch.float64)
    bank = bank if paired else replace(bank, pairs=None)
    return global_search(batch, bank, shifts, centres, prior, loader.points, 12)


def test_hits_are_those_of_the_whole_product(problem) -> None:
    halved, whole = (search(problem, torch.float32, paired) for paired in (True, False))
    torch.testing.assert_close(halved.score, whole.score, rtol=1e-4, atol=1e-2)
    assert torch.equal(halved.orientation[:, 0], whole.orientation[:, 0])
    assert torch.equal(halved.shift[:, 0], whole.shift[:, 0])


def test_bfloat16_keeps_the_best_among_the_hits(problem) -> None:
    exact = search(problem, torch.float32, paired=False)
    rounded = search(problem, torch.bfloat16, paired=True)
    assert bool((rounded.orientation == exact.orientation[:, :1]).any(1).all())


def test_slices_and_norms_are_those_of_each_orientation(problem) -> None:
    loader, batch, volume, grid, count = problem
    bank = slice_bank(volume, grid, batch.tilts, loader.points, count, torch.float32)
    kx, ky = loader.points.kx[:count], loader.points.ky[:count]
    each = dispatch.extract(volume.data, grid, kx, ky, volume.padding)
    found = torch.view_as_complex(bank.slices.view(len(grid), count, 2)) + bank.mean
    torch.testing.assert_close(found, each, rtol=1e-4, atol=1e-4 * float(each.abs().max()))
    torch.testing.assert_close(
        bank.power, each.abs().square(), rtol=1e-3, atol=1e-4 * float(bank.power.max())
    )


@pytest.mark.parametrize("order", [0, 1, 2])
def test_every_grid_comes_in_half_turns(order) -> None:
    grid = torch.from_numpy(so3_grid(order))
    rows = half_turn_rows(grid, IDENTITY)
    assert rows is not None
    assert torch.equal(rows.reshape(-1).sort().values, torch.arange(len(grid)))
    turn = torch.diag(torch.tensor([-1.0, -1.0, 1.0], dtype=torch.float64))
    torch.testing.assert_close(turn @ grid[rows[0]], grid[rows[1]], atol=1e-9, rtol=0)


def test_tilted_views_and_other_grids_have_none() -> None:
    grid = torch.from_numpy(so3_grid(0))
    c, s = np.cos(0.5), np.sin(0.5)
    about_y = torch.tensor([[[c, 0, s], [0, 1, 0], [-s, 0, c]]], dtype=torch.float64)
    assert half_turn_rows(grid, about_y) is None
    assert half_turn_rows(grid[:-1], IDENTITY) is None
    assert half_turn_rows(grid[torch.randperm(len(grid))], IDENTITY) is None
    assert half_turn_rows(torch.from_numpy(random_rotations(24, np.random.default_rng(0))), IDENTITY) is None


def test_a_search_over_many_views_takes_the_whole_product(kit) -> None:
    particles, images, molecule = kit.tilt_series(4, 3, 0.5)
    loader = kit.loader_of(particles, images)
    count = loader.points.count(6)
    noise = on_points(background_noise(loader, 100, np.random.default_rng(0)), loader.points)
    batch = loader.batch(np.arange(4), count).whitened(noise)
    volume = fourier_volume(torch.from_numpy(molecule * 0.8), 13)
    grid = torch.from_numpy(so3_grid(0))
    bank = slice_bank(volume, grid, batch.tilts, loader.points, count, torch.float32)
    assert bank.pairs is None
    centres = torch.zeros((4, 3), dtype=torch.float64)
    shifts = shift_grid(0.03, 0.03)
    cross, base, norm = score(batch, bank, shifts, centres, loader.points)
    every = 2 * (cross + base.unsqueeze(-1)) - norm.unsqueeze(1)
    hits = global_search(batch, bank, shifts, centres, torch.zeros((4, len(shifts))), loader.points, 1)
    torch.testing.assert_close(hits.score[:, 0], every.flatten(1).amax(1))
