"""Particle tables of cryoSPARC (``.cs``: a NumPy structured array).

Conventions, as far as they differ from RELION's:

- ``alignments3D/pose`` is a rotation vector in radians; ``A = exp([v]×)ᵀ``.
- ``alignments3D/shift`` is ``rlnOriginX``/``Y``, in pixels of ``alignments3D/psize_A``.
- ``alignments3D/split`` counts from 0, ``class`` too, ``blob/idx`` too; angles of the CTF are in radians.
- ``blob/sign`` is the factor that makes protein white; ``stated_contrast`` gives it to who reads images.
- Images lie in their files as RELION reads them: pixels, CTF and poses need no flip. Positions of particles
  in micrographs (``location``, fractions of the micrograph) do or do not, depending on who wrote the
  micrographs; they are kept as they are, and ``with_coordinates`` makes RELION's of them.
- A job's table may lack fields that its ``passthrough`` table holds; rows belong together by ``uid``.
- A leading ``>`` of ``blob/path`` marks an imported file; the path is relative to the project's folder.
"""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from parhelion.errors import FormatError, InputError, MetadataError
from parhelion.geometry import rotations
from parhelion.io.exchange import SIGN, states_white
from parhelion.io.relion import ANGLES, ORIGIN_ANGSTROM, particle_set
from parhelion.model.particles import ParticleSet
from parhelion.model.table import Table

UID = "cryosparcUid"
REQUIRED = (
    *("blob/path", "blob/idx", "blob/psize_A"),
    *("ctf/accel_kv", "ctf/cs_mm", "ctf/amp_contrast", "ctf/df1_A", "ctf/df2_A", "ctf/df_angle_rad"),
)
DIRECT = {
    "blob/psize_A": "rlnImagePixelSize",
    "ctf/accel_kv": "rlnVoltage",
    "ctf/cs_mm": "rlnSphericalAberration",
    "ctf/amp_contrast": "rlnAmplitudeContrast",
    "ctf/df1_A": "rlnDefocusU",
    "ctf/df2_A": "rlnDefocusV",
    "ctf/bfactor": "rlnCtfBfactor",
}
LOCATION = ("location/center_x_frac", "location/center_y_frac", "location/micrograph_shape")
FRACTIONS = ("cryosparcCenterXFrac", "cryosparcCenterYFrac")
SHAPE = ("cryosparcMicrographShapeY", "cryosparcMicrographShapeX")
IN_RADIANS = {"ctf/df_angle_rad": "rlnDefocusAngle", "ctf/phase_shift_rad": "rlnPhaseShift"}
UNREAD = {
    "ctf/tilt_A": "beam tilt times Cs, in Å; whether its sign is that of rlnBeamTiltX is not documented",
    "ctf/shift_A": "the shift that goes with the beam tilt; its sign is not documented",
    "ctf/trefoil_A": "trefoil; scale, order and sign of its two terms are not documented",
    "ctf/tetra_A": "fourfold terms; their scale, order and signs are not documented",
    "ctf/anisomag": "anisotropic magnification; whether the matrix or its inverse, and whether less the "
    "identity, is not documented",
}
"""Fields of cryoSPARC's Global CTF Refinement that are refused unless 0, and why.

That ``tilt_A`` is Cs times the tilt has been said by the program's authors; signs and the other terms are
known from converters only, which contradict each other (a tilt of either sign, a matrix with and without
the identity). The wrong sign would double an aberration instead of undoing it.
"""


def read_cryosparc(
    path: Path | str, pixel_size_angstrom: float | None = None, notes: list[str] | None = None
) -> ParticleSet:
    """Particles of a ``.cs`` file; arguments and errors as ``parhelion.io.particles.read_particles``."""
    path, notes = Path(path), notes if notes is not None else []
    records = _complete(path, _records(path), notes)
    names = records.dtype.names or ()
    missing = [name for name in REQUIRED if name not in names]
    if missing:
        raise MetadataError(
            f"{path} lacks {', '.join(missing)}; found: {', '.join(names)}. Put the job's passthrough table "
            "beside it, which may have them"
        )
    if not len(records):
        raise MetadataError(f"{path} holds no particles")
    _refuse_unread(path, records)
    if "alignments3D/pose" in names and not np.isfinite(records["alignments3D/pose"]).all():
        raise MetadataError(f"{path}: alignments3D/pose holds values that are not finite")
    columns: dict[str, np.ndarray] = {"rlnImageName": _image_names(path, records)}
    columns |= {label: _single(records[field]) for field, label in DIRECT.items() if field in names}
    columns |= {label: np.degrees(_single(records[f])) for f, label in IN_RADIANS.items() if f in names}
    if "ctf/exp_group_id" in names:
        ids = records["ctf/exp_group_id"].tolist()
        columns["rlnOpticsGroupName"] = np.array([f"expGroup{number}" for number in ids], dtype=object)
    if "blob/shape" in names:
        columns["rlnImageSize"] = records["blob/shape"][:, 0].astype(np.int64)
    if "uid" in names:
        columns[UID] = np.array([str(uid) for uid in records["uid"].tolist()], dtype=object)
    if "blob/sign" in names:
        columns[SIGN] = _single(records["blob/sign"])
    columns |= _alignment(records) | _location(path, records)
    return particle_set(path, None, Table(columns), pixel_size_angstrom, notes)


def _refuse_unread(path: Path, records: np.ndarray) -> None:
    """Raise MetadataError for fields that change the mathematics and are not understood."""
    names = records.dtype.names or ()
    for field, why in UNREAD.items():
        if field in names and np.any(records[field] != 0):
            raise MetadataError(
                f"{path}: {field} is set ({why}), so that it could be applied wrongly. Export the particles "
                "with the ctf of before cryoSPARC's Global CTF Refinement; the job refine-ctf finds these "
                "terms anew"
            )
    if "ctf/scale" in names and np.any(records["ctf/scale"] != 1):
        raise MetadataError(
            f"{path}: ctf/scale is set, which is not supported; export the particles without it"
        )


def _complete(path: Path, records: np.ndarray, notes: list[str]) -> np.ndarray:
    """The records with the fields that they lack from a passthrough table in the same folder, if there is one
    for the same particles."""
    names = records.dtype.names or ()
    missing = [name for name in REQUIRED if name not in names]
    if not missing or "uid" not in names:
        return records
    for other in sorted(path.absolute().parent.glob("*passthrough*.cs")):
        more = _records(other)
        extra = [name for name in more.dtype.names or () if name not in names]
        if "uid" not in (more.dtype.names or ()) or not set(missing) <= set(extra):
            continue
        order = np.argsort(more["uid"])
        at = order[np.clip(np.searchsorted(more["uid"], records["uid"], sorter=order), 0, len(more) - 1)]
        if not len(more) or not np.array_equal(more["uid"][at], records["uid"]):
            continue
        fields: list[Any] = [(name, records.dtype[name]) for name in names]
        joined = np.zeros(len(records), [*fields, *((name, more.dtype[name]) for name in extra)])
        for name in names:
            joined[name] = records[name]
        for name in extra:
            joined[name] = more[name][at]
        notes.append(f"{path.name}: {len(extra)} fields were taken from {other.name}")
        return joined
    return records


def _location(path: Path, records: np.ndarray) -> dict[str, np.ndarray]:
    """Micrograph of each particle, and its position there as fractions."""
    names = records.dtype.names or ()
    columns: dict[str, np.ndarray] = {}
    if "location/micrograph_path" in names:
        texts = _texts(path, records, "location/micrograph_path")
        if all(texts):
            columns["rlnMicrographName"] = np.array([text.lstrip(">") for text in texts], dtype=object)
    if all(name in names for name in LOCATION):
        columns |= {label: _single(records[name]) for name, label in zip(LOCATION, FRACTIONS)}
        shape = records["location/micrograph_shape"].astype(np.int64)
        columns |= {SHAPE[0]: shape[:, 0], SHAPE[1]: shape[:, 1]}
    return columns


def with_coordinates(particles: ParticleSet, flipped: bool) -> ParticleSet:
    """The particles with ``rlnCoordinateX`` and ``Y`` in pixels of their micrographs.

    ``flipped`` counts y from the other end: so where cryoSPARC's micrographs lie upside down to those in use.
    Raises MetadataError for particles that do not say where they were.
    """
    if not all(label in particles.extra for label in (*FRACTIONS, *SHAPE)):
        raise MetadataError(
            f"the particles do not say where they lay in their micrographs ({', '.join(LOCATION)} are "
            "missing)"
        )
    x, y = (np.asarray(particles.extra[label], np.float64) for label in FRACTIONS)
    height, width = (np.asarray(particles.extra[label], np.float64) for label in SHAPE)
    columns = {"rlnCoordinateX": x * width, "rlnCoordinateY": (1 - y if flipped else y) * height}
    return replace(particles, extra=particles.extra.with_columns(columns))


def stated_contrast(particles: ParticleSet) -> str | None:
    """``white`` or ``black`` where the table says how protein looks in the images, else None.

    Raises MetadataError where the particles disagree.
    """
    white = states_white(particles)
    return None if white is None else "white" if white else "black"


def _single(values: np.ndarray) -> np.ndarray:
    """float32 as the nearest short decimal in float64 (1.31 rather than 1.3099999427795)."""
    return np.array([float(str(value)) for value in values.astype(np.float32)])


def _texts(path: Path, records: np.ndarray, field: str) -> list[str]:
    try:
        return [
            value.decode() if isinstance(value, bytes) else str(value) for value in records[field].tolist()
        ]
    except UnicodeDecodeError as error:
        raise FormatError(f"{path}: {field} holds no text: {error}") from error


def _image_names(path: Path, records: np.ndarray) -> np.ndarray:
    files = _texts(path, records, "blob/path")
    try:
        index = records["blob/idx"].astype(np.int64)
    except (ValueError, TypeError) as error:
        raise FormatError(f"{path}: blob/idx holds no numbers of images: {error}") from error
    return np.array(
        [f"{i + 1:06d}@{file.lstrip('>')}" for file, i in zip(files, index.tolist())], dtype=object
    )


def _alignment(records: np.ndarray) -> dict[str, np.ndarray]:
    """Poses, half sets and classes of a 3D refinement, where there was one."""
    names = records.dtype.names or ()
    columns: dict[str, np.ndarray] = {}
    if "alignments3D/pose" in names:
        angles = rotations.to_relion(rotations.from_cryosparc(records["alignments3D/pose"]))
        columns |= dict(zip(ANGLES, angles.T))
    if "alignments3D/shift" in names:
        unit = "alignments3D/psize_A" if "alignments3D/psize_A" in names else "blob/psize_A"
        shift = records["alignments3D/shift"].astype(np.float64) * _single(records[unit])[:, None]
        columns |= dict(zip(ORIGIN_ANGSTROM, shift.T))
    if "alignments3D/split" in names and len(np.unique(records["alignments3D/split"])) > 1:
        columns["rlnRandomSubset"] = records["alignments3D/split"].astype(np.int64) + 1
    for kind in ("alignments2D/class", "alignments3D/class"):
        if kind in names:
            columns["rlnClassNumber"] = records[kind].astype(np.int64) + 1
    return columns


def _records(path: Path) -> np.ndarray:
    """The array, its size checked against the file's before memory is taken; nothing is unpickled."""
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            version = np.lib.format.read_magic(stream)
            readers = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }
            if version not in readers:
                raise FormatError(f"{path} has NumPy format {version}, cryoSPARC writes 1.0")
            # NumPy takes memory for a header as long as it claims to be
            width = 2 if version == (1, 0) else 4
            claimed = int.from_bytes(stream.read(width), "little")
            stream.seek(-width, os.SEEK_CUR)
            if claimed > size:
                raise FormatError(f"{path} claims a header of {claimed:,} bytes, but has {size:,}: damaged")
            shape, _, dtype = readers[version](stream)
            needed = stream.tell() + int(np.prod(shape, dtype=object)) * dtype.itemsize
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except FormatError:
        raise
    except Exception as error:
        # the header is Python source: when damaged, NumPy fails in as many ways as Python's tokenizer
        raise FormatError(f"{path} is no cryoSPARC table: {error}") from error
    if dtype.names is None or dtype.hasobject or len(shape) != 1:
        raise FormatError(f"{path} is no cryoSPARC table: it holds {dtype} of shape {shape}")
    if needed > size:
        raise FormatError(
            f"{path} promises {shape[0]:,} particles, {needed:,} bytes, but has {size:,}: truncated"
        )
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, TypeError) as error:
        raise FormatError(f"{path} is no cryoSPARC table: {error}") from error
