"""From a map to the Fourier volume that slices are taken from, and back to sums' layout."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

PADDING = 2.0
ROUNDING = 1e-6
"""Of single precision, several operations together."""


@dataclass(frozen=True, kw_only=True)
class FourierVolume:
    """Half a Hermitian transform, ``(2h+1, 2h+1, h+1)`` complex64, zero frequency at ``[h, h, 0]``.

    Sampled ``padding`` times finer than the transform of a ``box``-pixel image and cropped to
    ``max_shell`` plus one voxel for interpolation.
    """

    data: Tensor
    box: int
    max_shell: int
    padding: float = PADDING


def half_size(max_shell: int, padding: float = PADDING) -> int:
    """h of a Fourier volume that holds ``max_shell`` shells of the images' transform.

    The farthest point of the last shell has m² + m for its radius squared. Wherever a rotation takes it,
    rounding in single precision included, the next sample beyond it is there to interpolate with.
    """
    farthest = padding * math.sqrt(max_shell * (max_shell + 1)) * (1 + ROUNDING)
    return math.floor(farthest) + 1


def padded_box(box: int, padding: float = PADDING) -> int:
    """Edge of the zero-padded real-space grid; of the box's parity, so that n // 2 stays the centre."""
    size = round(box * padding)
    return size + (size - box) % 2


def interpolation_envelope(box: int, padding: float = PADDING, device: torch.device | None = None) -> Tensor:
    """sinc² along one axis ``(box,)``: what trilinear interpolation multiplies the map with."""
    x = (torch.arange(box, device=device, dtype=torch.float64) - box // 2) / padded_box(box, padding)
    return torch.special.sinc(x) ** 2


def divide_envelope(volume: Tensor, padding: float = PADDING, power: float = 1.0) -> Tensor:
    """The map ``(z, y, x)`` divided by the interpolation's envelope."""
    s = interpolation_envelope(volume.shape[-1], padding, volume.device).to(volume.dtype) ** power
    return volume / (s[:, None, None] * s[None, :, None] * s)


def fourier_volume(volume: Tensor, max_shell: int, padding: float = PADDING) -> FourierVolume:
    """The transform of a cubic map ``(z, y, x)`` float32, ready for ``kernels.extract``.

    Scaled so that a slice equals the unitary transform of the projection; the map is divided by the
    envelope of trilinear interpolation beforehand.
    """
    box = volume.shape[-1]
    size = padded_box(box, padding)
    before = size // 2 - box // 2
    padded = volume.new_zeros((size, size, size))
    inner = slice(before, before + box)
    padded[inner, inner, inner] = divide_envelope(volume, padding)
    padded = torch.fft.ifftshift(padded)
    transform = torch.fft.rfftn(padded)
    del padded
    transform /= box
    exact = size / box  # an odd box is padded to an odd size, a little more than asked for
    return FourierVolume(
        data=crop_half(transform, half_size(max_shell, exact)), box=box, max_shell=max_shell, padding=exact
    )


def crop_half(transform: Tensor, h: int) -> Tensor:
    """Low frequencies of an rfftn result ``(n, n, n//2+1)`` as ``(2h+1, 2h+1, h+1)``, centred."""
    n = transform.shape[0]
    inner = min(h, (n - 1) // 2)
    rows = torch.arange(-inner, inner + 1, device=transform.device) % n
    out = transform.new_zeros((2 * h + 1, 2 * h + 1, h + 1))
    block = transform[rows][:, rows][:, :, : inner + 1]
    out[h - inner : h + inner + 1, h - inner : h + inner + 1, : inner + 1] = block
    return out


def uncrop_half(data: Tensor, n: int) -> Tensor:
    """The inverse of crop_half: a centred half volume placed into an rfftn layout of size ``n``."""
    h = data.shape[-1] - 1
    inner = min(h, (n - 1) // 2)
    rows = torch.arange(-inner, inner + 1, device=data.device) % n
    out = data.new_zeros((n, n, n // 2 + 1))
    block = data[h - inner : h + inner + 1, h - inner : h + inner + 1, : inner + 1]
    out[rows[:, None], rows[None, :], : inner + 1] = block
    return out
