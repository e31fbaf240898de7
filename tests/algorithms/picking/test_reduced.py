"""The reduced micrograph: positions, transfer, outliers, and what cannot be reduced."""

import numpy as np
import pytest

from parhelion.algorithms.picking.reduced import reduce_micrograph
from parhelion.errors import InputError, ParameterError

SIZES = {"highest_resolution_angstrom": 30.0, "largest_radius_angstrom": 60.0, "white": True}


def noise(shape=(420, 500), seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("pixel", [1.2, 2.5, 7.0, 15.0])
def test_positions_survive_the_reduction(pixel) -> None:
    """A spot is found again where it is, to part of a reduced pixel, whatever was binned and cropped."""
    shape = (int(2700 / pixel), int(3100 / pixel))
    where = np.array([0.613 * shape[1], 0.377 * shape[0]])
    y, x = np.indices(shape)
    spot = np.exp(-((x - where[0]) ** 2 + (y - where[1]) ** 2) / (2 * (40.0 / pixel) ** 2))
    made = reduce_micrograph(
        (spot + 1e-3 * noise(shape)).astype(np.float32) * 0.12 + 0.02 * noise(shape, 1), pixel, **SIZES
    )
    j, i = made.from_micrograph(where[None])[0]
    grid_y, grid_x = np.indices(made.data.shape)
    near = np.hypot((grid_y - j), (grid_x - i)) * made.pixel_angstrom < 75
    smooth = np.where(near, made.levelled, 0) - np.median(made.levelled)
    weight = np.clip(smooth[near], 0, None) ** 2
    centre = (weight @ grid_y[near] / weight.sum(), weight @ grid_x[near] / weight.sum())
    assert np.allclose(centre, (j, i), atol=0.35)
    assert np.allclose(made.to_micrograph(made.from_micrograph(where[None])), where[None])


def test_a_wave_keeps_its_place_and_height() -> None:
    """Binning's attenuation is divided out: two waves of one height stay so, and in phase."""
    pixel, shape = 1.0, (960, 960)
    x = np.indices(shape)[1]
    slow, fast = (np.cos(2 * np.pi * x / period) for period in (320.0, 40.0))
    ground = 0.5 * noise(shape)
    made = reduce_micrograph((slow + fast + ground).astype(np.float32), pixel, **SIZES)
    rows = slice(made.data.shape[0] // 4, -made.data.shape[0] // 4)
    at = made.to_micrograph(np.stack([np.zeros(made.data.shape[1]), np.arange(made.data.shape[1])], 1))[:, 0]
    inside = (at > 100) & (at < 860)
    profile = made.levelled[rows].mean(axis=0)[inside]
    design = np.stack(
        [f(2 * np.pi * at[inside] / p) for p in (320.0, 40.0) for f in (np.cos, np.sin)] + [at[inside] ** 0],
        1,
    )
    fit = np.linalg.lstsq(design, profile, rcond=None)[0]
    assert np.isclose(fit[2], fit[0], rtol=0.1)
    assert abs(fit[1]) < 0.1 * fit[0]
    assert abs(fit[3]) < 0.1 * fit[0]


def test_outliers_and_a_slope_do_not_matter() -> None:
    image = noise()
    clean = reduce_micrograph(image, 5.0, **SIZES)
    y, x = np.indices(image.shape)
    image = image + 0.01 * x - 0.02 * y
    image[100, 100], image[200, 300] = 1e6, np.nan
    dirty = reduce_micrograph(image.astype(np.float32), 5.0, **SIZES)
    inner = dirty.distance_from_edge_px() > 20
    assert np.corrcoef(clean.data[inner], dirty.data[inner])[0, 1] > 0.97


def test_black_protein_becomes_white() -> None:
    image = noise()
    white = reduce_micrograph(image, 5.0, **SIZES).data
    black = reduce_micrograph(-image, 5.0, **{**SIZES, "white": False}).data
    assert np.allclose(white, black, atol=1e-3)


def test_margins_are_told_from_the_micrograph() -> None:
    made = reduce_micrograph(noise(), 5.0, **SIZES)
    distance = made.distance_from_edge_px()
    assert distance.max() <= 0.5 * 420
    corner = made.from_micrograph(np.array([[0.0, 0.0]]))[0]
    assert np.all(corner > 3)
    assert distance[0, 0] < -30 / 5


def test_what_cannot_be_reduced_is_refused() -> None:
    with pytest.raises(InputError, match="constant"):
        reduce_micrograph(np.ones((400, 400), np.float32), 5.0, **SIZES)
    with pytest.raises(InputError, match="check the pixel size"):
        reduce_micrograph(noise((60, 60)), 5.0, **SIZES)
    with pytest.raises(InputError, match="not finite"):
        reduce_micrograph(np.full((400, 400), np.nan, np.float32), 5.0, **SIZES)
    with pytest.raises(ParameterError, match="pixel size"):
        reduce_micrograph(noise(), 0.0, **SIZES)
