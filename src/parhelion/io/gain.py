"""Gain references of detectors: MRC or TIFF, the ``.gain`` files of EER cameras among them."""

from pathlib import Path

import numpy as np

from parhelion.errors import FormatError
from parhelion.io.formats import open_images


def read_gain(path: Path | str, notes: list[str] | None = None) -> np.ndarray:
    """Gain reference ``(y, x)`` float32, as stored (not turned, flipped or inverted).

    ``notes`` receives the number of zeros, which are dead pixels. Raises FormatError where the file holds
    more than one image, or values that are negative or not finite.
    """
    stack = open_images(path)
    if len(stack) != 1:
        raise FormatError(f"{path} holds {len(stack)} images, a gain reference is one")
    gain = stack.read(np.array([0]))[0]
    broken = int(np.count_nonzero(~np.isfinite(gain) | (gain < 0)))
    if broken:
        raise FormatError(f"{broken:,} of {gain.size:,} values in the gain {path} are negative or not finite")
    zeros = int(np.count_nonzero(gain == 0))
    if zeros == gain.size:
        raise FormatError(f"the gain reference {path} is zero everywhere")
    if zeros and notes is not None:
        notes.append(f"{Path(path).name}: {zeros:,} of {gain.size:,} pixels have gain 0 (dead pixels)")
    return gain
