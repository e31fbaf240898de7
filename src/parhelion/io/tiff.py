"""TIFF stacks of grey images. Compressed pages are read one by one; contrast and values stay as they are."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from parhelion.errors import FormatError, InputError
from parhelion.io.atomic import atomic_path
from parhelion.io.mrc_header import CREDIBLE_PIXEL_ANGSTROM
from parhelion.io.stack import ImageStack

ANGSTROM_PER_CENTIMETRE = 1e8
CENTIMETRE = 3
GREATEST_COMPRESSION = 1500
"""No codec of TIFF files shrinks images by more; a header that claims it is damaged."""


class _Pages:
    """The pages of a file as an array that is read by page numbers."""

    def __init__(self, path: Path, shape: tuple[int, int, int]) -> None:
        self.path, self.shape = path, shape

    def __getitem__(self, index: np.ndarray) -> np.ndarray:
        images = np.empty((len(index), *self.shape[1:]), dtype=np.float32)
        with _opened(self.path) as tiff:
            for row, number in enumerate(index.tolist()):
                images[row] = _page(self.path, tiff, number)
        return images


class _opened:
    """A TIFF file whose every failure is an InputError that names it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> Any:
        import tifffile

        try:
            self._file = tifffile.TiffFile(self.path)
        except OSError as error:
            raise InputError(f"cannot read {self.path}: {error.strerror or error}") from error
        except Exception as error:
            # a damaged file makes the library fail in many ways
            raise FormatError(f"{self.path} is no readable TIFF file: {error}") from error
        return self._file

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _page(path: Path, tiff: Any, number: int) -> np.ndarray:
    try:
        return tiff.pages[number].asarray()
    except Exception as error:
        raise FormatError(f"page {number + 1} of {path} cannot be read: {error}") from error


def open_tiff(path: Path | str) -> ImageStack:
    """The pages of a TIFF file as images.

    Raises FormatError where the file is damaged, holds colours, or pages of different size.
    """
    path = Path(path)
    with _opened(path) as tiff:
        try:
            pages = list(tiff.pages)
            described = [(page.shape, page.dtype, page.nbytes, sum(page.databytecounts)) for page in pages]
            pixel = _pixel_size(pages[0]) if pages else None
        except Exception as error:
            raise FormatError(f"{path} is no readable TIFF file: {error}") from error
    if not described:
        raise FormatError(f"{path} holds no images")
    size = path.stat().st_size
    shape, dtype = described[0][:2]
    for number, (other, kind, unpacked, packed) in enumerate(described, 1):
        if len(other) != 2 or other != shape or kind != dtype or kind is None or min(other) <= 0:
            raise FormatError(
                f"page {number} of {path} is {kind} {other}; "
                f"grey images of one size and type are expected, as the first ({dtype} {shape})"
            )
        if packed > size or unpacked > GREATEST_COMPRESSION * max(packed, 1):
            raise FormatError(
                f"page {number} of {path} promises {unpacked:,} bytes from {packed:,} in a file of {size:,}: "
                "it is truncated or damaged"
            )
    if dtype.kind not in "iuf":
        raise FormatError(f"{path} holds values of type {dtype}, real numbers are expected")
    return ImageStack(path, _Pages(path, (len(described), *shape)), pixel_size_angstrom=pixel)


def _pixel_size(page: Any) -> float | None:
    """Å per pixel from the resolution tags, None where they do not say or cannot be right."""
    tags = page.tags
    if (
        "XResolution" not in tags
        or "ResolutionUnit" not in tags
        or tags["ResolutionUnit"].value != CENTIMETRE
    ):
        return None
    numerator, denominator = tags["XResolution"].value
    if not numerator or not denominator:
        return None
    size = ANGSTROM_PER_CENTIMETRE * denominator / numerator
    low, high = CREDIBLE_PIXEL_ANGSTROM
    return float(f"{size:.6g}") if low <= size <= high else None


def write_tiff(
    path: Path | str, chunks: Iterable[np.ndarray], shape: tuple[int, int, int], pixel_size_angstrom: float
) -> None:
    """Write images, given in ``chunks`` ``(m, h, w)`` that add up to ``shape``, as float32 pages.

    Written whole or not at all. Raises OutputError.
    """
    import tifffile

    per_centimetre = ANGSTROM_PER_CENTIMETRE / pixel_size_angstrom
    with atomic_path(path) as partial:
        tifffile.imwrite(
            partial,
            (np.asarray(image, dtype=np.float32) for chunk in chunks for image in chunk),
            shape=shape,
            dtype=np.float32,
            bigtiff=math.prod(shape) * 4 > 2**32 - 2**25,
            photometric="minisblack",
            resolution=(per_centimetre, per_centimetre),
            resolutionunit="CENTIMETER",
            metadata=None,
            software="parhelion",
        )
