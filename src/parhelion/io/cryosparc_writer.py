"""Writing of particle tables for cryoSPARC; the conventions are those of ``parhelion.io.cryosparc``."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from parhelion.geometry import rotations
from parhelion.io.atomic import atomic_path
from parhelion.io.cryosparc import FRACTIONS, LOCATION, SHAPE, UID
from parhelion.io.exchange import check_expressible, notes_on_losses, stack_texts, states_white
from parhelion.io.relion_optics import numbers
from parhelion.model.particles import ParticleSet

PROGRAM = "cryoSPARC"


def write_cryosparc(path: Path | str, particles: ParticleSet, notes: list[str] | None = None) -> None:
    """Write ``particles`` as a ``.cs`` file, whole or not at all; ``notes`` collects what is left out.

    Protein is white unless the particles say otherwise. Unique identifiers are those of the input where it
    had them, else made from the images' names, so that the same particles get the same ones. Raises
    MetadataError for what such a table cannot express, OutputError where the file cannot be written.
    """
    path = Path(path)
    check_expressible(path, particles, PROGRAM)
    found = notes if notes is not None else []
    found += notes_on_losses(path, particles, PROGRAM)
    white = states_white(particles)
    if white is None:
        found.append(
            f"{path.name}: protein is taken to be white in the images (blob/sign 1); "
            "--contrast says otherwise"
        )
    columns = {
        **_images(path, particles, -1.0 if white is False else 1.0),
        **_ctf(particles),
        **_alignment(path, particles, found),
        **_location(path, particles),
    }
    fields: list[Any] = [(name, values.dtype.str, values.shape[1:]) for name, values in columns.items()]
    records = np.zeros(len(particles), dtype=fields)
    for name, values in columns.items():
        records[name] = values
    with atomic_path(path) as partial, partial.open("xb") as stream:
        np.lib.format.write_array(stream, records, version=(1, 0), allow_pickle=False)


def _images(path: Path, particles: ParticleSet, sign: float) -> dict[str, np.ndarray]:
    """Where the images are, their pixel size and contrast."""
    views = particles.views
    texts = stack_texts(path, views.image_path)
    pixel = np.array([g.pixel_size_angstrom for g in particles.optics])[views.optics_group]
    columns = {
        "uid": _identifiers(particles, texts),
        "blob/path": np.array([text.encode() for text in texts])[views.path_id],
        "blob/idx": views.image_index.astype("<u4"),
        "blob/psize_A": pixel.astype("<f4"),
        "blob/sign": np.full(len(particles), sign, "<f4"),
    }
    if all(group.box is not None for group in particles.optics):
        box = np.array([group.box for group in particles.optics], "<u4")[views.optics_group]
        columns["blob/shape"] = np.stack([box, box], axis=1)
    return columns


def _identifiers(particles: ParticleSet, texts: list[str]) -> np.ndarray:
    """One number per particle that no other has."""
    given = [str(uid) for uid in particles.extra[UID]] if UID in particles.extra else None
    if given is not None and len(set(given)) == len(given) and all(_is_uid(text) for text in given):
        return np.array([int(text) for text in given], dtype="<u8")
    views = particles.views
    names = [
        f"{row}:{index}@{texts[file]}"
        for row, (index, file) in enumerate(zip(views.image_index.tolist(), views.path_id.tolist()))
    ]
    digests = b"".join(hashlib.blake2b(name.encode(), digest_size=8).digest() for name in names)
    return np.frombuffer(digests, dtype="<u8")


def _is_uid(text: str) -> bool:
    return text.isascii() and text.isdecimal() and int(text) < 2**64


def _ctf(particles: ParticleSet) -> dict[str, np.ndarray]:
    """CTF per particle; terms that parhelion has none of are 0."""
    views, count = particles.views, len(particles)
    group = views.optics_group
    shared = {
        "accel_kv": "voltage_kv",
        "cs_mm": "spherical_aberration_mm",
        "amp_contrast": "amplitude_contrast",
    }
    columns = {
        "ctf/type": np.full(count, b"imported"),
        "ctf/exp_group_id": group.astype("<u4"),
        **{
            f"ctf/{name}": np.array([getattr(g, field) for g in particles.optics], "<f4")[group]
            for name, field in shared.items()
        },
        "ctf/df1_A": views.defocus_u_angstrom.astype("<f4"),
        "ctf/df2_A": views.defocus_v_angstrom.astype("<f4"),
        "ctf/df_angle_rad": np.radians(views.defocus_angle_deg).astype("<f4"),
        "ctf/phase_shift_rad": np.radians(views.phase_shift_deg).astype("<f4"),
        "ctf/scale": np.ones(count, "<f4"),
        "ctf/scale_const": np.zeros(count, "<f4"),
        "ctf/bfactor": views.ctf_bfactor_angstrom2.astype("<f4"),
    }
    for name, terms in {"shift_A": 2, "tilt_A": 2, "trefoil_A": 2, "tetra_A": 4, "anisomag": 4}.items():
        columns[f"ctf/{name}"] = np.zeros((count, terms), "<f4")
    return columns


def _location(path: Path, particles: ParticleSet) -> dict[str, np.ndarray]:
    """Micrographs, and positions in them where the input came from cryoSPARC."""
    extra, columns = particles.extra, {}
    if "rlnMicrographName" in extra:
        names = [str(name).encode() for name in extra["rlnMicrographName"]]
        columns["location/micrograph_path"] = np.array(names)
    if all(label in extra for label in (*FRACTIONS, *SHAPE)):
        for name, label in zip(LOCATION, FRACTIONS):
            columns[name] = numbers(path, extra, label).astype("<f4")
        shape = [numbers(path, extra, label) for label in SHAPE]
        columns[LOCATION[2]] = np.stack(shape, axis=1).astype("<u4")
    return columns


def _alignment(path: Path, particles: ParticleSet, notes: list[str]) -> dict[str, np.ndarray]:
    """Poses, half sets and classes."""
    columns: dict[str, np.ndarray] = {}
    pixel = np.array([g.pixel_size_angstrom for g in particles.optics])[particles.views.optics_group]
    if particles.rotation is not None and particles.shift_xyz_angstrom is not None:
        shift = particles.shift_xyz_angstrom[:, :2] / pixel[:, None]
        columns["alignments3D/pose"] = rotations.to_cryosparc(particles.rotation).astype("<f4")
        columns["alignments3D/shift"] = shift.astype("<f4")
        columns["alignments3D/psize_A"] = pixel.astype("<f4")
    half = particles.half
    if half is not None and half.min() < 1:
        notes.append(f"{path.name}: {int((half < 1).sum())} particles have no half set; none is written")
    elif half is not None:
        columns["alignments3D/split"] = (half - 1).astype("<u4")
    classes = particles.class_number
    if classes is not None and classes.min() < 1:
        notes.append(f"{path.name}: {int((classes < 1).sum())} particles have no class; none is written")
    elif classes is not None:
        columns["alignments3D/class"] = (classes - 1).astype("<u4")
    return columns
