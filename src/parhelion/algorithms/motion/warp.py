"""Frames moved and weighted: whole in Fourier space, locally by cubic B-splines.

Splines need coefficients instead of pixels. These come for free, since the frame is in Fourier space anyway:
the transform is divided by that of the sampled spline (Unser, Aldroubi & Eden 1993).
"""

import numba as nb
import numpy as np
import scipy.fft

from parhelion.algorithms.motion.band import ramp
from parhelion.algorithms.motion.polynomial import LocalMotion

RUN = 32
"""Pixels along x for which one whole-pixel offset serves; local motion hardly changes over so few."""

_jit = nb.njit(nogil=True, fastmath=True, cache=True, error_model="numpy")


def add_moved(
    total: np.ndarray,
    transform: np.ndarray,
    shape: tuple[int, int],
    shift_px: np.ndarray,
    weights: np.ndarray | None = None,
    *,
    spline: bool = False,
) -> None:
    """Add a frame's transform ``(y, x // 2 + 1)`` to ``total``, moved by ``shift_px`` (x, y) and weighted.

    ``weights`` ``(k,)`` are at 0 to √½ cycles per pixel in equal steps, of which the nearest counts; None for
    1. ``spline`` makes
    coefficients of cubic B-splines of it.
    """
    fy, fx = scipy.fft.fftfreq(shape[0]), scipy.fft.rfftfreq(shape[1])
    factor_y, factor_x = (
        (part[0, 0] + 1j * part[0, 1])
        for part in (ramp(fy, shift_px[1:2].astype(float)), ramp(fx, shift_px[:1].astype(float)))
    )
    if shape[0] % 2 == 0:
        # the Nyquist row cannot tell a shift from its opposite: the frame must stay real
        factor_y[shape[0] // 2] = factor_y[shape[0] // 2].real
    if spline:
        factor_y = factor_y * (3 / (2 + np.cos(2 * np.pi * fy)))
        factor_x = factor_x * (3 / (2 + np.cos(2 * np.pi * fx)))
    table = np.ones(2, np.float32) if weights is None else weights.astype(np.float32)
    _add_product(
        transform,
        factor_y.astype(np.complex64),
        factor_x.astype(np.complex64),
        (fy**2).astype(np.float32),
        (fx**2).astype(np.float32),
        table,
        np.float32((len(table) - 1) / np.sqrt(0.5)),
        total,
    )


def weight_frequencies(points: int) -> np.ndarray:
    """The frequencies in cycles per pixel of ``add_moved``'s weights."""
    return np.linspace(0.0, np.sqrt(0.5), points)


def warped(coefficients: np.ndarray, motion: LocalMotion, frame: float) -> np.ndarray:
    """The image of spline ``coefficients`` ``(y, x)`` moved by the local motion of ``frame``.

    The value at a place is that of the frame at the place less the local shift there; both axes are done one
    after the other, which is exact to the product of shift and its slope. Beyond the edge pixels repeat. The
    image takes the memory of the coefficients.
    """
    field = motion.field(frame).astype(np.float64)
    rows = np.empty_like(coefficients)
    _along_x(coefficients, field[0], rows)
    _along_y(rows, field[1], coefficients)
    return coefficients


@_jit
def _add_product(transform, factor_y, factor_x, fy2, fx2, table, scale, total):  # type: ignore[no-untyped-def]  # pragma: no cover
    plain = len(table) <= 2
    weight, place = np.ones(transform.shape[1], np.float32), np.empty(transform.shape[1], np.int32)
    for y in range(transform.shape[0]):
        by, square = factor_y[y], fy2[y]
        if not plain:
            # two loops: the compiler makes vectors of the first
            for x in range(len(weight)):
                place[x] = np.int32(np.sqrt(square + fx2[x]) * scale + np.float32(0.5))
            for x in range(len(weight)):
                weight[x] = table[np.uint64(place[x])]
        given, sums = transform[y], total[y]
        for x in range(len(weight)):
            sums[x] += given[x] * (by * factor_x[x]) * weight[x]


@_jit
def _along_x(image, field, out):  # type: ignore[no-untyped-def]  # pragma: no cover
    """out(x, y) = image at x − shift along x, one run of pixels after the other."""
    height, width = image.shape
    sixth, third = np.float32(1.0 / 6.0), np.float32(2.0 / 3.0)
    half, one = np.float32(0.5), np.float32(1.0)
    padded = np.empty(width, np.float32)
    for row in range(height):
        y = (row + 0.5) / height - 0.5
        constant = field[0] + field[3] * y + field[4] * y * y
        slope = field[1] + field[5] * y
        source, target = image[row], out[row]
        for start in range(0, width, RUN):
            stop = min(start + RUN, width)
            left, right = (start + 0.5) / width - 0.5, (stop - 0.5) / width - 0.5
            first = -(constant + slope * left + field[2] * left * left)
            last = -(constant + slope * right + field[2] * right * right)
            change = np.float32((last - first) / max(stop - start - 1, 1))
            offset = int(np.floor(0.5 * (first + last)))
            part = np.float32(first - offset)
            inside = start + offset - 1 >= 0 and stop + offset + 2 <= width
            if inside:
                base = source[start + offset - 1 : stop + offset + 2]
            else:
                base = padded[: stop - start + 3]
                for k in range(len(base)):
                    base[k] = source[min(max(start + offset - 1 + k, 0), width - 1)]
            for k in range(stop - start):
                t = part + np.float32(k) * change
                u = one - t
                a = sixth * u * u * u
                d = sixth * t * t * t
                b = third - t * t * (one - half * t)
                c = third - u * u * (one - half * u)
                target[start + k] = a * base[k] + b * base[k + 1] + c * base[k + 2] + d * base[k + 3]


@_jit
def _along_y(image, field, out):  # type: ignore[no-untyped-def]  # pragma: no cover
    """out(x, y) = image at y − shift along y."""
    height, width = image.shape
    sixth, third = np.float32(1.0 / 6.0), np.float32(2.0 / 3.0)
    half, one = np.float32(0.5), np.float32(1.0)
    for row in range(height):
        y = (row + 0.5) / height - 0.5
        constant = field[0] + field[3] * y + field[4] * y * y
        slope = field[1] + field[5] * y
        for start in range(0, width, RUN):
            stop = min(start + RUN, width)
            left, right = (start + 0.5) / width - 0.5, (stop - 0.5) / width - 0.5
            first = -(constant + slope * left + field[2] * left * left)
            last = -(constant + slope * right + field[2] * right * right)
            change = np.float32((last - first) / max(stop - start - 1, 1))
            offset = int(np.floor(0.5 * (first + last)))
            part = np.float32(first - offset)
            r0 = image[min(max(row + offset - 1, 0), height - 1), start:stop]
            r1 = image[min(max(row + offset, 0), height - 1), start:stop]
            r2 = image[min(max(row + offset + 1, 0), height - 1), start:stop]
            r3 = image[min(max(row + offset + 2, 0), height - 1), start:stop]
            target = out[row, start:stop]
            for k in range(stop - start):
                t = part + np.float32(k) * change
                u = one - t
                a = sixth * u * u * u
                d = sixth * t * t * t
                b = third - t * t * (one - half * t)
                c = third - u * u * (one - half * u)
                target[k] = a * r0[k] + b * r1[k] + c * r2[k] + d * r3[k]
