"""Fourier binning of rectangular images: a detector's frames on fewer pixels."""

import numpy as np
import scipy.fft

from parhelion.errors import ParameterError

SEARCHED = 0.004
"""Share of the wanted size within which a size with small prime factors is looked for."""
ANISOTROPY = 3e-4
"""The greatest difference between the pixel sizes along x and y that is accepted for a friendlier size."""
LARGEST_PRIME = 31
BLOCK_ROWS = 64
"""Rows that are transformed before those that are not needed leave the processor's cache."""


def binned_shape(shape: tuple[int, int], binning: float) -> tuple[int, int]:
    """Even sizes ``(y, x)`` near ``shape / binning`` whose ratio is that of ``shape`` and whose transforms
    are fast.

    Both sizes are exact where the division leaves even numbers with prime factors up to 31. Raises
    ParameterError for a binning below 1 or one that leaves fewer than 16 pixels.
    """
    if not (np.isfinite(binning) and binning >= 1):
        raise ParameterError(f"binning is {binning:g}, expected at least 1")
    y, x = shape
    if binning == 1:
        return y, x
    if min(shape) / binning < 16:
        raise ParameterError(f"binning {binning:g} leaves fewer than 16 of {x} x {y} pixels")
    middle = _even(y / binning)
    reach = max(4, _even(SEARCHED * middle))
    rows = np.arange(max(2, middle - reach), min(y, middle + reach) + 1, 2)
    found = [(int(r), _even(x * r / y)) for r in rows if _even(x * r / y) <= x]
    if not found:
        return _even(y / binning), _even(x / binning)

    def cost(size: tuple[int, int]) -> tuple[float, ...]:
        skew = abs(size[0] / y * x / size[1] - 1)
        prime = max(_largest_prime(n) for n in size)
        off = abs(size[0] * binning / y - 1)
        return max(skew - ANISOTROPY, 0.0), max(prime - LARGEST_PRIME, 0), round(off, 6), skew, prime

    return min(found, key=cost)


def _even(value: float) -> int:
    """The even number next to ``value``."""
    return 2 * round(value / 2)


def _largest_prime(number: int) -> int:
    largest, divisor = 1, 2
    while divisor * divisor <= number:
        while number % divisor == 0:
            largest, number = divisor, number // divisor
        divisor += 1
    return max(largest, number)


def fourier_bin(image: np.ndarray, shape: tuple[int, int], workers: int | None = None) -> np.ndarray:
    """``image`` (y, x) float32 on ``shape`` pixels of the same extent, by cropping its transform.

    Pixel values keep their scale; the first pixel of the result lies where that of the image lies. The
    result's sizes are even, its Nyquist frequency is left out. ``workers`` threads are used (one by default).
    """
    y, x = image.shape
    new_y, new_x = shape
    # Rows first: the columns that the crop drops are never transformed.
    rows = scipy.fft.rfft(image, axis=1, workers=workers)[:, : new_x // 2 + 1]
    columns = scipy.fft.fft(rows, axis=0, workers=workers)
    half = new_y // 2
    cropped = np.empty((new_y, new_x // 2 + 1), dtype=np.complex64)
    scale = np.float32(new_y / y * (new_x / x))
    np.multiply(columns[:half], scale, out=cropped[:half])
    np.multiply(columns[y - half :], scale, out=cropped[half:])
    cropped[half] = 0
    cropped[:, -1] = 0
    back = scipy.fft.ifft(cropped, axis=0, overwrite_x=True, workers=workers)
    return scipy.fft.irfft(back, n=new_x, axis=1, overwrite_x=True, workers=workers)


def low_transform(image: np.ndarray, columns: int) -> np.ndarray:
    """The first ``columns`` columns ``(y, columns)`` of the transform ``rfft2`` of an ``image`` (y, x).

    Column ``k`` has ``k`` periods along x: what is cut off costs half of its transform only.
    """
    out = np.empty((len(image), columns), np.complex64)
    for start in range(0, len(image), BLOCK_ROWS):
        rows = slice(start, start + BLOCK_ROWS)
        out[rows] = scipy.fft.rfft(image[rows], axis=1)[:, :columns]
    return np.asarray(scipy.fft.fft(out, axis=0, overwrite_x=True))
