"""The fit of a CTF to one spectrum: search, refinement, quality."""

import math

from parhelion.algorithms.ctf_fit.flatten import annulus, iciness
from parhelion.algorithms.ctf_fit.quality import (
    alias_resolution_angstrom,
    curves,
    fit_resolution_angstrom,
)
from parhelion.algorithms.ctf_fit.refine import Refined, Refiner
from parhelion.algorithms.ctf_fit.search import Candidate, search
from parhelion.algorithms.ctf_fit.settings import CtfFit, FitSettings, Optics
from parhelion.algorithms.ctf_fit.spectrum import Spectrum

LEAST_SIGNIFICANCE = 8.0
LEAST_RESOLUTION_FRACTION = 0.6
"""A confident fit shows rings to a spacing of at most this share of the lower limit of the fit."""
NEAR_GAIN = 0.5
"""Candidates are refined whose gain is at least this share of the best one's."""


def fit_ctf(spectrum: Spectrum, optics: Optics, settings: FitSettings) -> CtfFit:
    """Fit the CTF of ``spectrum``. Raises ParameterError where it has too few rings in the range."""
    best = best_fit(spectrum, optics, settings)
    along, across = best.astigmatism
    half = math.hypot(along, across)
    angle = math.degrees(0.5 * math.atan2(across, along)) % 180.0
    found = curves(spectrum, best, optics, settings)
    resolution = fit_resolution_angstrom(found, settings)
    reached = resolution <= LEAST_RESOLUTION_FRACTION * settings.min_resolution_angstrom
    return CtfFit(
        defocus_u_angstrom=best.defocus + half,
        defocus_v_angstrom=best.defocus - half,
        defocus_angle_deg=angle,
        phase_shift_deg=best.phase_shift_deg,
        correlation=best.correlation,
        significance=best.significance,
        fit_resolution_angstrom=resolution,
        alias_resolution_angstrom=alias_resolution_angstrom(spectrum, best, optics),
        iciness=iciness(spectrum),
        confident=best.significance >= LEAST_SIGNIFICANCE and reached,
        curves=found,
    )


def best_fit(spectrum: Spectrum, optics: Optics, settings: FitSettings) -> Refined:
    """Search and refinement without the curves."""
    ring = annulus(spectrum, settings)
    refiner = Refiner(ring, optics, settings)
    candidates = search(ring, optics, settings)
    fits = [refiner.refine(start) for start in _worth_refining(candidates)]
    return min(fits, key=lambda fit: fit.cost)


def _worth_refining(candidates: list[Candidate]) -> list[Candidate]:
    least = NEAR_GAIN * candidates[0].gain
    return [candidate for candidate in candidates if candidate.gain >= least]
