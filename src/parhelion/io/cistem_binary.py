"""Binary particle tables of cisTEM (``.cistem``): the columns of its STAR files, one row after the other.

Little-endian: number of columns and of rows (int32); per column its identifier (int64, one bit) and the type
(one byte); then the rows, unpadded, texts as their length (int32) and bytes. There are no comments, so such a
file does not say whether protein is white or black.
"""

import struct
from pathlib import Path

import numpy as np

from parhelion.errors import FormatError, InputError, MetadataError
from parhelion.io.atomic import atomic_path
from parhelion.io.cistem import POSITION, cistem_set
from parhelion.io.cistem_writer import cistem_table
from parhelion.io.exchange import ImageFacts
from parhelion.model.particles import ParticleSet
from parhelion.model.table import Table

INTEGER, FLOAT, BOOL, LONG, DOUBLE, BYTE, TEXT, UNSIGNED = 2, 3, 4, 5, 6, 7, 8, 9
CODES = {INTEGER: "<i4", FLOAT: "<f4", BOOL: "<u1", LONG: "<i8", DOUBLE: "<f8", BYTE: "<u1", UNSIGNED: "<u4"}
LABELS = (
    *("PositionInStack", "ImageActivity", "AnglePsi", "XShift", "YShift", "Defocus1", "Defocus2"),
    *("DefocusAngle", "PhaseShift", "Occupancy", "LogP", "Sigma", "Score", "ScoreChange", "PixelSize"),
    *("MicroscopeVoltagekV", "MicroscopeCsMM", "AmplitudeContrast", "BeamTiltX", "BeamTiltY"),
    *("ImageShiftX", "ImageShiftY", "AngleTheta", "AnglePhi", "StackFilename", "OriginalImageFilename"),
    *("Reference3DFilename", "Best2DClass", "BeamTiltGroup", "ParticleGroup", "PreExposure"),
    *("TotalExposure", "AssignedSubset"),
)
"""By the bit that identifies the column."""
WHOLE = ("ImageActivity", "Best2DClass", "BeamTiltGroup", "ParticleGroup", "AssignedSubset")
HEAD, COLUMN = struct.Struct("<ii"), struct.Struct("<qB")
MOST_COLUMNS = 64
Column = tuple[str, int]


def read_cistem_binary(
    path: Path | str,
    pixel_size_angstrom: float | None = None,
    notes: list[str] | None = None,
    *,
    facts: ImageFacts | None = None,
) -> ParticleSet:
    """Particles of a ``.cistem`` file; arguments as ``parhelion.io.cistem.read_cistem``.

    Columns that are not known are left out with a note. Raises FormatError where the file is truncated or of
    another kind.
    """
    path, notes = Path(path), notes if notes is not None else []
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    columns, rows, start = _header(path, content)
    table = _rows(path, content, columns, rows, start)
    strange = [name for name, _ in columns if name not in LABELS]
    if strange:
        notes.append(f"{path.name}: {len(strange)} columns of an unknown kind were left out")
    known = {f"cisTEM{name}": values for name, values in table.items() if name in LABELS}
    if POSITION not in known:
        raise MetadataError(f"{path} is no table of cisTEM: {POSITION} is missing")
    return cistem_set(path, Table(known, length=rows), pixel_size_angstrom, notes, facts, ImageFacts())


def is_cistem_binary(head: bytes) -> bool:
    """Whether a file that begins so may be of this format."""
    if len(head) < HEAD.size + COLUMN.size:
        return False
    count, rows = HEAD.unpack_from(head)
    if not (0 < count <= MOST_COLUMNS and rows >= 0) or len(head) < HEAD.size + count * COLUMN.size:
        return False
    found = [COLUMN.unpack_from(head, HEAD.size + i * COLUMN.size) for i in range(count)]
    return all(bit > 0 and bit & (bit - 1) == 0 and code in (*CODES, TEXT) for bit, code in found)


def _header(path: Path, content: bytes) -> tuple[list[Column], int, int]:
    """Name and type of each column, the number of rows, and where they begin."""
    if not is_cistem_binary(content[: HEAD.size + MOST_COLUMNS * COLUMN.size]):
        raise FormatError(f"{path} is no binary table of cisTEM: its header makes no sense")
    count, rows = HEAD.unpack_from(content)
    columns = []
    for i in range(count):
        bit, code = COLUMN.unpack_from(content, HEAD.size + i * COLUMN.size)
        at = bit.bit_length() - 1
        columns.append((LABELS[at] if at < len(LABELS) else f"bit{at}", code))
    if len(dict(columns)) < count:
        raise FormatError(f"{path} holds a column twice")
    start = HEAD.size + count * COLUMN.size
    least = sum(4 if code == TEXT else np.dtype(CODES[code]).itemsize for _, code in columns)
    if start + rows * least > len(content):
        raise FormatError(
            f"{path} promises {rows:,} particles, at least {start + rows * least:,} bytes, but has "
            f"{len(content):,}: truncated"
        )
    return columns, rows, start


def _rows(path: Path, content: bytes, columns: list[Column], rows: int, start: int) -> dict[str, np.ndarray]:
    """The columns' values."""
    if all(code != TEXT for _, code in columns):
        packed = np.frombuffer(content, np.dtype([(n, CODES[c]) for n, c in columns]), rows, start)
        return {name: packed[name].astype(np.float64) for name, _ in columns}
    values: dict[str, list[object]] = {name: [] for name, _ in columns}
    readers = [(values[name], None if code == TEXT else np.dtype(CODES[code]).char) for name, code in columns]
    plans = [(out, None if char is None else struct.Struct("<" + char)) for out, char in readers]
    at = start
    try:
        for _ in range(rows):
            for out, plan in plans:
                if plan is not None:
                    out.append(plan.unpack_from(content, at)[0])
                    at += plan.size
                    continue
                (length,) = struct.unpack_from("<i", content, at)
                if not 0 <= length <= len(content) - at - 4:
                    raise FormatError(f"{path}: a text has {length} bytes in particle {len(out) + 1}")
                out.append(content[at + 4 : at + 4 + length].decode())
                at += 4 + length
    except (struct.error, UnicodeDecodeError) as error:
        raise FormatError(f"{path} is no binary table of cisTEM, or truncated: {error}") from error
    return {
        name: np.array(values[name], dtype=object if code == TEXT else np.float64) for name, code in columns
    }


def write_cistem_binary(path: Path | str, particles: ParticleSet, notes: list[str] | None = None) -> None:
    """Write ``particles`` as a ``.cistem`` file, whole or not at all; arguments as ``write_cistem``."""
    path = Path(path)
    found = notes if notes is not None else []
    table = cistem_table(path, particles, found)
    found.append(f"{path.name}: such a file does not say whether protein is white or black in the images")
    head = HEAD.pack(len(LABELS), len(particles))
    codes = {name: _code(name) for name in LABELS}
    head += b"".join(COLUMN.pack(1 << bit, codes[name]) for bit, name in enumerate(LABELS))
    packed = [_packed(table[name], codes[name]) for name in LABELS]
    with atomic_path(path) as partial, partial.open("xb") as stream:
        stream.write(head)
        stream.writelines(b"".join(row) for row in zip(*packed))


def _code(name: str) -> int:
    if name.endswith("Filename"):
        return TEXT
    return UNSIGNED if name == "PositionInStack" else INTEGER if name in WHOLE else FLOAT


def _packed(values: np.ndarray, code: int) -> list[bytes]:
    """Each value as it stands in the file."""
    if code == TEXT:
        texts = [str(value).encode() for value in values]
        return [struct.pack("<i", len(text)) + text for text in texts]
    plan = np.dtype(CODES[code])
    content = np.asarray(values, dtype=np.float64).astype(plan).tobytes()
    return [content[i : i + plan.itemsize] for i in range(0, len(content), plan.itemsize)]
