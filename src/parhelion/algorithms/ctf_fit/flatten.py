"""The part of a spectrum that is fitted: an annulus, divided by its smooth rotational background."""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.interpolate import BSpline

from parhelion.algorithms.ctf_fit.settings import FitSettings
from parhelion.algorithms.ctf_fit.spectrum import Spectrum
from parhelion.errors import ParameterError

OUTLIER_SIGMA = 5.0
LEAST_BINS = 20
ICE_BANDS_ANGSTROM = ((3.60, 3.75), (2.20, 2.28))
"""Where crystalline ice has its strong rings; left out where a spectrum shows them."""
ICE_RATIO = 1.1
SPLINES_PER_ANNULUS = 5


@dataclass(frozen=True, kw_only=True)
class Annulus:
    """``k`` Fourier pixels of the upper half plane between two resolutions.

    ``kx``, ``ky`` and ``s`` are in 1/Å; ``power`` is relative to the background, minus 1, outliers clipped;
    ``step`` is the distance of two Fourier pixels in 1/Å, ``low`` and ``high`` the limits of ``s``.
    """

    kx: np.ndarray
    ky: np.ndarray
    s: np.ndarray
    power: np.ndarray
    step: float
    low: float
    high: float


@lru_cache(maxsize=8)
def half_plane(size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows, columns and radius in pixels of one half of the Fourier pixels, axes left out.

    The other half are their mates. The two axes of a spectrum carry the edges of the image.
    """
    y, x = np.indices((size, size)) - size // 2
    take = (y > 1) & (np.abs(x) > 1)
    rows, columns = np.nonzero(take)
    return rows, columns, np.hypot(rows - size // 2, columns - size // 2)


def splines(s: np.ndarray, low: float, high: float, intervals: int, degree: int = 3) -> np.ndarray:
    """B-splines ``(k, intervals + degree)`` with equal intervals from ``low`` to ``high``, at ``s``."""
    inner = np.linspace(low, high, intervals + 1)
    knots = np.concatenate([[low] * degree, inner, [high] * degree])
    inside = np.clip(s, low, high)
    return np.asarray(BSpline.design_matrix(inside, knots, degree).toarray())


def radial_mean(values: np.ndarray, radius: np.ndarray, bins: int) -> np.ndarray:
    """Mean ``(bins,)`` of ``values`` at each whole radius; empty bins take their neighbours' value."""
    index = np.minimum(np.rint(radius).astype(np.int64), bins - 1)
    count = np.bincount(index, minlength=bins)
    sums = np.bincount(index, weights=values, minlength=bins)
    filled = np.flatnonzero(count)
    return np.interp(np.arange(bins), filled, sums[filled] / count[filled])


def iciness(spectrum: Spectrum) -> float | None:
    """Amplitude in the 3.7 Å band over that on both sides; None where the spectrum does not reach 3.4 Å."""
    if spectrum.size < 64 or 2 * spectrum.pixel_size_angstrom > 3.3:
        return None
    rows, columns, radius = half_plane(spectrum.size)
    profile = radial_mean(spectrum.amplitude[rows, columns], radius, spectrum.size // 2)
    return _band_ratio(profile, spectrum, ICE_BANDS_ANGSTROM[0])


def _band_ratio(profile: np.ndarray, spectrum: Spectrum, band: tuple[float, float]) -> float:
    s = np.arange(len(profile)) * spectrum.step_per_angstrom
    low, high = 1 / band[1], 1 / band[0]
    width = high - low
    inside = (s >= low) & (s <= high)
    beside = (np.abs(s - (low - width)) < width / 2) | (np.abs(s - (high + width)) < width / 2)
    if not inside.any() or not beside.any():
        return 1.0
    return float(profile[inside].max() / profile[beside].mean())


def annulus(spectrum: Spectrum, settings: FitSettings) -> Annulus:
    """The flattened annulus of ``spectrum`` that the fit uses.

    Raises ParameterError where the resolution range leaves fewer than LEAST_BINS rings.
    """
    step = spectrum.step_per_angstrom
    low = 1.0 / settings.min_resolution_angstrom
    high = min(1.0 / settings.max_resolution_angstrom, (spectrum.size // 2 - 1) * step)
    if (high - low) / step < LEAST_BINS:
        raise ParameterError(
            f"{settings.min_resolution_angstrom:g} to {1 / high:.3g} Å are only "
            f"{max(0, math.floor((high - low) / step))} rings of a spectrum of {spectrum.size} pixels of "
            f"{spectrum.pixel_size_angstrom:.3g} Å, at least {LEAST_BINS} are needed: widen the resolution "
            f"range or enlarge the spectrum"
        )
    rows, columns, radius = half_plane(spectrum.size)
    s = radius * step
    take = (s >= low) & (s <= high)
    for band in ICE_BANDS_ANGSTROM:
        if 1 / band[1] < high:
            profile = radial_mean(spectrum.amplitude[rows, columns], radius, spectrum.size // 2)
            if _band_ratio(profile, spectrum, band) > ICE_RATIO:
                take &= (s < 1 / band[1]) | (s > 1 / band[0])
    rows, columns, radius, s = rows[take], columns[take], radius[take], s[take]
    power = spectrum.amplitude[rows, columns].astype(np.float64) ** 2
    return Annulus(
        kx=(columns - spectrum.size // 2) * step,
        ky=(rows - spectrum.size // 2) * step,
        s=s,
        power=_flattened(power, radius, s, low, high),
        step=step,
        low=low,
        high=high,
    )


def _flattened(power: np.ndarray, radius: np.ndarray, s: np.ndarray, low: float, high: float) -> np.ndarray:
    """Power over its smooth rotational mean, minus 1, clipped at OUTLIER_SIGMA of the robust spread."""
    first, last = math.floor(radius.min()), math.ceil(radius.max()) + 1
    profile = radial_mean(power, radius - first, last - first)
    centres = np.arange(first, last) * (s[0] / radius[0])
    basis = splines(centres, low, high, SPLINES_PER_ANNULUS)
    smooth, *_ = np.linalg.lstsq(basis, np.log(np.maximum(profile, profile.max() * 1e-9)), rcond=None)
    background = np.exp(np.interp(s, centres, basis @ smooth))
    relative = power / background
    index = np.clip(np.rint(radius).astype(np.int64) - first, 0, last - first - 1)
    away = relative - (profile / np.exp(basis @ smooth))[index]
    spread = 1.4826 * np.median(np.abs(away - np.median(away)))
    limit = OUTLIER_SIGMA * max(float(spread), 1e-6)
    return relative - away + np.clip(away, -limit, limit) - 1.0
