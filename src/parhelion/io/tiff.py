"""TIFF stacks of grey images. Compressed pages are read one by one; contrast and values stay as they are.

A TIFF page begins with the top of the image, an MRC section with its bottom. Pages are turned upside down on
reading and writing, as RELION and IMOD do: an exposure is the same array whichever file it comes from.
"""

import math
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
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
        with open_file(self.path) as tiff:
            for row, number in enumerate(index.tolist()):
                images[row] = _page(self.path, tiff, number)[::-1]
        return images


def open_file(path: Path) -> Any:
    """The ``tifffile.TiffFile`` at ``path``; every failure is an InputError that names it."""
    import tifffile

    try:
        return tifffile.TiffFile(path)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:
        # a damaged file makes the library fail in many ways
        raise FormatError(f"{path} is no readable TIFF file: {error}") from error


def _page(path: Path, tiff: Any, number: int) -> np.ndarray:
    try:
        return tiff.pages[number].asarray()
    except Exception as error:
        raise FormatError(f"page {number + 1} of {path} cannot be read: {error}") from error


@dataclass(frozen=True, kw_only=True)
class TiffDescription:
    """What the pages of a TIFF file have in common: their number, shape (y, x), type and pixel size."""

    count: int
    shape: tuple[int, int]
    dtype: np.dtype
    pixel_size_angstrom: float | None


def check_pages(path: Path, tiff: Any) -> TiffDescription:
    """What the pages are.

    Raises FormatError where there are none, where they are no grey images of one size and type, or where
    one promises data that the file cannot hold.
    """
    try:
        pages = list(tiff.pages)
        described = [
            (page.shape, page.dtype, page.nbytes, sum(page.databytecounts), _end(page)) for page in pages
        ]
        pixel = _pixel_size(pages[0]) if pages else None
        following = page_after(tiff, pages[-1]) if pages else 0
    except Exception as error:
        raise FormatError(f"{path} is no readable TIFF file: {error}") from error
    if not described:
        raise FormatError(f"{path} holds no images")
    size = path.stat().st_size
    check_last_page(path, len(described), following)
    shape, dtype = described[0][:2]
    for number, (other, kind, unpacked, packed, end) in enumerate(described, 1):
        if not is_picture(other) or other != shape or kind != dtype or kind is None:
            raise FormatError(
                f"page {number} of {path} is {kind} {other}; "
                f"grey images of one size and type are expected, as the first ({dtype} {shape})"
            )
        if packed > size or unpacked > GREATEST_COMPRESSION * max(packed, 1):
            raise FormatError(
                f"page {number} of {path} promises {unpacked:,} bytes from {packed:,} in a file of {size:,}: "
                "it is truncated or damaged"
            )
        if end > size:
            raise FormatError(
                f"the data of page {number} of {path} end at byte {end:,}, but the file has {size:,}: it is "
                "truncated or damaged; copy or make it again"
            )
    if dtype.kind not in "iuf":
        raise FormatError(f"{path} holds values of type {dtype}, real numbers are expected")
    return TiffDescription(count=len(pages), shape=shape, dtype=dtype, pixel_size_angstrom=pixel)


def page_after(tiff: Any, page: Any) -> int:
    """Where in the file the directory of a page says that the next page is described; 0 for nowhere.

    The library passes over a place behind the end of the file: a movie whose copy was interrupted would be
    one of fewer frames.
    """
    kind, stream = tiff.tiff, tiff.filehandle
    stream.seek(page.offset)
    (tags,) = struct.unpack(kind.tagnoformat, stream.read(kind.tagnosize))
    stream.seek(page.offset + kind.tagnosize + tags * kind.tagsize)
    (following,) = struct.unpack(kind.offsetformat, stream.read(kind.offsetsize))
    return int(following)


def check_last_page(path: Path, count: int, following: int) -> None:
    """Raise FormatError where the last of ``count`` pages that are there names one behind the file's end."""
    size = path.stat().st_size
    if following >= size:
        raise FormatError(
            f"page {count} of {path} is followed by another at byte {following:,}, but the file has "
            f"{size:,}: it is truncated or damaged; copy or make it again"
        )


def is_picture(shape: Sequence[Any]) -> bool:
    """Whether a page's shape is a height and a width; a damaged tag may hold anything."""
    return len(shape) == 2 and all(isinstance(length, int) and length > 0 for length in shape)


def _end(page: Any) -> int:
    """The last byte of a page's data."""
    return max(
        (offset + count for offset, count in zip(page.dataoffsets, page.databytecounts)),
        default=0,
    )


def open_tiff(path: Path | str) -> ImageStack:
    """The pages of a TIFF file as images.

    Raises FormatError where the file is damaged, holds colours, or pages of different size.
    """
    path = Path(path)
    with open_file(path) as tiff:
        found = check_pages(path, tiff)
    pages = _Pages(path, (found.count, *found.shape))
    return ImageStack(path, pages, pixel_size_angstrom=found.pixel_size_angstrom)


def read_first_page(path: Path | str) -> tuple[np.ndarray, int]:
    """The first page ``(y, x)`` float32 of a TIFF file as stored, and how many pages it has.

    Raises FormatError where the file is damaged or its first page is no grey image.
    """
    path = Path(path)
    with open_file(path) as tiff:
        try:
            first, count = tiff.pages[0], len(tiff.pages)
            promised, packed = first.nbytes, sum(first.databytecounts)
        except Exception as error:
            raise FormatError(f"{path} is no readable TIFF file: {error}") from error
        if promised > GREATEST_COMPRESSION * max(packed, 1) or packed > path.stat().st_size:
            raise FormatError(
                f"{path} promises {promised:,} bytes from {packed:,}: it is truncated or damaged"
            )
        image = _page(path, tiff, 0)
    if image.ndim != 2 or image.dtype.kind not in "iuf":
        raise FormatError(
            f"the first page of {path} is {image.dtype} {image.shape}, a grey image is expected"
        )
    return image.astype(np.float32), count


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
            (np.asarray(image, dtype=np.float32)[::-1] for chunk in chunks for image in chunk),
            shape=shape,
            dtype=np.float32,
            bigtiff=math.prod(shape) * 4 > 2**32 - 2**25,
            photometric="minisblack",
            resolution=(per_centimetre, per_centimetre),
            resolutionunit="CENTIMETER",
            metadata=None,
            software="parhelion",
        )
