"""Radiation damage: how much signal is left after an exposure.

Grant & Grigorieff (2015), eLife 4, e06980: at 300 kV the exposure that lowers the amplitude at frequency
``k`` (1/Å) by a factor e^½ is ``Nc(k) = 0.245 k^-1.665 + 2.81`` e⁻/Å²; after ``N`` the amplitude is
``exp(-N / 2 Nc)``. Damage per electron grows as the inelastic cross-section, 1/β², which gives the factor 0.8
that the paper uses at 200 kV.
"""

import math

import torch

from parhelion.errors import MetadataError

REST_ENERGY_KEV = 510.99895


def critical_exposure(frequency: torch.Tensor, voltage_kv: float) -> torch.Tensor:
    """Critical exposure ``(k,)`` in e⁻/Å² at ``frequency`` ``(k,)`` in 1/Å; infinite at 0.

    Raises MetadataError where the voltage is not positive.
    """
    if not voltage_kv > 0.0:
        raise MetadataError(
            f"an acceleration voltage of {voltage_kv} kV is impossible; 60 to 400 kV is usual"
        )
    relative = _speed2(voltage_kv) / _speed2(300.0)
    return relative * (0.245 * frequency.double() ** -1.665 + 2.81)


def signal_left(
    frequency: torch.Tensor, dose_electrons_per_angstrom2: torch.Tensor, voltage_kv: float
) -> torch.Tensor:
    """Amplitude ``(n, k)`` float32, 1 to 0, left at ``frequency`` ``(k,)`` in 1/Å after doses ``(n,)``.

    Raises MetadataError where a dose is negative.
    """
    dose = dose_electrons_per_angstrom2.double()
    if bool((dose < 0).any()):
        raise MetadataError(
            f"a dose of {float(dose.min())} e⁻/Å² is negative; expected the dose since the first"
        )
    return torch.exp(-0.5 * torch.outer(dose, 1.0 / critical_exposure(frequency, voltage_kv))).float()


def dose_weights(
    frequency: torch.Tensor, dose_electrons_per_angstrom2: torch.Tensor, voltage_kv: float
) -> torch.Tensor:
    """Weights ``(n, k)`` float32 of ``n`` frames at ``frequency`` ``(k,)`` in 1/Å for their weighted sum.

    ``dose_electrons_per_angstrom2`` ``(n,)`` is what the sample had received at the end of each frame. The
    squares of the weights add up to the number of frames at each frequency, so that the noise power of the
    sum is that of a plain sum (Grant & Grigorieff 2015, eq. 9).
    """
    left = signal_left(frequency, dose_electrons_per_angstrom2, voltage_kv).double()
    return (left * torch.sqrt(len(left) / (left**2).sum(dim=0))).float()


def _speed2(voltage_kv: float) -> float:
    """(v/c)² of an electron."""
    gamma = 1.0 + voltage_kv / REST_ENERGY_KEV
    return 1.0 - 1.0 / math.pow(gamma, 2)
