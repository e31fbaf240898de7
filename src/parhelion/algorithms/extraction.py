"""Particle images cut from a micrograph, brought to a box, a scale and white protein."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from parhelion.errors import ParameterError
from parhelion.fourier.resample import fourier_resize_images
from parhelion.images.dust import remove_dust
from parhelion.images.normalise import background_pixels, normalise_background

Edge = Literal["skip", "fill"]
BACKGROUND_FRACTION = 0.375
"""Radius beyond which a box counts as background, as a part of its edge: particles fill 3/4 of their box."""
FLAT = 1e-6
LARGEST_PRIME = 7


@dataclass(frozen=True, kw_only=True)
class ExtractSettings:
    """How boxes become particle images.

    ``box`` counts pixels of the micrograph, ``final_box`` those of the image it is Fourier-cropped to.
    ``background_radius`` is a part of the box's edge (None: images are not normalised).
    """

    box: int
    final_box: int
    invert: bool = True
    background_radius: float | None = BACKGROUND_FRACTION
    ramp: bool = True
    white_dust_sigmas: float | None = None
    black_dust_sigmas: float | None = None
    edge: Edge = "skip"

    def __post_init__(self) -> None:
        for name, value in (("box", self.box), ("final box", self.final_box)):
            if value < 2 or value % 2:
                raise ParameterError(f"the {name} is {value} pixels; an even number is expected")
        if self.final_box > self.box:
            raise ParameterError(
                f"the final box of {self.final_box} pixels is larger than the box of {self.box}: images are "
                "cropped in Fourier space, not enlarged"
            )
        if self.background_radius is not None:
            background_pixels(self.final_box, self.background_radius * self.final_box)


@dataclass(frozen=True, kw_only=True)
class Placed:
    """Where boxes of a micrograph lie: numbers of the positions that are kept, and counts of the others."""

    kept: np.ndarray
    outside: int = 0
    at_edge: int = 0
    broken: int = 0
    centres: np.ndarray = field(default_factory=lambda: np.zeros((0, 2), np.int64))


def box_centres(xy_px: np.ndarray) -> np.ndarray:
    """Whole pixels ``(n, 2)`` that boxes are centred on: the nearest, halves upwards."""
    return np.floor(np.asarray(xy_px, dtype=np.float64) + 0.5).astype(np.int64)


def place_boxes(image: np.ndarray, xy_px: np.ndarray, box: int, edge: Edge) -> Placed:
    """Which of the positions ``(n, 2)`` (x, y) in ``image`` ``(y, x)`` give a usable box.

    Positions outside the image never do; boxes that reach over its edge are left out (``skip``) or filled
    later; those that hold values that are not finite, or one value only, cannot be used.
    """
    height, width = image.shape
    centres = box_centres(xy_px)
    x, y = centres[:, 0], centres[:, 1]
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    low = centres - box // 2
    whole = (low >= 0).all(axis=1) & (low[:, 0] + box <= width) & (low[:, 1] + box <= height)
    wanted = inside & (whole if edge == "skip" else True)
    usable = wanted.copy()
    for row in np.flatnonzero(wanted):
        usable[row] = _is_usable(_window(image, centres[row], box))
    kept = np.flatnonzero(usable)
    return Placed(
        kept=kept,
        outside=int(np.count_nonzero(~inside)),
        at_edge=int(np.count_nonzero(inside & ~wanted)),
        broken=int(np.count_nonzero(wanted & ~usable)),
        centres=centres[kept],
    )


def _window(image: np.ndarray, centre: np.ndarray, box: int) -> np.ndarray:
    """The part of a box that lies in the image."""
    x, y = centre - box // 2
    return image[max(y, 0) : max(y + box, 0), max(x, 0) : max(x + box, 0)]


def _is_usable(window: np.ndarray) -> bool:
    least, most = float(window.min()), float(window.max())
    return bool(np.isfinite(least) and np.isfinite(most) and most - least > FLAT * max(abs(least), abs(most)))


def cut_boxes(image: np.ndarray, centres: np.ndarray, box: int) -> np.ndarray:
    """Boxes ``(n, box, box)`` float32 whose pixel ``box // 2`` is at ``centres`` ``(n, 2)`` (x, y).

    What lies outside the image gets the mean of what lies inside, box by box.
    """
    out = np.empty((len(centres), box, box), dtype=np.float32)
    for boxed, centre in zip(out, centres):
        window = _window(image, centre, box)
        if window.shape == boxed.shape:
            boxed[:] = window
            continue
        x, y = np.maximum(box // 2 - centre, 0)
        boxed[:] = window.mean(dtype=np.float64)
        boxed[y : y + window.shape[0], x : x + window.shape[1]] = window
    return out


def particle_images(
    boxes: np.ndarray, settings: ExtractSettings, generator: np.random.Generator
) -> tuple[np.ndarray, int]:
    """Images ``(n, final_box, final_box)`` float32 of boxes of a micrograph, and pixels of dust in them.

    In this order: Fourier crop, dust, contrast, and background to mean 0 and variance 1 after subtraction
    of a plane. White and black dust is meant as the micrograph shows it. Raises InputError for boxes that
    cannot be normalised (see ``normalise_background``).
    """
    images = boxes
    if settings.final_box != settings.box:
        images = fourier_resize_images(boxes, settings.final_box)
    dust = 0
    if settings.white_dust_sigmas is not None or settings.black_dust_sigmas is not None:
        radius = (settings.background_radius or BACKGROUND_FRACTION) * settings.final_box
        images, dust = remove_dust(
            images,
            background_pixels(settings.final_box, radius),
            white_sigmas=settings.white_dust_sigmas,
            black_sigmas=settings.black_dust_sigmas,
            generator=generator,
        )
    if settings.invert:
        images = -images
    if settings.background_radius is not None:
        radius = settings.background_radius * settings.final_box
        images = normalise_background(images, radius, ramp=settings.ramp)
    return np.ascontiguousarray(images, dtype=np.float32), dust


def defocus_on_plane(
    xy_px: np.ndarray, shape_yx: tuple[int, int], slope_xy_angstrom_per_px: tuple[float, float]
) -> np.ndarray:
    """What a tilted specimen adds to the defocus at positions ``(n, 2)`` (x, y), in Å.

    ``slope_xy_angstrom_per_px`` is the change of defocus per pixel along x and y; the micrograph's defocus
    holds at its centre, pixel ``n // 2``.
    """
    height, width = shape_yx
    away = np.asarray(xy_px, dtype=np.float64) - (width // 2, height // 2)
    return away @ np.asarray(slope_xy_angstrom_per_px, dtype=np.float64)


def even_box(least: float) -> int:
    """The smallest even box of at least ``least`` pixels whose Fourier transform is fast."""
    box = max(2, 2 * int(np.ceil(least / 2 - 1e-9)))
    while not _is_smooth(box):
        box += 2
    return box


def _is_smooth(number: int) -> bool:
    """Whether no prime factor is greater than 7."""
    for prime in range(2, LARGEST_PRIME + 1):
        while number % prime == 0:
            number //= prime
    return number == 1
