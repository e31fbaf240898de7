"""Tables of particles and micrographs as ``select`` sees them: columns by their RELION names."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from parhelion.algorithms.selection import columns_used
from parhelion.errors import InputError
from parhelion.geometry import rotations
from parhelion.io.particles import read_particles, write_particles
from parhelion.io.relion import ANGLES, CTF_DEFAULTS, DEFOCUS, OPTICS_PREFIX, ORIGIN_ANGSTROM
from parhelion.io.relion_micrograph_writer import CTF_LABELS, MOVIE_LABELS
from parhelion.io.relion_micrographs import read_micrographs, write_micrographs
from parhelion.io.star import read_star
from parhelion.model.micrographs import Micrographs
from parhelion.model.particles import OpticsGroup, ParticleSet

if TYPE_CHECKING:
    from parhelion.run.context import Context

Chosen = Mapping[str, np.ndarray]
Kind = Literal["particles", "micrographs", "movies"]


def read_table(path: Path, notes: list[str]) -> ParticleSet | Micrographs:
    """The particles, micrographs or movies of a table. Raises InputError for anything else."""
    if path.suffix.lower() == ".star":
        blocks = read_star(path)
        rows = [table for name, table in blocks.items() if name != "optics"]
        listed = any("rlnMicrographName" in t or "rlnMicrographMovieName" in t for t in rows)
        if listed and not any("rlnImageName" in table or "rlnCoordinateX" in table for table in rows):
            return read_micrographs([path], needs=(), notes=notes)
        if not any("rlnImageName" in t or "cisTEMPositionInStack" in t for t in rows):
            found = "; ".join(f"data_{name}: {', '.join(t) or 'nothing'}" for name, t in blocks.items())
            raise InputError(
                f"{path} is a table of neither particles nor micrographs (rlnImageName, rlnMicrographName); "
                f"found {found[:800]}"
            )
    return read_particles(path, notes=notes)


def columns_of(table: ParticleSet | Micrographs) -> dict[str, np.ndarray]:
    """Every column by its RELION name, those of the optics groups row by row."""
    extra = {label.removeprefix(OPTICS_PREFIX): values for label, values in table.extra.items()}
    if isinstance(table, Micrographs):
        return extra | _micrograph_columns(table)
    views = table.views
    columns = dict(
        zip(DEFOCUS, (views.defocus_u_angstrom, views.defocus_v_angstrom, views.defocus_angle_deg))
    )
    columns |= dict(zip(CTF_DEFAULTS, (views.phase_shift_deg, views.ctf_bfactor_angstrom2, views.ctf_scale)))
    columns |= _optics_columns(table.optics, views.optics_group)
    if table.rotation is not None and table.shift_xyz_angstrom is not None:
        columns |= dict(zip(ANGLES, rotations.to_relion(table.rotation).T))
        columns |= dict(zip(ORIGIN_ANGSTROM, table.shift_xyz_angstrom.T))
    if table.half is not None:
        columns["rlnRandomSubset"] = table.half
    if table.class_number is not None:
        columns["rlnClassNumber"] = table.class_number
    return extra | columns


def _micrograph_columns(table: Micrographs) -> dict[str, np.ndarray]:
    name = "rlnMicrographMovieName" if table.movies else "rlnMicrographName"
    columns: dict[str, np.ndarray] = {name: np.array(table.name, dtype=object)}
    if table.ctf is not None:
        columns |= {label: getattr(table.ctf, field) for label, field in CTF_LABELS.items()}
    for label, values in zip(MOVIE_LABELS[1:], (table.dose_per_frame, table.pre_exposure)):
        if values is not None:
            columns[label] = values
    return columns | _optics_columns(table.optics, table.optics_group)


def _optics_columns(optics: Sequence[OpticsGroup], group: np.ndarray) -> dict[str, np.ndarray]:
    values: dict[str, list[Any]] = {
        "rlnVoltage": [g.voltage_kv for g in optics],
        "rlnSphericalAberration": [g.spherical_aberration_mm for g in optics],
        "rlnAmplitudeContrast": [g.amplitude_contrast for g in optics],
        "rlnImagePixelSize": [g.pixel_size_angstrom for g in optics],
        "rlnOpticsGroupName": [g.name for g in optics],
    }
    spread = {
        label: np.array(one, dtype=object if label.endswith("Name") else None)[group]
        for label, one in values.items()
    }
    return {**spread, "rlnOpticsGroup": group + 1}


def write_table(context: "Context", table: ParticleSet | Micrographs, kept: np.ndarray) -> Kind:
    """Write the rows that are kept, and say which output that is."""
    if isinstance(table, ParticleSet):
        write_particles(context.path("particles"), table.take(kept))
        return "particles"
    kind: Kind = "movies" if table.movies else "micrographs"
    write_micrographs(context.path(kind), table.take(kept))
    return kind


def describe(columns: Chosen, where: str | None, classes: Sequence[int] | None) -> str:
    """The values of the columns that were asked about, for a message."""
    said = []
    for name in columns_used(where, columns) if where else []:
        values = np.asarray(columns[name])
        if values.dtype.kind == "O":
            said.append(f"{name} is {', '.join(map(str, list(dict.fromkeys(values))[:3]))} …")
        elif np.isfinite(values).any():
            said.append(f"{name} lies between {np.nanmin(values):g} and {np.nanmax(values):g}")
    if classes is not None:
        found = ", ".join(map(str, np.unique(columns["rlnClassNumber"]).tolist()[:20]))
        said.append(f"the classes are {found}")
    return "; ".join(said) or "the condition is never met"


def show(context: "Context", columns: Chosen, kept: np.ndarray, where: str | None) -> None:
    """How the columns in the condition, or the classes, are spread before and after."""
    names = columns_used(where, columns) if where else []
    names = [name for name in names if np.asarray(columns[name]).dtype.kind != "O"]
    rows = []
    for name in names:
        for what, values in (("all", columns[name]), ("kept", np.asarray(columns[name])[kept])):
            known = np.asarray(values, dtype=np.float64)
            known = known[np.isfinite(known)]
            if len(known):
                rows.append((name, what, *np.percentile(known, [0, 25, 50, 75, 100]).tolist()))
    heads = ("column", "rows", "least", "quarter", "half", "three quarters", "greatest")
    context.report.table(rows, heads)
    if "rlnClassNumber" in columns:
        numbers, counts = np.unique(columns["rlnClassNumber"], return_counts=True)
        left = np.asarray(columns["rlnClassNumber"])[kept]
        table = [(int(n), int(c), int(np.count_nonzero(left == n))) for n, c in zip(numbers, counts)]
        context.report.table(table, ("class", "rows", "kept"))
