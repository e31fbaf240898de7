"""Shaded pictures of a map's surface: parallel rays, the first crossing of a density, light from above."""

import numpy as np
from scipy.ndimage import zoom

from parhelion.model.volume import Volume
from parhelion.report.images import to_png

PIXELS = 180
PAPER = np.array([1.0, 1.0, 1.0])
TINT = np.array([0.42, 0.62, 0.83])
LIGHT = np.array([0.75, -0.35, -0.45])
"""Direction to the light as (towards the viewer, up, right) in the sense of the array's axes."""


def default_level(data: np.ndarray) -> float:
    """Two standard deviations above the mean: half the density where a molecule fills a twentieth."""
    return float(data.mean() + 2 * data.std())


def views(volume: Volume, level: float | None) -> tuple[list[str], float]:
    """Pictures looking down z, y and x, as PNG addresses, and the density of the surface."""
    data = np.asarray(volume.data, dtype=np.float32)
    used = default_level(data) if level is None else level
    fine = zoom(data, PIXELS / max(data.shape), order=1) if max(data.shape) != PIXELS else data
    pictures = []
    for axis in range(3):
        # The viewer is at the far end of the axis; the other two axes keep their order (up, right).
        towards = np.flip(np.moveaxis(fine, axis, 0), axis=0)
        pictures.append(to_png(shade(towards, used), 0, 1))
    return pictures, used


def shade(density: np.ndarray, level: float) -> np.ndarray:
    """Colours ``(y, x, 3)`` of the surface that rays along the first axis ``(depth, y, x)`` meet first."""
    inside = density > level
    hit = inside.any(axis=0)
    first = inside.argmax(axis=0)
    y, x = np.nonzero(hit)
    depth = first[y, x]
    normal = np.stack([_slope(density, axis, depth, y, x) for axis in range(3)], axis=-1)
    normal /= np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-12)
    # Density falls outwards and depth grows away from the viewer: minus the gradient faces the light.
    light = LIGHT * [-1, 1, 1] / np.linalg.norm(LIGHT)
    brightness = 0.35 + 0.65 * np.clip(-(normal @ light), 0, 1)
    fog = 1 - 0.45 * depth / density.shape[0]
    colours = np.ones((*hit.shape, 3)) * PAPER
    colours[y, x] = np.clip(TINT * (brightness * fog * 1.25)[:, None], 0, 1)
    return colours


def _slope(density: np.ndarray, axis: int, depth: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Central difference of the density at these voxels, over two voxels to each side."""
    place = [depth, y, x]
    ahead, behind = list(place), list(place)
    ahead[axis] = np.minimum(place[axis] + 2, density.shape[axis] - 1)
    behind[axis] = np.maximum(place[axis] - 2, 0)
    difference: np.ndarray = density[tuple(ahead)] - density[tuple(behind)]
    return difference.astype(np.float64)
