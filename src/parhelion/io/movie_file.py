"""The frames of MRC and TIFF movies, read one at a time."""

import threading
import weakref
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np

from parhelion.errors import FormatError, InputError
from parhelion.io.mrc_header import MrcHeader, read_header
from parhelion.io.packed import is_half_of_super_resolution, unpack
from parhelion.io.tiff import TiffDescription, check_pages, open_file


class MovieFile(ABC):
    """``count`` frames of ``shape`` (y, x) that stay in their file until they are read.

    ``pixel_size_angstrom`` is None where the file does not say, ``notes`` are what the reader had to assume.
    ``rows_from_top`` says whether the first row of a frame is the top of the image (EER) or its bottom (MRC,
    and TIFF, which is turned upside down on reading). Threads may share a movie; a copy in another process
    opens the file itself.
    """

    path: Path
    count: int
    shape: tuple[int, int]
    pixel_size_angstrom: float | None = None
    notes: tuple[str, ...] = ()
    rows_from_top: bool = True

    def __len__(self) -> int:
        return self.count

    def frame(self, index: int) -> np.ndarray:
        """Frame ``index`` (from 0), ``(y, x)`` float32.

        Raises FormatError where the movie has no such frame or where it is damaged.
        """
        # values beyond float32 become inf, which the check of the frames finds
        with np.errstate(over="ignore", invalid="ignore"):
            return np.ascontiguousarray(self.stored(index), dtype=np.float32)

    def stored(self, index: int) -> np.ndarray:
        """Frame ``index`` (from 0), ``(y, x)``, in the type of its file; the same errors as ``frame``."""
        if not 0 <= index < self.count:
            raise FormatError(f"frame {index + 1} of {self.path} is asked for, which holds {self.count}")
        return self._stored(index)

    @abstractmethod
    def _stored(self, index: int) -> np.ndarray:
        """Frame ``index`` in the type that the file stores."""


class MrcMovie(MovieFile):
    """The sections of an MRC file. Raises what ``mrc_header.read_header`` raises, FormatError for transforms,
    stacks of maps and files whose sections do not run along z."""

    rows_from_top = False

    def __init__(self, path: Path) -> None:
        header = read_header(path)
        if header.mode == 4:
            raise FormatError(f"{path} holds a Fourier transform (mode 4), frames are expected")
        if header.kind == "volume_stack":
            raise FormatError(f"{path} holds {header.volumes} maps, frames are expected")
        if header.axes[2] != 3:
            raise FormatError(f"{path} has axis order {header.axes}: its sections are no frames")
        self._header: MrcHeader = header
        self.path = header.path
        self.count = header.shape[0]
        self.shape = header.shape[1:]
        self.pixel_size_angstrom = header.pixel_size_angstrom
        self.notes = header.notes

    def _stored(self, index: int) -> np.ndarray:
        # Read, not mapped: a mapping would count every frame as memory of the process, and a file that is
        # cut while it is read would kill it.
        header = self._header
        _, rows, row = header.byte_shape
        try:
            flat = np.fromfile(
                self.path,
                header.dtype,
                rows * row,
                offset=header.offset + index * rows * row * header.dtype.itemsize,
            )
        except OSError as error:
            raise InputError(f"cannot read {self.path}: {error.strerror or error}") from error
        if flat.size < rows * row:
            raise FormatError(f"{self.path} ended within frame {index + 1}: it was cut while it was read")
        image = flat.reshape(rows, row)
        if header.packed:
            image = unpack(image, header.stored_shape[2])
        return image.T if header.axes[0] == 2 else image


class TiffMovie(MovieFile):
    """The pages of a TIFF file, which stays open, their last row first (``io/tiff``).

    Bytes of the size of 4-bit super-resolution frames of half the width are unpacked, as IMOD and RELION do.
    Raises FormatError where the file is damaged, holds colours, or pages of different size.
    """

    rows_from_top = False

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.RLock()
        self._pages: list[Any] = []
        self._little_endian = True
        found = self._open()
        self.count = found.count
        self.shape = found.shape
        self.pixel_size_angstrom = found.pixel_size_angstrom
        self._packed = found.dtype == np.uint8 and is_half_of_super_resolution(found.shape)
        if self._packed:
            self.shape = (found.shape[0], 2 * found.shape[1])
            self.notes = (
                f"{found.shape[1]} x {found.shape[0]} bytes taken as 4-bit frames of {self.shape[1]} x "
                f"{self.shape[0]} pixels",
            )

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_pages": [], "_lock": None}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._lock = threading.RLock()

    def _open(self) -> TiffDescription:
        tiff = open_file(self.path)
        try:
            found = check_pages(self.path, tiff)
        except BaseException:
            tiff.close()
            raise
        self._pages = list(tiff.pages)
        self._little_endian = tiff.byteorder == "<"
        weakref.finalize(self, tiff.close)
        return found

    def _stored(self, index: int) -> np.ndarray:
        with self._lock:
            if not self._pages:
                self._open()
            page = self._pages[index]
        from parhelion.io.lzw import decode_page

        try:
            image = decode_page(self.path, page, self._little_endian)
        except OSError as error:
            raise InputError(f"cannot read {self.path}: {error.strerror or error}") from error
        if image is None:
            image = self._by_library(page, index)
        return (unpack(image, self.shape[1]) if self._packed else image)[::-1]

    def _by_library(self, page: Any, index: int) -> np.ndarray:
        try:
            # the lock guards the position in the file; threads decode beside each other
            return np.asarray(page.asarray(lock=self._lock, maxworkers=1))
        except Exception as error:
            # a damaged file makes the library fail in many ways
            raise FormatError(f"frame {index + 1} of {self.path} cannot be read: {error}") from error
