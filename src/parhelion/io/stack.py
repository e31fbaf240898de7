"""Images in a file, whatever its format: ``ImageStack``."""

from pathlib import Path
from typing import Protocol

import numpy as np

from parhelion.errors import FormatError


class Sections(Protocol):
    """An array, or what behaves like one, that is read by section numbers."""

    @property
    def shape(self) -> tuple[int, ...]:
        """``(n, h, w)``."""
        ...

    def __getitem__(self, index: np.ndarray, /) -> np.ndarray:
        """Sections ``(m, h, w)`` at these numbers."""
        ...


class ImageStack:
    """``n`` images of ``h`` x ``w`` pixels that stay in their file until they are read.

    ``shape`` is ``(n, h, w)``; ``pixel_size_angstrom`` is None where the file does not say; ``notes`` are
    what the reader had to assume. ``transposed`` marks files whose rows run along x.
    """

    def __init__(
        self,
        path: Path,
        sections: Sections,
        *,
        pixel_size_angstrom: float | None = None,
        notes: tuple[str, ...] = (),
        transposed: bool = False,
    ) -> None:
        self.path = path
        self.pixel_size_angstrom = pixel_size_angstrom
        self.notes = notes
        self._sections = sections
        self._transposed = transposed
        n, h, w = sections.shape
        self.shape: tuple[int, int, int] = (n, w, h) if transposed else (n, h, w)

    def __len__(self) -> int:
        return self.shape[0]

    def read(self, indices: np.ndarray) -> np.ndarray:
        """Images ``(len(indices), h, w)`` float32 at these 0-based ``indices``.

        Raises FormatError where an index lies outside the stack.
        """
        indices = np.asarray(indices, dtype=np.int64)
        outside = indices[(indices < 0) | (indices >= len(self))]
        if len(outside):
            raise FormatError(
                f"STAR row points at image {outside[0] + 1} of {self.path}, which holds {len(self)}"
                + (f" (and {len(outside) - 1} more such rows)" if len(outside) > 1 else "")
            )
        images = np.asarray(self._sections[indices])
        if self._transposed:
            images = images.transpose(0, 2, 1)
        # values beyond float32 become inf, which the check for bad images finds
        with np.errstate(over="ignore"):
            return np.ascontiguousarray(images, dtype=np.float32)
