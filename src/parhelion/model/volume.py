"""A map: a density on a cubic or box-shaped grid with its pixel size."""

from dataclasses import dataclass

import numpy as np

from parhelion.errors import MetadataError


@dataclass(frozen=True, kw_only=True)
class Volume:
    """Density ``(z, y, x)``, protein white (positive), with its sampling.

    Raises MetadataError when the array is not three-dimensional or the pixel size not positive.
    """

    data: np.ndarray
    pixel_size_angstrom: float

    def __post_init__(self) -> None:
        if self.data.ndim != 3:
            raise MetadataError(f"a map has three dimensions, found an array of shape {self.data.shape}")
        if not (np.isfinite(self.pixel_size_angstrom) and self.pixel_size_angstrom > 0):
            raise MetadataError(
                f"pixel size must be positive and finite, found {self.pixel_size_angstrom}; "
                "give it with --pixel-size"
            )

    @property
    def box(self) -> int:
        """Edge length in pixels of a cubic map; MetadataError for any other shape."""
        z, y, x = self.data.shape
        if not z == y == x:
            raise MetadataError(f"a cubic map is needed here, found {z} x {y} x {x} voxels")
        return int(z)
