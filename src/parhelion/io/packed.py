"""Two 4-bit counts in a byte, as counting detectors store their frames.

The first pixel of a pair is in the low half of the byte. MRC's mode 101 fills the last byte of a row of odd
width with a value that is no pixel. Older files, and compressed TIFF files to this day, present the bytes as
an image of half the width; only the size of the super-resolution frames gives them away.
"""

import numpy as np

SUPER_RESOLUTION_YX = ((7420, 7676), (7424, 7680), (8184, 11520))
"""Rows and columns of super-resolution frames of K2 (with and without its edge) and K3 detectors."""


def row_bytes(width: int) -> int:
    """Bytes of a row of ``width`` 4-bit pixels."""
    return (width + 1) // 2


def unpack(packed: np.ndarray, width: int) -> np.ndarray:
    """Pixels ``(..., width)`` uint8 of rows of bytes ``(..., row_bytes(width))``."""
    pixels = np.empty((*packed.shape[:-1], 2 * packed.shape[-1]), dtype=np.uint8)
    np.bitwise_and(packed, 15, out=pixels[..., 0::2])
    np.right_shift(packed, 4, out=pixels[..., 1::2])
    return pixels[..., :width]


def is_half_of_super_resolution(shape_yx: tuple[int, int]) -> bool:
    """Whether bytes of this shape are 4-bit frames of a super-resolution detector, in either orientation."""
    y, x = shape_yx
    return any((y, 2 * x) in ((a, b), (b, a)) for a, b in SUPER_RESOLUTION_YX)


class PackedSections:
    """Sections of bytes, read as the 4-bit pixels in them (``stack.Sections``)."""

    def __init__(self, packed: np.ndarray, width: int) -> None:
        self._packed, self._width = packed, width
        self.shape: tuple[int, ...] = (*packed.shape[:-1], width)

    def __getitem__(self, index: np.ndarray) -> np.ndarray:
        return unpack(np.asarray(self._packed[index]), self._width)
