"""Particle images on their way into a reconstruction: cropped, and without those that have a blank edge."""

import threading

import numpy as np

from parhelion.algorithms.class2d.problem import has_blank_edge
from parhelion.algorithms.preparation import MASK_GROWTH
from parhelion.contracts import ParticleSource
from parhelion.engine.search_view import cropped_box, middle
from parhelion.errors import ParameterError


def cropped_to(box: int, pixel_size_angstrom: float, diameter_angstrom: float) -> int:
    """The box that holds the soft mask of a particle, ``box`` itself where cropping would save little.

    Raises ParameterError for a particle as large as the box.
    """
    if diameter_angstrom >= box * pixel_size_angstrom:
        raise ParameterError(
            f"a particle as large as the box ({box * pixel_size_angstrom:.0f} Å) cannot be cropped; "
            "--autocrop needs --diameter"
        )
    return cropped_box(box, MASK_GROWTH * diameter_angstrom / pixel_size_angstrom)


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
        if self.box == self.source.box:
            return images
        inner = middle(self.source.box, self.box)
        return np.ascontiguousarray(images[:, inner, inner])
