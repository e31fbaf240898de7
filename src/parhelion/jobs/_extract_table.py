"""The table of the particles that ``extract`` has written."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from parhelion.algorithms.extraction import defocus_on_plane
from parhelion.errors import MetadataError
from parhelion.io.relion import OPTICS_PREFIX, ORIGIN_ANGSTROM, ORIGIN_PIXELS
from parhelion.io.relion_optics import numbers
from parhelion.jobs._extract_positions import MERIT, MICROGRAPH, Positions, X, Y
from parhelion.model.micrographs import Micrographs
from parhelion.model.particles import OpticsGroup, ParticleSet, Views
from parhelion.model.table import Table

PLANE = ("parhelionDefocusPlaneX", "parhelionDefocusPlaneY")
"""Change of defocus in Å per pixel along x and y, in tables of micrographs."""
STALE = ("rlnImageName", X, Y, MICROGRAPH, *ORIGIN_PIXELS, *ORIGIN_ANGSTROM)
FIELDS = ("defocus_u_angstrom", "defocus_v_angstrom", "defocus_angle_deg", "phase_shift_deg")


def result_set(
    positions: Positions,
    micrographs: Micrographs,
    rows: dict[int, dict[str, Any]],
    folder: Path,
    *,
    box: int,
    final_box: int,
    fitted_ctf: bool,
) -> ParticleSet:
    """Particles in the order of their micrographs; ``rows`` say by micrograph what was written.

    A row has ``file`` (below ``folder``), ``kept`` (which of the micrograph's positions) and ``shape``
    (its rows and columns of pixels). ``fitted_ctf`` takes the CTF from the micrographs, otherwise it is that
    of the input's particles. Raises MetadataError where nothing was written.
    """
    written = [(m, row) for m, row in sorted(rows.items()) if row["kept"]]
    if not written:
        raise MetadataError("no particle could be extracted: every position is outside, at an edge or broken")
    index = np.concatenate([positions.of(m)[np.array(row["kept"])] for m, row in written])
    placed = positions.at(index)
    counts = np.array([len(row["kept"]) for _, row in written])
    groups, group = _optics(placed, micrographs, box, final_box)
    ctf = _fitted(placed, micrographs, {m: row["shape"] for m, row in written}) if fitted_ctf else None
    images = {
        "image_path": tuple(folder / str(row["file"]) for _, row in written),
        "path_id": np.repeat(np.arange(len(written)), counts),
        "image_index": np.concatenate([np.arange(count) for count in counts]),
        "optics_group": group,
        "noise_group": group,
    }
    names = np.array(micrographs.name, dtype=object)[placed.micrograph]
    where = {MICROGRAPH: names, X: placed.xy_px[:, 0], Y: placed.xy_px[:, 1]}
    if placed.particles is not None:
        return _again(placed, placed.particles, groups, images, where, ctf)
    return _new(placed, micrographs, groups, images, where, ctf or {})


def _optics(
    placed: Positions, micrographs: Micrographs, box: int, final_box: int
) -> tuple[tuple[OpticsGroup, ...], np.ndarray]:
    """Groups with the new pixel size and box: those of the particles, or of the micrographs."""
    of_micrograph = micrographs.optics_group[placed.micrograph]
    pixel = np.array([g.pixel_size_angstrom for g in micrographs.optics])[of_micrograph] * (box / final_box)
    source, own = micrographs.optics, of_micrograph
    if placed.particles is not None:
        source, own = placed.particles.optics, placed.particles.views.optics_group[placed.row]
    pairs, group = np.unique(np.stack([own, pixel], axis=1), axis=0, return_inverse=True)
    groups = tuple(
        replace(source[int(number)], pixel_size_angstrom=float(size), box=final_box) for number, size in pairs
    )
    return groups, group.reshape(-1).astype(np.int64)


def _fitted(
    placed: Positions, micrographs: Micrographs, shapes: dict[int, tuple[int, int]]
) -> dict[str, np.ndarray]:
    """The micrographs' CTF at each particle, with what a tilted specimen adds."""
    if micrographs.ctf is None:
        raise MetadataError("the table of micrographs has no CTF (rlnDefocusU); run ctf on it first")
    ctf = {name: getattr(micrographs.ctf, name)[placed.micrograph].copy() for name in FIELDS}
    if not all(label in micrographs.extra for label in PLANE):
        return ctf
    slopes = np.stack([numbers(Path("the micrographs"), micrographs.extra, label) for label in PLANE], axis=1)
    for micrograph, shape in shapes.items():
        slope = slopes[micrograph]
        if not np.isfinite(slope).all() or not slope.any():
            continue
        rows = np.flatnonzero(placed.micrograph == micrograph)
        added = defocus_on_plane(placed.xy_px[rows], (shape[0], shape[1]), (slope[0], slope[1]))
        for name in FIELDS[:2]:
            ctf[name][rows] += added
    return ctf


def _again(
    placed: Positions,
    particles: ParticleSet,
    groups: tuple[OpticsGroup, ...],
    images: dict[str, Any],
    where: dict[str, np.ndarray],
    ctf: dict[str, Any] | None,
) -> ParticleSet:
    """The input's particles with their new images; poses, CTF and all other columns stay."""
    taken = particles.take(placed.row)
    extra = taken.extra.without(*STALE)
    shift = taken.shift_xyz_angstrom
    if placed.shift_xy_angstrom is not None:
        if shift is not None:
            shift = np.column_stack([placed.shift_xy_angstrom, shift[:, 2]])
        else:
            where = where | dict(zip(ORIGIN_ANGSTROM[:2], placed.shift_xy_angstrom.T))
    views = replace(taken.views, **images, **(ctf or {}))
    return replace(
        taken,
        optics=groups,
        views=views,
        shift_xyz_angstrom=shift,
        extra=Table({**where, **extra}, length=len(placed)),
    )


def _new(
    placed: Positions,
    micrographs: Micrographs,
    groups: tuple[OpticsGroup, ...],
    images: dict[str, Any],
    where: dict[str, np.ndarray],
    ctf: dict[str, Any],
) -> ParticleSet:
    """Particles that never were before, without poses."""
    count = len(placed)
    columns = dict(where)
    if placed.coordinates is not None:
        if placed.coordinates.figure_of_merit is not None:
            columns[MERIT] = placed.coordinates.figure_of_merit[placed.row]
        own = placed.coordinates.extra.take(placed.row) if len(placed.coordinates.extra) else Table({})
        columns |= {k: v for k, v in own.items() if k not in (*columns, *STALE)}
    fit = micrographs.ctf
    if fit is not None:
        for label, values in (
            ("rlnCtfMaxResolution", fit.max_resolution_angstrom),
            ("rlnCtfFigureOfMerit", fit.figure_of_merit),
        ):
            if np.isfinite(values[placed.micrograph]).all():
                columns[label] = values[placed.micrograph]
    columns |= {k: v[placed.micrograph] for k, v in micrographs.extra.items() if k.startswith(OPTICS_PREFIX)}
    views = Views(
        **images,
        **ctf,
        particle=np.arange(count),
        ctf_bfactor_angstrom2=np.zeros(count),
        ctf_scale=np.ones(count),
    )
    return ParticleSet(optics=groups, views=views, count=count, extra=Table(columns))
