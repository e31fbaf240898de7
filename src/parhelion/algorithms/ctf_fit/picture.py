"""The diagnostic picture: the filtered spectrum, the fitted CTF in its lower left quadrant, dashed zeros."""

import math

import numpy as np
from scipy.ndimage import gaussian_filter

from parhelion.algorithms.ctf_fit.flatten import radial_mean
from parhelion.algorithms.ctf_fit.phases import sine_and_cosine
from parhelion.algorithms.ctf_fit.settings import CtfFit, Optics
from parhelion.algorithms.ctf_fit.spectrum import Spectrum
from parhelion.optics.ctf import electron_wavelength_angstrom

SMOOTHING_PIXELS = 1.0
DASHES = 48
LEAST_RING_PIXELS = 5.0
"""Zeros closer together than this are not drawn: they would hide the rings."""
LIMIT = 3.0


def diagnostic_picture(spectrum: Spectrum, fit: CtfFit, optics: Optics) -> np.ndarray:
    """``(size, size)`` float32 in units of the spread on each ring, −LIMIT to LIMIT.

    The background of every ring is removed and its spread brought to 1. Rows and columns below the centre
    (lower left where the first row is at the bottom, as viewers of MRC files show it) hold the model CTF² out
    to the fit resolution. In the quadrant to the right of it dashed lines follow the zeros.
    """
    size, centre = spectrum.size, spectrum.size // 2
    y, x = np.indices((size, size)) - centre
    radius = np.hypot(y, x)
    smooth = gaussian_filter(spectrum.amplitude, SMOOTHING_PIXELS, truncate=3.0).astype(np.float64)
    picture = _levelled(smooth, radius, centre)
    step = spectrum.step_per_angstrom
    reach = 1.0 / (fit.fit_resolution_angstrom * step)
    model = _model(x * step, y * step, fit, optics)
    quadrant = (y < 0) & (x < 0)
    picture[quadrant] = np.where(radius <= reach, 2.0 * LIMIT * model - LIMIT, 0.0)[quadrant]
    zeros = _zeros(x * step, y * step, fit, optics) & (radius <= reach) & (y < 0) & (x > 0)
    dash = np.floor(np.arctan2(y, x) * (DASHES / math.pi)).astype(np.int64) % 2 == 0
    picture[zeros & dash] = LIMIT
    return np.clip(picture, -LIMIT, LIMIT).astype(np.float32)


def _levelled(values: np.ndarray, radius: np.ndarray, centre: int) -> np.ndarray:
    """Local mean of the rings removed, divided by the spread on them."""
    bins = centre
    mean = radial_mean(values.ravel(), radius.ravel(), bins)
    # over many rings, so that the rings themselves stay
    background = np.array([mean[max(1, at - 12) : at + 13].mean() for at in range(bins)])
    index = np.minimum(radius, bins - 1)
    away = values - np.interp(index, np.arange(bins), background)
    spread = np.sqrt(radial_mean((away**2).ravel(), radius.ravel(), bins))
    return away / np.maximum(np.interp(index, np.arange(bins), spread), 1e-12)


def _model(kx: np.ndarray, ky: np.ndarray, fit: CtfFit, optics: Optics) -> np.ndarray:
    half, twice = 0.5 * fit.astigmatism_angstrom, 2.0 * math.radians(fit.defocus_angle_deg)
    sine, _ = sine_and_cosine(
        kx.ravel(),
        ky.ravel(),
        np.array([fit.defocus_angstrom]),
        np.array([[half * math.cos(twice), half * math.sin(twice)]]),
        np.array([fit.phase_shift_deg]),
        optics,
        cosine=False,
    )
    return (sine[0].astype(np.float64) ** 2).reshape(kx.shape)


def _zeros(kx: np.ndarray, ky: np.ndarray, fit: CtfFit, optics: Optics) -> np.ndarray:
    """Pixels on a zero of the CTF: the whole number of half turns of its phase changes there."""
    wavelength = electron_wavelength_angstrom(optics.voltage_kv)
    s2 = kx**2 + ky**2
    half, twice = 0.5 * fit.astigmatism_angstrom, 2.0 * math.radians(fit.defocus_angle_deg)
    defocus = fit.defocus_angstrom * s2 + half * (
        math.cos(twice) * (kx**2 - ky**2) + math.sin(twice) * 2 * kx * ky
    )
    turns = wavelength * defocus - 0.5e7 * optics.spherical_aberration_mm * wavelength**3 * s2**2
    turns += math.asin(optics.amplitude_contrast) / math.pi + fit.phase_shift_deg / 180.0
    whole = np.floor(turns)
    changes = np.zeros(turns.shape, dtype=bool)
    changes[:-1] |= whole[1:] != whole[:-1]
    changes[:, :-1] |= whole[:, 1:] != whole[:, :-1]
    # half turns of the phase per Fourier pixel
    slope = np.abs(np.gradient(turns, axis=0)) + np.abs(np.gradient(turns, axis=1))
    return changes & (slope < 1.0 / LEAST_RING_PIXELS)
