"""The transform between grid points equals the direct sum."""

import numpy as np
import pytest

from parhelion.errors import ParameterError
from parhelion.fourier.nufft import FourierSampler


@pytest.mark.parametrize("n", [12, 13])
@pytest.mark.parametrize(("width", "tolerance"), [(6, 2e-4), (4, 1e-2)])
def test_agrees_with_the_direct_sum(n, width, tolerance):
    rng = np.random.default_rng(0)
    volume = rng.normal(size=(n, n, n)).astype(np.float32)
    k = np.concatenate([rng.uniform(-0.5, 0.5, (300, 3)), [[0, 0, 0], [0.5, 0.5, 0.5], [-0.5, 0.1, -0.5]]])
    centred = np.arange(n) - n // 2
    ramp = [np.exp(-2j * np.pi * np.outer(k[:, axis], centred)) for axis in range(3)]
    expected = np.einsum("zyx,pz,py,px->p", volume, ramp[2], ramp[1], ramp[0])
    found = FourierSampler(volume, width).at(k)
    assert np.abs(found - expected).max() < tolerance * np.abs(expected).std()


def test_a_volume_that_is_not_cubic_is_refused():
    with pytest.raises(ParameterError, match="cubic"):
        FourierSampler(np.zeros((4, 4, 6), np.float32))


def test_there_is_nothing_beyond_nyquist() -> None:
    sampler = FourierSampler(np.zeros((8, 8, 8), np.float32))
    with pytest.raises(ParameterError, match=r"up to 0\.5 cycles"):
        sampler.at(np.array([[0.0, 0.6, 0.0]]))
    with pytest.raises(ParameterError, match=r"up to 0\.5 cycles"):
        sampler.at(np.array([[0.0, np.nan, 0.0]]))
