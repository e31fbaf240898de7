"""Fourier points: one of each Friedel pair, sorted, and means over shells."""

import numpy as np
import pytest
import torch

from parhelion.engine.points import FourierPoints


@pytest.mark.parametrize(("box", "shell"), [(16, 6), (17, 7), (64, 30)])
def test_every_friedel_pair_within_the_limit_is_there_once(box, shell) -> None:
    points = FourierPoints(box, shell)
    pairs = {tuple(max((x, y), (-x, -y))) for x, y in zip(points.kx.tolist(), points.ky.tolist())}
    axis = np.arange(-shell, shell + 1)
    kx, ky = np.meshgrid(axis, axis)
    disc = (np.hypot(kx, ky) < shell + 0.5) & ((kx != 0) | (ky != 0))
    assert len(pairs) == len(points) == disc.sum() // 2
    assert not ((points.kx == 0) & (points.ky <= 0)).any()


def test_a_lower_limit_is_a_prefix() -> None:
    points = FourierPoints(32, 14)
    assert (np.diff(points.radius) >= 0).all()
    for limit in (1, 4.5, 14):
        count = points.count(limit)
        assert (points.radius[:count] <= limit).all()
        assert (points.radius[count:] > limit).all()
    assert points.count(14.5) == len(points)


def test_shell_means_of_shell_numbers_are_the_numbers() -> None:
    points = FourierPoints(32, 10)
    values = points.shell.float().expand(3, 2, -1)
    means = points.shell_mean(values)
    assert means.shape == (3, 2, 11)
    torch.testing.assert_close(means[1, 1, 1:], torch.arange(1.0, 11.0, dtype=torch.float64))
    assert means[0, 0, 0] == 0
    part = points.shell_mean(values[..., : points.count(4)])
    assert part[0, 0, 4] == 4
    assert part[0, 0, 6] == 0
