"""Grey pictures of maps and images as inline PNG."""

import base64
import io
from collections.abc import Sequence

import numpy as np
from matplotlib.image import imsave

from parhelion.model.volume import Volume

LARGEST = 256
BLACK_PERCENTILE, WHITE_PERCENTILE = 0.5, 99.7


def central_slices(volume: Volume) -> list[np.ndarray]:
    """The slices through the centre ``n // 2``, normal to z, y and x."""
    data = volume.data
    return [np.take(data, data.shape[axis] // 2, axis=axis) for axis in range(3)]


def axis_projections(volume: Volume) -> list[np.ndarray]:
    """The density summed along z, y and x."""
    return [volume.data.sum(axis=axis, dtype=np.float64) for axis in range(3)]


def thumbnails(pictures: Sequence[np.ndarray] | np.ndarray, *, shared: bool) -> list[str]:
    """Images ``(y, x)`` as PNG addresses; first row at the bottom, as the field's viewers show them.

    ``shared`` contrast is taken over all images, so that they can be compared.
    """
    small = [shrink(np.asarray(picture, dtype=np.float64)) for picture in pictures]
    if not small:
        return []
    every = _limits(np.concatenate([picture.ravel() for picture in small])) if shared else None
    return [to_png(picture, *(every or _limits(picture.ravel()))) for picture in small]


def shrink(picture: np.ndarray) -> np.ndarray:
    """The image averaged over squares until its longer edge is at most LARGEST pixels."""
    factor = -(-max(picture.shape) // LARGEST)
    if factor <= 1:
        return picture
    y, x = (edge // factor for edge in picture.shape)
    return picture[: y * factor, : x * factor].reshape(y, factor, x, factor).mean(axis=(1, 3))


def to_png(picture: np.ndarray, low: float, high: float) -> str:
    """A grey image (or colours ``(y, x, 3)`` in 0…1) as a ``data:`` address."""
    buffer = io.BytesIO()
    imsave(buffer, picture, cmap="gray", vmin=low, vmax=high, format="png", origin="lower")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _limits(values: np.ndarray) -> tuple[float, float]:
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        return 0.0, 1.0
    low, high = np.percentile(finite, [BLACK_PERCENTILE, WHITE_PERCENTILE])
    return float(low), float(high) if high > low else float(low) + 1.0
