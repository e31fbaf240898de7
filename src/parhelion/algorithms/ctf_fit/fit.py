"""The fit of a CTF to one spectrum: search, refinement, quality."""

import math
from dataclasses import dataclass

from parhelion.algorithms.ctf_fit.flatten import annulus, iciness
from parhelion.algorithms.ctf_fit.quality import (
    alias_resolution_angstrom,
    curves,
    fit_resolution_angstrom,
)
from parhelion.algorithms.ctf_fit.refine import Refined, Refiner
from parhelion.algorithms.ctf_fit.search import search
from parhelion.algorithms.ctf_fit.settings import CtfFit, Curves, FitSettings, Optics
from parhelion.algorithms.ctf_fit.spectrum import Spectrum
from parhelion.algorithms.ctf_fit.thickness import sample_thickness

LEAST_SIGNIFICANCE = 9.0
LEAST_RESOLUTION_FRACTION = 0.6
"""A confident fit shows rings to a spacing of at most this share of the lower limit of the fit."""
LARGEST_RIVAL = 0.7
"""Noise has many places of nearly the same gain; rings have one."""
NEAR_GAIN = 0.15
"""Places of the search are refined whose gain is at least this share of the best one's."""
LEAST_QUALITY = 0.05


@dataclass(frozen=True, kw_only=True)
class Best:
    """The chosen fit, its curves, and the gain of the search's second-best place over that of its best.

    ``rival`` is None where there is no other place, and where a phase shift is searched, as it trades with
    defocus.
    """

    fit: Refined
    curves: Curves
    rival: float | None


def fit_ctf(spectrum: Spectrum, optics: Optics, settings: FitSettings) -> CtfFit:
    """Fit the CTF of ``spectrum``. Raises ParameterError where it has too few rings in the range."""
    best = best_fit(spectrum, optics, settings)
    fit = best.fit
    along, across = fit.astigmatism
    half = math.hypot(along, across)
    thickness = sample_thickness(best.curves, optics, settings) if settings.thickness else None
    found = best.curves if thickness is None else curves(spectrum, fit, optics, settings, thickness)
    resolution = fit_resolution_angstrom(found, settings, optics, thickness or 0.0)
    confident = (
        fit.significance >= LEAST_SIGNIFICANCE
        and resolution <= LEAST_RESOLUTION_FRACTION * settings.min_resolution_angstrom
        and (best.rival is None or best.rival <= LARGEST_RIVAL)
        and not _at_an_end(fit, settings)
    )
    return CtfFit(
        defocus_u_angstrom=fit.defocus + half,
        defocus_v_angstrom=fit.defocus - half,
        defocus_angle_deg=math.degrees(0.5 * math.atan2(across, along)) % 180.0,
        phase_shift_deg=fit.phase_shift_deg,
        correlation=fit.correlation,
        significance=fit.significance,
        fit_resolution_angstrom=resolution,
        alias_resolution_angstrom=alias_resolution_angstrom(spectrum, fit, optics),
        iciness=iciness(spectrum),
        confident=confident,
        thickness_angstrom=thickness,
        curves=found,
    )


def best_fit(spectrum: Spectrum, optics: Optics, settings: FitSettings) -> Best:
    """Search, refinement of the best places, and the choice among them."""
    ring = annulus(spectrum, settings)
    refiner = Refiner(ring, optics, settings)
    candidates = search(ring, optics, settings)
    least = NEAR_GAIN * candidates[0].gain
    fits = [refiner.refine(start) for start in candidates if start.gain >= least]
    plotted = [curves(spectrum, fit, optics, settings) for fit in fits]
    chosen = max(range(len(fits)), key=lambda i: _merit(fits[i], plotted[i], settings))
    searched = settings.phase_shift_range_deg
    free_phase = searched is not None and searched[1] > searched[0]
    alone = free_phase or len(candidates) < 2
    rival = None if alone else candidates[1].gain / max(candidates[0].gain, 1e-9)
    return Best(fit=fits[chosen], curves=plotted[chosen], rival=rival)


def _merit(fit: Refined, found: Curves, settings: FitSettings) -> tuple[bool, float]:
    """What decides between refined places: not at an end of the range, then significance times mean quality.

    Strong structure at low resolution (particles, contamination) can raise the significance of a slow CTF;
    its rings do not agree with the spectrum over the whole range.
    """
    s = found.frequency_per_angstrom
    used = (s > 1 / settings.min_resolution_angstrom) & (s < 1 / settings.max_resolution_angstrom)
    quality = max(float(found.quality[used].mean()), LEAST_QUALITY)
    return not _at_an_end(fit, settings), fit.significance * quality


def _at_an_end(fit: Refined, settings: FitSettings) -> bool:
    """Whether the defocus stopped at an end of its range."""
    low, high = settings.defocus_range_angstrom
    return low < high and min(fit.defocus - low, high - fit.defocus) < 1.0
