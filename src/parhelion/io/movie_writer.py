"""Writing of movies as a detector's software stores them: whole counts, one frame at a time."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from parhelion.errors import ParameterError
from parhelion.io.atomic import atomic_path
from parhelion.io.mrc_writer import StackWriter
from parhelion.io.tiff import ANGSTROM_PER_CENTIMETRE

BIG_TIFF_BYTES = 2**31
TIFF_TYPES = ("uint8", "uint16")


def write_movie(
    path: Path | str,
    frames: Iterable[np.ndarray],
    count: int,
    shape: tuple[int, int],
    dtype: type[np.uint8] | type[np.uint16],
    pixel_size_angstrom: float,
) -> None:
    """Write ``count`` ``frames`` of this ``shape`` (height, width) as counts, whole or not at all.

    The suffix chooses the format: ``.tif`` compressed without loss (LZW), uint8 or uint16; ``.mrc`` plain,
    counts below 256 as 16-bit signed integers (mode 1, which every program reads), others as unsigned ones
    (mode 6). TIFF pages begin with the last row, as ``io/tiff`` reads them. Raises OutputError where the
    file cannot be written, ParameterError for another suffix, type or number of frames.
    """
    path = Path(path)
    kind = np.dtype(dtype)
    if kind.name not in TIFF_TYPES:
        raise ParameterError(f"movies are written as {' or '.join(TIFF_TYPES)}, not as {kind.name}")
    if path.suffix == ".tif":
        _write_tiff(path, frames, count, shape, kind, pixel_size_angstrom)
    elif path.suffix == ".mrc":
        stored = np.int16 if kind == np.uint8 else np.uint16
        with StackWriter(path, count, shape, pixel_size_angstrom, stored) as writer:
            for number, frame in enumerate(frames):
                writer.write(number, frame[None])
    else:
        raise ParameterError(f"{path}: movies are written as .tif or .mrc")


def _write_tiff(
    path: Path,
    frames: Iterable[np.ndarray],
    count: int,
    shape: tuple[int, int],
    kind: np.dtype,
    pixel_size_angstrom: float,
) -> None:
    import tifffile

    per_centimetre = ANGSTROM_PER_CENTIMETRE / pixel_size_angstrom
    big = count * shape[0] * shape[1] * kind.itemsize > BIG_TIFF_BYTES
    written = 0
    with atomic_path(path) as partial:
        with tifffile.TiffWriter(partial, bigtiff=big) as writer:
            for frame in frames:
                writer.write(
                    np.ascontiguousarray(frame[::-1], dtype=kind),
                    photometric="minisblack",
                    compression="lzw",
                    resolution=(per_centimetre, per_centimetre),
                    resolutionunit="CENTIMETER",
                    metadata=None,
                    software="parhelion",
                    contiguous=False,
                )
                written += 1
        if written != count:
            raise ParameterError(f"{path}: {count} frames were announced, {written} came")
