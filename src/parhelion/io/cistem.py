"""Particle tables of cisTEM: STAR with ``_cisTEM`` labels.

phi, theta and psi are RELION's rot, tilt and psi; shifts in Å have the opposite sign, since cisTEM says where
the particle is and RELION how far to move it; the phase shift is in radians. Images that cisTEM is to invert
are white. The beam tilt (mrad) is RELION's: both correct an image by ``exp(2πi Cs λ² s² (τ·k))``. The image
shift that cisTEM fits beside it moves the image the same way as RELION's origin, to which it is added.
"""

from pathlib import Path

import numpy as np

from parhelion.errors import MetadataError
from parhelion.io.exchange import SIGN, ImageFacts, facts_in_comments
from parhelion.io.relion import particle_set
from parhelion.io.relion_optics import numbers, require
from parhelion.io.star import read_star
from parhelion.model.particles import ParticleSet
from parhelion.model.table import Table

POSITION = "cisTEMPositionInStack"
POSES = {"cisTEMAnglePhi": "rlnAngleRot", "cisTEMAngleTheta": "rlnAngleTilt", "cisTEMAnglePsi": "rlnAnglePsi"}
SHIFTS = {"cisTEMXShift": "rlnOriginXAngst", "cisTEMYShift": "rlnOriginYAngst"}
DEFOCI = {
    "cisTEMDefocus1": "rlnDefocusU",
    "cisTEMDefocus2": "rlnDefocusV",
    "cisTEMDefocusAngle": "rlnDefocusAngle",
}
OPTICS = {
    "cisTEMPixelSize": ("rlnImagePixelSize", "pixel_size_angstrom", "--pixel-size"),
    "cisTEMMicroscopeVoltagekV": ("rlnVoltage", "voltage_kv", "--voltage"),
    "cisTEMMicroscopeCsMM": ("rlnSphericalAberration", "spherical_aberration_mm", "--cs"),
    "cisTEMAmplitudeContrast": ("rlnAmplitudeContrast", "amplitude_contrast", "--amplitude-contrast"),
}
"""Label here, label of RELION, name among the facts, option that gives it."""
BEAM_TILT = {"cisTEMBeamTiltX": "rlnBeamTiltX", "cisTEMBeamTiltY": "rlnBeamTiltY"}
IMAGE_SHIFT = {"cisTEMImageShiftX": "rlnOriginXAngst", "cisTEMImageShiftY": "rlnOriginYAngst"}
MICROGRAPH = "cisTEMOriginalImageFilename"
CLASS_2D = "cisTEMBest2DClass"


def read_cistem(
    path: Path | str,
    pixel_size_angstrom: float | None = None,
    notes: list[str] | None = None,
    *,
    stack: Path | str | None = None,
    facts: ImageFacts | None = None,
) -> ParticleSet:
    """Particles of a cisTEM table; ``facts`` give what the table and its comments leave out, ``stack`` alone
    where the images are.

    Other arguments and errors as ``parhelion.io.particles.read_particles``.
    """
    path, notes = Path(path), notes if notes is not None else []
    blocks = read_star(path)
    table = next((t for t in blocks.values() if POSITION in t), None)
    if table is None:
        raise MetadataError(f"{path} is no table of cisTEM: {POSITION} is missing")
    given = facts or ImageFacts(stack=None if stack is None else Path(stack))
    return cistem_set(path, table, pixel_size_angstrom, notes, given, facts_in_comments(path, "#"))


def cistem_set(
    path: Path,
    table: Table,
    pixel_size_angstrom: float | None,
    notes: list[str],
    given: ImageFacts | None,
    stated: ImageFacts,
) -> ParticleSet:
    """Particles of a table with cisTEM's labels, whatever file they stood in.

    ``given`` facts overrule the columns, these the ``stated`` ones of comments.
    """
    require(path, table, (*DEFOCI, *POSES, *SHIFTS))
    table = _active(path, table, notes)
    given = given or ImageFacts()
    columns = {"rlnImageName": _image_names(path, table, given, stated)}
    columns |= {new: table[old] for old, new in DEFOCI.items()}
    columns |= _optics(path, table, pixel_size_angstrom, given, stated)
    columns |= _poses(path, table, notes)
    none = np.zeros(table.rows)
    tilt = {new: numbers(path, table, old) if old in table else none for old, new in BEAM_TILT.items()}
    if any(np.any(values) for values in tilt.values()):
        columns |= tilt
    used = {POSITION, *DEFOCI, *POSES, *SHIFTS, *OPTICS, "cisTEMStackFilename"}
    if "cisTEMPhaseShift" in table:
        columns["rlnPhaseShift"] = np.degrees(numbers(path, table, "cisTEMPhaseShift"))
    if "cisTEMAssignedSubset" in table:
        columns["rlnRandomSubset"] = table["cisTEMAssignedSubset"]
    if MICROGRAPH in table and all(str(name) for name in table[MICROGRAPH]):
        columns["rlnMicrographName"] = table[MICROGRAPH]
    if CLASS_2D in table and np.any(numbers(path, table, CLASS_2D)):
        columns["rlnClassNumber"] = table[CLASS_2D]
    white = given.or_else(stated).white
    if white is not None:
        columns[SIGN] = np.full(table.rows, 1.0 if white else -1.0)
    used |= {"cisTEMPhaseShift", "cisTEMAssignedSubset", MICROGRAPH, CLASS_2D, *BEAM_TILT, *IMAGE_SHIFT}
    # empty names are no values, and two quotes in a row confuse other readers
    others = {
        k: v for k, v in table.items() if k not in used and not (k.endswith("Filename") and "" in v.tolist())
    }
    return particle_set(path, None, Table({**columns, **others}), pixel_size_angstrom, notes)


def _active(path: Path, table: Table, notes: list[str]) -> Table:
    """The rows that take part: those whose activity is not negative."""
    label = "cisTEMImageActivity"
    if label not in table:
        return table
    active = ~(numbers(path, table, label) < 0)
    if not active.all():
        notes.append(f"{path.name}: {int((~active).sum())} of {table.rows} particles are switched off there")
    return table.take(active).without(label)


def _poses(path: Path, table: Table, notes: list[str]) -> dict[str, np.ndarray]:
    """Angles and origins; none where all are 0, as in a table that has not been refined."""
    found = {new: numbers(path, table, old) for old, new in POSES.items()}
    found |= {new: -numbers(path, table, old) for old, new in SHIFTS.items()}
    moved = {new: numbers(path, table, old) for old, new in IMAGE_SHIFT.items() if old in table}
    if any(np.any(values) for values in moved.values()):
        found |= {new: found[new] + values for new, values in moved.items()}
        notes.append(f"{path.name}: image shifts of its beam tilt were added to the particles' shifts")
    if any(np.any(values) for values in found.values()):
        return found
    notes.append(f"{path.name}: all angles and shifts are 0; the particles count as without poses")
    return {}


def _optics(
    path: Path,
    table: Table,
    pixel_size_angstrom: float | None,
    given: ImageFacts,
    stated: ImageFacts,
) -> dict[str, np.ndarray]:
    """Pixel size and optics per row: as given, as in a column, or as stated in a comment."""
    columns: dict[str, np.ndarray] = {}
    missing = []
    for label, (relion, fact, option) in OPTICS.items():
        value = getattr(given, fact)
        if value is None and label in table:
            columns[relion] = table[label]
            continue
        value = getattr(stated, fact) if value is None else value
        if value is None and fact == "pixel_size_angstrom":
            value = pixel_size_angstrom
        if value is None:
            missing.append(option)
        else:
            columns[relion] = np.full(table.rows, float(value))
    if missing:
        raise MetadataError(
            f"{path} does not say what these options say: {', '.join(missing)}; give them to "
            f"parhelion convert -i {path.name}, which writes a table that every job reads"
        )
    return columns


def _image_names(path: Path, table: Table, given: ImageFacts, stated: ImageFacts) -> np.ndarray:
    position = numbers(path, table, POSITION)
    if not (np.isfinite(position).all() and np.array_equal(position, np.rint(position))):
        raise MetadataError(f"{path}: {POSITION} holds values that are no whole numbers")
    files = [str(name) for name in table.get("cisTEMStackFilename", [""] * table.rows)]
    if given.stack is not None:
        files = [str(given.stack.absolute())] * table.rows
    elif not all(files) and stated.stack is not None:
        files = [name or str(stated.stack) for name in files]
    if not all(files):
        raise MetadataError(
            f"{path} does not name its stack of images; give it to parhelion convert -i {path.name} --stack, "
            "which writes a table that every job reads"
        )
    return np.array([f"{int(i):06d}@{file}" for i, file in zip(position.tolist(), files)], dtype=object)
