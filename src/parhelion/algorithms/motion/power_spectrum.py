"""The power spectrum of groups of frames: Thon rings where whole sums or single frames show them less well.

Frames that together carry a few electrons per Å² are summed before the square, and the powers of all groups
are added: late frames then still show rings that a sum of all would blur by local motion.
"""

import numpy as np
import scipy.fft

from parhelion.fourier.crop import low_transform

SPECTRUM_BOX = 512
SPECTRUM_PIXEL_ANGSTROM = 1.4
"""Rings beyond 2.8 Å are not needed to fit a CTF, and finer pixels would leave fewer points to the rest."""


class GroupSpectra:
    """Collects the powers of groups' sums ``(y, x)`` and gives the amplitude spectrum."""

    def __init__(self, shape: tuple[int, int], pixel_size_angstrom: float, box: int) -> None:
        factor = min(pixel_size_angstrom / SPECTRUM_PIXEL_ANGSTROM, 1.0)
        self._size = tuple(2 * max(round(n * factor / 2), 1) if factor < 1 else n for n in shape)
        self._box = min(box, *(n // 2 * 2 for n in self._size))
        self.pixel_size_angstrom = pixel_size_angstrom * float(
            np.sqrt(shape[0] * shape[1] / (self._size[0] * self._size[1]))
        )
        self._power: np.ndarray | None = None

    def power(self, image: np.ndarray) -> np.ndarray:
        """The power ``(y, x // 2 + 1)``, as far as the spectrum shows it, of a sum of frames."""
        ny, nx = self._size[0], self._size[1] // 2 + 1
        transform = low_transform(image, nx)
        upper = ny - ny // 2
        out = np.empty((ny, nx), np.float32)
        for target, part in (
            (out[:upper], transform[:upper]),
            (out[upper:], transform[len(transform) - ny // 2 :]),
        ):
            np.multiply(part.real, part.real, out=target)
            target += part.imag * part.imag
        return out

    def add(self, power: np.ndarray) -> None:
        """Add that of the next group.

        A last group that is smaller counts by its number of frames: its noise is less, too.
        """
        if self._power is None:
            self._power = power
        else:
            self._power += power

    def spectrum(self) -> np.ndarray | None:
        """Amplitudes ``(box, box)`` float32, zero frequency at ``box // 2``; None where nothing was added.

        The power is brought to the box's coarser frequencies by cutting its autocorrelation, which averages
        neighbouring frequencies (Blackman and Tukey).
        """
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
