"""Transforms of images at frequencies off the grid: ``fourier/nufft`` in the plane.

Where the frequencies are the same for many images, the interpolation is one sparse matrix.
"""

import numpy as np
import scipy.sparse
import torch

from parhelion.errors import ParameterError
from parhelion.fourier.nufft import PADDING, kernel_transform, kernel_values

WIDTH = 6


class ImageSampler:
    """Samples transforms of images of ``box`` x ``box`` pixels at ``kx, ky`` ``(k,)`` in cycles per pixel.

    Raises ParameterError where a frequency is beyond Nyquist.
    """

    def __init__(self, box: int, kx: np.ndarray, ky: np.ndarray) -> None:
        if max(np.abs(kx).max(initial=0), np.abs(ky).max(initial=0)) > 0.5:
            raise ParameterError("a frequency is beyond 0.5 cycles per pixel; lower the resolution limit")
        self.box, self.size = box, PADDING * box
        taper = 1.0 / kernel_transform((np.arange(box) - box // 2) / self.size, WIDTH)
        self.taper = torch.from_numpy(np.outer(taper, taper).astype(np.float32))
        self.weights = self._weights(kx, ky)

    def _weights(self, kx: np.ndarray, ky: np.ndarray) -> scipy.sparse.csr_matrix:
        """Rows of ``WIDTH``² kernel values, one per frequency, on the padded grid."""
        steps = np.arange(WIDTH) - WIDTH // 2 + 1
        columns, values = [], []
        for frequency in (ky, kx):
            position = np.asarray(frequency, dtype=np.float64) * self.size
            index = np.floor(position)[:, None] + steps
            values.append(kernel_values(np.abs(position[:, None] - index), WIDTH))
            columns.append(index.astype(np.int64) % self.size)
        at = columns[0][:, :, None] * self.size + columns[1][:, None, :]
        weight = values[0][:, :, None] * values[1][:, None, :]
        count = len(np.atleast_1d(kx))
        start = np.arange(count + 1) * WIDTH**2
        return scipy.sparse.csr_matrix((weight.ravel(), at.ravel(), start), shape=(count, self.size**2))

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Unitary transforms ``(m, k)`` complex64 of ``(m, box, box)`` about pixel ``box // 2``."""
        padded = torch.zeros((len(images), self.size, self.size), dtype=torch.float32)
        first = self.size // 2 - self.box // 2
        inner = slice(first, first + self.box)
        padded[:, inner, inner] = images * self.taper
        full = torch.fft.fft2(torch.fft.ifftshift(padded, dim=(-2, -1))).flatten(1).numpy()
        return torch.from_numpy(
            np.ascontiguousarray((self.weights @ full.T).T / self.box, dtype=np.complex64)
        )
