"""From two half maps to the sharpened map, its mask and its resolution."""

from dataclasses import dataclass

import numpy as np

from parhelion.algorithms.postprocess.gold_standard import (
    GoldStandard,
    check_half_maps,
    gold_standard_fsc,
    notes_on_curves,
)
from parhelion.algorithms.postprocess.sharpen import (
    DetectorMtf,
    GuinierFit,
    fsc_weight,
    guinier_fit,
    mtf_correction,
    shell_factors,
)
from parhelion.errors import ParameterError
from parhelion.fourier.filters import apply_envelope, bfactor_envelope, lowpass_envelope
from parhelion.fourier.grids import rfft_radius
from parhelion.images.masks import AutomaticMask, automatic_mask
from parhelion.model.volume import Volume

FIT_FROM_ANGSTROM = 10.0
FILTER_EDGE_SHELLS = 2.0
# |B| in units of the resolution squared: amplitudes at the limit rise by e^2.5 at most. Published maps use
# about 100 Å² at 3 Å and 400 Å² at 7 Å.
STEEPEST_BFACTOR = 10.0


@dataclass(frozen=True, kw_only=True)
class PostprocessResult:
    """The sharpened map and everything that was found on the way.

    ``map`` is sharpened, weighted and low-passed, ``masked_map`` that times ``mask``. ``automatic``
    says how the mask was made (None when it was given). ``bfactor_angstrom2`` is what was applied, in
    RELION's sign: negative sharpens. ``notes`` are facts to tell the user.
    """

    map: Volume
    masked_map: Volume
    mask: Volume
    automatic: AutomaticMask | None
    mask_volume_angstrom3: float
    curves: GoldStandard
    resolution_angstrom: float
    lowpass_angstrom: float
    bfactor_angstrom2: float
    guinier: GuinierFit | None
    notes: tuple[str, ...]


def postprocess(
    half1: Volume,
    half2: Volume,
    mask: Volume | None = None,
    *,
    bfactor_angstrom2: float | None = None,
    fit_from_angstrom: float = FIT_FROM_ANGSTROM,
    fit_to_angstrom: float | None = None,
    lowpass_angstrom: float | None = None,
    weight_by_fsc: bool = True,
    mtf: DetectorMtf | None = None,
    mask_threshold: float | None = None,
    seed: int = 0,
) -> PostprocessResult:
    """Average two half maps, find their resolution inside a mask, sharpen and filter.

    Without ``mask`` an automatic soft mask of the average is used (``mask_threshold`` sets its
    threshold). The order is RELION's: divide by the ``mtf``, weight by the FSC, estimate the B-factor
    from ``fit_from_angstrom`` to ``fit_to_angstrom`` (default: the resolution) unless
    ``bfactor_angstrom2`` says it (0: none), apply it, low-pass at the resolution or at
    ``lowpass_angstrom``. Raises InputError for maps or masks that do not fit, ParameterError for a
    range of the fit that is empty.
    """
    check_half_maps(half1, half2)
    if fit_to_angstrom is not None and not 0 < fit_to_angstrom < fit_from_angstrom:
        raise ParameterError(
            f"the B-factor fit goes from a coarse to a fine resolution, found {fit_from_angstrom:g} to "
            f"{fit_to_angstrom:g} Å"
        )
    pixel = half1.pixel_size_angstrom
    average = Volume(
        data=0.5 * (half1.data.astype(np.float32) + half2.data.astype(np.float32)), pixel_size_angstrom=pixel
    )
    automatic = automatic_mask(average, threshold=mask_threshold) if mask is None else None
    used = automatic.mask if automatic is not None else mask
    if used is None:
        raise ParameterError("a mask is needed, or the automatic one")
    curves = gold_standard_fsc(half1, half2, used, seed=seed)
    notes = notes_on_curves(curves, used)
    cutoff = _lowpass(lowpass_angstrom, curves.resolution_angstrom, half1, notes)
    fit_to = max(fit_to_angstrom or 0.0, curves.resolution_angstrom)
    data = _weighted(average, curves, mtf, weight_by_fsc)
    fit = guinier_fit(data, pixel, fit_from_angstrom, fit_to) if fit_to < fit_from_angstrom else None
    applied = _choose_bfactor(bfactor_angstrom2, fit, fit_from_angstrom, fit_to, notes)
    sharpened = Volume(data=_finish(data, pixel, applied, cutoff), pixel_size_angstrom=pixel)
    weight = np.asarray(used.data, np.float32)
    return PostprocessResult(
        map=sharpened,
        masked_map=Volume(data=sharpened.data * weight, pixel_size_angstrom=pixel),
        mask=used,
        automatic=automatic,
        mask_volume_angstrom3=float(weight.sum(dtype=np.float64)) * pixel**3,
        curves=curves,
        resolution_angstrom=curves.resolution_angstrom,
        lowpass_angstrom=cutoff,
        bfactor_angstrom2=applied,
        guinier=fit,
        notes=tuple(notes),
    )


def _lowpass(given: float | None, resolution: float, like: Volume, notes: list[str]) -> float:
    """Where the map is low-passed (Å); ParameterError where nothing would be left."""
    if given is None:
        return resolution
    extent, nyquist = like.box * like.pixel_size_angstrom, 2 * like.pixel_size_angstrom
    if given >= extent:
        raise ParameterError(
            f"a low-pass at {given:g} Å leaves nothing of a map of {extent:g} Å; choose a finer one"
        )
    if given < nyquist:
        notes.append(f"a low-pass at {given:g} Å does nothing: the pixels end at {nyquist:.4g} Å (Nyquist)")
    elif given < 0.95 * resolution:
        notes.append(
            f"the map is low-passed at {given:g} Å, finer than its resolution of {resolution:.4g} Å: what "
            "lies between is mostly noise"
        )
    return given


def _weighted(
    average: Volume, curves: GoldStandard, mtf: DetectorMtf | None, weight_by_fsc: bool
) -> np.ndarray:
    """The average map divided by the detector's response and weighted by the FSC."""
    shape = average.data.shape
    data = np.asarray(average.data)
    if mtf is not None:
        data = apply_envelope(data, mtf_correction(shape, average.pixel_size_angstrom, mtf))
    if weight_by_fsc:
        data = apply_envelope(data, shell_factors(shape, fsc_weight(curves.corrected)))
    return data


def _choose_bfactor(
    given: float | None, fit: GuinierFit | None, fit_from: float, fit_to: float, notes: list[str]
) -> float:
    if given is not None:
        return given
    if fit is None:
        notes.append(
            f"the map's resolution leaves fewer than four shells between {fit_from:.1f} and {fit_to:.1f} Å "
            "for a B-factor fit; the map was not sharpened (give a B-factor to sharpen it)"
        )
        return 0.0
    if fit.bfactor_angstrom2 > 0:
        notes.append(
            f"the Guinier fit gives a B-factor of {fit.bfactor_angstrom2:+.0f} Å², which would blur the map; "
            "it was not applied"
        )
        return 0.0
    steepest = -STEEPEST_BFACTOR * fit_to**2
    if fit.bfactor_angstrom2 < steepest:
        notes.append(
            f"the Guinier fit from {fit_from:.1f} to {fit_to:.1f} Å gives a B-factor of "
            f"{fit.bfactor_angstrom2:.0f} Å², steeper than maps of this resolution ever need, since so "
            f"short a range follows the molecule's own spectrum; {steepest:.0f} Å² is applied "
            "(--bfactor overrules)"
        )
        return steepest
    return fit.bfactor_angstrom2


def _finish(data: np.ndarray, pixel: float, bfactor: float, cutoff: float) -> np.ndarray:
    """Sharpened by ``bfactor`` (negative) and low-passed."""
    radius = rfft_radius(data.shape, pixel)
    low = lowpass_envelope(radius, cutoff, FILTER_EDGE_SHELLS / (data.shape[0] * pixel))
    # Beyond the low-pass the sharpening would only overflow; it stays constant there.
    capped = radius.clamp_max(1 / cutoff + FILTER_EDGE_SHELLS / (data.shape[0] * pixel))
    return apply_envelope(data, low * bfactor_envelope(capped, bfactor)).astype(np.float32)
