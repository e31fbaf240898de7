"""Change of box, of pixel size and of position, all in Fourier space; the centre stays ``n // 2``."""

import numpy as np
import torch

from parhelion.errors import ParameterError
from parhelion.fourier.fft import Array, as_tensor, irfft2, irfft3, like, rfft2, rfft3
from parhelion.fourier.grids import rfft_frequencies
from parhelion.model.volume import Volume


def _resize_full_axis(transform: torch.Tensor, axis: int, new: int) -> torch.Tensor:
    """Crop or pad a full axis; the Nyquist pair of the smaller even grid is summed (crop) or split (pad)."""
    old = transform.shape[axis]
    if new == old:
        return transform
    small = min(old, new)
    shape = list(transform.shape)
    shape[axis] = new
    out = transform.new_zeros(shape)
    head, tail = (small + 1) // 2, (small - 1) // 2
    out.narrow(axis, 0, head).copy_(transform.narrow(axis, 0, head))
    if tail:
        out.narrow(axis, new - tail, tail).copy_(transform.narrow(axis, old - tail, tail))
    if small % 2 == 0:
        half = small // 2
        low, high = transform.narrow(axis, old - half, 1), transform.narrow(axis, half, 1)
        if new < old:
            out.narrow(axis, half, 1).copy_(low + high)
        else:
            out.narrow(axis, half, 1).copy_(0.5 * low)
            out.narrow(axis, new - half, 1).copy_(0.5 * low)
    return out


def _resize_half_axis(transform: torch.Tensor, old: int, new: int) -> torch.Tensor:
    """Crop or pad the halved last axis of a real array of ``old`` pixels to ``new`` pixels."""
    if new == old:
        return transform
    small = min(old, new)
    out = transform.new_zeros((*transform.shape[:-1], new // 2 + 1))
    columns = small // 2 + 1
    out[..., :columns] = transform[..., :columns]
    if small % 2 == 0:
        out[..., small // 2] *= 2.0 if new < old else 0.5
    return out


def resize_rfft(transform: torch.Tensor, old: tuple[int, ...], new: int) -> torch.Tensor:
    """The half-layout transform of an array of shape ``old`` as that of the array resampled to ``new``
    pixels along each axis: cropped or padded, and scaled so that pixel values keep their scale."""
    out = _resize_half_axis(transform, old[-1], new)
    for axis in range(-len(old), -1):
        out = _resize_full_axis(out, axis, new)
    factor = 1.0
    for n in old:
        factor *= new / n
    return out * factor


def _check_box(box: int) -> None:
    if box < 2:
        raise ParameterError(f"a box of at least 2 pixels is needed, found {box}")


def fourier_resize_images(images: Array, box: int) -> Array:
    """Square images ``(..., y, x)`` on ``box`` pixels of the same extent (Fourier crop or pad).

    The pixel size becomes ``old / box`` times the old one; pixel values keep their scale. Raises
    ParameterError for images that are not square or a box below 2.
    """
    _check_box(box)
    y, x = images.shape[-2:]
    if y != x:
        raise ParameterError(f"square images are needed, found {y} x {x} pixels")
    tensor = as_tensor(images)
    return like(irfft2(resize_rfft(rfft2(tensor), (y, x), box), (box, box)), images)


def fourier_resize_volumes(volumes: Array, box: int) -> Array:
    """Cubic volumes ``(..., z, y, x)`` on ``box`` voxels of the same extent; see fourier_resize_images."""
    _check_box(box)
    z, y, x = volumes.shape[-3:]
    if not z == y == x:
        raise ParameterError(f"cubic volumes are needed, found {z} x {y} x {x} voxels")
    tensor = as_tensor(volumes)
    return like(irfft3(resize_rfft(rfft3(tensor), (z, y, x), box), (box,) * 3), volumes)


def crop_or_pad(array: Array, shape: tuple[int, ...], fill: float = 0.0) -> Array:
    """The last ``len(shape)`` axes cut or filled to ``shape``, pixel ``n // 2`` onto pixel ``n // 2``."""
    tensor = as_tensor(array)
    for axis, new in zip(range(-len(shape), 0), shape):
        old = tensor.shape[axis]
        start = old // 2 - new // 2
        if start < 0 or start + new > old:
            padded_shape = list(tensor.shape)
            low, high = max(0, -start), max(0, start + new - old)
            padded_shape[axis] = old + low + high
            padded = tensor.new_full(padded_shape, fill)
            padded.narrow(axis, low, old).copy_(tensor)
            tensor, start = padded, start + low
        tensor = tensor.narrow(axis, start, new)
    return like(tensor.contiguous(), array)


def _interpolation_matrix(old: int, old_pixel: float, new: int, new_pixel: float) -> torch.Tensor:
    """``(new, old)``: trigonometric interpolation, frequencies above the coarser Nyquist left out.

    New pixels outside the old extent get a row of zeros.
    """
    position = (np.arange(new) - new // 2) * (new_pixel / old_pixel) + old // 2
    offset = position[:, None] - np.arange(old)[None, :]
    k = np.arange(old // 2 + 1)
    weight = np.where(k == 0, 1.0, 2.0)
    if old % 2 == 0:
        weight[-1] = 1.0
    weight[k / (old * old_pixel) > 0.5 / new_pixel * (1 + 1e-6)] = 0.0
    angle = 2 * np.pi / old * offset
    matrix = sum(w * np.cos(angle * f) for f, w in zip(k, weight) if w > 0) / old
    outside = (position < -0.5) | (position > old - 0.5)
    matrix[outside] = 0.0
    return torch.from_numpy(matrix)


def resample_volume(volume: Volume, box: int, pixel_size_angstrom: float) -> Volume:
    """The map on ``box``³ voxels of ``pixel_size_angstrom``, any ratio of pixel sizes, by exact
    trigonometric interpolation along each axis.

    Voxel ``n // 2`` stays where it is. What lies outside the old map is filled with the mean of its
    faces. Raises ParameterError for a pixel size that is not positive.
    """
    _check_box(box)
    if not (np.isfinite(pixel_size_angstrom) and pixel_size_angstrom > 0):
        raise ParameterError(f"pixel size must be positive, found {pixel_size_angstrom}")
    data = as_tensor(volume.data).to(torch.float32)
    faces = [data.select(axis, end) for axis in range(3) for end in (0, -1)]
    fill = float(sum(float(f.mean(dtype=torch.float64)) for f in faces) / 6)
    data = data - fill
    for axis in range(3):
        matrix = _interpolation_matrix(
            data.shape[axis], volume.pixel_size_angstrom, box, pixel_size_angstrom
        ).to(data.dtype)
        data = torch.movedim(torch.tensordot(matrix, data, dims=([1], [axis])), 0, axis)
    out = (data + fill).contiguous().numpy()
    return Volume(data=out, pixel_size_angstrom=float(pixel_size_angstrom))


def _ramp(shape: tuple[int, ...], shift_pixels: torch.Tensor) -> torch.Tensor:
    """exp(-2πi f·shift); ``shift_pixels (..., d)`` in the order x, y(, z)."""
    frequencies = rfft_frequencies(shape, dtype=torch.float64)[::-1]
    ndim = len(shape)
    shift = shift_pixels.to(torch.float64)
    phase = torch.zeros((), dtype=torch.float64, device=shift.device)
    for axis, frequency in enumerate(frequencies):
        along = shift[..., axis].reshape(*shift.shape[:-1], *([1] * ndim))
        phase = phase + frequency.to(shift.device) * along
    return torch.polar(torch.ones_like(phase), -2 * torch.pi * phase)


def shift_images(images: Array, shift_xy_pixels: np.ndarray | torch.Tensor) -> Array:
    """Images ``(..., y, x)`` moved by ``shift_xy_pixels (..., 2)``, towards larger x and y, periodic."""
    tensor = as_tensor(images)
    shape = (int(tensor.shape[-2]), int(tensor.shape[-1]))
    shift = torch.as_tensor(shift_xy_pixels).to(tensor.device)
    transform = rfft2(tensor)
    return like(irfft2(transform * _ramp(shape, shift).to(transform.dtype), shape), images)


def shift_volumes(volumes: Array, shift_xyz_pixels: np.ndarray | torch.Tensor) -> Array:
    """Volumes ``(..., z, y, x)`` moved by ``shift_xyz_pixels (..., 3)``, periodic."""
    tensor = as_tensor(volumes)
    shape = (int(tensor.shape[-3]), int(tensor.shape[-2]), int(tensor.shape[-1]))
    shift = torch.as_tensor(shift_xyz_pixels).to(tensor.device)
    transform = rfft3(tensor)
    return like(irfft3(transform * _ramp(shape, shift).to(transform.dtype), shape), volumes)
