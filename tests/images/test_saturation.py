"""Micrographs that were cut at a greatest value are told from those that end there by themselves."""

import numpy as np
import pytest

from parhelion.images.saturation import saturation

NOISE = np.random.default_rng(1).normal(100, 10, (128, 128)).astype(np.float32)


@pytest.mark.parametrize(("limit", "share"), [(105, "31%"), (110, "15%"), (118, "3%")])
def test_a_cut_image_is_told(limit: float, share: str) -> None:
    said = saturation(np.minimum(NOISE, np.float32(limit)))
    assert said is not None and said.startswith(f"{share} of its pixels hold the highest value, {limit}:")


@pytest.mark.parametrize("mean", [0.02, 0.7, 20.0])
def test_sound_images_are_not(mean: float) -> None:
    assert saturation(np.random.default_rng(2).poisson(mean, (128, 128)).astype(np.float32)) is None
    assert saturation(NOISE) is None and saturation(np.ones((8, 8), np.float32)) is None
