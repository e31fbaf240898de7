"""Particle images on their way into a reconstruction: cropped, and without those that have a blank edge."""

import threading

import numpy as np

from parhelion.algorithms.class2d.problem import has_blank_edge
from parhelion.contracts import ParticleSource
from parhelion.engine.loader import EDGE_PIXELS
from parhelion.errors import ParameterError

MARGIN = 1.15
"""Of a cropped box over the diameter of the circle that images are masked to; what is outside is noise."""


def cropped_box(box: int, pixel_size_angstrom: float, diameter_angstrom: float) -> int:
    """The smallest box with a fast transform, of the same parity, that holds particle and soft mask.

    ``box`` itself where there is nothing to crop. Raises ParameterError where no diameter was given, so that
    the particle is as large as the box.
    """
    if diameter_angstrom >= box * pixel_size_angstrom:
        raise ParameterError(
            f"a particle as large as the box ({box * pixel_size_angstrom:.0f} Å) cannot be cropped; "
            "--crop needs --diameter"
        )
    least = MARGIN * MARGIN * diameter_angstrom / pixel_size_angstrom + 2 * EDGE_PIXELS
    for size in range(int(np.ceil(least)), box):
        if size % 2 == box % 2 and (_is_fast(size) or size % 2):
            return size
    return box


def _is_fast(size: int) -> bool:
    for factor in (2, 3, 5):
        while size % factor == 0:
            size //= factor
    return size == 1


class PreparedImages:
    """A source of images in ``box`` pixels about the centre of those of ``source``.

    With ``exclude_edges`` images that have a blank edge come as NaN, which makes them unusable; ``blank``
    are their views.
    """

    def __init__(self, source: ParticleSource, box: int, *, exclude_edges: bool = False) -> None:
        self.source = source
        self.box = box
        self.exclude_edges = exclude_edges
        self.blank: set[int] = set()
        self._lock = threading.Lock()

    def images(self, views: np.ndarray) -> np.ndarray:
        """Images ``(len(views), box, box)`` float32 of these view rows."""
        images = self.source.images(views)
        if self.exclude_edges:
            finite = np.isfinite(images).all(axis=(1, 2))
            blank = has_blank_edge(np.where(finite[:, None, None], images, 0)) & finite
            if blank.any():
                images = images.copy()
                images[blank] = np.nan
                with self._lock:
                    self.blank.update(np.asarray(views)[blank].tolist())
        before = self.source.box // 2 - self.box // 2
        if self.box == self.source.box:
            return images
        inner = slice(before, before + self.box)
        return np.ascontiguousarray(images[:, inner, inner])
