"""Particle tables of cisTEM (STAR with ``_cisTEM`` labels), read only.

phi, theta and psi are RELION's rot, tilt and psi; shifts in Å have the opposite sign, since cisTEM says where
the particle is and RELION how far to move it; the phase shift is in radians.
"""

from pathlib import Path

import numpy as np

from parhelion.errors import MetadataError
from parhelion.io.relion import particle_set
from parhelion.io.relion_optics import numbers, require
from parhelion.io.star import read_star
from parhelion.model.particles import ParticleSet
from parhelion.model.table import Table

POSITION = "cisTEMPositionInStack"
DIRECT = {
    "cisTEMAnglePhi": "rlnAngleRot",
    "cisTEMAngleTheta": "rlnAngleTilt",
    "cisTEMAnglePsi": "rlnAnglePsi",
    "cisTEMDefocus1": "rlnDefocusU",
    "cisTEMDefocus2": "rlnDefocusV",
    "cisTEMDefocusAngle": "rlnDefocusAngle",
    "cisTEMPixelSize": "rlnImagePixelSize",
    "cisTEMMicroscopeVoltagekV": "rlnVoltage",
    "cisTEMMicroscopeCsMM": "rlnSphericalAberration",
    "cisTEMAmplitudeContrast": "rlnAmplitudeContrast",
}
REFUSED = ("cisTEMBeamTiltX", "cisTEMBeamTiltY", "cisTEMImageShiftX", "cisTEMImageShiftY")
"""Columns that change the mathematics and are not supported, refused where they are not 0."""


def read_cistem(
    path: Path | str,
    pixel_size_angstrom: float | None = None,
    notes: list[str] | None = None,
    *,
    stack: Path | str | None = None,
) -> ParticleSet:
    """Particles of a cisTEM table; ``stack`` names the images where the table does not.

    Other arguments and errors as ``parhelion.io.particles.read_particles``.
    """
    path = Path(path)
    blocks = read_star(path)
    table = next((t for t in blocks.values() if POSITION in t), None)
    if table is None:
        raise MetadataError(f"{path} is no table of cisTEM: {POSITION} is missing")
    require(path, table, (*DIRECT, "cisTEMXShift", "cisTEMYShift"))
    for label in REFUSED:
        if label in table and np.any(numbers(path, table, label)):
            raise MetadataError(f"{path}: {label} is set, which is not supported")
    columns = {"rlnImageName": _image_names(path, table, stack)}
    columns |= {new: table[old] for old, new in DIRECT.items()}
    columns["rlnOriginXAngst"] = -numbers(path, table, "cisTEMXShift")
    columns["rlnOriginYAngst"] = -numbers(path, table, "cisTEMYShift")
    if "cisTEMPhaseShift" in table:
        columns["rlnPhaseShift"] = np.degrees(numbers(path, table, "cisTEMPhaseShift"))
    if "cisTEMAssignedSubset" in table:
        columns["rlnRandomSubset"] = table["cisTEMAssignedSubset"]
    used = {POSITION, *DIRECT, "cisTEMXShift", "cisTEMYShift", "cisTEMPhaseShift", "cisTEMAssignedSubset"}
    others = {label: values for label, values in table.items() if label not in used}
    return particle_set(
        path, None, Table({**columns, **others}), pixel_size_angstrom, notes if notes is not None else []
    )


def _image_names(path: Path, table: Table, stack: Path | str | None) -> np.ndarray:
    position = numbers(path, table, POSITION)
    if not (np.isfinite(position).all() and np.array_equal(position, np.rint(position))):
        raise MetadataError(f"{path}: {POSITION} holds values that are no whole numbers")
    if stack is not None:
        files = [str(stack)] * table.rows
    else:
        files = [str(name) for name in table.get("cisTEMStackFilename", [""] * table.rows)]
        if not all(files):
            raise MetadataError(f"{path} does not name its stack (cisTEMStackFilename)")
    return np.array([f"{int(i):06d}@{file}" for i, file in zip(position.tolist(), files)], dtype=object)
