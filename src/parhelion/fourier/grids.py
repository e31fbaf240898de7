"""Frequencies of the half-layout transforms of ``fourier.fft``."""

import torch


def rfft_frequencies(
    shape: tuple[int, ...], pixel_size_angstrom: float = 1.0, *, dtype: torch.dtype = torch.float32
) -> tuple[torch.Tensor, ...]:
    """Frequency of each axis in 1/Å (cycles per pixel for pixel size 1), broadcastable, last axis halved.

    ``shape`` is that of the real array, slowest axis first; so are the results: ``(fy, fx)`` for
    images, ``(fz, fy, fx)`` for volumes.
    """
    axes = []
    for axis, n in enumerate(shape):
        last = axis == len(shape) - 1
        frequency = torch.fft.rfftfreq(n, dtype=dtype) if last else torch.fft.fftfreq(n, dtype=dtype)
        view = [1] * len(shape)
        view[axis] = len(frequency)
        axes.append((frequency / pixel_size_angstrom).reshape(view))
    return tuple(axes)


def rfft_radius(
    shape: tuple[int, ...], pixel_size_angstrom: float = 1.0, *, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """|frequency| in 1/Å of each coefficient of the half layout of a real array of this shape."""
    squares = [f * f for f in rfft_frequencies(shape, pixel_size_angstrom, dtype=dtype)]
    return torch.sqrt(sum(squares[1:], squares[0]))


def rfft_weight(shape: tuple[int, ...]) -> torch.Tensor:
    """How many members of a Friedel pair each column ``(x // 2 + 1,)`` of the half layout stands for."""
    n = shape[-1]
    weight = torch.full((n // 2 + 1,), 2.0, dtype=torch.float64)
    weight[0] = 1.0
    if n % 2 == 0:
        weight[-1] = 1.0
    return weight
