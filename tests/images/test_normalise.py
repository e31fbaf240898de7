"""Normalised backgrounds have mean 0 and variance 1; white and black protein are told apart."""

import mrcfile
import numpy as np
import pytest

from parhelion.errors import InputError, ParameterError
from parhelion.images.normalise import background_pixels, contrast_sign, normalise_background

BOX = 40


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:BOX, :BOX] - BOX // 2
    blob = 2.0 * np.exp(-(x**2 + y**2) / 50)
    return (rng.normal(7, 3, (6, BOX, BOX)) + blob + 0.2 * x - 0.1 * y).astype(np.float32)


def test_background_has_mean_0_and_variance_1_and_no_ramp(images):
    out = normalise_background(images, 15)
    outside = background_pixels(BOX, 15)
    np.testing.assert_allclose(out[:, outside].mean(1), 0, atol=1e-5)
    np.testing.assert_allclose(out[:, outside].std(1), 1, atol=1e-4)
    x = np.broadcast_to(np.arange(BOX) - BOX // 2, (BOX, BOX))[outside]
    assert np.abs(out[:, outside] @ x / (x**2).sum()).max() < 1e-5
    ramped = normalise_background(images, 15, ramp=False)
    assert np.abs(ramped[:, outside] @ x / (x**2).sum()).min() > 0.01


def test_dust_is_replaced_by_background(images):
    images[2, 5, 6], images[3, 20, 20] = 500, -400
    out = normalise_background(images, 15, dust_sigmas=6, generator=np.random.default_rng(1))
    assert np.abs(out).max() < 6
    with pytest.raises(ParameterError, match="generator"):
        normalise_background(images, 15, dust_sigmas=6)


def test_bad_images_are_named(images):
    images[4, 0, 0] = np.nan
    with pytest.raises(InputError, match="first image 5"):
        normalise_background(images, 15)
    images[4] = 3.0
    with pytest.raises(InputError, match=r"constant background.*first image 5"):
        normalise_background(images, 15)
    with pytest.raises(ParameterError, match="background radius"):
        normalise_background(images, 100)


def test_contrast_sign_of_white_and_black(images):
    assert contrast_sign(images).white
    black = contrast_sign(-images)
    assert not black.white
    assert black.confidence > 0.99


def test_noise_alone_gives_no_confidence():
    confidences = [
        contrast_sign(np.random.default_rng(s).normal(size=(50, BOX, BOX))).confidence for s in range(40)
    ]
    # under the null hypothesis the confidence is uniform between 0.5 and 1
    assert 0.65 < np.mean(confidences) < 0.85


@pytest.mark.parametrize("name", ["bgal_particles", "blob_particles"])
def test_white_stacks_of_other_programs_are_recognised(test_data, name):
    with mrcfile.mmap(test_data / name / "particles.mrcs") as stack:
        images = stack.data[:200].astype(np.float32)
    guess = contrast_sign(images)
    assert guess.white
    assert guess.confidence > 0.99
    assert not contrast_sign(-images).white
