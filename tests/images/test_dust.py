"""Dust is replaced by background, nothing else is touched."""

import numpy as np

from parhelion.images.dust import remove_dust
from parhelion.images.normalise import background_pixels


def noisy():
    return np.random.default_rng(3).normal(10, 2, (4, 64, 64)).astype(np.float32)


def clean(images, white, black):
    return remove_dust(
        images,
        background_pixels(64, 24),
        white_sigmas=white,
        black_sigmas=black,
        generator=np.random.default_rng(1),
    )


def test_only_what_is_asked_for_is_replaced() -> None:
    images = noisy()
    images[1, 30, 30], images[1, 5, 6] = 500, -500
    both, count = clean(images, 6, 6)
    assert count == 2
    assert abs(both[1, 30, 30] - 10) < 8
    assert abs(both[1, 5, 6] - 10) < 8
    untouched = np.ones(images.shape, bool)
    untouched[1, [30, 5], [30, 6]] = False
    np.testing.assert_array_equal(both[untouched], images[untouched])
    white, count = clean(images, 6, None)
    assert count == 1
    assert white[1, 5, 6] == -500
    black, count = clean(images, None, 6)
    assert count == 1
    assert black[1, 30, 30] == 500


def test_a_large_patch_of_dust_does_not_hide_itself() -> None:
    images = noisy()
    images[2, :3, 0] = 1e6
    found, count = clean(images, 6, None)
    assert count == 3
    assert found.max() < 30


def test_the_same_seed_gives_the_same_noise() -> None:
    images = noisy()
    images[0, 1, 1] = 900
    np.testing.assert_array_equal(clean(images, 6, 6)[0], clean(images, 6, 6)[0])
