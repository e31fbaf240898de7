"""What the readers and writers of other programs' particle tables share.

Tables of FREALIGN say neither where their images are nor the pixel size, voltage, spherical aberration and
amplitude contrast; older tables of cisTEM lack some of it. The programs write these into comments on top, in
the words of their prompts (``Beam energy (keV): 300``). They are read from there, and written there.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np

from parhelion.errors import MetadataError
from parhelion.io.ranges import AMPLITUDE_CONTRAST, PIXEL_SIZE, SPHERICAL_ABERRATION, VOLTAGE, check_range
from parhelion.io.relion_optics import IDENTITY
from parhelion.model.particles import ParticleSet

SIGN = "cryosparcBlobSign"
"""Column that says how protein looks in the images: the factor that makes it white."""
HEAD_BYTES = 65_536
SCORES = {
    "cisTEMOccupancy": 100.0,
    "cisTEMLogP": 0.0,
    "cisTEMSigma": 1.0,
    "cisTEMScore": 0.0,
    "cisTEMScoreChange": 0.0,
}
"""Columns that cisTEM and FREALIGN share, with what is written where a table lacks them."""


@dataclass(frozen=True, kw_only=True)
class ImageFacts:
    """What a table may leave out; None where it is not known. ``white`` says how protein looks."""

    stack: Path | None = None
    pixel_size_angstrom: float | None = None
    voltage_kv: float | None = None
    spherical_aberration_mm: float | None = None
    amplitude_contrast: float | None = None
    white: bool | None = None

    def or_else(self, other: "ImageFacts") -> "ImageFacts":
        """These facts, and those of ``other`` where something is missing here."""
        missing = [f.name for f in fields(self) if getattr(self, f.name) is None]
        return replace(self, **{name: getattr(other, name) for name in missing})


_NUMBERS = {
    "pixel size of images (a)": ("pixel_size_angstrom", PIXEL_SIZE),
    "pixel size (a)": ("pixel_size_angstrom", PIXEL_SIZE),
    "beam energy (kev)": ("voltage_kv", VOLTAGE),
    "spherical aberration (mm)": ("spherical_aberration_mm", SPHERICAL_ABERRATION),
    "amplitude contrast": ("amplitude_contrast", AMPLITUDE_CONTRAST),
}


def facts_in_comments(path: Path, mark: str) -> ImageFacts:
    """The facts in the comment lines (they begin with ``mark``) on top of a table.

    Raises MetadataError where one is physically impossible.
    """
    with path.open("rb") as stream:
        head = stream.read(HEAD_BYTES).decode(errors="replace")
    found = ImageFacts()
    for line in head.splitlines():
        if not line.startswith(mark):
            continue
        name, colon, text = line.removeprefix(mark).partition(":")
        key, value = name.strip().lower(), text.strip()
        if not colon or not value:
            continue
        if key == "input particle images":
            found = replace(found, stack=Path(value))
        elif key == "invert particle contrast" and value.lower() in ("yes", "no"):
            # these programs work with black protein: white images are the ones to invert
            found = replace(found, white=value.lower() == "yes")
        elif key in _NUMBERS:
            field, limits = _NUMBERS[key]
            number = _number(value)
            check_range(path, name.strip(), np.array([number]), limits, [])
            changed: dict[str, float] = {field: number}
            found = replace(found, **changed)  # type: ignore[arg-type]
    return found


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


def comment_lines(particles: ParticleSet, stack: str) -> list[str]:
    """Comments that say what a table's columns do not, in cisTEM's words."""
    group = particles.optics[int(particles.views.optics_group[0])]
    lines = [
        f"Input particle images:                   {stack}",
        f"Pixel size of images (A):                {group.pixel_size_angstrom:.6f}",
        f"Beam energy (keV):                       {group.voltage_kv:.6f}",
        f"Spherical aberration (mm):               {group.spherical_aberration_mm:.6f}",
        f"Amplitude contrast:                      {group.amplitude_contrast:.6f}",
    ]
    white = states_white(particles)
    if white is not None:
        lines.append(f"Invert particle contrast:                {'Yes' if white else 'No'}")
    return lines


def states_white(particles: ParticleSet) -> bool | None:
    """Whether protein is white in the images, None where the table does not say.

    Raises MetadataError where the particles disagree.
    """
    if SIGN not in particles.extra:
        return None
    signs = np.unique(np.sign(np.asarray(particles.extra[SIGN], dtype=np.float64)))
    if len(signs) != 1 or signs[0] == 0:
        raise MetadataError(
            f"blob/sign is not the same for all particles: {signs.tolist()}; split the set by it"
        )
    return bool(signs[0] > 0)


def with_contrast(particles: ParticleSet, white: bool) -> ParticleSet:
    """The particles with a column that says how protein looks in their images."""
    sign = np.full(len(particles), 1.0 if white else -1.0)
    return replace(particles, extra=particles.extra.with_columns({SIGN: sign}))


def check_expressible(
    path: Path, particles: ParticleSet, program: str, carried: tuple[str, ...] = ()
) -> None:
    """Raise MetadataError for what the tables of ``program`` have no columns for and the CTF depends on.

    ``carried`` names what they have columns for beyond those of all programs.
    """
    if not len(particles):
        raise MetadataError(f"there are no particles to write to {path}")
    views = particles.views
    if len(views) != len(particles) or not np.array_equal(views.particle, np.arange(len(particles))):
        raise MetadataError(
            f"cannot write {path}: tables of {program} hold one image per particle, found "
            f"{len(views)} images of {len(particles)} particles"
        )
    for number in np.unique(views.optics_group).tolist():
        group = particles.optics[number]
        beyond = {
            "a premultiplied CTF": group.ctf_premultiplied,
            "beam tilt": any(group.beam_tilt_xy_mrad),
            "odd Zernike terms": any(group.odd_zernike),
            "even Zernike terms": any(group.even_zernike),
            "anisotropic magnification": group.magnification != IDENTITY,
        }
        beyond = {name: present and name not in carried for name, present in beyond.items()}
        if any(beyond.values()):
            raise MetadataError(
                f"cannot write {path}: optics group {group.name} has "
                f"{', '.join(name for name, present in beyond.items() if present)}, which parhelion does not "
                f"write for {program}; write RELION's STAR"
            )


def notes_on_losses(path: Path, particles: ParticleSet, program: str) -> list[str]:
    """Notes on per-particle values that tables of ``program`` cannot hold."""
    views = particles.views
    lost = {
        "CTF B-factors": program != "cryoSPARC" and np.any(views.ctf_bfactor_angstrom2 != 0),
        "CTF scale factors": np.any(views.ctf_scale != 1),
        "shifts along z": particles.shift_xyz_angstrom is not None
        and np.any(particles.shift_xyz_angstrom[:, 2] != 0),
    }
    named = [name for name, present in lost.items() if present]
    return [f"{path.name}: {' and '.join(named)} have no column in {program}"] if named else []


def stack_texts(table: Path, images: Sequence[Path]) -> list[str]:
    """File names to write: relative to the table's folder where an image lies in it, else absolute."""
    folder = table.absolute().parent
    whole = [p.absolute() for p in images]
    return [str(p.relative_to(folder)) if p.is_relative_to(folder) else str(p) for p in whole]
