"""Masks: geometry, and automatic masks that follow molecules of different shapes through noise."""

import numpy as np
import pytest

from parhelion.errors import InputError, ParameterError
from parhelion.fourier.filters import lowpass
from parhelion.images.masks import automatic_mask, circular_mask, soft_dilation, spherical_mask
from parhelion.model.volume import Volume

BOX, PIXEL = 48, 4.0


def radius(centre=(0.0, 0.0, 0.0)):
    axis = (np.arange(BOX) - BOX // 2) * PIXEL
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    return np.sqrt((x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (z - centre[2]) ** 2)


BODIES = {
    "ball": radius() < 45,
    "hollow shell": (radius() < 60) & (radius() > 38),
    "rod beside the centre": np.minimum(radius((30, 0, 0)), radius((-5, 20, 40))) < 22,
}


def noisy_map(body, noise, seed=0):
    rng = np.random.default_rng(seed)
    grain = rng.normal(1.0, 0.5, body.shape) * body  # a molecule is not flat inside
    data = grain + rng.normal(0, noise, body.shape)
    return lowpass(Volume(data=data.astype(np.float32), pixel_size_angstrom=PIXEL), 9.0)


@pytest.mark.parametrize("box", [16, 17])
def test_round_masks_are_centred_and_have_the_edge_asked_for(box):
    mask = circular_mask(box, 2.0, 8.0, 4.0)
    line = mask[box // 2]
    assert line[box // 2] == 1
    assert line[box // 2 + 4] == 1
    assert line[box // 2 + 5] == pytest.approx(0.5)
    assert line[box // 2 + 6] == pytest.approx(0, abs=1e-7)
    assert line[box // 2 - 5] == pytest.approx(0.5)
    sphere = spherical_mask(box, 2.0, 8.0, 4.0)
    np.testing.assert_array_equal(sphere[box // 2], mask)
    assert sphere.dtype == np.float32


def test_soft_dilation_measures_in_angstrom():
    body = np.zeros((20, 20, 20), bool)
    body[10, 10, 10] = True
    mask = soft_dilation(body, 2.0, 4.0, 4.0)
    np.testing.assert_allclose(mask[10, 10, 10:16], [1, 1, 1, 0.5, 0, 0], atol=1e-6)


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("noise", [0.0, 0.3, 1.0])
def test_automatic_mask_covers_the_molecule_and_little_else(name, noise):
    body = BODIES[name]
    made = automatic_mask(noisy_map(body, noise))
    inside = made.mask.data > 0.5
    assert (inside & body).sum() > 0.99 * body.sum()
    near = soft_dilation(body, PIXEL, 26.0, 0.0) > 0
    assert not (inside & ~near).any()
    assert made.volume_angstrom3 == pytest.approx(body.sum() * PIXEL**3, rel=0.35)
    assert made.mask.data.min() >= 0
    assert made.mask.data.max() == 1


def test_a_hollow_stays_hollow():
    made = automatic_mask(noisy_map(BODIES["hollow shell"], 0.3), edge_angstrom=8.0)
    assert made.mask.data[BOX // 2, BOX // 2, BOX // 2] == 0


def test_small_islands_are_dropped_and_large_ones_kept():
    body = (radius() < 40) | (radius((75, 0, 0)) < 9)
    assert automatic_mask(noisy_map(body, 0.1), lowpass_angstrom=9.0).components == 1
    both = (radius((-45, 0, 0)) < 25) | (radius((45, 0, 0)) < 25)
    assert automatic_mask(noisy_map(both, 0.1)).components == 2


def test_a_given_threshold_is_used():
    volume = noisy_map(BODIES["ball"], 0.1)
    low, high = (automatic_mask(volume, threshold=t).volume_angstrom3 for t in (0.3, 0.8))
    assert low > high


def test_maps_without_a_molecule_and_impossible_values_are_refused():
    flat = Volume(data=np.zeros((16, 16, 16), np.float32), pixel_size_angstrom=2.0)
    with pytest.raises(InputError, match="no density stands out"):
        automatic_mask(flat)
    with pytest.raises(InputError, match="above the threshold"):
        automatic_mask(noisy_map(BODIES["ball"], 0.1), threshold=1e3)
    broken = Volume(data=np.full((16, 16, 16), np.nan), pixel_size_angstrom=2.0)
    with pytest.raises(InputError, match="not numbers"):
        automatic_mask(broken)
    with pytest.raises(ParameterError, match="radius"):
        spherical_mask(16, 2.0, 0.0, 2.0)
