"""SPIDER images, maps and stacks of images, read only (Frank et al. 1996, J. Struct. Biol. 116, 190-199).

A file begins with a header of float32 values, numbered from 1 in SPIDER's documents; either byte order
occurs. In a stack each image has a header of its own.
"""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from parhelion.errors import FormatError, InputError, MetadataError
from parhelion.io.mrc_header import CREDIBLE_PIXEL_ANGSTROM
from parhelion.io.stack import ImageStack
from parhelion.model.volume import Volume

HEAD = 256
IMAGE, MAP = 1, 3


class SpiderHeader(NamedTuple):
    """Byte order, kind (1 image, 3 map), images of a stack (0: no stack), ``(z, y, x)`` of each."""

    order: str
    kind: int
    header_bytes: int
    images: int
    shape: tuple[int, int, int]
    pixel_size_angstrom: float | None


def is_spider(head: bytes) -> bool:
    """Whether a file that begins so may be SPIDER's."""
    return _header(head) is not None


def _header(head: bytes) -> SpiderHeader | None:
    if len(head) < HEAD * 4:
        return None
    for order in "<>":
        values = np.frombuffer(head, f"{order}f4", HEAD)
        z, y, x, kind, header_bytes = (values[i - 1] for i in (1, 2, 12, 5, 22))
        integers = np.array([z, y, x, kind, header_bytes], dtype=np.float64)
        if not np.isfinite(integers).all() or np.any(integers != np.rint(integers)):
            continue
        if kind not in (IMAGE, MAP) or np.any(integers[:3] < 1) or np.any(integers[:3] > 2**20):
            continue
        # the header fills whole records of one row each
        if header_bytes < HEAD * 4 or header_bytes % (4 * x) or header_bytes > HEAD * 4 + 4 * x:
            continue
        stacked, count = float(values[23]), float(values[25])
        count = count if stacked > 0 and np.isfinite(count) and 0 <= count < 2**31 else 0.0
        low, high = CREDIBLE_PIXEL_ANGSTROM
        pixel = float(f"{values[37]:.6g}") if low <= values[37] <= high else None
        return SpiderHeader(order, int(kind), int(header_bytes), int(count), (int(z), int(y), int(x)), pixel)
    return None


def _checked(path: Path) -> SpiderHeader:
    """The header, its size checked against the file's."""
    try:
        with path.open("rb") as stream:
            head = stream.read(HEAD * 4)
            size = os.fstat(stream.fileno()).st_size
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    header = _header(head)
    if header is None:
        raise FormatError(f"{path} is no SPIDER file: its header makes sense in neither byte order")
    z, y, x = header.shape
    each = z * y * x * 4
    needed = header.header_bytes + (header.images * (header.header_bytes + each) if header.images else each)
    if needed > size:
        what = f"{header.images} x {z} x {y} x {x}" if header.images else f"{z} x {y} x {x}"
        raise FormatError(
            f"{path} promises {what} values, {needed:,} bytes, but has {size:,}: truncated or damaged; "
            "copy or make it again"
        )
    return header


def holds_images(path: Path) -> bool:
    """Whether a SPIDER file holds images rather than maps. Raises FormatError where it is damaged."""
    return _checked(path).shape[0] == 1


def open_spider(path: Path | str) -> ImageStack:
    """The images of a SPIDER file, one or a stack. Raises FormatError for maps and damaged files."""
    path = Path(path)
    header = _checked(path)
    z, y, x = header.shape
    if z != 1:
        raise FormatError(f"{path} holds maps of {z} sections, images are expected")
    value = f"{header.order}f4"
    record = np.dtype([("header", f"V{header.header_bytes}"), ("image", value, (y, x))])
    offset = header.header_bytes if header.images else 0
    mapped = np.memmap(path, record, mode="r", offset=offset, shape=(max(header.images, 1),))
    return ImageStack(path, mapped["image"], pixel_size_angstrom=header.pixel_size_angstrom)


def read_spider_volume(path: Path | str, pixel_size_angstrom: float | None = None) -> Volume:
    """The map in a SPIDER file; ``pixel_size_angstrom`` overrules its header.

    Raises FormatError for images, stacks, damaged files and values that are not finite, MetadataError
    where the pixel size is unknown.
    """
    path = Path(path)
    header = _checked(path)
    if header.kind != MAP or header.images:
        raise FormatError(
            f"{path} holds {'several maps' if header.kind == MAP else 'images'}, one map is expected"
        )
    pixel = pixel_size_angstrom if pixel_size_angstrom is not None else header.pixel_size_angstrom
    if pixel is None:
        raise MetadataError(f"{path} does not say its pixel size; give it with --pixel-size")
    stored = np.memmap(path, f"{header.order}f4", mode="r", offset=header.header_bytes, shape=header.shape)
    data = np.ascontiguousarray(stored, dtype=np.float32)
    broken = data.size - int(np.count_nonzero(np.isfinite(data)))
    if broken:
        raise FormatError(
            f"{broken:,} of the {data.size:,} values in {path} are not finite (NaN or infinity)"
        )
    return Volume(data=data, pixel_size_angstrom=pixel)
