"""Writing of MRC2014 headers and stacks."""

import contextlib
import math
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from parhelion.errors import OutputError, ParameterError
from parhelion.io.atomic import atomic_path, output_error
from parhelion.io.mrc_header import FIELDS, LENGTH

MODES = {"int8": 0, "int16": 1, "float32": 2, "uint16": 6, "float16": 12}
"""numpy type → MRC mode of what can be written. RELION before 4.0 does not read float16."""


class Statistics(NamedTuple):
    """Least and greatest value, mean, and standard deviation."""

    least: float
    greatest: float
    mean: float
    rms: float


def statistics(chunks: Iterable[np.ndarray]) -> Statistics:
    """Statistics over all values of ``chunks``, section by section in float64."""
    total = Total()
    for chunk in chunks:
        total.add(chunk)
    return total.statistics()


class Total:
    """Sums from which the statistics of a file come."""

    def __init__(self) -> None:
        self.least, self.greatest = math.inf, -math.inf
        self.count, self.sum, self.squares = 0, 0.0, 0.0

    def add(self, values: np.ndarray) -> None:
        """Count ``values`` ``(n, h, w)`` in."""
        for section in values:
            wide = section.astype(np.float64)
            self.least = min(self.least, float(wide.min()))
            self.greatest = max(self.greatest, float(wide.max()))
            self.count += wide.size
            self.sum += float(wide.sum())
            self.squares += float(np.square(wide).sum())

    def statistics(self) -> Statistics:
        """What was counted in so far."""
        mean = self.sum / self.count
        return Statistics(
            self.least, self.greatest, mean, math.sqrt(max(self.squares / self.count - mean * mean, 0.0))
        )


def header_bytes(
    shape: tuple[int, ...], dtype: np.dtype, pixel_size_angstrom: float, is_stack: bool, found: Statistics
) -> bytes:
    """A little-endian MRC2014 header for ``shape`` ``(z, y, x)``."""
    fields = np.zeros(1, FIELDS.newbyteorder("<"))
    sampling = np.array([shape[2], shape[1], 1 if is_stack else shape[0]])
    fields["n"] = shape[::-1]
    fields["mode"] = MODES[dtype.name]
    fields["m"] = sampling
    fields["cell"] = sampling * pixel_size_angstrom
    fields["angles"] = 90.0
    fields["axes"] = (1, 2, 3)
    fields["statistics"] = (found.least, found.greatest, found.mean)
    fields["ispg"] = 0 if is_stack else 1
    fields["nversion"] = 20141
    fields["map"] = b"MAP "
    fields["machst"] = (0x44, 0x44, 0, 0)
    fields["rms"] = found.rms
    fields["nlabl"] = 1
    fields["label"] = b"parhelion"
    return fields.tobytes()


class StackWriter:
    """Writes ``count`` images of ``box_yx`` pixels to an MRC stack, in any order, whole or not at all.

    Use it as a context manager; the statistics are filled in and the file gets its name when the block
    ends. Raises OutputError where the disk is full or the folder cannot be written, where values do not
    fit ``dtype`` (integers are rounded), and where images are missing at the end.
    """

    def __init__(
        self,
        path: Path | str,
        count: int,
        box_yx: tuple[int, int],
        pixel_size_angstrom: float,
        dtype: npt.DTypeLike = np.float32,
    ) -> None:
        self.path = Path(path)
        self.dtype = np.dtype(dtype).newbyteorder("<")
        self.shape = (int(count), int(box_yx[0]), int(box_yx[1]))
        self.pixel_size_angstrom = float(pixel_size_angstrom)
        if self.dtype.name not in MODES:
            raise ParameterError(
                f"images cannot be written as {self.dtype.name}; choose one of {', '.join(MODES)}"
            )
        if min(self.shape) <= 0:
            raise OutputError(f"{path} would hold {self.shape} images; nothing was written")
        self._total = Total()
        self._written = np.zeros(count, bool)
        self._exits = contextlib.ExitStack()
        self._stream: BinaryIO | None = None

    def __enter__(self) -> "StackWriter":
        with contextlib.ExitStack() as exits:
            partial = exits.enter_context(atomic_path(self.path))
            self._stream = exits.enter_context(partial.open("xb"))
            self._exits = exits.pop_all()
        return self

    def write(self, start: int, images: np.ndarray) -> None:
        """Write ``images`` ``(m, h, w)`` as numbers ``start`` … ``start + m - 1`` (from 0)."""
        if self._stream is None:
            raise ValueError("StackWriter.write is called outside the with block")
        stop = start + len(images)
        if images.shape[1:] != self.shape[1:] or not 0 <= start <= stop <= self.shape[0]:
            raise ValueError(f"images {images.shape} at {start} do not fit a stack of {self.shape}")
        if self._written[start:stop].any():
            raise ValueError(f"images {start} to {stop - 1} were already written")
        stored = self._stored(images)
        self._total.add(stored)
        try:
            self._stream.seek(LENGTH + start * self.shape[1] * self.shape[2] * self.dtype.itemsize)
            self._stream.write(stored.tobytes())
        except OSError as error:
            raise output_error(self.path, error) from error
        self._written[start:stop] = True

    def _stored(self, images: np.ndarray) -> np.ndarray:
        limits = np.iinfo(self.dtype) if self.dtype.kind in "iu" else np.finfo(self.dtype)
        least, greatest = float(images.min(initial=0)), float(images.max(initial=0))
        if not float(limits.min) <= least <= greatest <= float(limits.max):
            raise OutputError(
                f"values from {least:g} to {greatest:g} do not fit {self.dtype.name} in {self.path}; "
                "write float32 instead"
            )
        return (np.rint(images) if self.dtype.kind in "iu" else images).astype(self.dtype)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        stream, self._stream = self._stream, None
        if kind is not None or stream is None:
            self._exits.__exit__(kind, error, traceback)
            return
        with self._exits:
            missing = np.flatnonzero(~self._written)
            if len(missing):
                raise OutputError(
                    f"{len(missing)} of {len(self._written)} images for {self.path} were not written, "
                    f"first number {missing[0] + 1}"
                )
            found = self._total.statistics()
            stream.seek(0)
            stream.write(header_bytes(self.shape, self.dtype, self.pixel_size_angstrom, True, found))
