"""Particle tables of RELION: 3.0 (one table), 3.1 and later (a table of optics groups and one of particles).

rot, tilt and psi become the matrix ``A``; ``rlnOriginXAngst`` (or ``rlnOriginX`` in pixels) carries the
particle to the centre of its box and becomes the shift without change of sign.
"""

from pathlib import Path

import numpy as np

from parhelion.errors import MetadataError
from parhelion.geometry import rotations
from parhelion.io import ranges
from parhelion.io.image_names import resolve, split_names, stated_folder
from parhelion.io.relion_optics import (
    GROUP_COLUMNS,
    groups_from_rows,
    groups_from_table,
    numbers,
    refuse,
    require,
)
from parhelion.io.star import read_star
from parhelion.model.particles import OpticsGroup, ParticleSet, Views
from parhelion.model.table import Table

ANGLES = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
ORIGIN_ANGSTROM = ("rlnOriginXAngst", "rlnOriginYAngst", "rlnOriginZAngst")
ORIGIN_PIXELS = ("rlnOriginX", "rlnOriginY", "rlnOriginZ")
DEFOCUS = ("rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle")
CTF_DEFAULTS = {"rlnPhaseShift": 0.0, "rlnCtfBfactor": 0.0, "rlnCtfScalefactor": 1.0}
POSE = (*ANGLES, *ORIGIN_ANGSTROM, *ORIGIN_PIXELS)
CONSUMED = (*DEFOCUS, *CTF_DEFAULTS, "rlnOpticsGroup", "rlnRandomSubset", "rlnClassNumber")
TILT_SERIES = ("rlnTomoParticleName", "rlnTomoVisibleFrames", "rlnCtfImage")
OPTICS_PREFIX = "optics."
"""Before columns of the optics table that parhelion does not use, where ``ParticleSet.extra`` keeps them."""


def read_relion(
    path: Path | str, *, pixel_size_angstrom: float | None = None, notes: list[str] | None = None
) -> ParticleSet:
    """Particles of a RELION STAR file, with and without optics groups.

    ``pixel_size_angstrom`` overrules the file; ``notes`` collects what was assumed, unusual or left out.
    Columns that are not used come back when the set is written. Raises MetadataError where columns are
    missing, impossible, or change the mathematics in a way that is not supported.
    """
    path = Path(path)
    optics, rows = _tables(path)
    return particle_set(path, optics, rows, pixel_size_angstrom, notes if notes is not None else [])


def particle_set(
    path: Path, optics: Table | None, rows: Table, pixel_size_angstrom: float | None, notes: list[str]
) -> ParticleSet:
    """Particles of tables with RELION's labels, read from ``path``; arguments as ``read_relion``.

    Readers of other formats translate their columns to these labels and share the checks.
    """
    if rows.rows == 0:
        raise MetadataError(f"{path} holds no particles: its table has no rows; check the step that wrote it")
    require(path, rows, ("rlnImageName",))
    for label in TILT_SERIES:
        if label in rows:
            raise MetadataError(
                f"{path}: {label} marks particles of tilt series, single particles are expected"
            )
    refuse(path, rows)
    rows, files, ids, index = _distinct(path, rows, notes)
    if optics is None:
        groups, group = groups_from_rows(path, rows, pixel_size_angstrom, notes)
        extra = rows.without(*GROUP_COLUMNS)
    else:
        groups = groups_from_table(path, optics, pixel_size_angstrom, notes)
        group = _group_of_rows(path, optics, rows, notes)
        extra = rows.with_columns(_spread(optics, group))
    views = Views(
        image_path=resolve(path, files, stated_folder(path)),
        path_id=ids,
        image_index=index,
        particle=np.arange(rows.rows),
        optics_group=group,
        # noise differs between set-ups rather than micrographs, and needs many images to estimate
        noise_group=group,
        **_ctf(path, rows, notes),
    )
    rotation, shift = _poses(path, rows, groups, group, notes)
    return ParticleSet(
        optics=groups,
        views=views,
        count=rows.rows,
        rotation=rotation,
        shift_xyz_angstrom=shift,
        half=_half(path, rows),
        class_number=_integers(path, rows, "rlnClassNumber") if "rlnClassNumber" in rows else None,
        extra=extra.without(*CONSUMED, *(POSE if rotation is not None else ())),
    )


def _tables(path: Path) -> tuple[Table | None, Table]:
    """The optics table, if there is one, and the table of particles."""
    blocks = read_star(path)
    tables = {name: table for name, table in blocks.items() if "rlnImageName" in table and name != "optics"}
    preferred = ("particles", "images", "")
    named = [name for name in tables if name in preferred] or list(tables)
    if not named:
        empty = next((b for b in blocks.values() if b.rows == 0 and "rlnImageName" in b), None)
        found = "; ".join(f"data_{n}: {', '.join(t) or 'nothing'}" for n, t in blocks.items())
        if empty is not None:
            return blocks.get("optics"), empty
        raise MetadataError(f"{path} holds no particles: no table has rlnImageName. Found {found[:1500]}")
    if len(named) > 1 and named[0] not in ("particles", "images", ""):
        raise MetadataError(
            f"{path} holds {len(named)} tables with rlnImageName: {', '.join(named)}; one is expected"
        )
    optics = blocks.get("optics")
    return (optics if optics is not None and optics.rows else None), tables[named[0]]


def _distinct(path: Path, rows: Table, notes: list[str]) -> tuple[Table, list[str], np.ndarray, np.ndarray]:
    """Distinct rows, the first of each kept, with file names, file number and index in the file.

    A row repeats an earlier one where image and pose are the same. One image at several poses is several
    particles: sets expanded by symmetry hold such rows.
    """
    names = rows["rlnImageName"]
    files, ids, index = split_names(path, "rlnImageName", [str(name) for name in names])
    key = index * len(files) + ids
    images = len(np.unique(key))
    posed = all(label in rows for label in ANGLES)
    if posed and images < len(key):
        key = _with_pose(path, rows, key)
    kept = np.sort(np.unique(key, return_index=True)[1])
    twice = len(key) - len(kept)
    if twice:
        again = np.setdiff1d(np.arange(len(key)), kept)[0]
        what, kept_rows = ("image and pose", "each") if posed else ("the image", "each image")
        notes.append(
            f"{path.name}: {twice} of {len(key)} rows repeat {what} of an earlier row "
            f"(first: row {again + 1}, {names[again]}); the first row of {kept_rows} is used"
        )
        rows, ids, index = rows.take(kept), ids[kept], index[kept]
    if len(kept) > images:
        notes.append(f"{path.name}: {len(kept)} rows show {images} images, several of them at several poses")
    return rows, files, ids, index


def _with_pose(path: Path, rows: Table, key: np.ndarray) -> np.ndarray:
    """Numbers that agree where ``key`` and the angles and origins agree."""
    for label in POSE:
        if label in rows:
            codes = np.unique(numbers(path, rows, label), return_inverse=True)[1]
            key = np.unique(np.stack([key, codes]), axis=1, return_inverse=True)[1].reshape(-1)
    return key


def _group_of_rows(path: Path, optics: Table, rows: Table, notes: list[str]) -> np.ndarray:
    """Row of the optics table for each particle."""
    if "rlnOpticsGroup" not in rows or "rlnOpticsGroup" not in optics:
        if optics.rows > 1:
            raise MetadataError(
                f"{path} has {optics.rows} optics groups but rlnOpticsGroup is missing in a table"
            )
        notes.append(f"{path.name}: rlnOpticsGroup is missing; all particles belong to the one group")
        return np.zeros(rows.rows, dtype=np.int64)
    known = _integers(path, optics, "rlnOpticsGroup")
    wanted = _integers(path, rows, "rlnOpticsGroup")
    order = np.argsort(known)
    at = order[np.clip(np.searchsorted(known, wanted, sorter=order), 0, len(known) - 1)]
    strange = np.flatnonzero(known[at] != wanted)
    if len(strange):
        raise MetadataError(
            f"{path}: row {strange[0] + 1} belongs to optics group {wanted[strange[0]]} "
            f"({len(strange)} such rows); the optics table has {', '.join(map(str, known.tolist()))}"
        )
    return at


def _spread(optics: Table, group: np.ndarray) -> dict[str, np.ndarray]:
    """The optics columns that are not used, repeated for each particle."""
    used = (*GROUP_COLUMNS, "rlnOpticsGroup", "rlnOpticsGroupName", "rlnImageDimensionality")
    return {OPTICS_PREFIX + label: values[group] for label, values in optics.items() if label not in used}


def _ctf(path: Path, rows: Table, notes: list[str]) -> dict[str, np.ndarray]:
    """The columns of ``Views`` that describe each image's CTF."""
    if "rlnDefocusU" not in rows:
        raise MetadataError(
            f"{path} lacks rlnDefocusU; found: {', '.join(rows)}. The CTF of each particle is needed: "
            "estimate it, or join this table with one that has it"
        )
    u = numbers(path, rows, "rlnDefocusU")
    if "rlnDefocusV" in rows:
        require(path, rows, DEFOCUS)
        v, angle = numbers(path, rows, "rlnDefocusV"), numbers(path, rows, "rlnDefocusAngle")
    else:
        notes.append(f"{path.name} has no rlnDefocusV; no astigmatism is assumed")
        v, angle = u, np.zeros(rows.rows)
    ranges.check_range(path, "rlnDefocusU", u, ranges.DEFOCUS, notes)
    ranges.check_range(path, "rlnDefocusV", v, ranges.DEFOCUS, notes)
    optional = {
        label: numbers(path, rows, label) if label in rows else np.full(rows.rows, default)
        for label, default in CTF_DEFAULTS.items()
    }
    for label, values in {"rlnDefocusAngle": angle, **optional}.items():
        _finite(path, label, values)
    phase, bfactor, scale = optional.values()
    return {
        "defocus_u_angstrom": u,
        "defocus_v_angstrom": v,
        "defocus_angle_deg": angle,
        "phase_shift_deg": phase,
        "ctf_bfactor_angstrom2": bfactor,
        "ctf_scale": scale,
    }


def _finite(path: Path, label: str, values: np.ndarray) -> None:
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise MetadataError(f"{path}: {label} is {values[bad[0]]} in row {bad[0] + 1} ({len(bad)} such rows)")


def _poses(
    path: Path, rows: Table, groups: tuple[OpticsGroup, ...], group: np.ndarray, notes: list[str]
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Rotations ``(n, 3, 3)`` and shifts ``(n, 3)`` in Å; None where the table has no angles."""
    angles = [label for label in ANGLES if label in rows]
    pixel = np.array([g.pixel_size_angstrom for g in groups])[group]
    shift = np.zeros((rows.rows, 3))
    found = False
    for axis, (in_angstrom, in_pixels) in enumerate(zip(ORIGIN_ANGSTROM, ORIGIN_PIXELS)):
        if in_angstrom in rows:
            shift[:, axis] = numbers(path, rows, in_angstrom)
            _finite(path, in_angstrom, shift[:, axis])
            found = True
        elif in_pixels in rows:
            shift[:, axis] = numbers(path, rows, in_pixels) * pixel
            _finite(path, in_pixels, shift[:, axis])
            found = True
    if not angles:
        if found and np.any(shift):
            notes.append(f"{path.name} has shifts but no angles; the shifts are not used")
        return None, None
    if len(angles) < 3:
        present = "only " + " and ".join(angles)
        notes.append(f"{path.name} has {present} of the three angles; the particles count as without poses")
        return None, None
    triples = {label: numbers(path, rows, label) for label in ANGLES}
    for label, values in triples.items():
        _finite(path, label, values)
    return rotations.from_relion(*triples.values()), shift


def _integers(path: Path, table: Table, label: str) -> np.ndarray:
    values = numbers(path, table, label)
    bad = np.flatnonzero(~(np.abs(values) < 2**53) | (values != np.rint(values)))
    if len(bad):
        raise MetadataError(
            f"{path}: {label} is {table[label][bad[0]]} in row {bad[0] + 1}, expected a whole number"
        )
    return values.astype(np.int64)


def _half(path: Path, rows: Table) -> np.ndarray | None:
    """The half set of each particle, None where none is assigned."""
    if "rlnRandomSubset" not in rows:
        return None
    half = _integers(path, rows, "rlnRandomSubset")
    if not np.isin(half, (0, 1, 2)).all():
        found = ", ".join(map(str, np.unique(half)[:10].tolist()))
        raise MetadataError(f"{path}: rlnRandomSubset holds {found}; half sets are 1 and 2, and 0 for none")
    return half if half.any() else None
