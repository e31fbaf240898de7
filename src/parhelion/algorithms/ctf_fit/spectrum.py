"""Amplitude spectra of micrographs and movies, small enough to fit, fine enough to show the rings.

The transform of the whole image is cropped to the resolution that matters and its power averaged over squares
of Fourier pixels, so that the spectrum has the wanted size and, where the image's pixel is small, a pixel
size near 1.4 Å, as CTFFIND's (Rohou & Grigorieff 2015, J. Struct. Biol. 192, 216).
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from parhelion.contracts import FrameSource
from parhelion.errors import FormatError, ParameterError

RESAMPLED_PIXEL_ANGSTROM = 1.4
TAPER_FRACTION = 0.05
LEAST_SIZE = 128
MOST_SATURATED, MOST_BLANK = 0.25, 0.5
CROPPED_FRACTION = 0.06
"""An image is cropped rather than padded where it is larger than a multiple of the tile by at most this."""


@dataclass(frozen=True, kw_only=True)
class Spectrum:
    """Amplitudes ``(size, size)`` float32, zero frequency at ``size // 2``, of images of this pixel."""

    amplitude: np.ndarray
    pixel_size_angstrom: float

    @property
    def size(self) -> int:
        """Edge in pixels."""
        return int(self.amplitude.shape[0])

    @property
    def step_per_angstrom(self) -> float:
        """Distance of two Fourier pixels in 1/Å."""
        return 1.0 / (self.size * self.pixel_size_angstrom)


def checked_image(image: np.ndarray, what: str) -> np.ndarray:
    """The image as finite, varying float32; ``what`` names it in errors.

    Raises FormatError for values that are not finite, and for images of which too much is one value (empty,
    saturated or blank).
    """
    image = np.asarray(image, dtype=np.float32)
    if image.ndim != 2 or min(image.shape) < 16:
        raise FormatError(f"{what}: an image of at least 16 x 16 pixels is needed, found shape {image.shape}")
    low, high = float(image.min()), float(image.max())
    if not math.isfinite(low + high):
        bad = int(image.size - np.count_nonzero(np.isfinite(image)))
        raise FormatError(f"{what} holds {bad} values that are not finite; no CTF can be fitted")
    if low == high:
        raise FormatError(f"{what} is empty: every pixel is {low:g}")
    full = np.count_nonzero(image == high) / image.size
    if full > MOST_SATURATED:
        raise FormatError(f"{what}: {full:.0%} of its pixels hold the highest value, {high:g}: saturated?")
    blank = np.count_nonzero(image == low) / image.size
    # few electrons per pixel leave most pixels at zero, in whole numbers
    if blank > MOST_BLANK and not (low == 0 and np.array_equal(image, np.rint(image))):
        raise FormatError(f"{what}: {blank:.0%} of its pixels hold the lowest value, {low:g}: blank?")
    return image


def spectrum_of_image(
    image: np.ndarray,
    pixel_size_angstrom: float,
    size: int = 512,
    *,
    resample: bool = True,
    what: str = "the image",
) -> Spectrum:
    """The amplitude spectrum of a micrograph ``(y, x)``. Raises FormatError and ParameterError."""
    return _mean_spectrum([checked_image(image, what)], pixel_size_angstrom, size, resample)


def spectrum_of_movie(
    frames: FrameSource,
    pixel_size_angstrom: float,
    size: int = 512,
    *,
    frames_to_average: int = 3,
    resample: bool = True,
    what: str = "the movie",
    check: Callable[[], None] = lambda: None,
) -> Spectrum:
    """Amplitudes of the mean power of sums of ``frames_to_average`` frames: what drift would take from the
    whole sum stays. Frames left over at the end join the last sum. ``check`` may raise between sums. Raises
    FormatError.
    """
    groups = max(1, frames.count // frames_to_average)

    def sums() -> Iterator[np.ndarray]:
        for group in range(groups):
            check()
            first = group * frames_to_average
            last = frames.count if group == groups - 1 else first + frames_to_average
            total = frames.frame(first).astype(np.float32)
            for index in range(first + 1, last):
                total = total + frames.frame(index)
            yield checked_image(total, f"{what}, frames {first + 1} to {last}")

    return _mean_spectrum(sums(), pixel_size_angstrom, size, resample)


def given_spectrum(
    values: np.ndarray, pixel_size_angstrom: float, *, powers: bool = False, what: str = "the spectrum"
) -> Spectrum:
    """A square spectrum that another program made, zero frequency at ``n // 2``, of amplitudes or ``powers``.

    Raises FormatError.
    """
    values = checked_image(values, what)
    if values.shape[0] != values.shape[1] or values.shape[0] < LEAST_SIZE:
        raise FormatError(f"{what}: a square of at least {LEAST_SIZE} pixels is needed, found {values.shape}")
    if values.min() < 0:
        raise FormatError(
            f"{what} has negative values (down to {values.min():g}): neither amplitudes nor powers"
        )
    amplitude = np.sqrt(values) if powers else values
    return Spectrum(amplitude=amplitude, pixel_size_angstrom=pixel_size_angstrom)


def _mean_spectrum(
    images: Iterable[np.ndarray], pixel_size_angstrom: float, size: int, resample: bool
) -> Spectrum:
    if size < LEAST_SIZE or size % 2:
        raise ParameterError(f"a spectrum has an even size of at least {LEAST_SIZE} pixels, found {size}")
    total: torch.Tensor | None = None
    count = 0
    tile = tile_size(size, pixel_size_angstrom, resample)
    for image in images:
        power = _power(image, tile, size)
        total = power if total is None else total + power
        count += 1
    if total is None:
        raise FormatError("a movie without frames has no spectrum")
    amplitude = (total / count).sqrt_().numpy()
    return Spectrum(amplitude=amplitude, pixel_size_angstrom=pixel_size_angstrom * tile / size)


def tile_size(size: int, pixel_size_angstrom: float, resample: bool = True) -> int:
    """Pixels of the image that correspond to the width of the spectrum: even, with a fast transform."""
    if not resample or pixel_size_angstrom >= RESAMPLED_PIXEL_ANGSTROM:
        return size
    return fast_size(math.ceil(size * RESAMPLED_PIXEL_ANGSTROM / pixel_size_angstrom))


def fast_size(least: int) -> int:
    """The smallest even number from ``least`` on whose prime factors are 2, 3 and 5."""
    size = least + least % 2
    while True:
        rest = size
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return size
        size += 2


def _power(image: np.ndarray, tile: int, size: int) -> torch.Tensor:
    """Mean power ``(size, size)`` of an image, its transform sampled some times as finely as the spectrum."""
    times = max(1, math.ceil(max(image.shape) / tile - CROPPED_FRACTION))
    edge = times * tile
    reach, beside, odd = times * size // 2, times // 2, times % 2
    # the mates of negative columns are not looked up: they only enter the axis, which no fit uses
    columns = torch.arange(-beside, reach + times - beside + 1 - odd).abs_().clamp_max_(edge // 2)
    rows = torch.arange(-reach - beside, reach + beside + 1 - odd)[: times * size + 1 - odd] % edge
    # along y only the columns that are kept
    along = torch.fft.rfft(_framed(image, edge), n=edge, dim=1)[:, : int(columns.max()) + 1]
    part = torch.fft.fft(along, n=edge, dim=0).index_select(0, rows)
    power = (part.real.square() + part.imag.square()).index_select(1, columns)
    half = _blocks(_blocks(power, times, 0), times, 1)
    mates = half.roll(-1, 0).flip(0)
    return torch.cat([mates[:, 1:].flip(1), half[:, :-1]], dim=1) / float(image.size)


def _blocks(power: torch.Tensor, times: int, axis: int) -> torch.Tensor:
    """Means over ``times`` values about every ``times``-th; an even window takes half of both its ends."""
    if times % 2 == 0:
        count = power.shape[axis] - 1
        power = 0.5 * (power.narrow(axis, 0, count) + power.narrow(axis, 1, count))
    return power.unflatten(axis, (-1, times)).mean(axis + 1)


def _framed(image: np.ndarray, edge: int) -> torch.Tensor:
    """The image about its mean, its borders faded out, cropped to at most ``edge`` pixels."""
    values = torch.from_numpy(np.ascontiguousarray(image))
    for axis in range(2):
        if values.shape[axis] > edge:
            values = values.narrow(axis, (values.shape[axis] - edge) // 2, edge)
    # NumPy's float32 mean adds pairwise, which is exact enough and fast
    values = values - float(values.numpy().mean())
    for axis in range(2):
        width = max(1, round(TAPER_FRACTION * values.shape[axis]))
        ramp = 0.5 - 0.5 * torch.cos(math.pi * (torch.arange(width) + 0.5) / width)
        first, last = ramp, ramp.flip(0)
        if axis == 0:
            first, last = first[:, None], last[:, None]
        values.narrow(axis, 0, width).mul_(first)
        values.narrow(axis, values.shape[axis] - width, width).mul_(last)
    return values
