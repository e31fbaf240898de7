"""Grids on the sphere and on SO(3)."""

import numpy as np
import pytest

from parhelion.errors import ParameterError
from parhelion.geometry import so3
from parhelion.geometry.rotations import angle_between, exp_so3, random_rotations
from parhelion.geometry.symmetry import symmetry_group


@pytest.mark.parametrize("order", [0, 1, 3])
def test_directions_are_healpix_pixel_centres(order: int) -> None:
    healpix = pytest.importorskip("astropy_healpix", reason="the oracle astropy-healpix is not installed")
    nside = 2**order
    lon, lat = healpix.healpix_to_lonlat(np.arange(12 * nside**2), nside, order="ring")
    lon, lat = lon.to_value("rad"), lat.to_value("rad")
    expected = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=-1)
    np.testing.assert_allclose(so3.sphere_grid(order), expected, atol=1e-12)


@pytest.mark.parametrize("step", [60.0, 20.0, 13.0])
def test_directions_of_any_step_are_unit_vectors_that_balance(step: float) -> None:
    directions = so3.so3_grid(step_deg=step)[:, 2]
    np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 1.0, atol=1e-12)
    # pixels of equal area: first and second moments of the sphere
    np.testing.assert_allclose(directions.mean(axis=0), 0.0, atol=1e-12)
    np.testing.assert_allclose(directions.T @ directions / len(directions), np.eye(3) / 3, atol=0.04)


def test_counts_are_relions() -> None:
    assert so3.so3_grid(1).shape == (48 * 12, 3, 3)
    assert so3.so3_grid(2).shape == (192 * 24, 3, 3)
    assert so3.grid_spacing_deg(3) == 7.5


@pytest.mark.parametrize("order", [1, 2])
def test_grid_covers_rotations_within_its_spacing(order: int) -> None:
    grid = so3.so3_grid(order)
    probes = random_rotations(100, np.random.default_rng(0))
    nearest = np.array([angle_between(grid, probe).min() for probe in probes])
    assert nearest.max() < so3.grid_spacing_deg(order)
    assert np.median(nearest) > 0.2 * so3.grid_spacing_deg(order)


def test_in_plane_angle_runs_fastest() -> None:
    grid = so3.so3_grid(0).reshape(12, 6, 3, 3)
    np.testing.assert_allclose(grid[:, :1, 2], grid[:, 1:2, 2], atol=1e-12)
    np.testing.assert_allclose(angle_between(grid[:, 0], grid[:, 1]), 60.0, atol=1e-9)


@pytest.mark.parametrize("name", ["C3", "D2", "O"])
def test_grid_of_the_asymmetric_unit_covers_all_up_to_symmetry(name: str) -> None:
    group = symmetry_group(name)
    turn = random_rotations(1, np.random.default_rng(1))[0]
    grid = so3.so3_grid(2, symmetry=group, turn=turn)
    assert len(grid) == pytest.approx(len(so3.so3_grid(2)) / len(group), rel=0.15)
    for probe in random_rotations(30, np.random.default_rng(2)):
        images = probe @ group.operators
        nearest = min(angle_between(grid, image).min() for image in images)
        assert nearest < so3.grid_spacing_deg(2)


def test_turn_moves_the_grid() -> None:
    turn = exp_so3([[0.3, -0.2, 0.5]])[0]
    plain, turned = so3.so3_grid(1), so3.so3_grid(1, turn=turn)
    np.testing.assert_allclose(turned[:, 2], plain[:, 2] @ turn, atol=1e-12)


def test_planar_grid_turns_in_the_plane() -> None:
    grid = so3.planar_grid(7.0)
    assert len(grid) == 52
    np.testing.assert_allclose(grid[:, 2], np.tile([0.0, 0.0, 1.0], (52, 1)), atol=1e-15)


def test_local_grid_covers_the_ball() -> None:
    grid = so3.local_grid(9.0, 3.0)
    np.testing.assert_allclose(grid[0], np.eye(3), atol=1e-15)
    assert angle_between(grid, np.eye(3)).max() <= 9.0 + 1e-6
    others = angle_between(grid[:, None], grid[None]) + 1e3 * np.eye(len(grid))
    # neighbours are a step apart, a little less where rotations about different axes add up
    assert others.min() == pytest.approx(3.0, rel=0.02)
    # a body-centred cubic lattice leaves no point farther than √5/(2√3) of a step
    w = np.random.default_rng(0).normal(size=(200, 3))
    probes = exp_so3(np.radians(5.0) * w / np.linalg.norm(w, axis=1, keepdims=True))
    assert max(angle_between(grid, probe).min() for probe in probes) < 1.02 * 3.0 * np.sqrt(5.0 / 12.0)


@pytest.mark.parametrize(
    "call",
    [
        lambda: so3.so3_grid(),
        lambda: so3.so3_grid(2, step_deg=7.0),
        lambda: so3.so3_grid(-1),
        lambda: so3.so3_grid(9),
        lambda: so3.so3_grid(step_deg=0.0),
        lambda: so3.sphere_grid(20),
        lambda: so3.planar_grid(0.0),
        lambda: so3.local_grid(1.0, 2.0),
    ],
)
def test_impossible_grids_are_refused(call) -> None:
    with pytest.raises(ParameterError):
        call()
