"""Transforms of images off the grid, against the sum that defines them."""

import numpy as np
import pytest
import torch

from parhelion.errors import ParameterError
from parhelion.fourier.image_sampler import ImageSampler


@pytest.mark.parametrize("box", [24, 31])
def test_samples_are_the_sum_over_pixels(box: int) -> None:
    rng = np.random.default_rng(box)
    images = rng.standard_normal((3, box, box)).astype(np.float32)
    kx, ky = rng.uniform(-0.5, 0.5, (2, 40))
    y, x = np.indices((box, box)) - box // 2
    waves = np.exp(-2j * np.pi * (kx[:, None, None] * x + ky[:, None, None] * y))
    expected = np.einsum("nyx,kyx->nk", images, waves) / box
    found = ImageSampler(box, kx, ky)(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(found, expected, atol=3e-5 * np.abs(expected).max())


def test_frequencies_beyond_nyquist_are_refused() -> None:
    with pytest.raises(ParameterError, match="beyond"):
        ImageSampler(8, np.array([0.6]), np.array([0.0]))
