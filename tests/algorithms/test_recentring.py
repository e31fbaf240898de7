"""Particles moved to the centres of their boxes by whole pixels, and back."""

from dataclasses import replace

import numpy as np
import pytest

from parhelion.algorithms.recentring import moved_images, returned, whole_pixels
from parhelion.algorithms.simulate.particles import simulate_particles
from parhelion.errors import MetadataError
from parhelion.model.volume import Volume


@pytest.fixture(scope="module")
def made():
    z, y, x = np.indices((24, 24, 24)) - 12
    ball = np.exp(-(x**2 + y**2 + z**2) / 6).astype(np.float32)
    return simulate_particles(
        Volume(data=ball, pixel_size_angstrom=3.0), 12, snr=50.0, shift_angstrom=12.0, seed=4
    )


def centre_of_mass(images: np.ndarray) -> np.ndarray:
    y, x = np.indices(images.shape[1:]) - images.shape[-1] // 2
    bright = np.where(images > 0.5 * images.max(axis=(1, 2), keepdims=True), images, 0)
    total = bright.sum(axis=(1, 2))
    return np.stack([(bright * x).sum(axis=(1, 2)), (bright * y).sum(axis=(1, 2))], axis=1) / total[:, None]


def test_images_move_by_their_shifts_to_the_centre(made) -> None:
    images = made.images(np.arange(12))
    by = whole_pixels(made.particles)
    assert np.abs(by).max() >= 2
    before, after = (np.hypot(*centre_of_mass(one).T) for one in (images, moved_images(images, by)))
    assert before.max() > 2
    assert after.max() < 1.2  # half a pixel each way, and noise
    np.testing.assert_array_equal(moved_images(moved_images(images, by), -by), images)


def test_shifts_found_later_are_those_of_the_images_before(made) -> None:
    before = made.particles
    by = whole_pixels(before)
    row = np.array([3, 0, 7])  # some were left out, in another order
    left = before.shift_xyz_angstrom[row].copy()
    left[:, :2] -= 3.0 * by[row]
    taken = before.take(row)
    found = replace(taken, views=replace(taken.views, image_index=row), shift_xyz_angstrom=left)
    back = returned(found, before, by)
    np.testing.assert_allclose(back.shift_xyz_angstrom, before.shift_xyz_angstrom[row], atol=1e-9)
    np.testing.assert_array_equal(back.views.image_index, before.views.image_index[row])
    assert back.views.image_path == before.views.image_path


def test_particles_without_shifts_are_refused(made) -> None:
    with pytest.raises(MetadataError, match="cannot be re-centred"):
        whole_pixels(replace(made.particles, rotation=None, shift_xyz_angstrom=None))
