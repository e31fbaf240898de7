"""Figures of merit per shell: signal-to-noise ratios, and the FSC of the particle without its solvent.

The mask around a particle holds solvent as well, whose noise lowers the correlation. With the particle
filling the fraction ``f`` of the mask's volume, the correlation of the particle alone is FSC / (f + (1 − f)
|FSC|) (Sindelar & Grigorieff 2012, J. Struct. Biol. 180, 26; the form is that of cisTEM).
"""

from dataclasses import dataclass

import numpy as np
from scipy.signal import savgol_filter

from parhelion.errors import ParameterError

DALTON_PER_ANGSTROM3 = 0.81
SMOOTHING_SHELLS, SMOOTHING_ORDER = 11, 3
LARGEST_FSC = 0.9999


@dataclass(frozen=True, kw_only=True)
class ShellStatistics:
    """Curves ``(shells,)`` from shell 0 on: resolution in Å, FSC, that of the particle, and what they say
    about the signal-to-noise ratio (power) of the map (``rec_ssnr``) and of the particle in it
    (``part_ssnr``)."""

    resolution_angstrom: np.ndarray
    fsc: np.ndarray
    part_fsc: np.ndarray
    part_ssnr: np.ndarray
    rec_ssnr: np.ndarray


def particle_volume_angstrom3(mass_kda: float) -> float:
    """Volume of a protein of this mass, at 0.81 Da/Å³. Raises ParameterError."""
    if not mass_kda > 0:
        raise ParameterError(f"a molecular mass is positive, found {mass_kda} kDa")
    return 1000.0 * mass_kda / DALTON_PER_ANGSTROM3


def particle_fsc(fsc: np.ndarray, fraction: float) -> np.ndarray:
    """FSC ``(shells,)`` of the particle alone, which fills ``fraction`` (0 … 1) of the mask's volume.

    Raises ParameterError for another fraction.
    """
    if not 0 < fraction <= 1:
        raise ParameterError(
            f"the particle fills {100 * fraction:.0f} % of the mask; its mass is too large for the mask, or "
            "not positive"
        )
    return np.asarray(fsc / (fraction + (1 - fraction) * np.abs(fsc)))


def ssnr_of_fsc(fsc: np.ndarray) -> np.ndarray:
    """Signal-to-noise power ratio of the average of two half maps, ``2 FSC / (1 − FSC)``, at least 0."""
    clipped = np.clip(fsc, 0.0, LARGEST_FSC)
    return np.asarray(2 * clipped / (1 - clipped))


def smoothed(curve: np.ndarray) -> np.ndarray:
    """A curve per shell after a Savitzky–Golay filter of 11 shells and third order; short ones as they
    are."""
    if len(curve) < SMOOTHING_SHELLS:
        return np.asarray(curve)
    return np.asarray(savgol_filter(curve, SMOOTHING_SHELLS, SMOOTHING_ORDER))


def shell_statistics(
    fsc: np.ndarray, resolution_angstrom: np.ndarray, fraction: float = 1.0, *, smooth: bool = False
) -> ShellStatistics:
    """All curves of an FSC ``(shells,)``; ``fraction`` as in particle_fsc."""
    whole = smoothed(fsc) if smooth else np.asarray(fsc)
    part = particle_fsc(whole, fraction)
    return ShellStatistics(
        resolution_angstrom=resolution_angstrom,
        fsc=whole,
        part_fsc=part,
        part_ssnr=ssnr_of_fsc(part),
        rec_ssnr=ssnr_of_fsc(whole),
    )


def default_ssnr(mass_kda: float, resolution_angstrom: np.ndarray) -> np.ndarray:
    """What a particle of this mass is expected to have per shell where nothing was measured.

    cisTEM's ``M^1.5 / 2200 · (800 exp(−3.5 D/d) + exp(−25/d))``, read with ``D`` the diameter (Å) of a
    compact sphere of the mass ``M`` (kDa) and ``d`` the resolution (Å).
    """
    diameter = (6 * particle_volume_angstrom3(mass_kda) / np.pi) ** (1 / 3)
    frequency = 1 / np.asarray(resolution_angstrom, dtype=np.float64)
    shape = 800 * np.exp(-3.5 * diameter * frequency) + np.exp(-25 * frequency)
    return np.asarray(mass_kda**1.5 / 2200 * shape)


def figure_of_merit(ssnr: np.ndarray, scale: float = 1.0) -> np.ndarray:
    """``SSNR / (1 + SSNR)`` with the SSNR multiplied by ``scale``; 1 in shell 0."""
    scaled = scale * np.asarray(ssnr, dtype=np.float64)
    weight = np.where(np.isfinite(scaled), scaled / (1 + np.where(np.isfinite(scaled), scaled, 0.0)), 1.0)
    weight[0] = 1.0
    return weight
