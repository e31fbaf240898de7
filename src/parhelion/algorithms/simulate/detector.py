"""A counting detector: transfer function, uneven sensitivity, defects, and Poisson counts.

The expected number of electrons, blurred by the transfer function, is multiplied by each pixel's sensitivity;
counts are Poisson, so that their noise is white and DQE(k) = efficiency · MTF(k)². Counts times the gain
reference have the same expectation in every working pixel.
"""

from dataclasses import dataclass

import numpy as np
import torch

from parhelion.errors import ParameterError
from parhelion.fourier.grids import rfft_radius

BLOCKS = 8
COLUMN_SHARE, BLOCK_SHARE, PIXEL_SHARE = 0.5, 0.5, 0.7  # of the gain's variation; their squares add up to 1
LEAST_SENSITIVITY = 0.2
HOT_COUNTS = (20.0, 120.0)
HEADROOM_SIGMA = 12.0


@dataclass(frozen=True, kw_only=True)
class Detector:
    """``sensitivity`` ``(y, x)`` float32 of mean 1, 0 at dead pixels; ``hot_xy`` and ``dead_xy`` ``(n, 2)``;
    ``hot_counts`` ``(n,)`` are what hot pixels count in each frame beside electrons."""

    sensitivity: np.ndarray
    hot_xy: np.ndarray
    hot_counts: np.ndarray
    dead_xy: np.ndarray
    mtf_at_nyquist: float
    efficiency: float

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return int(self.sensitivity.shape[0]), int(self.sensitivity.shape[1])

    def gain(self) -> np.ndarray:
        """Gain reference ``(y, x)`` float32: corrected = raw · gain; 0 at dead pixels."""
        gain = np.zeros_like(self.sensitivity)
        np.divide(1.0, self.sensitivity, out=gain, where=self.sensitivity > 0)
        return gain

    def mtf(self, shape: tuple[int, int]) -> torch.Tensor:
        """MTF in the half layout of images of this ``shape``: a Gaussian with ``mtf_at_nyquist`` at 0.5
        cycles per pixel."""
        return torch.as_tensor(self.mtf_at_nyquist) ** ((rfft_radius(shape) / 0.5) ** 2)

    def count_type(self, electrons_per_pixel: float) -> type[np.uint8] | type[np.uint16]:
        """uint8 where counts of this mean fit with headroom, uint16 otherwise."""
        mean = electrons_per_pixel * self.efficiency * float(self.sensitivity.max())
        largest = mean + HEADROOM_SIGMA * np.sqrt(mean) + HEADROOM_SIGMA
        return np.uint8 if largest + HOT_COUNTS[1] < np.iinfo(np.uint8).max else np.uint16

    def expose(
        self, electrons: np.ndarray, generator: np.random.Generator, dtype: type[np.uint8] | type[np.uint16]
    ) -> np.ndarray:
        """Counts ``(y, x)`` of one frame for the expected ``electrons`` per pixel (MTF applied already)."""
        expected = np.clip(electrons * self.sensitivity, 0.0, None)
        expected *= self.efficiency
        expected[self.hot_xy[:, 1], self.hot_xy[:, 0]] += self.hot_counts
        counts = generator.poisson(expected)
        return np.minimum(counts, np.iinfo(dtype).max).astype(dtype)


def random_detector(
    shape: tuple[int, int],
    generator: np.random.Generator,
    *,
    gain_variation: float = 0.05,
    dead_pixels: int = 20,
    hot_pixels: int = 20,
    mtf_at_nyquist: float = 0.6,
    efficiency: float = 1.0,
) -> Detector:
    """A detector whose sensitivity varies by ``gain_variation`` (standard deviation) between columns, between
    read-out blocks and from pixel to pixel, with single defects. Raises ParameterError for impossible
    values."""
    if dead_pixels + hot_pixels > 0.01 * shape[0] * shape[1]:
        raise ParameterError(
            f"{dead_pixels + hot_pixels} defects are more than 1 % of {shape[1]} x {shape[0]} pixels"
        )
    rows, columns = shape
    block = generator.standard_normal((BLOCKS, BLOCKS))
    of_row = np.minimum(np.arange(rows) * BLOCKS // rows, BLOCKS - 1)
    of_column = np.minimum(np.arange(columns) * BLOCKS // columns, BLOCKS - 1)
    pattern = (
        COLUMN_SHARE * generator.standard_normal(columns)[None, :]
        + BLOCK_SHARE * block[of_row][:, of_column]
        + PIXEL_SHARE * generator.standard_normal(shape)
    )
    sensitivity = 1 + gain_variation * pattern
    sensitivity = np.clip(sensitivity / sensitivity.mean(), LEAST_SENSITIVITY, None).astype(np.float32)
    places = generator.choice(rows * columns, dead_pixels + hot_pixels, replace=False)
    xy = np.stack([places % columns, places // columns], axis=1).astype(np.int64)
    dead, hot = xy[:dead_pixels], xy[dead_pixels:]
    sensitivity[dead[:, 1], dead[:, 0]] = 0.0
    return Detector(
        sensitivity=sensitivity,
        hot_xy=hot,
        hot_counts=generator.uniform(*HOT_COUNTS, hot_pixels).astype(np.float32),
        dead_xy=dead,
        mtf_at_nyquist=mtf_at_nyquist,
        efficiency=efficiency,
    )
