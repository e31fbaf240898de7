"""Radiation damage and the detector's transfer function."""

import numpy as np
import pytest
import torch

from parhelion.errors import MetadataError
from parhelion.optics.dose import critical_exposure, dose_weights, signal_left
from parhelion.optics.mtf import interpolate


def test_critical_exposure_of_the_paper() -> None:
    k = torch.tensor([0.0, 0.05, 1 / 3])
    found = critical_exposure(k, 300.0)
    assert torch.isinf(found[0])
    assert float(found[1]) == pytest.approx(0.245 * 0.05**-1.665 + 2.81, rel=1e-6)
    # Grant & Grigorieff lower it by a fifth at 200 kV
    assert float(critical_exposure(k, 200.0)[2] / found[2]) == pytest.approx(0.8, abs=0.005)


def test_signal_falls_with_dose_and_frequency() -> None:
    k = torch.linspace(0, 0.4, 20)
    left = signal_left(k, torch.tensor([0.0, 10.0, 50.0]), 300.0)
    assert left.shape == (3, 20)
    assert (left[0] == 1).all()
    assert (left[:, 0] == 1).all()
    assert (left[2, 1:] < left[1, 1:]).all()
    assert (left[1].diff() < 0).all()
    at = torch.tensor([0.2])
    exposure = critical_exposure(at, 300.0).float()
    assert float(signal_left(at, 2 * exposure, 300.0)) == pytest.approx(np.exp(-1), rel=1e-6)


def test_weights_keep_the_noise_power() -> None:
    k = torch.linspace(0.01, 0.5, 30)
    weights = dose_weights(k, torch.arange(1.0, 41.0), 300.0)
    torch.testing.assert_close((weights**2).sum(dim=0), torch.full((30,), 40.0))
    torch.testing.assert_close(weights[:, :1].mean(), torch.tensor(1.0), rtol=0, atol=0.02)


def test_impossible_doses_are_refused() -> None:
    with pytest.raises(MetadataError, match="negative"):
        signal_left(torch.tensor([0.1]), torch.tensor([-1.0]), 300.0)
    with pytest.raises(MetadataError, match="voltage"):
        dose_weights(torch.tensor([0.1]), torch.tensor([1.0]), -300.0)


def test_mtf_is_linear_between_rows_and_constant_beyond() -> None:
    found = interpolate(torch.tensor([0.0, 0.05, 0.25, 0.9]), np.array([0.1, 0.5]), np.array([1.0, 0.2]))
    torch.testing.assert_close(found, torch.tensor([1.0, 1.0, 0.7, 0.2]))


@pytest.mark.parametrize(
    ("frequency", "value", "message"),
    [
        ([], [], "as many"),
        ([0.1, 0.2], [1.0], "as many"),
        ([0.2, 0.1], [1.0, 0.5], "increase"),
        ([0.1, 0.2], [1.0, 0.0], "row 2"),
        ([0.1, 0.2], [np.nan, 0.5], "row 1"),
    ],
)
def test_bad_mtf_tables_are_refused(frequency: list[float], value: list[float], message: str) -> None:
    with pytest.raises(MetadataError, match=message):
        interpolate(torch.zeros(1), np.array(frequency), np.array(value))
