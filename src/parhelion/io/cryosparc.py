"""Particle tables of cryoSPARC (``.cs``: a NumPy structured array).

Conventions, as far as they differ from RELION's:

- ``alignments3D/pose`` is a rotation vector in radians; ``A = exp([v]×)ᵀ``.
- ``alignments3D/shift`` is ``rlnOriginX``/``Y``, in pixels of ``alignments3D/psize_A``.
- ``alignments3D/split`` counts from 0, ``class`` too, ``blob/idx`` too; angles of the CTF are in radians.
- ``blob/sign`` is the factor that makes protein white; ``stated_contrast`` gives it to who reads images.
- Images lie in their files as RELION reads them: pixels, CTF and poses need no flip. Only positions of
  particles in micrographs (``location/center_y_frac``, counted from the bottom) would; they are not read.
- A leading ``>`` of ``blob/path`` marks an imported file; the path is relative to the project's folder.
"""

from pathlib import Path

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
IN_RADIANS = {"ctf/df_angle_rad": "rlnDefocusAngle", "ctf/phase_shift_rad": "rlnPhaseShift"}
NEUTRAL = {
    "ctf/tilt_A": 0.0,
    "ctf/shift_A": 0.0,
    "ctf/trefoil_A": 0.0,
    "ctf/tetra_A": 0.0,
    "ctf/anisomag": 0.0,
    "ctf/scale": 1.0,
}
"""Fields that change the mathematics and are not supported, with the value that changes nothing."""


def read_cryosparc(
    path: Path | str, pixel_size_angstrom: float | None = None, notes: list[str] | None = None
) -> ParticleSet:
    """Particles of a ``.cs`` file; arguments and errors as ``parhelion.io.particles.read_particles``."""
    path = Path(path)
    records = _records(path)
    names = records.dtype.names or ()
    missing = [name for name in REQUIRED if name not in names]
    if missing:
        raise MetadataError(f"{path} lacks {', '.join(missing)}; found: {', '.join(names)}")
    if not len(records):
        raise MetadataError(f"{path} holds no particles")
    for field, value in NEUTRAL.items():
        if field in names and np.any(records[field] != value):
            raise MetadataError(
                f"{path}: {field} is set, which is not supported; export the particles without it"
            )
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
    columns |= _alignment(records)
    return particle_set(path, None, Table(columns), pixel_size_angstrom, notes if notes is not None else [])


def stated_contrast(particles: ParticleSet) -> str | None:
    """``white`` or ``black`` where the table says how protein looks in the images, else None.

    Raises MetadataError where the particles disagree.
    """
    white = states_white(particles)
    return None if white is None else "white" if white else "black"


def _single(values: np.ndarray) -> np.ndarray:
    """float32 as the nearest short decimal in float64 (1.31 rather than 1.3099999427795)."""
    return np.array([float(str(value)) for value in values.astype(np.float32)])


def _image_names(path: Path, records: np.ndarray) -> np.ndarray:
    try:
        files = [
            value.decode() if isinstance(value, bytes) else str(value)
            for value in records["blob/path"].tolist()
        ]
        index = records["blob/idx"].astype(np.int64)
    except (UnicodeDecodeError, ValueError, TypeError) as error:
        raise FormatError(
            f"{path}: blob/path and blob/idx are no names and numbers of images: {error}"
        ) from error
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
    if "alignments3D/class" in names:
        columns["rlnClassNumber"] = records["alignments3D/class"].astype(np.int64) + 1
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
