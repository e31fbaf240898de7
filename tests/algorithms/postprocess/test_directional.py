"""Directional FSC and Fourier sampling of maps and views that are known to be uneven."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from parhelion.algorithms.orientations import fourier_sampling, sampling_compensation, view_density
from parhelion.algorithms.postprocess.directional import directional_fsc, picture_of_directions, sphericity
from parhelion.errors import ParameterError
from parhelion.fourier.shells import fsc
from parhelion.geometry.rotations import random_rotations
from parhelion.geometry.symmetry import symmetry_group

BOX, PIXEL = 48, 2.0


def white(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(BOX,) * 3)


def halves(along_z: float, across: float) -> list[np.ndarray]:
    """Signal to resolution ``along_z`` (Å) along z and ``across`` normal to it, an ellipsoid; then noise."""
    fz, fy, fx = np.meshgrid(*[np.fft.fftfreq(BOX, PIXEL)] * 3, indexing="ij")
    inside = (fz * along_z) ** 2 + (fx**2 + fy**2) * across**2 <= 1
    signal, *noises = (np.fft.fftn(white(seed)) for seed in (1, 2, 3))
    return [np.fft.ifftn(np.where(inside, signal, noise)).real for noise in noises]


def test_each_axis_has_its_own_resolution() -> None:
    found = directional_fsc(*halves(10.0, 6.0), PIXEL)
    up = np.abs(found.directions[:, 2])
    assert len(found.directions) == 96
    assert found.resolution_angstrom[up > 0.97].mean() == pytest.approx(9.6, rel=0.1)
    assert found.resolution_angstrom[up < 0.2].mean() == pytest.approx(6.0, rel=0.1)
    assert found.area_ratio < 0.75


def test_an_even_map_has_a_ratio_near_one() -> None:
    found = directional_fsc(*halves(7.0, 7.0), PIXEL)
    assert found.area_ratio > 0.9
    np.testing.assert_allclose(found.resolution_angstrom, 7.0, rtol=0.12)


def test_wide_cones_give_the_shells_of_the_whole() -> None:
    a, b = halves(7.0, 7.0)
    b = b + 0.5 * white(9)
    whole = fsc(a, b)
    narrow, wide = (directional_fsc(a, b, PIXEL, cone_deg=angle) for angle in (12.0, 60.0))
    assert np.abs(wide.fsc[:, 4:] - whole[4:]).mean() < 0.5 * np.abs(narrow.fsc[:, 4:] - whole[4:]).mean()
    np.testing.assert_allclose(wide.fsc[:, 4:].mean(axis=0), whole[4:], atol=0.03)
    with pytest.raises(ParameterError, match="between 5 and 60"):
        directional_fsc(a, b, PIXEL, cone_deg=80.0)


def test_sampling_of_views_that_are_even_or_missing() -> None:
    even = random_rotations(4000, np.random.default_rng(0))
    _, sampling = fourier_sampling(even)
    assert sampling_compensation(sampling) > 0.95
    # all views along z: only slices normal to it, the poles of Fourier space are empty
    turns = Rotation.from_euler("z", np.linspace(0, 360, 500)[:, None], degrees=True).as_matrix()
    directions, sampling = fourier_sampling(turns)
    assert sampling_compensation(sampling) == 0
    assert sampling[np.abs(directions[:, 2]) > 0.5].max() == 0
    # side views of a particle, on the other hand, sample everything
    side = Rotation.from_euler("x", 90, degrees=True).as_matrix() @ turns
    assert fourier_sampling(side)[1].min() > 0.4


def test_symmetry_fills_in() -> None:
    narrow = Rotation.from_rotvec(0.15 * np.random.default_rng(1).normal(size=(300, 3))).as_matrix()
    alone = fourier_sampling(narrow)[1]
    cubic = fourier_sampling(narrow, symmetry_group("O"))[1]
    assert sampling_compensation(cubic) > 10 * sampling_compensation(alone)


def test_picture_shows_axes_where_they_are() -> None:
    directions = np.array([[0, 0, 1.0], [1, 0, 0], [0, 1, 0]])
    picture = picture_of_directions(directions, np.array([1.0, 2.0, 3.0]), size=41)
    assert (picture[20, 20], picture[20, 38], picture[38, 20]) == (1.0, 2.0, 3.0)


def test_sphericity_is_that_of_the_surface() -> None:
    """A sphere has 1; an ellipsoid of revolution what its surface and volume say."""
    grid = directional_fsc(*halves(7.0, 7.0), PIXEL).directions
    assert sphericity(grid, np.full(len(grid), 0.3)) == pytest.approx(1)
    a, c = 1.0, 2.0  # a prolate spheroid
    radius = 1 / np.sqrt((grid[:, 0] ** 2 + grid[:, 1] ** 2) / a**2 + grid[:, 2] ** 2 / c**2)
    e = np.sqrt(1 - a**2 / c**2)
    area = 2 * np.pi * a**2 * (1 + c / (a * e) * np.arcsin(e))
    volume = 4 / 3 * np.pi * a**2 * c
    assert sphericity(grid, radius) == pytest.approx(
        np.cbrt(np.pi) * np.cbrt(6 * volume) ** 2 / area, abs=0.01
    )


def test_a_missing_cone_is_told_from_even_noise() -> None:
    fz, fy, fx = np.meshgrid(*[np.fft.fftfreq(BOX, PIXEL)] * 3, indexing="ij")
    radius = np.sqrt(fz**2 + fy**2 + fx**2)
    signal, *noises = (np.fft.fftn(white(seed)) for seed in (1, 2, 3))
    inside = radius < 1 / 6
    missing = inside & (np.abs(fz) < np.cos(np.radians(35)) * radius)
    found = []
    for kept in (inside, missing):
        a, b = (np.fft.ifftn(np.where(kept, signal + 0.3 * n, n)).real for n in noises)
        found.append(directional_fsc(a, b, PIXEL))
    even, cone = found
    assert even.sphericity > 0.95
    assert even.best_to_worst > 0.85
    assert cone.sphericity < 0.9
    assert cone.best_to_worst < 0.4
    up = np.abs(cone.directions[:, 2])
    assert cone.resolution_angstrom[up > 0.97].min() > 15
    np.testing.assert_allclose(cone.resolution_angstrom[up < 0.3], 6, rtol=0.1)


def test_density_of_views() -> None:
    even = random_rotations(20_000, np.random.default_rng(0))
    directions, density = view_density(even)
    assert len(directions) == 192
    assert density.mean() == pytest.approx(1)
    assert density.std() < 0.15
    turns = Rotation.from_euler("z", np.linspace(0, 360, 50)[:, None], degrees=True).as_matrix()
    directions, density = view_density(turns, symmetry_group("D2"))
    assert density[np.abs(directions[:, 2]) < 0.9].max() == 0
    assert density[directions[:, 2] < -0.9].sum() == pytest.approx(density[directions[:, 2] > 0.9].sum())
