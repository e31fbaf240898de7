"""Resampling keeps the centre, the values and the pixel size; shifts move by what they say."""

import numpy as np
import pytest
from scipy.signal import resample

from parhelion.errors import ParameterError
from parhelion.fourier.resample import (
    crop_or_pad,
    fourier_resize_images,
    fourier_resize_volumes,
    resample_volume,
    shift_images,
    shift_volumes,
)
from parhelion.model.volume import Volume


def blobs(box, pixel, centres=((0.0, 0.0, 0.0), (21.0, -9.0, 14.0)), sigma=11.0):
    """Gaussians at these places (x, y, z in Å from the centre voxel), sampled exactly."""
    axis = (np.arange(box) - box // 2) * pixel
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    return sum(
        (i + 1) * np.exp(-((x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2) / (2 * sigma**2))
        for i, (a, b, c) in enumerate(centres)
    ).astype(np.float32)


@pytest.mark.parametrize("old", [12, 13])
@pytest.mark.parametrize("new", [8, 9, 16, 17])
def test_agrees_with_scipys_fourier_resampling(old, new):
    image = np.random.default_rng(0).normal(size=(old, old))
    rolled = np.fft.ifftshift(image)
    expected = np.fft.fftshift(resample(resample(rolled, new, axis=0), new, axis=1))
    np.testing.assert_allclose(fourier_resize_images(image, new), expected, atol=1e-10)


@pytest.mark.parametrize("n", [8, 9])
def test_padding_then_cropping_gives_the_volume_back(n):
    volume = np.random.default_rng(1).normal(size=(n, n, n))
    np.testing.assert_allclose(
        fourier_resize_volumes(fourier_resize_volumes(volume, 15), n), volume, atol=1e-10
    )


@pytest.mark.parametrize(
    ("box", "pixel", "new_box", "new_pixel"),
    [
        (40, 4.0, 64, 2.5),
        (40, 4.0, 41, 4.0),
        (41, 4.0, 50, 3.337),
        (64, 2.5, 33, 4.713),
        (48, 3.54, 48, 3.54),
    ],
)
def test_any_pixel_size_and_box_are_exact(box, pixel, new_box, new_pixel):
    volume = Volume(data=blobs(box, pixel), pixel_size_angstrom=pixel)
    out = resample_volume(volume, new_box, new_pixel)
    assert out.pixel_size_angstrom == new_pixel
    expected = blobs(new_box, new_pixel)
    # compared where the old map has data: outside it there is nothing to resample
    half = min(box * pixel, new_box * new_pixel) / 2 - 3 * max(pixel, new_pixel)
    axis = np.abs(np.arange(new_box) - new_box // 2) * new_pixel < half
    inside = np.ix_(axis, axis, axis)
    np.testing.assert_allclose(out.data[inside], expected[inside], atol=0.01 * expected.max())


def test_what_lies_outside_the_old_map_has_the_level_of_its_faces():
    out = resample_volume(Volume(data=np.full((8, 8, 8), 5.0), pixel_size_angstrom=2.0), 20, 2.0)
    np.testing.assert_allclose(out.data, 5.0, atol=1e-5)


def test_resampling_to_coarser_pixels_removes_what_they_cannot_hold():
    n = 32
    wave = np.cos(2 * np.pi * 12 * np.arange(n) / n)[None, None, :] * np.ones((n, n, 1))
    out = resample_volume(Volume(data=wave, pixel_size_angstrom=1.0), 16, 2.0)
    assert np.abs(out.data[:, :, 2:-2]).max() < 1e-4


@pytest.mark.parametrize("box", [24, 25])
def test_shifts_move_towards_larger_coordinates(box):
    pixel, move = 4.0, np.array([2.5, -1.25, 3.0])
    start = blobs(box, pixel, centres=((0.0, 0.0, 0.0),), sigma=8.0)
    expected = blobs(box, pixel, centres=(tuple(move * pixel),), sigma=8.0)
    np.testing.assert_allclose(shift_volumes(start, move), expected, atol=2e-3)
    images = np.stack([start[box // 2], start[box // 2]])
    moved = shift_images(images, np.array([[1.0, 0.0], [0.0, 2.0]]))
    np.testing.assert_allclose(moved[0], np.roll(images[0], 1, axis=1), atol=1e-5)
    np.testing.assert_allclose(moved[1], np.roll(images[1], 2, axis=0), atol=1e-5)


@pytest.mark.parametrize(("old", "new"), [(6, 9), (9, 6), (7, 10), (8, 8)])
def test_cropping_and_padding_keep_the_centre_pixel(old, new):
    image = np.zeros((old, old), np.float32)
    image[old // 2, old // 2] = 1
    out = crop_or_pad(image, (new, new), fill=0.5)
    assert out[new // 2, new // 2] == 1
    assert out.shape == (new, new)
    if new > old:
        assert out[0, 0] == 0.5


def test_impossible_boxes_and_pixel_sizes_are_refused():
    volume = Volume(data=np.zeros((8, 8, 8), np.float32), pixel_size_angstrom=2.0)
    with pytest.raises(ParameterError, match="positive"):
        resample_volume(volume, 8, -1.0)
    with pytest.raises(ParameterError, match="box"):
        fourier_resize_volumes(volume.data, 1)
    with pytest.raises(ParameterError, match="square"):
        fourier_resize_images(np.zeros((4, 6)), 4)
