"""The frames of a movie, kept between alignment and sums."""

import numpy as np

from parhelion.contracts import FrameSource


class KeptFrames:
    """Frames ``(y, x)`` float32 of a source, kept or asked for anew (``keep=False``)."""

    def __init__(self, source: FrameSource, keep: bool = True) -> None:
        self.count, self.shape, self.keep = source.count, source.shape, keep
        self._source = source
        self._kept: dict[int, np.ndarray] = {}

    def __call__(self, index: int) -> np.ndarray:
        """Frame ``index``, not to be written to."""
        found = self._kept.get(index)
        if found is None:
            found = self._source.frame(index)
            if self.keep:
                self._kept[index] = found
        return found

    def drop(self, index: int) -> None:
        """Give the memory of frame ``index`` back: it was asked for the last time."""
        self._kept.pop(index, None)
