"""How far a fitted CTF describes a spectrum: average along equal phase, its agreement with the fit.

The criteria are CTFFIND4's (Rohou & Grigorieff 2015, J. Struct. Biol. 192, 216): the average over lines of
equal phase is correlated with |CTF| in windows that slide along frequency, and the fit ends where that
correlation falls below 0.1, or below 0.5 after it was high.
"""

import math

import numpy as np

from parhelion.algorithms.ctf_fit.flatten import half_plane, radial_mean
from parhelion.algorithms.ctf_fit.phases import ring_rate, sine_and_cosine, thickness_factor
from parhelion.algorithms.ctf_fit.refine import Refined
from parhelion.algorithms.ctf_fit.settings import Curves, FitSettings, Optics
from parhelion.algorithms.ctf_fit.spectrum import Spectrum
from parhelion.optics.ctf import electron_wavelength_angstrom

WINDOW_FRACTION = 1 / 40
LOW, MIDDLE, HIGH = 0.1, 0.5, 0.66
"""Correlations at which a fit is lost, doubtful and good."""
NODE_SHARE = 0.1
"""Nodes are where the thickness leaves less than this share of the rings."""
LEAST_BINS_BETWEEN_ZEROS = 2.0


def equal_phase_radius(kx: np.ndarray, ky: np.ndarray, found: Refined, optics: Optics) -> np.ndarray:
    """The frequency in 1/Å at which the CTF without astigmatism has the phase of this one at ``kx, ky``.

    From ``Δf s² − ½ Cs λ² s⁴`` by solving a quadratic in s²; the frequency itself where Cs leaves none.
    """
    s2 = kx**2 + ky**2
    wavelength = electron_wavelength_angstrom(optics.voltage_kv)
    half_cs = 0.5e7 * optics.spherical_aberration_mm * wavelength**2
    along, across = found.astigmatism
    path = found.defocus * s2 + along * (kx**2 - ky**2) + across * 2 * kx * ky - half_cs * s2**2
    root = found.defocus**2 - 4.0 * half_cs * path
    solved = 2.0 * path / (found.defocus + np.sqrt(np.maximum(root, 0.0))) if found.defocus > 0 else s2
    # beyond the frequency where Cs wins over defocus, and far from the circle, there is no such radius
    usable = (root > 0) & (solved > 0.25 * s2) & (solved < 4.0 * s2)
    return np.sqrt(np.where(usable, solved, s2))


def curves(
    spectrum: Spectrum,
    found: Refined,
    optics: Optics,
    settings: FitSettings,
    thickness_angstrom: float = 0.0,
) -> Curves:
    """The one-dimensional curves of a fit, from zero frequency to the edge of the spectrum.

    With a thickness the fit's rings fade and return reversed beyond the nodes that it makes.
    """
    bins = spectrum.size // 2
    step = spectrum.step_per_angstrom
    s = np.arange(bins) * step
    rows, columns, radius = half_plane(spectrum.size)
    inside = radius < bins - 0.5
    amplitude = spectrum.amplitude[rows[inside], columns[inside]].astype(np.float64)
    average = radial_mean(amplitude, radius[inside], bins)
    experiment = equal_phase_mean(spectrum, found, optics)
    sine, _ = sine_and_cosine(
        s,
        np.zeros_like(s),
        np.array([found.defocus]),
        np.zeros((1, 2)),
        np.array([found.phase_shift_deg]),
        optics,
        cosine=False,
    )
    nodes = thickness_factor(s, thickness_angstrom, optics)
    fit = np.sqrt(0.5 * (1.0 - nodes) + nodes * sine[0].astype(np.float64) ** 2)
    rate = ring_rate(s, found.defocus, optics) * step
    first = max(2, round(step**-1 / settings.min_resolution_angstrom))
    scaled = _scaled(experiment, fit, rate, first)
    quality, noise = _sliding_correlation(scaled, fit, rate, first)
    return Curves(
        frequency_per_angstrom=s,
        average=average,
        experiment=scaled,
        fit=fit,
        quality=quality,
        noise=noise,
    )


def equal_phase_mean(spectrum: Spectrum, found: Refined, optics: Optics) -> np.ndarray:
    """Mean amplitude ``(size // 2,)`` along lines of equal phase, by the frequency that has it without
    astigmatism (Zhang 2016, J. Struct. Biol. 193, 1).
    """
    rows, columns, radius = half_plane(spectrum.size)
    bins, step = spectrum.size // 2, spectrum.step_per_angstrom
    inside = radius < bins - 0.5
    rows, columns = rows[inside], columns[inside]
    amplitude = spectrum.amplitude[rows, columns].astype(np.float64)
    kx, ky = (columns - spectrum.size // 2) * step, (rows - spectrum.size // 2) * step
    return _interpolated_mean(amplitude, equal_phase_radius(kx, ky, found, optics) / step, bins)


def _interpolated_mean(values: np.ndarray, position: np.ndarray, bins: int) -> np.ndarray:
    """Mean ``(bins,)`` of values at fractional bins, each shared between its two neighbours."""
    position = np.minimum(position, bins - 1.001)
    low = position.astype(np.int64)
    part = position - low
    sums = np.bincount(low, values * (1 - part), bins) + np.bincount(low + 1, values * part, bins)
    weight = np.bincount(low, 1 - part, bins) + np.bincount(low + 1, part, bins)
    filled = np.flatnonzero(weight > 0)
    return np.interp(np.arange(bins), filled, sums[filled] / weight[filled])


def _windows(rate: np.ndarray) -> np.ndarray:
    """Half widths ``(bins,)`` of sliding windows: at least one ring on each side."""
    least = max(4, math.ceil(WINDOW_FRACTION * len(rate) * math.sqrt(2)))
    ring = np.minimum(1.0 / np.maximum(rate, 1e-6), len(rate) / 6)
    return np.maximum(least, np.ceil(ring)).astype(np.int64)


def _between(values: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Sums of ``values[low:high]`` for every window."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    return np.asarray(total[high] - total[low])


def _limits(rate: np.ndarray, first: int) -> tuple[np.ndarray, np.ndarray]:
    """First and one past the last bin of the window about every bin from ``first`` on."""
    half = _windows(rate)[first:]
    at = np.arange(first, len(rate))
    return np.maximum(first, at - half), np.minimum(len(rate), at + half + 1)


def _scaled(experiment: np.ndarray, fit: np.ndarray, rate: np.ndarray, first: int) -> np.ndarray:
    """The experimental curve, its local trend and spread brought to those of the fit; 0 below ``first``."""
    low, high = _limits(rate, first)
    n = (high - low).astype(np.float64)
    x, y = np.arange(len(fit), dtype=np.float64), experiment - experiment[first:].mean()
    mean_x, mean_y = _between(x, low, high) / n, _between(y, low, high) / n
    xx = _between(x * x, low, high) / n - mean_x**2
    xy = _between(x * y, low, high) / n - mean_x * mean_y
    slope = xy / np.maximum(xx, 1e-12)
    spread = np.sqrt(np.maximum(_between(y * y, low, high) / n - mean_y**2 - slope * xy, 0.0))
    mean_fit = _between(fit, low, high) / n
    spread_fit = np.sqrt(np.maximum(_between(fit * fit, low, high) / n - mean_fit**2, 0.0))
    away = y[first:] - mean_y - slope * (x[first:] - mean_x)
    scaled = np.zeros_like(experiment)
    scaled[first:] = mean_fit + away * spread_fit / np.maximum(spread, 1e-12)
    return np.clip(scaled, -0.5, 1.5)


def _sliding_correlation(
    experiment: np.ndarray, fit: np.ndarray, rate: np.ndarray, first: int
) -> tuple[np.ndarray, np.ndarray]:
    """Correlation of both curves in sliding windows, and twice its standard deviation for noise."""
    low, high = _limits(rate, first)
    n = (high - low).astype(np.float64)
    mean_a, mean_b = _between(experiment, low, high) / n, _between(fit, low, high) / n
    ab = _between(experiment * fit, low, high) / n - mean_a * mean_b
    aa = _between(experiment**2, low, high) / n - mean_a**2
    bb = _between(fit**2, low, high) / n - mean_b**2
    quality, noise = np.ones_like(fit), np.zeros_like(fit)
    quality[first:] = ab / np.sqrt(np.maximum(aa * bb, 1e-24))
    quality[:first] = quality[first]
    noise[first:] = 2.0 / np.sqrt(n)
    noise[:first] = noise[first]
    return quality, noise


def fit_resolution_angstrom(
    found: Curves, settings: FitSettings, optics: Optics, thickness_angstrom: float = 0.0
) -> float:
    """Spacing up to which rings agree with the fit; the lower limit of the fit where none do.

    About the nodes of a thick specimen there are no rings to agree: they are passed over.
    """
    s = found.frequency_per_angstrom
    first = max(2, int(np.searchsorted(s, 1.0 / settings.min_resolution_angstrom)))
    above = dict.fromkeys((LOW, MIDDLE, HIGH), 0)
    last = len(s) - 1
    node = np.abs(thickness_factor(s, thickness_angstrom, optics)) < NODE_SHARE
    # the window of a bin next to a node reaches into it
    node = np.convolve(node, np.ones(2 * _windows(np.full(len(s), np.inf))[0] + 1), mode="same") > 0
    for at in range(first, len(s)):
        if node[at]:
            continue
        value = found.quality[at]
        if (above[LOW] > 3 and value < LOW) or (above[HIGH] > 3 and value < MIDDLE):
            last = at
            break
        for limit in above:
            above[limit] += int(value > limit)
    if above[MIDDLE] == 0:
        return settings.min_resolution_angstrom
    return float(1.0 / s[last])


def alias_resolution_angstrom(spectrum: Spectrum, found: Refined, optics: Optics) -> float | None:
    """Spacing from which on zeros lie within LEAST_BINS_BETWEEN_ZEROS Fourier pixels; None for nowhere."""
    s = np.arange(1, spectrum.size // 2) * spectrum.step_per_angstrom
    dense = ring_rate(s, found.defocus, optics) * spectrum.step_per_angstrom > 1 / LEAST_BINS_BETWEEN_ZEROS
    return float(1.0 / s[np.argmax(dense)]) if dense.any() else None
