"""Projections of a volume at any orientation, exact to single precision, for making test data."""

import numpy as np
import torch

from parhelion.fourier.fft import irfft2
from parhelion.fourier.grids import rfft_frequencies
from parhelion.fourier.nufft import FourierSampler


class Projector:
    """Central slices and projections of a cubic volume ``(z, y, x)``."""

    def __init__(self, volume: np.ndarray) -> None:
        self.sampler = FourierSampler(volume)
        self.box = self.sampler.box

    def slices(self, rotation: np.ndarray, size: int, magnification: np.ndarray | None = None) -> np.ndarray:
        """Transforms ``(n, size, size // 2 + 1)`` of the projections at ``rotation (n, 3, 3)``.

        The frequencies are those of an image of ``size`` pixels; beyond Nyquist (the corners) there is
        nothing. ``x_image = A x_volume``, so that an image frequency lies at ``Aᵀ (kx, ky, 0)``, or at
        ``Aᵀ (M k, 0)`` where the images have a ``magnification`` matrix ``M (2, 2)``.
        """
        fy, fx = (f.numpy() for f in rfft_frequencies((size, size), dtype=torch.float64))
        kx, ky = np.broadcast_arrays(fx, fy)
        points = np.stack([kx, ky], axis=-1)
        if magnification is not None:
            points = points @ np.asarray(magnification, np.float64).T
        keep = (np.hypot(kx, ky) <= 0.5) & (np.hypot(points[..., 0], points[..., 1]) <= 0.5)
        points = points[keep]
        out = np.zeros((len(rotation), size, size // 2 + 1), np.complex64)
        for i, a in enumerate(np.asarray(rotation, dtype=np.float64)):
            out[i][keep] = self.sampler.at(points @ a[:2])
        return out

    def images(self, rotation: np.ndarray, size: int | None = None) -> np.ndarray:
        """Projections ``(n, size, size)`` float32: sums of voxels along the beam, centre ``size // 2``."""
        size = size or self.box
        return irfft2(torch.from_numpy(self.slices(rotation, size)), (size, size)).numpy()
