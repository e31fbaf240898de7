"""FSC between two half maps, with the correction for what the mask adds."""

from dataclasses import dataclass

import numpy as np

from parhelion.errors import InputError
from parhelion.fourier.filters import randomise_phases
from parhelion.fourier.shells import fsc, resolution_at, shell_resolution
from parhelion.model.volume import Volume

RANDOMISE_BELOW_FSC = 0.8
RESOLUTION_FSC = 0.143
COARSE_FSC = 0.5
UNRANDOMISED_SHELLS = 2  # shells just beyond the randomisation are disturbed by its edge and stay uncorrected


@dataclass(frozen=True, kw_only=True)
class GoldStandard:
    """FSC curves ``(shells,)`` in float64 of two half maps, and the resolution in Å they give.

    ``randomised`` is the masked FSC of maps whose phases are random from ``randomised_from_shell`` on,
    ``corrected`` the masked FSC freed of that, the mask's own correlation. The resolutions are where a
    curve first crosses 0.143.
    """

    shell_resolution_angstrom: np.ndarray
    unmasked: np.ndarray
    masked: np.ndarray
    randomised: np.ndarray
    corrected: np.ndarray
    randomised_from_shell: int
    resolution_angstrom: float
    unmasked_resolution_angstrom: float


def check_half_maps(half1: Volume, half2: Volume) -> None:
    """InputError unless the two maps are cubic, finite, of one box and one pixel size, and not the same."""
    if half1.data.shape != half2.data.shape or len(set(half1.data.shape)) != 1:
        raise InputError(
            f"two cubic half maps of one box are needed, found shapes "
            f"{half1.data.shape} and {half2.data.shape}"
        )
    if abs(half1.pixel_size_angstrom / half2.pixel_size_angstrom - 1) > 1e-3:
        raise InputError(
            f"the half maps have different pixel sizes, {half1.pixel_size_angstrom:g} and "
            f"{half2.pixel_size_angstrom:g} Å; correct the header or resample one of them"
        )
    for name, half in (("first", half1), ("second", half2)):
        if not np.isfinite(half.data).all():
            raise InputError(f"the {name} half map holds values that are not numbers")
        if float(np.ptp(half.data)) == 0:
            raise InputError(f"the {name} half map is constant; there is nothing to compare")
    if np.array_equal(half1.data, half2.data):
        raise InputError(
            "the two half maps are identical; half maps of two independent particle sets are needed"
        )


def check_mask(mask: Volume, reference: Volume) -> None:
    """InputError unless ``mask`` has the shape and pixel size of the map and values from 0 to 1."""
    if mask.data.shape != reference.data.shape:
        raise InputError(
            f"the mask has {mask.data.shape} voxels (z, y, x), the map {reference.data.shape}; make a mask "
            "of the map's box, or resample it"
        )
    if abs(mask.pixel_size_angstrom / reference.pixel_size_angstrom - 1) > 0.01:
        raise InputError(
            f"the mask's pixel size is {mask.pixel_size_angstrom:g} Å, the map's "
            f"{reference.pixel_size_angstrom:g} Å; correct the header or resample the mask"
        )
    low, high = float(mask.data.min()), float(mask.data.max())
    if not (low >= -1e-4 and high <= 1 + 1e-4 and high > 0):
        raise InputError(f"a mask has values from 0 to 1, found {low:g} to {high:g}; threshold it first")


def notes_on_curves(curves: GoldStandard, mask: Volume) -> list[str]:
    """What a user should be told of the FSC inside ``mask``: where it is not what it seems."""
    notes = []
    nyquist = 2 * mask.pixel_size_angstrom
    if curves.resolution_angstrom <= nyquist * 1.02:
        notes.append(f"the FSC reaches Nyquist ({nyquist:.2f} Å): the pixel size limits the resolution")
    beyond = curves.randomised[curves.randomised_from_shell + 2 :]
    if len(beyond) and float(np.max(beyond)) > 0.5:
        notes.append(
            f"the phase-randomised maps correlate up to {float(np.max(beyond)):.2f} inside the mask: it is "
            "too small, too tight or too sharp; use a wider or softer one"
        )
    share = float((np.asarray(mask.data) > 0).mean())
    if share > 0.6:
        notes.append(f"the mask covers {100 * share:.0f} % of the box; it hardly excludes solvent")
    return notes + notes_on_disagreement(curves.masked)


def notes_on_disagreement(curve: np.ndarray) -> list[str]:
    """A note where two maps hardly agree in the coarsest shells of their FSC ``(shells,)``."""
    coarse = float(curve[1:4].mean())
    if coarse >= COARSE_FSC:
        return []
    if coarse < -COARSE_FSC:
        return ["the maps are the inverse of each other: one shows protein white, the other black"]
    return [
        f"the maps hardly agree even in their coarsest shells (FSC {coarse:.2f}; maps of one structure reach "
        "0.9), so that the resolution means little: they show different structures, lie in different frames, "
        "or are noise"
    ]


def correct_for_mask(masked: np.ndarray, randomised: np.ndarray, first_shell: int) -> np.ndarray:
    """``(FSC_t − FSC_n) / (1 − FSC_n)`` beyond the randomisation, ``FSC_t`` before; 0 where noise wins.

    Chen et al., Ultramicroscopy 135, 24 (2013).
    """
    corrected = masked.copy()
    beyond = np.arange(len(masked)) >= first_shell + UNRANDOMISED_SHELLS
    noise = np.minimum(randomised, 1 - 1e-9)
    true = np.where(noise > masked, 0.0, (masked - noise) / (1 - noise))
    corrected[beyond] = true[beyond]
    return corrected


def randomisation_shell(unmasked: np.ndarray) -> int:
    """First shell, from 1 on, where the unmasked FSC is below 0.8 (as RELION); the last one if none is."""
    below = np.flatnonzero(unmasked[1:] < RANDOMISE_BELOW_FSC) + 1
    return int(below[0]) if len(below) else len(unmasked) - 1


def gold_standard_fsc(half1: Volume, half2: Volume, mask: Volume, *, seed: int = 0) -> GoldStandard:
    """The FSC curves of two independent half maps inside ``mask``; see GoldStandard.

    Raises InputError for halves or a mask that do not fit each other.
    """
    check_half_maps(half1, half2)
    check_mask(mask, half1)
    box, pixel = half1.box, half1.pixel_size_angstrom
    a = np.asarray(half1.data, np.float32)
    b = np.asarray(half2.data, np.float32)
    weight = np.asarray(mask.data, np.float32)
    unmasked = fsc(a, b)
    masked = fsc(a * weight, b * weight)
    first = randomisation_shell(unmasked)
    generator = np.random.default_rng([seed, 2])
    randomised = fsc(
        randomise_phases(a, first, generator) * weight, randomise_phases(b, first, generator) * weight
    )
    corrected = correct_for_mask(masked, randomised, first)
    return GoldStandard(
        shell_resolution_angstrom=shell_resolution(len(unmasked), box, pixel),
        unmasked=unmasked,
        masked=masked,
        randomised=randomised,
        corrected=corrected,
        randomised_from_shell=first,
        resolution_angstrom=resolution_at(corrected, RESOLUTION_FSC, box, pixel),
        unmasked_resolution_angstrom=resolution_at(unmasked, RESOLUTION_FSC, box, pixel),
    )
