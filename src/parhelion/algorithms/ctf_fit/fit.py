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

LEAST_SIGNIFICANCE = 9.0
LEAST_RESOLUTION_FRACTION = 0.6
"""A confident fit shows rings to a spacing of at most this share of the lower limit of the fit."""
LARGEST_RIVAL = 0.7
"""Noise has many places of nearly the same gain; rings have one."""
NEAR_GAIN = 0.5
"""Candidates are refined whose gain is at least this share of the best one's."""


def fit_ctf(spectrum: Spectrum, optics: Optics, settings: FitSettings) -> CtfFit:
    """Fit the CTF of ``spectrum``. Raises ParameterError where it has too few rings in the range."""
    best, rival = best_fit(spectrum, optics, settings)
    along, across = best.astigmatism
    half = math.hypot(along, across)
    angle = math.degrees(0.5 * math.atan2(across, along)) % 180.0
    found = curves(spectrum, best, optics, settings)
    resolution = fit_resolution_angstrom(found, settings)
    reached = resolution <= LEAST_RESOLUTION_FRACTION * settings.min_resolution_angstrom
    alone = rival is None or rival <= LARGEST_RIVAL
    inside = min(abs(best.defocus - end) for end in settings.defocus_range_angstrom) > 1.0
    fixed = settings.defocus_range_angstrom[0] == settings.defocus_range_angstrom[1]
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
        confident=best.significance >= LEAST_SIGNIFICANCE and reached and alone and (inside or fixed),
        curves=found,
    )


def best_fit(spectrum: Spectrum, optics: Optics, settings: FitSettings) -> tuple[Refined, float | None]:
    """Search and refinement without the curves, and the rival: the gain of the second-best place of the
    search over that of the best.

    The rival is None where there is none, or where a phase shift is searched: it trades with defocus."""
    ring = annulus(spectrum, settings)
    refiner = Refiner(ring, optics, settings)
    candidates = search(ring, optics, settings)
    fits = [refiner.refine(start) for start in _worth_refining(candidates)]
    searched = settings.phase_shift_range_deg
    free_phase = searched is not None and searched[1] > searched[0]
    rival = None if free_phase or len(candidates) < 2 else candidates[1].gain / max(candidates[0].gain, 1e-9)
    return min(fits, key=lambda fit: fit.cost), rival


def _worth_refining(candidates: list[Candidate]) -> list[Candidate]:
    least = NEAR_GAIN * candidates[0].gain
    return [candidate for candidate in candidates if candidate.gain >= least]
