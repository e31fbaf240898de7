"""Move the content of an image by a smooth field, with a kernel that keeps fine detail."""

import math

import numba as nb
import numpy as np

TAPS = 8
STEPS = 8192
KAISER_BETA = 6.0
MARGIN_PX = TAPS
"""How far beyond its source a moved pixel looks; an image needs as much around the field."""


def _kernel_table() -> np.ndarray:
    """Kaiser-windowed sinc at distances 0 … TAPS / 2 in steps of 1 / STEPS."""
    t = np.arange(TAPS // 2 * STEPS + 1) / STEPS
    window = np.i0(KAISER_BETA * np.sqrt(np.clip(1 - (2 * t / TAPS) ** 2, 0, None))) / np.i0(KAISER_BETA)
    return (np.sinc(t) * window).astype(np.float32)


TABLE = _kernel_table()


@nb.njit(cache=True, fastmath=True, nogil=True)
def _field(c: np.ndarray, axis: int, x: float, y: float) -> float:  # pragma: no cover
    return (
        c[axis, 0]
        + c[axis, 1] * x
        + c[axis, 2] * x * x
        + c[axis, 3] * y
        + c[axis, 4] * y * y
        + c[axis, 5] * x * y
    )


@nb.njit(cache=True, fastmath=True, nogil=True)
def _weights(position: float, table: np.ndarray, out: np.ndarray) -> int:  # pragma: no cover
    """Weights of the TAPS samples around ``position``, of sum 1; the first sample's number."""
    first = math.floor(position) - TAPS // 2 + 1
    total = np.float32(0)
    for w in range(TAPS):
        distance = min(abs(position - (first + w)), 0.5 * TAPS)
        out[w] = table[int(distance * STEPS + 0.5)]
        total += out[w]
    for w in range(TAPS):
        out[w] /= total
    return first


@nb.njit(cache=True, fastmath=True, nogil=True)
def _warp(
    image: np.ndarray, top: int, left: int, c: np.ndarray, table: np.ndarray, out: np.ndarray
) -> None:  # pragma: no cover
    height, width = out.shape
    wx, wy = np.empty(TAPS, np.float32), np.empty(TAPS, np.float32)
    for i in range(height):
        for j in range(width):
            x, y = j / width - 0.5, i / height - 0.5
            # the content of r is now at r + field(r): r is found by putting the guess into the field
            dx, dy = _field(c, 0, x, y), _field(c, 1, x, y)
            x2, y2 = x - dx / width, y - dy / height
            dx, dy = _field(c, 0, x2, y2), _field(c, 1, x2, y2)
            x0 = _weights(left + j - dx, table, wx)
            y0 = _weights(top + i - dy, table, wy)
            value = np.float32(0)
            for a in range(TAPS):
                row = np.float32(0)
                for b in range(TAPS):
                    row += wx[b] * image[y0 + a, x0 + b]
                value += wy[a] * row
            out[i, j] = value


def warp(
    image: np.ndarray, shape: tuple[int, int], coefficients: np.ndarray, origin_xy: tuple[int, int]
) -> np.ndarray:
    """The field ``shape`` (height, width) whose pixel (0, 0) is at ``origin_xy`` of ``image``, its content
    moved by the local field ``coefficients (2, 6)`` in pixels (see ``motion.BeamInducedMotion``).

    ``image`` must reach further than the field by the largest displacement and MARGIN_PX on every side.
    """
    out = np.empty(shape, np.float32)
    _warp(
        np.ascontiguousarray(image, np.float32),
        origin_xy[1],
        origin_xy[0],
        np.ascontiguousarray(coefficients, np.float64),
        TABLE,
        out,
    )
    return out
