"""The power spectrum of groups of frames: Thon rings where whole sums or single frames show them less well.

Frames that together carry a few electrons per Å² are summed before the square, and the powers of all groups
are added: late frames then still show rings that a sum of all would blur by local motion.
"""

import numba as nb
import numpy as np
import scipy.fft

from parhelion.algorithms.motion.band import ramp

SPECTRUM_BOX = 512
SPECTRUM_PIXEL_ANGSTROM = 1.4
"""Rings beyond 2.8 Å are not needed to fit a CTF, and finer pixels would leave fewer points to the rest."""


class GroupSpectra:
    """Collects frames' transforms and gives the amplitude spectrum; ``group`` frames each, 0 for nothing."""

    def __init__(self, shape: tuple[int, int], pixel_size_angstrom: float, box: int, group: int) -> None:
        self._group, self._shape = group, shape
        factor = min(pixel_size_angstrom / SPECTRUM_PIXEL_ANGSTROM, 1.0)
        self._size = tuple(2 * max(round(n * factor / 2), 1) if factor < 1 else n for n in shape)
        self._box = min(box, *(n // 2 * 2 for n in self._size))
        self.pixel_size_angstrom = pixel_size_angstrom * float(
            np.sqrt(shape[0] * shape[1] / (self._size[0] * self._size[1]))
        )
        self._sum: np.ndarray | None = None
        self._in_group = 0
        self._power: np.ndarray | None = None

    def cropped(self, transform: np.ndarray, shift_px: np.ndarray) -> np.ndarray | None:
        """The part of a frame's transform that the spectrum shows, moved by its shift; safe on any thread."""
        if not self._group:
            return None
        ny, nx = self._size[0], self._size[1] // 2 + 1
        upper = ny - ny // 2
        rows = np.r_[0:upper, self._shape[0] - ny // 2 : self._shape[0]]
        ky, kx = scipy.fft.fftfreq(self._shape[0])[rows], scipy.fft.rfftfreq(self._shape[1])[:nx]
        parts = (ramp(f, np.array([float(d)]))[0] for f, d in zip((kx, ky), shift_px, strict=True))
        factor_x, factor_y = (part[0] + 1j * part[1] for part in parts)
        out = np.empty((ny, nx), np.complex64)
        _multiply(transform, rows, factor_y, factor_x, out)
        return out

    def add(self, cropped: np.ndarray | None) -> None:
        """Add the next frame, in the movie's order."""
        if cropped is None:
            return
        if self._sum is None:
            self._sum = cropped
        else:
            self._sum += cropped
        self._in_group += 1
        if self._in_group == self._group:
            self._close()

    def _close(self) -> None:
        if self._sum is None:
            return
        # a last group that is smaller counts by its number of frames: its noise is less, too
        power = self._sum.real**2 + self._sum.imag**2
        self._power = power if self._power is None else self._power + power
        self._sum, self._in_group = None, 0

    def spectrum(self) -> np.ndarray | None:
        """Amplitudes ``(box, box)`` float32, zero frequency at ``box // 2``; None where nothing was added.

        The power is brought to the box's coarser frequencies by cutting its autocorrelation, which averages
        neighbouring frequencies (Blackman and Tukey).
        """
        self._close()
        if self._power is None:
            return None
        power = self._power
        power[0, 0] = power[0, 1]
        correlation = scipy.fft.irfft2(power, s=self._size)
        half = self._box // 2
        index_y, index_x = (np.arange(-half, half) % n for n in self._size)
        centred = correlation[np.ix_(index_y, index_x)]
        taper = np.hanning(self._box + 1)[:-1].astype(np.float32)
        smooth = scipy.fft.fft2(scipy.fft.ifftshift(centred * taper[:, None] * taper[None, :])).real
        shown = np.sqrt(np.maximum(scipy.fft.fftshift(smooth), 0.0))
        shown *= np.float32(1.0 / np.sqrt(self._size[0] * self._size[1]))
        return np.ascontiguousarray(shown, np.float32)


@nb.njit(nogil=True, fastmath=True, cache=True, error_model="numpy")
def _multiply(transform, rows, factor_y, factor_x, out):  # type: ignore[no-untyped-def]  # pragma: no cover
    for y in range(len(rows)):
        source, target, by = transform[rows[y]], out[y], factor_y[y]
        for x in range(len(factor_x)):
            target[x] = source[x] * (by * factor_x[x])
