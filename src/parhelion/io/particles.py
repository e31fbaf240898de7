"""Particle tables, whoever wrote them, and the check that their images are there."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from parhelion.errors import MetadataError, ParhelionError
from parhelion.io.formats import FORMATS, format_of, open_images
from parhelion.io.relion_writer import write_relion
from parhelion.model.particles import ParticleSet

MOST_NOTES = 20


def read_particles(
    path: Path | str, *, pixel_size_angstrom: float | None = None, notes: list[str] | None = None
) -> ParticleSet:
    """Particles of a table of RELION, cryoSPARC, cisTEM or FREALIGN.

    ``pixel_size_angstrom`` overrules the file; ``notes`` collects what was assumed, unusual or left out.
    Raises MetadataError where columns are missing or impossible, FormatError where the file is none of
    these.
    """
    found = format_of(path, kind="particles")
    return FORMATS[found.name].read(Path(path), pixel_size_angstrom, notes if notes is not None else [])


def write_particles(path: Path | str, particles: ParticleSet) -> None:
    """Write ``particles`` as a STAR file of RELION 3.1, whole or not at all.

    Raises MetadataError for particles of tilt series, OutputError where the file cannot be written.
    """
    write_relion(path, particles)


def check_images(particles: ParticleSet) -> tuple[ParticleSet, list[str]]:
    """The particles whose images exist, and a note for each file that lacks some (twenty at most).

    Groups without a box get that of their images. Raises MetadataError where no particle is left, or where
    images are not square or differ in size.
    """
    views = particles.views
    present = np.zeros(len(views), bool)
    notes: list[str] = []
    boxes: dict[tuple[int, int], Path] = {}
    order = np.argsort(views.path_id, kind="stable")
    starts = np.searchsorted(views.path_id[order], np.arange(len(views.image_path) + 1))
    for number, path in enumerate(views.image_path):
        rows = order[starts[number] : starts[number + 1]]
        if not len(rows):
            continue
        try:
            count, h, w = open_images(path).shape
        except ParhelionError as error:
            notes.append(f"{error}: {len(rows)} particles dropped ({_rows(rows)})")
            continue
        boxes.setdefault((h, w), path)
        inside = views.image_index[rows] < count
        present[rows[inside]] = True
        if not inside.all():
            past = rows[~inside]
            notes.append(
                f"STAR row points at image {views.image_index[past[0]] + 1} of {path}, which holds {count}: "
                f"{len(past)} particles dropped ({_rows(past)})"
            )
    if not present.any():
        raise no_images(notes)
    box = _one_box(boxes)
    kept = particles
    if not present.all():
        # a particle of a tilt series needs all its views
        lost = np.unique(views.particle[~present])
        kept = particles.take(np.setdiff1d(np.arange(len(particles)), lost))
        if not len(kept):
            raise MetadataError("no particle has all its images: " + "; ".join(notes[:3]))
    if len(notes) > MOST_NOTES:
        notes[MOST_NOTES:] = [f"… and {len(notes) - MOST_NOTES} more files with missing images"]
    notes += [
        f"optics group {g.name} says its images have {g.box} pixels; they have {box}"
        for g in kept.optics
        if g.box not in (None, box)
    ]
    return replace(kept, optics=tuple(replace(g, box=box) for g in kept.optics)), notes


def with_box(particles: ParticleSet) -> ParticleSet:
    """The particles with the box of their images in every group that lacks it, as far as files can be read.

    Programs that need it in the table (RELION) refuse one without.
    """
    if all(group.box is not None for group in particles.optics):
        return particles
    views = particles.views
    groups = list(particles.optics)
    for number, group in enumerate(groups):
        if group.box is None:
            groups[number] = replace(
                group, box=_box_of(views.image_path, views.path_id[views.optics_group == number])
            )
    return replace(particles, optics=tuple(groups))


def _box_of(paths: tuple[Path, ...], path_id: np.ndarray) -> int | None:
    """The edge of the images in the first of these files that can be read."""
    for number in np.unique(path_id).tolist():
        try:
            _, h, w = open_images(paths[number]).shape
        except ParhelionError:
            continue
        return h if h == w else None
    return None


def no_images(problems: list[str]) -> MetadataError:
    """The error for a table none of whose images can be read, for these reasons."""
    return MetadataError(
        f"no particle has an image: {'; '.join(problems[:3])}. Paths in a table are relative to its folder "
        "or to one above it; move the table or the images so that they meet"
    )


def _one_box(boxes: dict[tuple[int, int], Path]) -> int:
    """The edge of all images in pixels."""
    if len(boxes) > 1:
        found = ", ".join(f"{w} x {h} in {path}" for (h, w), path in list(boxes.items())[:3])
        raise MetadataError(f"images differ in size: {found}; extract or rescale them to one box")
    ((h, w),) = boxes
    if h != w:
        raise MetadataError(f"particle images must be square, found {w} x {h} pixels in {boxes[h, w]}")
    return h


def _rows(rows: np.ndarray) -> str:
    """Rows as a person counts them, the first few."""
    shown = ", ".join(str(row + 1) for row in rows[:5])
    return f"row {shown}" if len(rows) == 1 else f"rows {shown}" + (" …" if len(rows) > 5 else "")
