"""Writing of particle tables that RELION reads: 3.1 with optics groups, or 3.0 in one table."""

from pathlib import Path
from typing import Literal

import numpy as np

from parhelion.errors import MetadataError, ParameterError
from parhelion.geometry import rotations
from parhelion.io.image_names import FOLDER_COMMENT, names_for
from parhelion.io.relion import ANGLES, CTF_DEFAULTS, DEFOCUS, OPTICS_PREFIX, ORIGIN_ANGSTROM, ORIGIN_PIXELS
from parhelion.io.relion_optics import IDENTITY, optics_table
from parhelion.io.star import write_star
from parhelion.io.star_writer import RELION_31
from parhelion.model.particles import OpticsGroup, ParticleSet
from parhelion.model.table import Table

DECIMALS = 6
"""Of angles and origins, as RELION writes them: 10⁻⁶ degrees and Å are far below any accuracy."""


def write_relion(path: Path | str, particles: ParticleSet, *, version: Literal["3.1", "3.0"] = "3.1") -> None:
    """Write ``particles`` as a STAR file of RELION ``version``, whole or not at all.

    ``rlnImageName`` and all columns that parhelion does not use are those of the input. Groups without
    particles are left out. Raises MetadataError for tilt series, for what ``version`` cannot express, and
    OutputError where the file cannot be written.
    """
    if version not in ("3.1", "3.0"):
        raise ParameterError(f"unknown version {version!r} of RELION's tables; known are: 3.1, 3.0")
    path = Path(path)
    _check_single(path, particles)
    given = particles.extra.get("rlnImageName")
    views = particles.views
    names, folder = names_for(path, views.image_path, views.path_id, views.image_index, given)
    used, group = np.unique(views.optics_group, return_inverse=True)
    groups = tuple(particles.optics[i] for i in used)
    own = {label: values for label, values in particles.extra.items() if not label.startswith(OPTICS_PREFIX)}
    columns = {
        "rlnImageName": names,
        **{k: v for k, v in own.items() if k != "rlnImageName"},
        **_ctf(particles),
    }
    if particles.rotation is not None and particles.shift_xyz_angstrom is not None:
        stale = (*ORIGIN_ANGSTROM, *ORIGIN_PIXELS)
        columns = {label: values for label, values in columns.items() if label not in stale}
        columns |= _poses(particles.rotation, particles.shift_xyz_angstrom)
    if particles.half is not None:
        columns["rlnRandomSubset"] = particles.half
    if particles.class_number is not None:
        columns["rlnClassNumber"] = particles.class_number
    blocks = _blocks_31(particles, columns, groups, group) if version == "3.1" else None
    blocks = blocks or {"": _table_30(path, columns, groups, group)}
    comments = (f"{FOLDER_COMMENT}{folder}",) if folder else ()
    write_star(path, blocks, comments=comments, version=RELION_31 if version == "3.1" else None)


def _check_single(path: Path, particles: ParticleSet) -> None:
    if not len(particles):
        raise MetadataError(f"there are no particles to write to {path}")
    views = particles.views
    if len(views) != len(particles) or not np.array_equal(views.particle, np.arange(len(particles))):
        raise MetadataError(
            f"cannot write {path}: RELION's particle table holds one image per particle, found {len(views)} "
            f"images of {len(particles)} particles"
        )


def _ctf(particles: ParticleSet) -> dict[str, np.ndarray]:
    """CTF columns; those that hold RELION's default throughout are left out."""
    views = particles.views
    required = (views.defocus_u_angstrom, views.defocus_v_angstrom, views.defocus_angle_deg)
    optional = (views.phase_shift_deg, views.ctf_bfactor_angstrom2, views.ctf_scale)
    columns = dict(zip(DEFOCUS, required))
    for (label, default), values in zip(CTF_DEFAULTS.items(), optional):
        if np.any(values != default):
            columns[label] = values
    return columns


def _poses(rotation: np.ndarray, shift_xyz_angstrom: np.ndarray) -> dict[str, np.ndarray]:
    angles = rotations.to_relion(rotation).round(DECIMALS)
    shifts = shift_xyz_angstrom.round(DECIMALS)
    columns = dict(zip(ANGLES, angles.T))
    axes = 3 if np.any(shifts[:, 2]) else 2
    return columns | dict(zip(ORIGIN_ANGSTROM[:axes], shifts.T))


def _blocks_31(
    particles: ParticleSet, columns: dict[str, np.ndarray], groups: tuple[OpticsGroup, ...], group: np.ndarray
) -> dict[str, Table]:
    first = np.unique(group, return_index=True)[1]
    others = {
        label.removeprefix(OPTICS_PREFIX): values[first]
        for label, values in particles.extra.items()
        if label.startswith(OPTICS_PREFIX)
    }
    optics = optics_table(groups)
    return {
        "optics": Table({**others, **optics}, length=len(groups)),
        "particles": Table({**columns, "rlnOpticsGroup": group + 1}),
    }


def _table_30(
    path: Path, columns: dict[str, np.ndarray], groups: tuple[OpticsGroup, ...], group: np.ndarray
) -> Table:
    """One table, optics repeated in each row, origins in pixels, pixel size as detector and magnification."""
    for g in groups:
        beyond = [
            name
            for name, present in {
                "premultiplied CTF": g.ctf_premultiplied,
                "odd Zernike terms": bool(g.odd_zernike),
                "even Zernike terms": bool(g.even_zernike),
                "anisotropic magnification": g.magnification != IDENTITY,
            }.items()
            if present
        ]
        if beyond:
            raise MetadataError(
                f"cannot write {path}: optics group {g.name} has {', '.join(beyond)}, "
                "for which RELION 3.0 has no columns; write version 3.1"
            )
    pixel = np.array([g.pixel_size_angstrom for g in groups])[group]
    for in_angstrom, in_pixels in zip(ORIGIN_ANGSTROM, ORIGIN_PIXELS):
        if in_angstrom in columns:
            columns[in_pixels] = (columns.pop(in_angstrom) / pixel).round(DECIMALS)
    shared = {
        "rlnVoltage": [g.voltage_kv for g in groups],
        "rlnSphericalAberration": [g.spherical_aberration_mm for g in groups],
        "rlnAmplitudeContrast": [g.amplitude_contrast for g in groups],
        # at this magnification the detector's pixel in micrometres has the number of Å in the image
        "rlnDetectorPixelSize": [g.pixel_size_angstrom for g in groups],
        "rlnMagnification": [10_000.0] * len(groups),
    }
    if any(any(g.beam_tilt_xy_mrad) for g in groups):
        shared["rlnBeamTiltX"] = [g.beam_tilt_xy_mrad[0] for g in groups]
        shared["rlnBeamTiltY"] = [g.beam_tilt_xy_mrad[1] for g in groups]
    return Table({**columns, **{label: np.array(values)[group] for label, values in shared.items()}})
