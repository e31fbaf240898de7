"""Fourier transforms of centred images and volumes, by torch (MKL on a processor, cuFFT on a GPU).

The centre of a real-space array is pixel ``n // 2``: a particle there has a transform without phase
ramp. A transform is kept in the half layout of ``rfft`` (last axis ``n // 2 + 1``), zero frequency
first. Plain transforms carry no factor forward and ``1/n`` backward; unitary ones carry
``1/sqrt(n)`` both ways, so that white noise of variance 1 has a power of 1 per component.

NumPy arrays and torch tensors go in; the same kind comes out, on the same device.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import torch

Array = TypeVar("Array", np.ndarray, torch.Tensor)


@contextmanager
def fft_threads(workers: int | None) -> Iterator[None]:
    """Let torch use ``workers`` threads inside the block (None: leave as it is)."""
    if workers is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(workers)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def as_tensor(array: np.ndarray | torch.Tensor) -> torch.Tensor:
    """The array as a tensor without a copy where possible; float16 and integers become float32."""
    tensor = torch.from_numpy(_native(array)) if isinstance(array, np.ndarray) else array
    if tensor.is_complex() or tensor.dtype in (torch.float32, torch.float64):
        return tensor
    return tensor.to(torch.float32)


def _native(array: np.ndarray) -> np.ndarray:
    """What torch can wrap: native byte order, positive strides, writable, no unsigned wide integers."""
    if array.dtype.kind in "uib" or array.dtype == np.float16:
        return array.astype(np.float32)
    array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
    return array if array.flags.writeable else array.copy()


def like(tensor: torch.Tensor, example: Array) -> Array:
    """``tensor`` as the kind of array that ``example`` is."""
    if isinstance(example, np.ndarray):
        return tensor.numpy()
    return tensor


def _forward(array: Array, axes: tuple[int, ...], unitary: bool, workers: int | None) -> Array:
    with fft_threads(workers):
        shifted = torch.fft.ifftshift(as_tensor(array), dim=axes)
        return like(torch.fft.rfftn(shifted, dim=axes, norm="ortho" if unitary else "backward"), array)


def _backward(
    transform: Array, shape: tuple[int, ...], axes: tuple[int, ...], unitary: bool, workers: int | None
) -> Array:
    with fft_threads(workers):
        norm = "ortho" if unitary else "backward"
        real = torch.fft.irfftn(as_tensor(transform), s=shape, dim=axes, norm=norm)
        return like(torch.fft.fftshift(real, dim=axes), transform)


def rfft2(images: Array, *, unitary: bool = False, workers: int | None = None) -> Array:
    """Transforms ``(..., y, x // 2 + 1)`` of images ``(..., y, x)``, centre ``n // 2``."""
    return _forward(images, (-2, -1), unitary, workers)


def irfft2(
    transform: Array, shape: tuple[int, int], *, unitary: bool = False, workers: int | None = None
) -> Array:
    """Images ``(..., y, x)`` of this ``shape`` from their transforms; the inverse of rfft2."""
    return _backward(transform, shape, (-2, -1), unitary, workers)


def rfft3(volumes: Array, *, unitary: bool = False, workers: int | None = None) -> Array:
    """Transforms ``(..., z, y, x // 2 + 1)`` of volumes ``(..., z, y, x)``, centre ``n // 2``."""
    return _forward(volumes, (-3, -2, -1), unitary, workers)


def irfft3(
    transform: Array, shape: tuple[int, int, int], *, unitary: bool = False, workers: int | None = None
) -> Array:
    """Volumes ``(..., z, y, x)`` of this ``shape`` from their transforms; the inverse of rfft3."""
    return _backward(transform, shape, (-3, -2, -1), unitary, workers)
