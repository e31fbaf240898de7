"""Parameter files of FREALIGN 9 (``.par``), which cisTEM 1 uses as well.

A row holds, in this order: number of the image in its stack (from 1), psi, theta, phi (degrees), shifts in x
and y (Å, where the particle is), magnification, film (or whether it takes part: negative means not), two
defoci (Å), angle of astigmatism (degrees), phase shift (radians, as cisTEM reads it; absent in the form of 16
columns), occupancy (%), log probability, sigma, score, change of the score. Lines that begin with C are
comments; stack, pixel size and optics are read from there (see ``exchange``).
"""

import re
from pathlib import Path

import numpy as np

from parhelion.errors import FormatError, InputError, MetadataError
from parhelion.io.cistem import POSITION, cistem_set
from parhelion.io.cistem_writer import carried, cistem_columns, write_rows
from parhelion.io.exchange import (
    ImageFacts,
    check_expressible,
    comment_lines,
    facts_in_comments,
    notes_on_losses,
    stack_texts,
)
from parhelion.model.particles import ParticleSet
from parhelion.model.table import Table

FILM, MAGNIFICATION = "frealignFilm", "frealignMagnification"
PHASE_SHIFT = 11
COLUMNS = (
    *(POSITION, "cisTEMAnglePsi", "cisTEMAngleTheta", "cisTEMAnglePhi", "cisTEMXShift", "cisTEMYShift"),
    *(MAGNIFICATION, FILM, "cisTEMDefocus1", "cisTEMDefocus2", "cisTEMDefocusAngle", "cisTEMPhaseShift"),
    *("cisTEMOccupancy", "cisTEMLogP", "cisTEMSigma", "cisTEMScore", "cisTEMScoreChange"),
)
HEADS = (
    "C           PSI   THETA     PHI       SHX       SHY     MAG  INCLUDE   DF1      DF2  ANGAST  PSHIFT"
    "     OCC      LogP      SIGMA   SCORE  CHANGE"
)
ROW = "%7i %7.3f %7.3f %7.3f %9.4f %9.4f %7.0f %5i %8.2f %8.2f %7.3f %7.4f %7.2f %9i %10.4f %7.2f %7.2f"
"""FREALIGN's widths, in which its programs read; digits are added where the width holds them."""
PIXEL_AS_MAGNIFICATION = 10_000.0
"""At this magnification a detector step of so many micrometres is the pixel size in Å."""
PROGRAM = "FREALIGN"


def read_par(
    path: Path | str,
    pixel_size_angstrom: float | None = None,
    notes: list[str] | None = None,
    *,
    facts: ImageFacts | None = None,
) -> ParticleSet:
    """Particles of a ``.par`` file; ``facts`` give what its comments leave out.

    Half sets are not in such a file (FREALIGN compares odd with even numbers) and come back as None. Other
    arguments and errors as ``parhelion.io.particles.read_particles``.
    """
    path, notes = Path(path), notes if notes is not None else []
    values = _values(path)
    names = COLUMNS if values.shape[1] == len(COLUMNS) else [c for c in COLUMNS if c != COLUMNS[PHASE_SHIFT]]
    table = Table(dict(zip(names, values.T)), length=len(values))
    film = table[FILM]
    taken = ~(film < 0)
    if not taken.all():
        notes.append(f"{path.name}: {int((~taken).sum())} of {len(film)} particles are switched off there")
    table = table.take(taken)
    for label in (FILM, MAGNIFICATION):
        if not np.isfinite(table[label]).all():
            raise MetadataError(f"{path}: column {label} holds values that are not finite")
    return cistem_set(path, table, pixel_size_angstrom, notes, facts, facts_in_comments(path, "C"))


def is_par(head: bytes) -> bool:
    """Whether a file that begins so may be a ``.par``: comments under C, then rows of 16 or 17 numbers."""
    if b"\0" in head or b"data_" in head:
        return False
    for line in head.split(b"\n")[:-1] if head.count(b"\n") else [head]:
        if line.strip() and not line.startswith((b"C", b"c")):
            parts = line.split()
            numeric = all(re.fullmatch(rb"[-+]?[0-9.]+(?:[eE][-+]?[0-9]+)?", part) for part in parts)
            return numeric and len(parts) in (16, 17)
    return False


def _values(path: Path) -> np.ndarray:
    """The rows ``(n, 16 or 17)``. Raises FormatError, with the line, where they are none."""
    try:
        text = path.read_bytes().decode()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise FormatError(f"{path} is no text (byte {error.start}); is it a .par file?") from error
    numbered = [
        (number, line)
        for number, line in enumerate(text.split("\n"), 1)
        if line.strip() and not line.startswith(("C", "c"))
    ]
    if not numbered:
        raise MetadataError(f"{path} holds no particles: it has no rows; check the step that wrote it")
    width = len(numbered[0][1].split())
    if width not in (16, 17):
        raise FormatError(
            f"{path}, line {numbered[0][0]}: found {width} columns, FREALIGN 9 and cisTEM write 16 or 17"
            + (" (older files count shifts in pixels and are not read)" if width in (12, 13) else "")
        )
    try:
        return np.array([line.split() for _, line in numbered], dtype=np.float64)
    except ValueError:
        number, line = next((n, line) for n, line in numbered if not _is_row(line, width))
        raise FormatError(
            f"{path}, line {number}: expected {width} numbers, found {line.strip()[:80]!r}"
        ) from None


def _is_row(line: str, width: int) -> bool:
    parts = line.split()
    try:
        return len([float(part) for part in parts]) == width
    except ValueError:
        return False


def write_par(path: Path | str, particles: ParticleSet, notes: list[str] | None = None) -> None:
    """Write ``particles`` as a ``.par`` file of 17 columns, whole or not at all.

    All images must lie in one stack, and have one pixel size and optics. Particles keep the film that the
    input gave, else films number their micrographs. Raises MetadataError for what the file cannot express,
    OutputError where it cannot be written.
    """
    path = Path(path)
    check_expressible(path, particles, PROGRAM)
    stack = _one_stack(path, particles)
    found = notes if notes is not None else []
    found += notes_on_losses(path, particles, PROGRAM)
    if particles.half is not None:
        found.append(
            f"{path.name}: a .par has no column for half sets; FREALIGN compares odd with even numbers of "
            "particles"
        )
    columns = cistem_columns(path, particles)
    columns["DefocusAngle"] = np.mod(columns["DefocusAngle"], 180.0)
    columns["PhaseShift"] = np.mod(columns["PhaseShift"], 2 * np.pi)
    columns[MAGNIFICATION] = carried(path, particles, MAGNIFICATION, PIXEL_AS_MAGNIFICATION)
    columns[FILM] = _films(path, particles)
    group = particles.optics[int(particles.views.optics_group[0])]
    lines = [
        f"C {line}"
        for line in (
            "Written by parhelion",
            *comment_lines(particles, stack),
            f"At magnification 10000 the detector step is {group.pixel_size_angstrom:.6f} micrometres",
        )
    ]
    ordered = [columns[label.removeprefix("cisTEM")] for label in COLUMNS]
    write_rows(path, [*lines, HEADS], ordered, ROW)


def _one_stack(path: Path, particles: ParticleSet) -> str:
    """The one stack of the particles, as it is named in the file."""
    used = np.unique(particles.views.path_id)
    if len(used) > 1:
        raise MetadataError(
            f"cannot write {path}: the images lie in {len(used)} stacks, a .par is for one; "
            "parhelion convert --new-stack writes them into one"
        )
    groups = {
        (g.pixel_size_angstrom, g.voltage_kv, g.spherical_aberration_mm, g.amplitude_contrast)
        for g in (particles.optics[i] for i in np.unique(particles.views.optics_group))
    }
    if len(groups) > 1:
        raise MetadataError(
            f"cannot write {path}: the particles have {len(groups)} combinations of pixel size, voltage, Cs "
            "and amplitude contrast, a .par is for one; write one file per optics group, or cisTEM's STAR"
        )
    return stack_texts(path, particles.views.image_path)[used[0]]


def _films(path: Path, particles: ParticleSet) -> np.ndarray:
    """Film number of each particle, from 1 where they count micrographs."""
    if "rlnMicrographName" in particles.extra and FILM not in particles.extra:
        names = np.asarray(particles.extra["rlnMicrographName"], dtype=str)
        _, first, number = np.unique(names, return_index=True, return_inverse=True)
        order = np.empty(len(first), np.int64)
        order[np.argsort(first)] = np.arange(1, len(first) + 1)
        return order[number]
    return carried(path, particles, FILM, 1).astype(np.int64)
