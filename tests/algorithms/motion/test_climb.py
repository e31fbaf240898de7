"""Climbing: a known hill whose curvature is expected wrongly; statistics of a frame."""

import numpy as np
import pytest

from parhelion.algorithms.motion.climb import climb
from parhelion.algorithms.motion.pixels import statistics

COUNT = 12


@pytest.mark.parametrize("factor", [0.3, 1.0, 20.0])
def test_a_wrongly_expected_curvature_is_learnt(factor: float) -> None:
    """The top is found in few rounds although the expected curvature is off, differently along each axis."""
    rng = np.random.default_rng(3)
    basis = np.linalg.qr(rng.normal(size=(COUNT, COUNT)))[0]
    true = basis @ np.diag(np.geomspace(1.0, factor, COUNT)) @ basis.T
    top = rng.normal(0, 5, (COUNT, 2))

    def evaluate(at: np.ndarray) -> tuple[float, np.ndarray]:
        slope = -true @ (at - top)
        return 0.5 * float(((at - top) * slope).sum()), slope

    nothing = np.zeros((COUNT, COUNT))
    found, value, rounds = climb(
        evaluate, np.eye(COUNT), nothing, np.zeros((COUNT, 2)), 0.01, 30, centred=False
    )
    np.testing.assert_allclose(found, top, atol=0.05)
    assert value == pytest.approx(0.0, abs=0.02)
    assert rounds < 25


def test_a_prior_pulls() -> None:
    top = np.full((3, 2), 4.0)
    found, _, _ = climb(
        lambda at: (-0.5 * float(((at - top) ** 2).sum()), top - at),
        4 * np.eye(3),
        3 * np.eye(3),
        np.zeros((3, 2)),
        1e-3,
        20,
        centred=False,
    )
    np.testing.assert_allclose(found, 1.0, atol=1e-3)


def test_statistics_of_a_frame_far_from_zero() -> None:
    image = np.random.default_rng(0).normal(1000.0, 2.0, (130, 70)).astype(np.float32)
    mean, variance, least, greatest = statistics(image)
    exact = image.astype(np.float64)
    assert mean == pytest.approx(exact.mean(), abs=1e-4)
    assert variance == pytest.approx(exact.var(), rel=1e-4)
    assert (least, greatest) == (image.min(), image.max())
