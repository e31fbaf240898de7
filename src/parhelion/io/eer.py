"""Electron Event Representation: the movies of Falcon detectors, in which every electron is an event.

Guo et al. (2020) IUCrJ 7, 860-869. A file is a TIFF (usually BigTIFF) of hundreds of raw frames, each a run
of codes: how many pixels to skip, and in which quarter (or sixteenth) of the pixel the next electron fell.
Compression 65000 has 8 bits for the skip, 65001 has 7; 65002 states its bits in the tags 65007 to 65009. A
first page without that compression is the sum of the exposure and is left out.

The decoder is imagecodecs'. No recording was at hand: the tests build files from the published format with
an encoder of their own, whose sub-pixel positions are those of RELION's renderer.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from parhelion.errors import FormatError, InputError, ParameterError
from parhelion.io.movie_file import MovieFile
from parhelion.io.tiff import check_last_page, is_picture, open_file, page_after

COMPRESSIONS = (65000, 65001, 65002)
WANTED_FRAMES = 40
"""Frames that a movie gets where nobody says how many raw frames make one."""
CREDIBLE_PIXEL_ANGSTROM = (0.1, 30.0)
METRE_ANGSTROM = 1e10


def is_eer(path: Path) -> bool:
    """Whether a TIFF file holds electron events. Raises what ``tiff.open_file`` raises."""
    with open_file(path) as tiff:
        try:
            return _first_event_page(tiff) is not None
        except Exception as error:
            # a damaged file makes the library fail in many ways
            raise FormatError(f"{path} is no readable TIFF file: {error}") from error


def _first_event_page(tiff: Any) -> int | None:
    """The number of the first raw frame: 0, or 1 behind the sum of the exposure."""
    for number in range(min(2, len(tiff.pages))):
        if tiff.pages[number].compression in COMPRESSIONS:
            return number
    return None


@dataclass(frozen=True)
class _Codes:
    """How the events of a file are coded: bits of the skip and of the place within the pixel."""

    skip: int
    horizontal: int
    vertical: int


class EerMovie(MovieFile):
    """The raw frames of an EER file, ``grouping`` of them summed to one frame of electron counts.

    ``upsampling`` places the electrons on a grid that is 1, 2 or 4 times finer than the detector's pixels.
    Raw frames that are left at the end do not make a frame. ``grouping`` None takes as many as give about 40
    frames. Raises FormatError where the file is damaged and ParameterError where it holds fewer raw frames
    than make one frame, or too coarse places for ``upsampling``.
    """

    def __init__(self, path: Path, upsampling: int = 1, grouping: int | None = None) -> None:
        self.path = path
        with open_file(path) as tiff:
            try:
                first = _first_event_page(tiff)
                pages = list(tiff.pages)[first or 0 :]
                described = [
                    (p.shape, p.compression, _numbers(p.dataoffsets), _numbers(p.databytecounts))
                    for p in pages
                ]
                codes = _codes(pages[0])
                pixel = _pixel_size(pages[0])
                following = page_after(tiff, tiff.pages[-1])
            except Exception as error:
                raise FormatError(f"{path} is no readable EER file: {error}") from error
        if first is None:
            raise FormatError(f"{path} holds no electron events (EER)")
        _check(path, described, codes)
        check_last_page(path, (first or 0) + len(described), following)
        self._codes = codes
        self._segments = [tuple(zip(offsets, counts)) for _, _, offsets, counts in described]
        self.upsampling = upsampling
        self.raw_count = len(described)
        self.grouping = -(-self.raw_count // WANTED_FRAMES) if grouping is None else grouping
        if self.grouping > self.raw_count:
            raise ParameterError(
                f"EER grouping is {self.grouping}, but {path} holds {self.raw_count} raw frames"
            )
        finest = 2 ** min(codes.horizontal, codes.vertical)
        if upsampling > finest:
            raise ParameterError(
                f"EER up-sampling is {upsampling}, but {path} places electrons to 1/{finest}"
            )
        self.count = self.raw_count // self.grouping
        height, width = described[0][0]
        self.shape = (height * upsampling, width * upsampling)
        self.pixel_size_angstrom = None if pixel is None else pixel / upsampling
        self.notes = (self._grouped(grouping is None),)

    def _grouped(self, chosen: bool) -> str:
        left = self.raw_count - self.count * self.grouping
        return (
            f"{self.raw_count:,} raw frames of {self.path.name} make {self.count} frames of {self.grouping}"
            + (" (chosen for about 40 frames)" if chosen else "")
            + (f"; the last {left} raw frames are left out" if left else "")
        )

    def _stored(self, index: int) -> np.ndarray:
        total = np.zeros(self.shape, dtype=np.uint16)
        try:
            with self.path.open("rb") as stream:
                for raw in range(index * self.grouping, (index + 1) * self.grouping):
                    self._add(stream, raw, total)
        except OSError as error:
            raise InputError(f"cannot read {self.path}: {error.strerror or error}") from error
        return total

    def _add(self, stream: Any, raw: int, total: np.ndarray) -> None:
        """Add the electrons of one raw frame to ``total``."""
        import imagecodecs

        pieces = []
        for offset, size in self._segments[raw]:
            stream.seek(offset)
            pieces.append(stream.read(size))
        codes, coded = self._codes, b"".join(pieces)
        # the decoder wants whole 16-bit words; it stops at the frame's last pixel, whatever follows
        coded += b"\0" * (len(coded) % 2)
        try:
            imagecodecs.eer_decode(
                coded,
                self.shape,
                codes.skip,
                codes.horizontal,
                codes.vertical,
                superres=self.upsampling.bit_length() - 1,
                out=total,
            )
        except Exception as error:
            raise FormatError(f"raw frame {raw + 1} of {self.path} cannot be decoded: {error}") from error


def _numbers(values: Any) -> tuple[int, ...]:
    """Entries of a tag; TypeError where a damaged one holds something else."""
    return tuple(int(value) for value in values)


def _codes(page: Any) -> _Codes:
    if page.compression == 65002:
        skip, horizontal, vertical = (int(page.tags.valueof(tag, 0)) for tag in (65007, 65008, 65009))
        return _Codes(skip or 7, horizontal or 2, vertical or 2)
    return _Codes(8 if page.compression == 65000 else 7, 2, 2)


def _check(path: Path, described: list[Any], codes: _Codes) -> None:
    """Raise FormatError where raw frames differ in size or cannot be in the file."""
    size = path.stat().st_size
    if not (1 <= codes.skip <= 16 and 1 <= codes.horizontal <= 4 and 1 <= codes.vertical <= 4):
        raise FormatError(f"{path} codes events in {codes}, which makes no sense: it is damaged")
    shape, compression = described[0][:2]
    for number, (other, coding, offsets, counts) in enumerate(described, 1):
        if not is_picture(other) or other != shape or coding != compression:
            raise FormatError(
                f"raw frame {number} of {path} is {other} with compression {coding}; all must be as the "
                f"first ({shape}, {compression})"
            )
        end = max((a + b for a, b in zip(offsets, counts)), default=0)
        if end > size:
            raise FormatError(
                f"raw frame {number} of {path} ends at byte {end:,}, but the file has {size:,}: it is "
                "truncated or damaged; copy it again"
            )
        # even a frame without electrons takes one code per greatest skip
        least = other[0] * other[1] // (2**codes.skip - 1) * codes.skip // 8
        if sum(counts) < least:
            raise FormatError(
                f"raw frame {number} of {path} promises {other[1]} x {other[0]} pixels in {sum(counts):,} "
                f"bytes, at least {least:,} are needed: it is damaged"
            )


def _pixel_size(page: Any) -> float | None:
    """Å per detector pixel at the specimen, None where the metadata do not say or cannot be right."""
    found = (page.eer_tags or {}).get("sensorPixelSize.width")
    low, high = CREDIBLE_PIXEL_ANGSTROM
    if not isinstance(found, int | float) or not low <= found * METRE_ANGSTROM <= high:
        return None
    return float(f"{found * METRE_ANGSTROM:.6g}")
