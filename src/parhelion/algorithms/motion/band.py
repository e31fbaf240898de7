"""The frequencies at which frames are compared, and frames as their transforms there.

A frame's transform is kept in the half layout of ``rfft2`` (zero frequency first), cut down to the
frequencies below the alignment's resolution limit: comparing frames of 1 Å pixels to 5 Å needs a
sixth of the memory and time of whole transforms.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from parhelion.errors import ParameterError

SHELLS = 64
"""Shells in which the power of signal and noise is measured; each then averages over enough points even
of a small patch."""


@dataclass(frozen=True, kw_only=True)
class Band:
    """A rectangle of frequencies around zero, and which of its points count.

    ``frequency_y`` ``(ny,)`` and ``frequency_x`` ``(nx,)`` in cycles per pixel; ``shell`` ``(ny, nx)`` int16
    counts rings of equal width up to the resolution limit, −1 for points that are not used: beyond the
    limit, in the masked central cross, or repeated by Friedel's symmetry. ``shell_frequency`` ``(shells,)``
    is the mean of each ring in cycles per pixel, ``shell_count`` how many points it has.
    """

    shape: tuple[int, int]
    frequency_y: np.ndarray
    frequency_x: np.ndarray
    shell: np.ndarray
    shell_frequency: np.ndarray
    shell_count: np.ndarray

    @cached_property
    def runs(self) -> np.ndarray:
        """First used point of each row and one past the last, ``(ny, 2)``; used points are contiguous."""
        used = self.shell >= 0
        first = used.argmax(axis=1)
        return np.stack([first, np.where(used.any(axis=1), first + used.sum(axis=1), first)], axis=1)

    def crop(self, transform: np.ndarray) -> np.ndarray:
        """The band, real and imaginary parts ``(2, ny, nx)`` float32, of a frame's ``(y, x // 2 + 1)``."""
        ny, nx = self.shell.shape
        upper, lower = (ny + 1) // 2, ny // 2
        out = np.empty((2, ny, nx), np.float32)
        for plane, part in zip(out, (transform.real, transform.imag), strict=True):
            plane[:upper] = part[:upper, :nx]
            if lower:
                plane[upper:] = part[-lower:, :nx]
        return out

    def taken(self, cycles_per_pixel: float) -> "tuple[Band, np.ndarray]":
        """The band of lower frequencies, without empty rows and columns, and the rows it keeps."""
        narrow = self.up_to(cycles_per_pixel)
        used = narrow.shell >= 0
        width = int(np.flatnonzero(used.any(axis=0)).max(initial=0)) + 1
        reach = np.abs(narrow.frequency_y[used.any(axis=1)]).max(initial=0.0)
        rows = np.flatnonzero(np.abs(narrow.frequency_y) <= reach)
        small = replace(
            narrow,
            frequency_y=narrow.frequency_y[rows],
            frequency_x=narrow.frequency_x[:width],
            shell=np.ascontiguousarray(narrow.shell[rows, :width]),
        )
        return small, rows

    def up_to(self, cycles_per_pixel: float) -> "Band":
        """The same shells with those beyond a frequency switched off; the arrays keep their shape."""
        keep = self.shell_frequency <= cycles_per_pixel
        shell = np.where((self.shell >= 0) & keep[self.shell], self.shell, -1).astype(np.int16)
        return replace(self, shell=shell, shell_count=np.where(keep, self.shell_count, 0))

    def ramps(self, shift_px: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Phase factors ``(n, 2, ny)`` and ``(n, 2, nx)`` whose product moves content by ``(n, 2)`` x, y."""
        return ramp(self.frequency_y, shift_px[:, 1]), ramp(self.frequency_x, shift_px[:, 0])


def ramp(frequency: np.ndarray, shift_px: np.ndarray) -> np.ndarray:
    """``exp(-2πi f d)`` as real and imaginary ``(n, 2, len(f))`` float32; shifts ``d`` ``(n,)`` in pixels."""
    turns = -np.outer(shift_px, frequency)
    # less than half a turn: single precision then is exact enough, and much faster
    angle = (2 * np.pi * (turns - np.rint(turns))).astype(np.float32)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def band_of(
    shape: tuple[int, int],
    cycles_per_pixel: float,
    *,
    mask_vertical: int = 1,
    mask_horizontal: int = 1,
    shells: int = SHELLS,
) -> Band:
    """The band up to a frequency for frames ``(y, x)``.

    ``mask_vertical`` and ``mask_horizontal`` are the half widths in Fourier pixels of the cross that is
    left out: the vertical bar ``|kx| < mask_vertical`` and the horizontal bar ``|ky| < mask_horizontal``
    carry the frame's borders and rows of bad pixels; 0 leaves only zero frequency out. Raises
    ParameterError where nothing remains.
    """
    size_y, size_x = shape
    limit = min(cycles_per_pixel, 0.5)
    half_y, half_x = min(int(limit * size_y), (size_y - 1) // 2), min(int(limit * size_x), (size_x - 1) // 2)
    index_y = np.concatenate([np.arange(half_y + 1), np.arange(-half_y, 0)])
    index_x = np.arange(half_x + 1)
    frequency_y, frequency_x = index_y / size_y, index_x / size_x
    radius = np.hypot(frequency_y[:, None], frequency_x[None, :])
    shell = np.minimum((radius / limit * shells).astype(np.int16), shells - 1)
    shell[radius > limit] = -1
    shell[:, index_x < mask_vertical] = -1
    shell[np.abs(index_y) < mask_horizontal] = -1
    # a real frame repeats half of the column kx = 0, and its mean says nothing about motion
    shell[index_y <= 0, 0] = -1
    used = shell >= 0
    count = np.bincount(shell[used], minlength=shells)
    if not used.any():
        raise ParameterError(
            f"frames of {size_x} x {size_y} pixels have no frequency left between the masked cross and the "
            f"alignment's limit of {limit:g} cycles per pixel; give a finer limit or a narrower cross"
        )
    total = np.bincount(shell[used], weights=radius[used], minlength=shells)
    rings = (np.arange(shells) + 0.5) * limit / shells
    return Band(
        shape=(size_y, size_x),
        frequency_y=frequency_y.astype(np.float32),
        frequency_x=frequency_x.astype(np.float32),
        shell=shell,
        shell_frequency=np.where(count > 0, total / np.maximum(count, 1), rings),
        shell_count=count,
    )
