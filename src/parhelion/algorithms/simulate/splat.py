"""Points onto a grid."""

import numpy as np
import torch


def splat_points(points: np.ndarray, box: int, pixel: float) -> torch.Tensor:
    """Points ``(n, 4)`` (x, y, z in Å, weight) shared trilinearly on a periodic grid ``(z, y, x)``."""
    at = points[:, :3] / pixel
    low = np.floor(at).astype(np.int64)
    part = at - low
    grid = np.zeros(box**3)
    for corner in np.ndindex(2, 2, 2):
        step = np.array(corner)
        weight = points[:, 3] * np.prod(np.where(step, part, 1 - part), axis=1)
        x, y, z = ((low + step) % box).T
        grid += np.bincount((z * box + y) * box + x, weights=weight, minlength=box**3)
    return torch.from_numpy(grid.reshape(box, box, box).astype(np.float32))
