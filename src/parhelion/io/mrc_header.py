"""The 1,024-byte header of MRC2014 files (Cheng et al. 2015, J. Struct. Biol. 192, 146-150).

Headers in the wild lack the ``MAP `` stamp, carry a wrong byte-order stamp, claim a map where images are
meant or leave the pixel size out. ``read_header`` decides from the whole evidence, the file's size
included, and says in ``notes`` what it had to assume; what cannot be right is a FormatError, before any
memory is taken for the data.
"""

import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from parhelion.errors import FormatError, InputError
from parhelion.io.packed import is_half_of_super_resolution, row_bytes

LENGTH = 1024
DTYPES = {0: "i1", 1: "i2", 2: "f4", 4: "c8", 6: "u2", 12: "f2", 101: "u1"}
"""MRC mode → numpy type; mode 0 is signed unless the header says otherwise (see ``_mode_dtype``), mode 101
holds two pixels in a byte."""
REFUSED_MODES = {3: "complex 16-bit integers", 16: "RGB colours"}
IMOD_STAMP = 1146047817
IMOD_SIGNED_BYTES, IMOD_PACKED_BYTES = 1, 16
"""Bits of IMOD's flags: bytes are signed; bytes hold two 4-bit pixels, the width is that of the bytes."""
PACKED_LABEL = b"4 bits packed"
STACK_SUFFIXES = (".mrcs", ".st", ".ali", ".preali")
CREDIBLE_PIXEL_ANGSTROM = (0.01, 1000.0)

LAYOUT = {
    "n": ("3i4", 0),
    "mode": ("i4", 12),
    "m": ("3i4", 28),
    "cell": ("3f4", 40),
    "angles": ("3f4", 52),
    "axes": ("3i4", 64),
    "statistics": ("3f4", 76),
    "ispg": ("i4", 88),
    "nsymbt": ("i4", 92),
    "nversion": ("i4", 108),
    "imod_stamp": ("i4", 152),
    "imod_flags": ("i4", 156),
    "map": ("S4", 208),
    "machst": ("4u1", 212),
    "rms": ("f4", 216),
    "nlabl": ("i4", 220),
    "label": ("S80", 224),
}
"""Field → (type, offset in bytes)."""
FIELDS = np.dtype(
    {
        "names": list(LAYOUT),
        "formats": [kind for kind, _ in LAYOUT.values()],
        "offsets": [offset for _, offset in LAYOUT.values()],
        "itemsize": LENGTH,
    }
)


@dataclass(frozen=True, kw_only=True)
class MrcHeader:
    """What an MRC file holds.

    ``shape`` is ``(z, y, x)`` after the axis order was applied, ``axes`` the axis (1 x, 2 y, 3 z) of the
    stored columns, rows and sections. ``kind`` is image, stack, volume or volume_stack; ``volumes`` counts
    the maps of a volume stack. ``voxel_xyz_angstrom`` has None where the header does not say. ``packed``
    files hold two 4-bit pixels in each byte of a row: ``dtype`` is the bytes's, ``shape`` counts pixels.
    """

    path: Path
    shape: tuple[int, int, int]
    mode: int
    dtype: np.dtype
    pixel_size_angstrom: float | None
    kind: str
    offset: int
    axes: tuple[int, int, int] = (1, 2, 3)
    volumes: int = 1
    voxel_xyz_angstrom: tuple[float | None, float | None, float | None] = (None, None, None)
    packed: bool = False
    notes: tuple[str, ...] = ()

    @property
    def is_stack(self) -> bool:
        """Whether the sections are images rather than slices of a map."""
        return self.kind in ("image", "stack")

    @property
    def stored_shape(self) -> tuple[int, int, int]:
        """Sections, rows and columns as they lie in the file."""
        columns, rows, sections = (self.shape[3 - axis] for axis in self.axes)
        return sections, rows, columns

    @property
    def byte_shape(self) -> tuple[int, int, int]:
        """The shape of the file's elements of ``dtype``: pixels, or the bytes that pack them."""
        sections, rows, columns = self.stored_shape
        return sections, rows, row_bytes(columns) if self.packed else columns

    @property
    def to_zyx(self) -> tuple[int, int, int]:
        """The transposition that turns stored (section, row, column) into (z, y, x)."""
        stored = (self.axes[2], self.axes[1], self.axes[0])
        return stored.index(3), stored.index(2), stored.index(1)


def read_header(path: Path | str) -> MrcHeader:
    """Header of the MRC file ``path``, checked against the size of the file.

    Raises InputError where the file cannot be opened and FormatError, with the numbers found, where it is
    truncated or no MRC file.
    """
    path = Path(path)
    try:
        with path.open("rb") as stream:
            raw = stream.read(LENGTH)
            size = os.fstat(stream.fileno()).st_size
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    if len(raw) < LENGTH:
        raise FormatError(f"{path} has {len(raw)} bytes, an MRC header alone has {LENGTH}")
    fields, notes = _choose_byte_order(path, raw, size)
    return _interpret(path, fields, size, notes)


def _choose_byte_order(path: Path, raw: bytes, size: int) -> tuple[np.void, list[str]]:
    """The header in the byte order that makes sense; the stamp is believed first."""
    stamped = {0x44: "<", 0x11: ">"}.get(raw[212])
    first = stamped or "<"
    both = {"<": FIELDS.newbyteorder("<"), ">": FIELDS.newbyteorder(">")}
    candidates = [np.frombuffer(raw, both[order])[0] for order in (first, "<>"[first == "<"])]
    problems = [_problem(fields, size) for fields in candidates]
    chosen = 0 if problems[0] is None or problems[1] is not None else 1
    if problems[chosen] is not None:
        # without a stamp, complain about the reading that came further
        if stamped is None and problems[1] is not None and "file has" in problems[1]:
            chosen = 1
        raise FormatError(f"{path} is no readable MRC file: {problems[chosen]}")
    notes = []
    if stamped is None or chosen == 1:
        found = "wrong" if chosen == 1 and stamped else "missing"
        order = "little" if (first == "<") == (chosen == 0) else "big"
        notes.append(f"byte-order stamp {found}; {order}-endian fits the header")
    if candidates[chosen]["map"].rstrip() != b"MAP":
        notes.append("no MAP stamp; read as MRC because size and mode fit")
    return candidates[chosen], notes


def _mode_dtype(fields: np.void, packed: bool, notes: list[str]) -> np.dtype:
    """The type of the file's elements. Mode 0 is signed by the standard; IMOD's flag and a greatest value
    that no signed byte has overrule that."""
    mode = int(fields["mode"])
    kind = DTYPES[mode]
    least, greatest, _ = (float(value) for value in fields["statistics"])
    if packed:
        kind = "u1"
    elif mode == 0 and fields["imod_stamp"] == IMOD_STAMP:
        kind = "i1" if fields["imod_flags"] & IMOD_SIGNED_BYTES else "u1"
    elif mode == 0 and least >= 0 and 128 <= greatest <= 255:
        kind = "u1"
        notes.append(f"bytes read as unsigned, because the header gives {greatest:g} as the greatest value")
    swapped = not fields.dtype["mode"].isnative
    return np.dtype(kind).newbyteorder("S" if swapped else "=")


def _halved(fields: np.void) -> bool:
    """Whether the bytes of mode 0 are pairs of 4-bit pixels, by IMOD's flag or the label and size."""
    if fields["mode"] != 0:
        return False
    if fields["imod_stamp"] == IMOD_STAMP and fields["imod_flags"] & IMOD_PACKED_BYTES:
        return True
    columns, rows, _ = (int(n) for n in fields["n"])
    return PACKED_LABEL in fields["label"] and is_half_of_super_resolution((rows, columns))


def _byte_count(fields: np.void) -> int:
    """Bytes of all sections, as the header promises them."""
    columns, rows, sections = (int(n) for n in fields["n"])
    mode = int(fields["mode"])
    if mode == 101:
        columns = row_bytes(columns)
    return columns * rows * sections * np.dtype(DTYPES[mode]).itemsize


def _problem(fields: np.void, size: int) -> str | None:
    """What is wrong with a header, or None."""
    columns, rows, sections = (int(n) for n in fields["n"])
    mode, extended = int(fields["mode"]), int(fields["nsymbt"])
    if min(columns, rows, sections) <= 0:
        return f"its size is {columns} x {rows} x {sections} (columns, rows, sections), each must be positive"
    if mode in REFUSED_MODES:
        return f"mode {mode} ({REFUSED_MODES[mode]}) is not supported; convert it to mode 2 first"
    if mode not in DTYPES:
        return f"its mode is {mode}, expected one of {', '.join(map(str, DTYPES))}"
    if extended < 0:
        return f"its extended header claims {extended} bytes"
    needed = LENGTH + extended + _byte_count(fields)
    if needed > size:
        return (
            f"the header promises {columns} x {rows} x {sections} values of mode {mode} behind {extended} "
            f"bytes of extended header, {needed:,} bytes, but the file has {size:,}: truncated or damaged; "
            "copy or make it again"
        )
    return None


def _interpret(path: Path, fields: np.void, size: int, notes: list[str]) -> MrcHeader:
    halved = _halved(fields)
    packed = halved or int(fields["mode"]) == 101
    dtype = _mode_dtype(fields, packed, notes)
    axes = tuple(int(axis) for axis in fields["axes"])
    if sorted(axes) != [1, 2, 3]:
        if axes != (0, 0, 0):
            notes.append(f"axis order {axes} makes no sense; columns, rows, sections taken as x, y, z")
        axes = (1, 2, 3)
    by_axis = {axis: int(count) for axis, count in zip(axes, fields["n"])}
    if halved:
        by_axis[axes[0]] *= 2
        notes.append("two 4-bit pixels in each byte; the images are twice as wide as the header says")
    shape = (by_axis[3], by_axis[2], by_axis[1])
    offset = LENGTH + int(fields["nsymbt"])
    spare = size - offset - _byte_count(fields)
    if spare:
        notes.append(f"{spare:,} bytes behind the data are ignored")
    kind, volumes = _kind(path, fields, notes)
    voxel = tuple(_voxel(float(c), int(m)) for c, m in zip(fields["cell"], fields["m"]))
    pixel = voxel[0] or voxel[1]
    _note_cell(fields, voxel, kind, notes)
    return MrcHeader(
        path=path,
        shape=shape,
        mode=int(fields["mode"]),
        dtype=dtype,
        pixel_size_angstrom=pixel,
        kind=kind,
        offset=offset,
        axes=(axes[0], axes[1], axes[2]),
        volumes=volumes,
        voxel_xyz_angstrom=(voxel[0], voxel[1], voxel[2]),
        packed=packed,
        notes=tuple(notes),
    )


def _kind(path: Path, fields: np.void, notes: list[str]) -> tuple[str, int]:
    """Image, stack, volume or volume stack. Space group 0 means images, 401 a stack of maps."""
    sections, group, mz = int(fields["n"][2]), int(fields["ispg"]), int(fields["m"][2])
    if sections == 1:
        return "image", 1
    if path.suffix.lower() in STACK_SUFFIXES:
        return "stack", 1
    if group > 400:
        if mz > 0 and sections % mz == 0:
            return "volume_stack", sections // mz
        notes.append(
            f"space group {group} means a stack of maps, but {sections} sections are no multiple of {mz}"
        )
    if group == 0 and mz != sections:
        if len(set(fields["n"].tolist())) == 1 and path.suffix.lower() in (".mrc", ".map", ".ccp4"):
            notes.append("space group 0 means images; taken as a map because it is a cube")
            return "volume", 1
        return "stack", 1
    return "volume", 1


def _voxel(cell_angstrom: float, intervals: int) -> float | None:
    """Edge of a voxel along one axis, None where the header does not say or cannot be right."""
    if intervals <= 0 or not math.isfinite(cell_angstrom):
        return None
    edge = cell_angstrom / intervals
    low, high = CREDIBLE_PIXEL_ANGSTROM
    # float32 cells divided by integers come out as 1.3099999; six digits are what was meant
    return float(f"{edge:.6g}") if low <= edge <= high else None


def _note_cell(fields: np.void, voxel: tuple[float | None, ...], kind: str, notes: list[str]) -> None:
    known = [edge for edge in (voxel if kind.startswith("volume") else voxel[:2]) if edge]
    if not known:
        notes.append("the header gives no pixel size")
    elif max(known) > 1.001 * min(known):
        notes.append("the header's voxels are not cubic: " + " x ".join(f"{e:.4g}" for e in known) + " Å")
    elif known[0] == 1.0:
        notes.append(
            "the header's pixel size is exactly 1 Å, which many programs write when they do not know it"
        )
    angles = fields["angles"]
    if kind.startswith("volume") and np.any(angles) and not np.allclose(angles, 90.0, atol=0.01):
        notes.append("cell angles are " + ", ".join(f"{a:g}°" for a in angles) + ", not 90°")
