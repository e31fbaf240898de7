"""Coordinates in plain text: EMAN's ``.box``, SPIDER's documents, CSV, and cisTEM's text."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from parhelion.errors import FormatError, InputError

X_NAMES = ("rlncoordinatex", "x", "x_coord", "x-coord", "xcoord", "_rlncoordinatex", "x_px")
Y_NAMES = ("rlncoordinatey", "y", "y_coord", "y-coord", "ycoord", "_rlncoordinatey", "y_px")
IMAGE_NAMES = (
    "rlnmicrographname",
    "micrograph",
    "micrograph_name",
    "image",
    "image_name",
    "filename",
    "name",
)
MISSING_NUMBERS = 10
"""How far beyond twice their count the numbers of particles may reach in a SPIDER document."""
MERIT_NAMES = ("rlnautopickfigureofmerit", "score", "confidence", "figure_of_merit", "merit")


@dataclass(frozen=True)
class TextCoordinates:
    """Positions ``xy`` ``(n, 2)``, the image of each where the file says, in Å or in pixels."""

    xy: np.ndarray
    names: list[str] | None = None
    merit: np.ndarray | None = None
    angstrom: bool = False


def read_text(path: Path) -> TextCoordinates:
    """Positions of a text file, its kind told by suffix and content. Raises FormatError."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    if b"\0" in content:
        raise FormatError(f"{path} holds binary data, coordinates are text")
    text = content.decode("utf-8", errors="replace")
    suffix = path.suffix.lower()
    lines = [(i, line.strip()) for i, line in enumerate(text.splitlines(), 1) if line.strip()]
    if suffix == ".csv" or (suffix != ".box" and lines and "," in lines[0][1]):
        return _csv(path, text)
    if suffix == ".box":
        return _box(path, lines)
    if _is_document(lines):
        return _document(path, lines)
    return _cistem(path, lines)


def _floats(path: Path, line: int, words: Sequence[str]) -> list[float]:
    try:
        return [float(word) for word in words]
    except ValueError:
        raise FormatError(
            f"{path}, line {line}: found {' '.join(words)[:80]!r}, numbers are expected"
        ) from None


def _box(path: Path, lines: list[tuple[int, str]]) -> TextCoordinates:
    """Corner and size; the particle is at pixel ``size // 2`` of the box."""
    centres = []
    for number, line in lines:
        words = line.split()
        if line.startswith("#"):
            continue
        if len(words) < 4:
            raise FormatError(
                f"{path}, line {number}: {len(words)} values, expected corner x, y and size x, y"
            )
        x, y, width, height = _floats(path, number, words[:4])
        centres.append((x + width // 2, y + height // 2))
    return TextCoordinates(np.array(centres, dtype=np.float64).reshape(-1, 2))


def _is_document(lines: list[tuple[int, str]]) -> bool:
    """Whether every line is a comment or ``key count value…`` with as many values as it says."""
    rows = [line.split() for _, line in lines if not line.startswith(";")]
    if not rows:
        return any(line.startswith(";") for _, line in lines)
    return all(
        len(row) > 2
        and row[0].lstrip("-").isdecimal()
        and row[1].isdecimal()
        and len(row) - 2 == int(row[1][:9])
        for row in rows
    )


def _document(path: Path, lines: list[tuple[int, str]]) -> TextCoordinates:
    """SPIDER's document: x and y first, or after the number of the particle; pixels count from 1."""
    rows = [(n, line.split()[2:]) for n, line in lines if not line.startswith(";")]
    width = min((len(words) for _, words in rows), default=2)
    if width < 2:
        raise FormatError(f"{path}, line {rows[0][0]}: {width} value, x and y are expected")
    values = np.array([_floats(path, n, words[:width]) for n, words in rows]).reshape(-1, width)
    first = values[:, 0]
    whole = width > 2 and len(first) > 0 and bool(np.all(first == np.rint(first)))
    distinct = len(np.unique(first)) == len(first)
    # numbers of particles are small and all different; positions scatter over the micrograph
    numbered = whole and distinct and first.min() >= 1 and first.max() <= 2 * len(first) + MISSING_NUMBERS
    start = int(numbered)
    return TextCoordinates(values[:, start : start + 2] - 1.0)


def _cistem(path: Path, lines: list[tuple[int, str]]) -> TextCoordinates:
    """Image (name or number), x and y in Å, separated by blanks."""
    names, xy = [], []
    for number, line in lines:
        if line.startswith("#"):
            continue
        words = line.rsplit(maxsplit=2)
        if len(words) != 3:
            raise FormatError(
                f"{path}, line {number}: found {line[:80]!r}, expected image, x and y in Å (cisTEM's text); "
                "EMAN's files end in .box, tables in .csv or .star"
            )
        xy.append(_floats(path, number, words[1:]))
        names.append(words[0].strip("'\""))
    if not xy:
        raise FormatError(f"{path} holds no coordinates")
    return TextCoordinates(np.array(xy), names, angstrom=True)


def _csv(path: Path, text: str) -> TextCoordinates:
    """Columns by their heads (x, y, and where they are there micrograph and score), else [image,] x, y."""
    try:
        rows = [row for row in csv.reader(io.StringIO(text), skipinitialspace=True) if any(row)]
    except csv.Error as error:
        raise FormatError(f"{path} is no table of comma-separated values: {error}") from error
    if not rows:
        raise FormatError(f"{path} holds no coordinates")
    heads = [head.strip().lower() for head in rows[0]]
    if any(head in X_NAMES for head in heads):
        where = [_column(heads, names) for names in (X_NAMES, Y_NAMES, IMAGE_NAMES, MERIT_NAMES)]
        rows, first = rows[1:], 2
    else:
        wide = len(heads) > 2
        where, first = [int(wide), int(wide) + 1, 0 if wide else None, None], 1
    x, y, image, merit = where
    if x is None or y is None:
        raise FormatError(f"{path}: columns {', '.join(heads)[:200]}; x and y are expected")
    needed = max(column for column in where if column is not None)
    for number, row in enumerate(rows, first):
        if len(row) <= needed:
            raise FormatError(f"{path}, row {number}: {len(row)} values, {needed + 1} are expected")
    values = [_floats(path, n, [row[x], row[y]]) for n, row in enumerate(rows, first)]
    scores = (
        [_floats(path, n, [row[merit]])[0] for n, row in enumerate(rows, first)]
        if merit is not None
        else None
    )
    return TextCoordinates(
        np.array(values, dtype=np.float64).reshape(-1, 2),
        [row[image].strip() for row in rows] if image is not None else None,
        np.array(scores) if scores is not None else None,
    )


def _column(heads: list[str], names: tuple[str, ...]) -> int | None:
    return next((heads.index(name) for name in names if name in heads), None)
