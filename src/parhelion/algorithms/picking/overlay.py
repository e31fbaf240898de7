"""Pictures of micrographs with their particles marked."""

import numpy as np
from scipy import ndimage

PICK_COLOUR = (0.25, 1.0, 0.35)
BOX_COLOUR = (0.3, 0.55, 1.0)
DARKEST_SIGMAS = 4.0


def overlay(
    image: np.ndarray,
    xy_px: np.ndarray,
    radius_px: float | np.ndarray,
    *,
    largest: int,
    boxes_xy_px: np.ndarray | None = None,
    box_px: float = 0.0,
    smooth_px: float = 0.0,
) -> np.ndarray:
    """Colours ``(v, u, 3)`` float32 from 0 to 1: ``image (y, x)`` averaged down to ``largest`` pixels at
    most, blurred by a Gaussian of ``smooth_px`` pixels of the micrograph, with a circle around each of
    ``xy_px (n, 2)`` and a square of edge ``box_px`` around each of ``boxes_xy_px``."""
    factor = -(-max(image.shape) // largest)
    y, x = (n // factor * factor for n in image.shape)
    rows = np.asarray(image[:y, :x], np.float32).reshape(y // factor, factor, x).sum(axis=1)
    small = rows.reshape(y // factor, x // factor, factor).sum(axis=2) / np.float32(factor**2)
    finite = np.isfinite(small)
    if not finite.all():
        small = np.where(finite, small, np.median(small[finite]) if finite.any() else 0)
    if smooth_px > 0.5 * factor:
        small = ndimage.gaussian_filter(small, smooth_px / factor)
    low, middle, high = np.percentile(small, [0.5, 50, 99.7])
    low = max(low, middle - DARKEST_SIGMAS * max(high - middle, 1e-6))
    grey = np.clip((small - low) / max(high - low, 1e-12), 0, 1)
    picture = np.repeat(grey[:, :, None], 3, axis=2).astype(np.float32)
    to_small = (np.asarray(xy_px, np.float64).reshape(-1, 2) - 0.5 * (factor - 1)) / factor
    radii = np.broadcast_to(np.asarray(radius_px, np.float64) / factor, len(to_small))
    width = max(0.6, largest / 1200)
    if boxes_xy_px is not None and len(boxes_xy_px):
        centres = (np.asarray(boxes_xy_px, np.float64) - 0.5 * (factor - 1)) / factor
        for centre in centres:
            _outline(picture, centre, 0.5 * box_px / factor, width, BOX_COLOUR, square=True)
    for centre, radius in zip(to_small, radii, strict=True):
        _outline(picture, centre, radius, width, PICK_COLOUR, square=False)
    return picture


def _outline(
    picture: np.ndarray,
    centre_xy: np.ndarray,
    radius: float,
    width: float,
    colour: tuple[float, float, float],
    *,
    square: bool,
) -> None:
    """Draw a circle or a square into the picture, only where it lies."""
    reach = radius + width + 1
    x0, y0 = (max(0, int(np.floor(c - reach))) for c in centre_xy)
    x1, y1 = (min(n, int(np.ceil(c + reach)) + 1) for c, n in zip(centre_xy, picture.shape[1::-1]))
    if x0 >= x1 or y0 >= y1:
        return
    dx = np.abs(np.arange(x0, x1) - centre_xy[0])[None, :]
    dy = np.abs(np.arange(y0, y1) - centre_xy[1])[:, None]
    distance = np.maximum(dx, dy) if square else np.hypot(dx, dy)
    picture[y0:y1, x0:x1][np.abs(distance - radius) <= width] = colour
