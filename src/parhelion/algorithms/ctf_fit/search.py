"""Where the best fits may lie: every defocus, phase shift and astigmatism of a grid, by matrix products.

The annulus is averaged in sectors of 5°. Along one sector the CTF depends on one defocus, so one product of
``(sectors, bins)`` profiles with ``(bins, defoci)`` models scores all of them; an astigmatic CTF is a sum of
these scores along a cosine in the (sector, defocus) plane. What a smooth background can describe is projected
out, so that neither a wrong background nor a slow model can win by it.
"""

import math
from dataclasses import dataclass

import numpy as np

from parhelion.algorithms.ctf_fit.flatten import SPLINES_PER_ANNULUS, Annulus, splines
from parhelion.algorithms.ctf_fit.linear import product
from parhelion.algorithms.ctf_fit.phases import attenuation, ring_rate, sine_and_cosine
from parhelion.algorithms.ctf_fit.settings import FitSettings, Optics

SECTORS = 36
BINS_PER_PIXEL = 2
DECAYS_ANGSTROM2 = (50.0, 200.0)
"""Envelopes exp(-B s²/2) of the rings that are tried; the refinement fits a free one."""
HALF_ASTIGMATISM_ANGSTROM = 800.0
HALF_ASTIGMATISM_EXHAUSTIVE_ANGSTROM = 5000.0
CANDIDATES, CANDIDATES_EXHAUSTIVE = 5, 10
LEAST_SHARE = 0.03
"""Added to the squared sum of a model, as a share of what it was with its smooth part: one that is nearly all
smooth would otherwise be judged by how the background departs from a spline."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A starting point: mean defocus in Å, half of U − V times cosine and sine of twice the angle.

    ``gain`` is half the fall of the squared residuals in units of the noise: a log-likelihood ratio.
    """

    defocus: float
    astigmatism: tuple[float, float]
    phase_shift_deg: float
    gain: float


@dataclass(frozen=True, kw_only=True)
class Profiles:
    """Mean power and number of pixels ``(SECTORS, bins)`` per sector and radius, variance of one pixel."""

    s: np.ndarray
    power: np.ndarray
    weight: np.ndarray
    noise_variance: float


def phase_shifts(settings: FitSettings) -> np.ndarray:
    """The phase shifts in degrees that are tried, both ends included."""
    if settings.phase_shift_range_deg is None:
        return np.zeros(1)
    low, high = settings.phase_shift_range_deg
    return np.linspace(low, high, 1 + math.ceil((high - low) / settings.phase_shift_step_deg - 1e-9))


def sector_profiles(ring: Annulus) -> Profiles:
    """Averages of the annulus over sectors of 180° / SECTORS."""
    width = ring.step / BINS_PER_PIXEL
    bins = 1 + int((ring.high - ring.low) / width)
    radius = np.minimum(((ring.s - ring.low) / width).astype(np.int64), bins - 1)
    angle = np.arctan2(ring.ky, ring.kx)
    sector = np.minimum((angle * (SECTORS / np.pi)).astype(np.int64), SECTORS - 1)
    index = sector * bins + radius
    count = np.bincount(index, minlength=SECTORS * bins).reshape(SECTORS, bins)
    sums = np.bincount(index, weights=ring.power, minlength=SECTORS * bins).reshape(SECTORS, bins)
    power = sums / np.maximum(count, 1)
    spread = np.bincount(index, weights=ring.power**2, minlength=SECTORS * bins).reshape(SECTORS, bins)
    free = np.maximum(count - 1, 0).sum()
    variance = float((spread - count * power**2).sum() / max(free, 1))
    s = ring.low + (np.arange(bins) + 0.5) * width
    return Profiles(s=s, power=power, weight=count.astype(np.float64), noise_variance=max(variance, 1e-12))


def search(ring: Annulus, optics: Optics, settings: FitSettings) -> list[Candidate]:
    """The best starting points, best first, distinct in defocus or phase shift."""
    profiles = sector_profiles(ring)
    reach = reach_of(settings)
    step = settings.defocus_step_angstrom
    low, high = settings.defocus_range_angstrom
    margin = math.ceil(reach / step)
    count = 1 + math.ceil((high - low) / step - 1e-9)
    defoci = low + step * np.arange(-margin, count + margin)
    shifts = phase_shifts(settings)
    best: list[Candidate] = []
    for decay in DECAYS_ANGSTROM2:
        models = ring_models(profiles, defoci, shifts, decay, ring, optics)
        cross = models.cross(profiles.power)
        best += _best_of_grid(cross, models.norm, margin, defoci, shifts, profiles.noise_variance, settings)
    best.sort(key=lambda candidate: -candidate.gain)
    return _distinct(best, settings)


def reach_of(settings: FitSettings) -> float:
    """The largest half difference of U and V on the grid."""
    if settings.known_astigmatism is not None:
        return 0.5 * abs(settings.known_astigmatism[0])
    return HALF_ASTIGMATISM_EXHAUSTIVE_ANGSTROM if settings.exhaustive else HALF_ASTIGMATISM_ANGSTROM


@dataclass(frozen=True, kw_only=True)
class Models:
    """What profiles are compared with: ``values`` ``(bins, shifts · defoci)`` without their smooth part,
    weighted by ``root`` ``(bins,)`` of the pixel count; ``norm`` ``(shifts, defoci)`` are their squared sums.
    """

    values: np.ndarray
    root: np.ndarray
    norm: np.ndarray

    def cross(self, power: np.ndarray) -> np.ndarray:
        """Products of profiles ``(n, bins)`` with every model, ``(n, shifts, defoci)``."""
        # models without their smooth part need no profiles without it
        return product(self.root * power, self.values).reshape(len(power), *self.norm.shape)


def ring_models(
    profiles: Profiles,
    defoci: np.ndarray,
    shifts: np.ndarray,
    decay: float,
    ring: Annulus,
    optics: Optics,
) -> Models:
    """The rings of every defocus (Å) and phase shift (degrees) at the radii of the profiles."""
    s = profiles.s
    grid = np.tile(defoci, len(shifts))
    shift = np.repeat(shifts, len(defoci))
    sine, _ = sine_and_cosine(
        s, np.zeros_like(s), grid, np.zeros((len(grid), 2)), shift, optics, cosine=False
    )
    rate = ring_rate(s, defoci[:, None], optics) * ring.step
    seen = np.tile(attenuation(rate) * np.exp(-0.5 * decay * s**2), (len(shifts), 1))
    # (1 - cos 2χ)/2 averages to (1 - seen · cos 2χ)/2 over a bin; its constant goes with the background
    values = (seen * (sine.astype(np.float64) ** 2 - 0.5)).T
    # sectors differ little in how many pixels a bin has: the mean count serves for all
    root = np.sqrt(profiles.weight.mean(axis=0))
    smooth, _ = np.linalg.qr(root[:, None] * splines(s, ring.low, ring.high, SPLINES_PER_ANNULUS))
    values = root[:, None] * values
    whole = np.einsum("ij,ij->j", values, values)
    values -= product(smooth, product(smooth.T, values))
    norm = np.einsum("ij,ij->j", values, values) + LEAST_SHARE * whole
    return Models(values=values, root=root, norm=norm.reshape(len(shifts), len(defoci)))


def _astigmatisms(settings: FitSettings) -> list[tuple[float, float]]:
    """Half differences (cosine and sine part) on the grid, none first."""
    if settings.known_astigmatism is not None:
        amount, angle = settings.known_astigmatism
        twice = 2.0 * math.radians(angle)
        return [(0.5 * amount * math.cos(twice), 0.5 * amount * math.sin(twice))]
    step = max(settings.defocus_step_angstrom, 100.0)
    found = [(0.0, 0.0)]
    for half in np.arange(step, reach_of(settings) + 0.5 * step, step):
        count = min(36, max(6, math.ceil(2 * math.pi * half / (2 * step))))
        for twice in 2 * math.pi * np.arange(count) / count:
            found.append((half * math.cos(twice), half * math.sin(twice)))
    return found


def sector_offsets(along: float, across: float, step: float) -> np.ndarray:
    """By how many steps the defocus of each sector lies above the mean, whole numbers ``(SECTORS,)``."""
    twice = 2.0 * np.pi * (np.arange(SECTORS) + 0.5) / SECTORS
    return np.rint((along * np.cos(twice) + across * np.sin(twice)) / step).astype(np.int64)


def _best_of_grid(
    cross: np.ndarray,
    norm: np.ndarray,
    margin: int,
    defoci: np.ndarray,
    shifts: np.ndarray,
    variance: float,
    settings: FitSettings,
) -> list[Candidate]:
    """For every defocus and phase shift, the best astigmatism."""
    step = settings.defocus_step_angstrom
    count = len(defoci) - 2 * margin
    prior = settings.astigmatism_tolerance_angstrom
    gain = np.full((len(shifts), count), -np.inf)
    choice = np.zeros((len(shifts), count), dtype=np.int64)
    options = _astigmatisms(settings)
    for number, (along, across) in enumerate(options):
        offset = sector_offsets(along, across, step)
        top = np.zeros((len(shifts), count))
        for sector, first in enumerate(margin + offset):
            top += cross[sector, :, first : first + count]
        bottom = np.zeros_like(top)
        for first, sectors in zip(*np.unique(margin + offset, return_counts=True), strict=True):
            bottom += sectors * norm[:, first : first + count]
        value = 0.5 * np.maximum(top, 0.0) ** 2 / (bottom * variance)
        if prior is not None and settings.known_astigmatism is None:
            value = value - 0.5 * (2.0 * math.hypot(along, across) / prior) ** 2
        better = value > gain
        gain[better], choice[better] = value[better], number
    wanted = 4 * (CANDIDATES_EXHAUSTIVE if settings.exhaustive else CANDIDATES)
    order = [i for i in np.argsort(gain, axis=None)[::-1] if _is_peak(gain, int(i))][:wanted]
    return [
        Candidate(
            defocus=float(defoci[margin + i % count]),
            astigmatism=options[int(choice.flat[i])],
            phase_shift_deg=float(shifts[i // count]),
            gain=float(gain.flat[i]),
        )
        for i in order
    ]


def _is_peak(gain: np.ndarray, index: int) -> bool:
    row, column = divmod(index, gain.shape[1])
    around = gain[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2]
    return bool(gain[row, column] >= around.max())


def _distinct(sorted_candidates: list[Candidate], settings: FitSettings) -> list[Candidate]:
    """The best candidates, none within two defocus steps (and two phase steps) of a better one."""
    wanted = CANDIDATES_EXHAUSTIVE if settings.exhaustive else CANDIDATES
    kept: list[Candidate] = []
    for candidate in sorted_candidates:
        near = any(
            abs(candidate.defocus - other.defocus) <= 2 * settings.defocus_step_angstrom
            and abs(candidate.phase_shift_deg - other.phase_shift_deg) <= 2 * settings.phase_shift_step_deg
            for other in kept
        )
        if not near:
            kept.append(candidate)
        if len(kept) == wanted:
            break
    return kept
