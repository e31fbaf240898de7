"""Weights of frames at frequencies as a short sum of products, and their use on transforms."""

import numba as nb
import numpy as np
import scipy.fft

TOLERANCE = 0.005
"""Root-mean-square error of the weights of all frames at one frequency, relative to them."""
FINEST = float(np.sqrt(0.5))
"""Greatest frequency of an image's transform in cycles per pixel."""


def weight_frequencies(points: int) -> np.ndarray:
    """``points`` frequencies in cycles per pixel, in equal steps from 0 to the finest there is."""
    return np.linspace(0.0, FINEST, points)


def factors(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Shares ``(n, k)`` and curves ``(k, points)`` float32 whose product is ``weights`` ``(n, points)``.

    ``k`` is as small as TOLERANCE allows. Damage makes weights smooth along both axes: 3 to 6 are enough for
    the doses in use.
    """
    weights = np.asarray(weights, np.float64)
    size = np.maximum(np.sqrt((weights**2).sum(axis=0)), 1e-9)
    relative = weights / size
    # of the few frames, not of the many frequencies
    left = np.linalg.eigh(relative @ relative.T)[1][:, ::-1]
    for count in range(1, len(left) + 1):
        curves = left[:, :count].T @ relative
        if np.sqrt(((left[:, :count] @ curves - relative) ** 2).sum(axis=0)).max() <= TOLERANCE:
            break
    return left[:, :count].astype(np.float32), (curves * size).astype(np.float32)


def add_weighted(
    total: np.ndarray, transform: np.ndarray, shape: tuple[int, int], curve: np.ndarray | None
) -> None:
    """Add a ``transform`` ``(y, x // 2 + 1)`` times ``curve`` (see ``weight_frequencies``) to ``total``.

    The nearest point of the curve counts; None is 1 everywhere.
    """
    if curve is None:
        total += transform
        return
    fy, fx = scipy.fft.fftfreq(shape[0]), scipy.fft.rfftfreq(shape[1])
    _add_weighted(
        transform,
        (fy**2).astype(np.float32),
        (fx**2).astype(np.float32),
        curve,
        np.float32((len(curve) - 1) / FINEST),
        total,
    )


@nb.njit(nogil=True, fastmath=True, cache=True, error_model="numpy")
def _add_weighted(transform, fy2, fx2, curve, scale, total):  # type: ignore[no-untyped-def]  # pragma: no cover
    place = np.empty(transform.shape[1], np.int32)
    for y in range(transform.shape[0]):
        square, given, sums = fy2[y], transform[y], total[y]
        # two loops: the compiler makes vectors of the first
        for x in range(len(place)):
            place[x] = np.int32(np.sqrt(square + fx2[x]) * scale + np.float32(0.5))
        for x in range(len(place)):
            sums[x] += given[x] * curve[np.uint64(place[x])]
