"""Passes over a frame's pixels without copies of the frame."""

import numba as nb
import numpy as np

SAMPLE_ROWS = 8


def statistics(image: np.ndarray) -> tuple[float, float, float, float]:
    """Mean, variance, least and greatest value of a finite ``image`` ``(y, x)`` float32."""
    # close to the mean, so that squares do not lose digits
    pivot = float(image[:: -(-len(image) // SAMPLE_ROWS)].mean())
    first, second = _moments(image, np.float32(pivot))
    shift = first / image.size
    return (
        pivot + shift,
        max(second / image.size - shift * shift, 0.0),
        float(image.min()),
        float(image.max()),
    )


@nb.njit(nogil=True, cache=True, error_model="numpy")
def calibrate(raw, dark, gain, out):  # type: ignore[no-untyped-def]  # pragma: no cover
    """``(raw - dark) * gain`` of ``(y, x)`` to ``out`` float32; dark and gain float32 or None."""
    for y in range(raw.shape[0]):
        row, target = raw[y], out[y]
        for x in range(len(row)):
            value = np.float32(row[x])
            if dark is not None:
                value -= dark[y, x]
            if gain is not None:
                value *= gain[y, x]
            target[x] = value


@nb.njit(nogil=True, fastmath=True, cache=True, error_model="numpy")
def _moments(image, pivot):  # type: ignore[no-untyped-def]  # pragma: no cover
    first, second = 0.0, 0.0
    for y in range(image.shape[0]):
        row, sums, squares = image[y], np.float32(0.0), np.float32(0.0)
        for x in range(len(row)):
            off = row[x] - pivot
            sums += off
            squares += off * off
        first += float(sums)
        second += float(squares)
    return first, second
