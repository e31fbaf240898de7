"""Sharpening of a map: detector response, FSC weighting, B-factor from the Guinier plot."""

from dataclasses import dataclass

import numpy as np
import torch

from parhelion.fourier.fft import as_tensor, rfft3
from parhelion.fourier.grids import rfft_radius
from parhelion.fourier.shells import shell_index, shell_mean
from parhelion.optics.mtf import interpolate

LEAST_FIT_SHELLS = 4


@dataclass(frozen=True, kw_only=True)
class DetectorMtf:
    """Modulation transfer ``value`` at ``frequency_inverse_pixel`` (0 to 0.5, ascending) of a detector
    whose physical pixel is ``pixel_size_angstrom`` on the specimen."""

    frequency_inverse_pixel: np.ndarray
    value: np.ndarray
    pixel_size_angstrom: float


@dataclass(frozen=True, kw_only=True)
class GuinierFit:
    """Straight line through ln(amplitude) over 1/d²; ``bfactor_angstrom2`` is 4 · slope (negative: the map
    falls off and is to be sharpened)."""

    inverse_resolution_squared: np.ndarray
    log_amplitude: np.ndarray
    fitted: np.ndarray
    bfactor_angstrom2: float
    intercept: float
    correlation: float


def fsc_weight(curve: np.ndarray) -> np.ndarray:
    """``sqrt(2 FSC / (1 + FSC))`` ``(shells,)``: the expected correlation of the full map with the truth.

    Rosenthal & Henderson, J. Mol. Biol. 333, 721 (2003). 0 from the first shell without a positive FSC.
    """
    positive = np.clip(curve, 0.0, None)
    dead = np.flatnonzero(positive[1:] <= 0) + 1
    if len(dead):
        positive[dead[0] :] = 0.0
    weight = np.sqrt(2 * positive / (1 + positive))
    weight[0] = 1.0
    return weight


def shell_factors(shape: tuple[int, ...], factors: np.ndarray) -> torch.Tensor:
    """Half-layout envelope with these factors per shell ``(shells,)``; the corners get the last one."""
    index = shell_index(shape).clamp_max(len(factors) - 1)
    return torch.from_numpy(np.asarray(factors, np.float64))[index].to(torch.float32)


def mtf_correction(shape: tuple[int, ...], pixel_size_angstrom: float, mtf: DetectorMtf) -> torch.Tensor:
    """Envelope 1 / MTF of a map; raises MetadataError for a table that is not positive and ascending."""
    per_pixel = rfft_radius(shape, pixel_size_angstrom) * mtf.pixel_size_angstrom
    return 1 / interpolate(per_pixel, mtf.frequency_inverse_pixel, mtf.value)


def guinier_fit(
    data: np.ndarray, pixel_size_angstrom: float, low_angstrom: float, high_angstrom: float
) -> GuinierFit | None:
    """The B-factor of a cubic map from its mean amplitudes per shell between two resolutions (Å).

    None when fewer than four shells lie between them. Rosenthal & Henderson (2003).
    """
    shape = data.shape
    amplitude = shell_mean(rfft3(as_tensor(data)).abs(), shape).numpy()
    shells = np.arange(len(amplitude))
    frequency = shells / (shape[0] * pixel_size_angstrom)
    # A millionth of slack: a limit that names a shell's own resolution includes that shell.
    use = (
        (frequency >= (1 - 1e-6) / low_angstrom) & (frequency <= (1 + 1e-6) / high_angstrom) & (amplitude > 0)
    )
    if int(use.sum()) < LEAST_FIT_SHELLS:
        return None
    x, y = frequency[use] ** 2, np.log(amplitude[use])
    slope, intercept = np.polyfit(x, y, 1)
    return GuinierFit(
        inverse_resolution_squared=x,
        log_amplitude=y,
        fitted=slope * x + intercept,
        bfactor_angstrom2=float(4 * slope),
        intercept=float(intercept),
        correlation=float(np.corrcoef(x, y)[0, 1]),
    )
