"""Peaks of a score map that keep a distance from each other."""

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree


def find_peaks(
    score: np.ndarray,
    allowed: np.ndarray,
    *,
    threshold: float,
    distance_yx: tuple[float, float],
    limit: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Positions ``(n, 2)`` (y, x), to a fraction of a pixel, and heights ``(n,)``, highest first.

    A peak is no lower than its eight neighbours, at least ``threshold`` high, and lies where ``allowed``.
    Of two peaks closer than ``distance_yx`` (pixels along y and x, an ellipse) the higher stays. With
    ``limit`` only that many are kept.
    """
    top = ndimage.maximum_filter(score, size=3, mode="nearest")
    y, x = np.nonzero((score >= top) & (score >= threshold) & allowed)
    order = np.argsort(-score[y, x], kind="stable")
    points = np.stack([y, x], axis=1)[order]
    keep = _apart(points / np.maximum(distance_yx, 1e-6), limit)
    points = points[keep]
    return _refined(score, points), score[points[:, 0], points[:, 1]].astype(np.float64)


def _apart(points: np.ndarray, limit: int | None) -> np.ndarray:
    """Indices of the points, in order, that lie at least 1 from each point kept before."""
    if len(points) == 0:
        return np.zeros(0, np.int64)
    tree = cKDTree(points)
    free = np.ones(len(points), bool)
    kept = []
    for i in range(len(points)):
        if not free[i]:
            continue
        kept.append(i)
        if limit is not None and len(kept) >= limit:
            break
        free[tree.query_ball_point(points[i], 1.0 - 1e-9)] = False
    return np.array(kept, np.int64)


def _refined(score: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The vertex of the parabola through each peak and its two neighbours, along each axis."""
    refined = points.astype(np.float64)
    for axis in (0, 1):
        step = np.eye(2, dtype=np.int64)[axis]
        inner = (points[:, axis] > 0) & (points[:, axis] < score.shape[axis] - 1)
        at = points[inner]
        low, middle, high = (score[tuple((at + sign * step).T)].astype(np.float64) for sign in (-1, 0, 1))
        curve = low - 2 * middle + high
        offset = np.where(curve < 0, 0.5 * (low - high) / np.where(curve < 0, curve, -1.0), 0.0)
        refined[inner, axis] += np.clip(offset, -0.5, 0.5)
    return refined
