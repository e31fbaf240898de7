"""What image files say about themselves where no table describes them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from parhelion.errors import ParhelionError
from parhelion.io.formats import open_images

MOVIE_SUFFIXES = (".eer", ".tif", ".tiff", ".mrcs")
UNSET_ANGSTROM = 1.0
"""What many programs write when they do not know the pixel size."""
LOOKED_AT, TOLERATED = 3, 0.02
"""Files whose header is compared with the stated pixel size, and what a refined calibration may differ by."""


def is_movie(paths: Sequence[Path]) -> bool:
    """Whether the first file that can be opened holds several frames; by its name where none can."""
    for path in paths:
        if path.suffix.lower() == ".eer":
            return True
        try:
            return len(open_images(path)) > 1
        except (ParhelionError, OSError):
            continue
    return paths[0].suffix.lower() in MOVIE_SUFFIXES


def pixel_sizes_of(paths: Sequence[Path], notes: list[str]) -> np.ndarray:
    """Å per pixel of each file, from its header.

    A file that does not say, or cannot be read, gets the value of most others; NaN where none says.
    """
    found = np.array([_pixel_size(path) for path in paths])
    known = found[np.isfinite(found)]
    if not len(known):
        return found
    values, counts = np.unique(known, return_counts=True)
    usual = float(values[np.argmax(counts)])
    silent = int(np.isnan(found).sum())
    message = f"pixel size {usual:g} Å, from the files' headers"
    if silent:
        message += f" ({silent} of {len(paths)} files do not say)"
    if usual == UNSET_ANGSTROM:
        message += "; programs that do not know it write 1, --pixel-size overrules it"
    notes.append(message)
    return np.where(np.isnan(found), usual, found)


def contradiction(paths: Sequence[Path], stated_angstrom: np.ndarray) -> str | None:
    """What to say where headers tell another pixel size than ``stated_angstrom`` (one for each path).

    A few of the files are opened; 1 Å in a header is no statement (``UNSET_ANGSTROM``), nor is what an EER
    file says, which is about the detector and not about the grid that was chosen.
    """
    for path, stated in list(zip(paths, stated_angstrom.tolist(), strict=True))[:LOOKED_AT]:
        if path.suffix.lower() == ".eer":
            continue
        found = _pixel_size(path)
        if np.isfinite(found) and found != UNSET_ANGSTROM and abs(found - stated) > TOLERATED * found:
            return (
                f"{path.name} says {found:g} Å per pixel in its header; {stated:g} Å is used: if that is "
                "wrong, defocus, resolution and every size in Å are wrong, too"
            )
    return None


def _pixel_size(path: Path) -> float:
    try:
        size = open_images(path).pixel_size_angstrom
    except (ParhelionError, OSError, ValueError):
        size = None
    return np.nan if size is None else float(size)
