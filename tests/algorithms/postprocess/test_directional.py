"""Directional FSC and Fourier sampling of maps and views that are known to be uneven."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from parhelion.algorithms.orientations import fourier_sampling, sampling_compensation
from parhelion.algorithms.postprocess.directional import directional_fsc, picture_of_directions
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
