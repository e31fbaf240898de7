"""What is chosen on the way from movies to a first map where the user does not choose.

Pure rules: from what is known (diameter, pixel size, fits, merits) to a value and the reason for it in words.
"""

import math
from dataclasses import dataclass

import numpy as np

from parhelion.algorithms.extraction import even_box
from parhelion.errors import ParameterError
from parhelion.optics.wavelength import electron_wavelength_angstrom

FINEST_MICROGRAPH_ANGSTROM = 0.7
"""Movies of smaller pixels are binned: a first map does not reach so far, and nothing else is slower."""
WORTH_BINNING = 1.2
USUAL_BOX = 128
"""Edge of the images of a first run, in pixels: the resolution of a few hours' work."""
COARSEST_FINAL_ANGSTROM = 5.0
BOX_PER_DIAMETER = (1.5, 2.0)
DELOCALISED_UP_TO_NYQUIST = 1.5
"""Detail of this many times the Nyquist spacing is still wanted inside the box."""
PICK_RADII = (0.25, 0.45)
"""Smallest and largest radius of the discs that are looked for, in diameters."""
LOWEST_MERIT, MERIT_SHARE, MERIT_PERCENTILE = 3.5, 0.4, 90.0
CTF_SIGMAS, CTF_LEAST_RATIO, CTF_FINE_ENOUGH = 3.0, 1.3, 3.0
DEVIATIONS_PER_MAD = 1.4826
FEWEST_FOR_CLASSES = 300
"""Particles below which classes hold too few for their halves to be compared."""
PARTICLES_PER_CLASS, CLASSES_2D = 50, (10, 50)
CYCLES_2D = 20
FEWEST_KEPT = 0.1
"""Share of the particles that good classes must hold to be believed."""


@dataclass(frozen=True)
class Choice:
    """A value and why it is this one."""

    value: float
    why: str


@dataclass(frozen=True, kw_only=True)
class Boxes:
    """Edge of the boxes in pixels of the micrographs, of the images, and the pixel size of these."""

    box: int
    final_box: int
    pixel_size_angstrom: float
    why: str


def movie_binning(pixel_size_angstrom: float, final_pixel_angstrom: float | None) -> Choice:
    """By how much to bin movies: to 0.7 Å per pixel, or to half the final pixel if that is coarser."""
    wanted = FINEST_MICROGRAPH_ANGSTROM
    reason = f"a first map needs no pixels below {wanted:g} Å"
    if final_pixel_angstrom is not None and final_pixel_angstrom / 2 > wanted:
        wanted = final_pixel_angstrom / 2
        reason = f"images of {final_pixel_angstrom:g} Å per pixel need no finer micrographs than {wanted:g} Å"
    binning = wanted / pixel_size_angstrom
    if binning < WORTH_BINNING:
        return Choice(1.0, f"{pixel_size_angstrom:.4g} Å per pixel is fine as it is")
    return Choice(round(binning, 3), reason)


def box_extent(
    diameter_angstrom: float, pixel_size_angstrom: float, defocus_angstrom: float, voltage_kv: float
) -> Choice:
    """Edge of the boxes in Å: 1.5 diameters, and up to 2 where defocus spreads detail further.

    Detail of spacing d is displaced by λ Δf / d; it should stay in the box down to 1.5 times the Nyquist
    spacing.
    """
    finest = DELOCALISED_UP_TO_NYQUIST * 2 * pixel_size_angstrom
    spread = electron_wavelength_angstrom(voltage_kv) * abs(defocus_angstrom) / finest
    low, high = (ratio * diameter_angstrom for ratio in BOX_PER_DIAMETER)
    wanted = diameter_angstrom + 2 * spread
    if wanted <= low:
        return Choice(low, f"{BOX_PER_DIAMETER[0]:g} diameters")
    if wanted >= high:
        return Choice(
            high, f"{BOX_PER_DIAMETER[1]:g} diameters, the most that is taken for spread-out detail"
        )
    return Choice(
        wanted, f"diameter and twice the {spread:.0f} Å by which defocus spreads detail of {finest:.1f} Å"
    )


def final_pixel(
    diameter_angstrom: float, micrograph_pixel_angstrom: float, wanted_angstrom: float | None
) -> Choice:
    """Pixel size of the images: as wanted, or such that about USUAL_BOX pixels span the box."""
    if wanted_angstrom is not None:
        if wanted_angstrom < micrograph_pixel_angstrom * (1 - 1e-3):
            raise ParameterError(
                f"--final-pixel-size {wanted_angstrom:g} Å is smaller than the micrographs' pixel size, "
                f"{micrograph_pixel_angstrom:.4g} Å; images are only made coarser"
            )
        return Choice(max(wanted_angstrom, micrograph_pixel_angstrom), "given")
    usual = BOX_PER_DIAMETER[0] * diameter_angstrom / USUAL_BOX
    chosen = min(max(usual, micrograph_pixel_angstrom), COARSEST_FINAL_ANGSTROM)
    chosen = max(chosen, micrograph_pixel_angstrom)
    if chosen == micrograph_pixel_angstrom:
        return Choice(chosen, "that of the micrographs")
    return Choice(chosen, f"for boxes of about {USUAL_BOX} pixels in a first run")


def boxes(extent: Choice, micrograph_pixel_angstrom: float, final_pixel_angstrom: float) -> Boxes:
    """Even boxes of fast transforms whose ratio gives a pixel size of at most ``final_pixel_angstrom``."""
    final_box = even_box(extent.value / final_pixel_angstrom)
    box = 2 * math.floor(final_box * final_pixel_angstrom / micrograph_pixel_angstrom / 2 + 1e-6)
    final_box = min(final_box, box)
    return Boxes(
        box=box,
        final_box=final_box,
        pixel_size_angstrom=micrograph_pixel_angstrom * box / final_box,
        why=extent.why,
    )


def classes_2d(count: int) -> int:
    """How many 2D classes tell junk from views in a first run of ``count`` particles."""
    return min(max(count // PARTICLES_PER_CLASS, CLASSES_2D[0]), CLASSES_2D[1])


def pick_radii(diameter_angstrom: float) -> tuple[float, float, float]:
    """Radii in Å: where the particle's farthest parts are, smallest and largest disc that is looked for."""
    low, high = (share * diameter_angstrom for share in PICK_RADII)
    return 0.5 * diameter_angstrom, low, high


def merit_cut(merits: np.ndarray) -> Choice:
    """The lowest figure of merit (standard deviations of the noise) of a pick that is believed.

    Particles of one kind answer alike: what reaches less than 0.4 of the 90th percentile is something else.
    Below 3.5 standard deviations noise would be picked.
    """
    known = np.asarray(merits, dtype=np.float64)
    known = known[np.isfinite(known)]
    typical = float(np.percentile(known, MERIT_PERCENTILE)) if len(known) else 0.0
    cut = MERIT_SHARE * typical
    if cut <= LOWEST_MERIT:
        return Choice(LOWEST_MERIT, "above the noise")
    return Choice(round(cut, 2), f"{MERIT_SHARE:g} of the {MERIT_PERCENTILE:g}th percentile, {typical:.1f}")


def fit_resolution_cut(fits_angstrom: np.ndarray, final_pixel_angstrom: float | None) -> Choice:
    """The coarsest fit resolution in Å of a micrograph that is kept.

    Three robust standard deviations beyond the median, at least 1.3 times the median, and never finer
    than what the images can show.
    """
    known = np.asarray(fits_angstrom, dtype=np.float64)
    known = known[np.isfinite(known) & (known > 0)]
    if not len(known):
        return Choice(math.inf, "no fit states its resolution")
    median = float(np.median(known))
    deviation = DEVIATIONS_PER_MAD * float(np.median(np.abs(known - median)))
    cut = max(median + CTF_SIGMAS * deviation, CTF_LEAST_RATIO * median)
    shown = CTF_FINE_ENOUGH * (final_pixel_angstrom or 0.0)
    if cut < shown:
        return Choice(round(shown, 2), f"{CTF_FINE_ENOUGH:g} final pixels; the median fit is {median:.1f} Å")
    return Choice(round(cut, 2), f"the median fit is {median:.1f} Å; this is far from the others")
