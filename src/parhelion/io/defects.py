"""Defects of detectors: images of them, rectangles as text, and SerialEM's lists.

- An image (MRC, TIFF): every value that is not 0 marks a bad pixel.
- Text with four numbers in a line, ``x y w h`` (MotionCor2, RELION): the rectangle's first column and row,
  from 0, and its size. Rows count as those programs read movies: TIFF from the bottom, EER as stored.
- SerialEM's ``defects_*.txt`` (the list that IMOD's ``clip defect -D`` reads): full and partial columns and
  rows, pixels, the usable area, with the camera's size. Rows count from the top.
"""

from pathlib import Path

import numpy as np

from parhelion.errors import FormatError, InputError
from parhelion.io.formats import open_images
from parhelion.io.gain import check_size, oriented

HEAD_BYTES = 4096
EDGE = 0.05
"""Share of a frame's width by which it may differ from the camera's: programs cut or keep the dark edge."""
SERIALEM_COUNTS = {
    "CameraSizeX": 1,
    "CameraSizeY": 1,
    "UsableArea": 4,
    "PartialBadColumn": 4,
    "PartialBadRow": 4,
    "BadColumns": 1,
    "BadRows": 1,
    "BadPixels": 2,
}
"""SerialEM's words → the least count of numbers behind them."""


def read_defects(
    path: Path | str,
    shape: tuple[int, int],
    *,
    rows_from_top: bool = False,
    rotation: int = 0,
    flip: int = 0,
    notes: list[str] | None = None,
) -> np.ndarray:
    """Bad pixels ``(y, x)`` bool of frames of ``shape``.

    ``rows_from_top`` says where the first row of the frames is (``MovieFile.rows_from_top``); SerialEM's
    lists are turned to it. ``rotation`` and ``flip`` orient images of defects as the gain reference
    (``io.gain``). ``notes`` receives the number of bad pixels. Raises FormatError where the file is damaged,
    InputError where its size does not fit the frames.
    """
    path = Path(path)
    text = _text(path)
    if text is None:
        bad = _from_image(path, shape, rotation, flip)
    elif any(line.split()[0] in SERIALEM_COUNTS for line in text):
        bad = _from_serialem(path, text, shape)
        bad = bad if rows_from_top else bad[::-1]
    else:
        bad = _from_rectangles(path, text, shape)
    count = int(np.count_nonzero(bad))
    if count == bad.size:
        raise FormatError(f"{path} marks every pixel of the detector as bad")
    if notes is not None:
        notes.append(f"{path.name}: {count:,} of {bad.size:,} pixels are marked as bad")
    return np.ascontiguousarray(bad)


def _text(path: Path) -> list[str] | None:
    """The lines of a text file without comments, None where it is an image."""
    try:
        with path.open("rb") as stream:
            head = stream.read(HEAD_BYTES)
            if b"\0" in head:
                return None
            content = (head + stream.read()).decode("utf-8", "replace")
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    lines = (line.split("#")[0].strip() for line in content.splitlines())
    return [line for line in lines if line]


def _from_image(path: Path, shape: tuple[int, int], rotation: int, flip: int) -> np.ndarray:
    stack = open_images(path)
    if len(stack) != 1:
        raise FormatError(f"{path} holds {len(stack)} images, a map of defects is one")
    bad = oriented(stack.read(np.array([0]))[0] != 0, rotation, flip)
    check_size(bad.shape, shape, f"the map of defects {path}")
    return bad


def _numbers(path: Path, line: str, words: list[str]) -> list[int]:
    try:
        return [int(float(word)) for word in words]
    except (ValueError, OverflowError) as error:
        raise FormatError(f"{path}: {line[:60]!r} is no line of a list of defects") from error


def _from_rectangles(path: Path, lines: list[str], shape: tuple[int, int]) -> np.ndarray:
    bad = np.zeros(shape, bool)
    for line in lines:
        words = line.replace(",", " ").split()
        if len(words) != 4:
            raise FormatError(
                f"{path}: {line[:60]!r} has {len(words)} words; a list of defects has x y w h in each line, "
                "or SerialEM's words"
            )
        x, y, width, height = _numbers(path, line, words)
        if width <= 0 or height <= 0:
            raise FormatError(f"{path}: the rectangle {line[:60]!r} (x y w h) is empty")
        if x >= shape[1] or y >= shape[0] or x + width <= 0 or y + height <= 0:
            raise InputError(
                f"{path}: the rectangle {line[:60]!r} (x y w h) lies outside frames of "
                f"{shape[1]} x {shape[0]} pixels"
            )
        bad[max(y, 0) : y + height, max(x, 0) : x + width] = True
    return bad


def _from_serialem(path: Path, lines: list[str], shape: tuple[int, int]) -> np.ndarray:
    """Bad pixels with the first row on top; the frame is in the middle of the camera, perhaps up-sampled."""
    entries = []
    size = {"CameraSizeX": 0, "CameraSizeY": 0}
    for line in lines:
        word, *rest = line.split()
        if word not in SERIALEM_COUNTS:
            continue
        numbers = _numbers(path, line, rest)
        if len(numbers) < SERIALEM_COUNTS[word]:
            raise FormatError(f"{path}: {line[:60]!r} needs {SERIALEM_COUNTS[word]} numbers")
        if word in size:
            size[word] = numbers[0]
        else:
            entries.append((word, numbers))
    camera = (size["CameraSizeY"], size["CameraSizeX"])
    if min(camera) <= 0:
        raise FormatError(f"{path} gives the camera's size as {camera[1]} x {camera[0]} (CameraSizeX, Y)")
    factor = _upsampling(camera, shape)
    if factor is None:
        check_size(camera, shape, f"the camera of {path}")
    bad = np.zeros(camera, bool)
    for word, numbers in entries:
        _mark(bad, word, numbers)
    return _centred(bad.repeat(factor or 1, axis=0).repeat(factor or 1, axis=1), shape)


def _upsampling(camera: tuple[int, int], shape: tuple[int, int]) -> int | None:
    """How many times finer frames are than their camera's pixels, None where they do not belong together."""
    for factor in (1, 2, 4):
        if all(abs(n - c * factor) <= EDGE * n for n, c in zip(shape, camera)):
            return factor
    return None


def _mark(bad: np.ndarray, word: str, numbers: list[int]) -> None:
    """Mark what one line of SerialEM's list names."""
    if word == "BadColumns":
        bad[:, [n for n in numbers if 0 <= n < bad.shape[1]]] = True
    elif word == "BadRows":
        bad[[n for n in numbers if 0 <= n < bad.shape[0]]] = True
    elif word == "BadPixels":
        for x, y in zip(numbers[0::2], numbers[1::2]):
            if 0 <= y < bad.shape[0] and 0 <= x < bad.shape[1]:
                bad[y, x] = True
    elif word == "PartialBadColumn":
        column, width, first, last = (max(n, 0) for n in numbers[:4])
        bad[first : last + 1, column : column + width] = True
    elif word == "PartialBadRow":
        row, height, first, last = (max(n, 0) for n in numbers[:4])
        bad[row : row + height, first : last + 1] = True
    elif word == "UsableArea":
        top, left, bottom, right = (max(n, 0) for n in numbers[:4])
        bad[:top], bad[:, :left] = True, True
        if bottom:
            bad[bottom + 1 :] = True
        if right:
            bad[:, right + 1 :] = True


def _centred(bad: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The middle of the camera's map; frames that reach beyond repeat what is at its edge."""
    rows, columns = (
        np.clip(np.arange(n) - (n - camera) // 2, 0, camera - 1) for n, camera in zip(shape, bad.shape)
    )
    return bad[np.ix_(rows, columns)]
