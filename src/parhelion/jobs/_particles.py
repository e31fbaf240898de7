"""What jobs on particles share: the options that say how to read them, and reading them with their images."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from parhelion.errors import InputError, MetadataError
from parhelion.registry import option

if TYPE_CHECKING:
    import numpy as np

    from parhelion.contracts import Observer
    from parhelion.io.source import StackSource
    from parhelion.model.particles import ParticleSet

Contrast = Literal["auto", "white", "black"]

SAMPLE = 1000
"""Images whose low-frequency sign is looked at."""
SURE = 3.0
"""Standard errors from which on the contrast counts as known."""
SHOWN = 12


def contrast_option() -> Any:
    """``--contrast``."""
    return option(
        "auto",
        help="how protein looks in the images: white or black; auto tests their low-frequency sign",
    )


def particle_pixel_size_option() -> Any:
    """``--pixel-size`` for particle tables that lack it or are wrong."""
    return option(
        None,
        help="pixel size of the images, where the table is wrong",
        unit="Å",
        ge=0.1,
        le=30,
        default_text="from the table",
    )


def read_with_images(
    path: Path, observer: "Observer", *, contrast: Contrast = "auto", pixel_size: float | None = None
) -> "tuple[ParticleSet, StackSource]":
    """Particles of ``path`` whose images exist, and where their pixels are read, protein white.

    What was assumed, dropped or found out goes to ``observer`` as notices. Raises InputError where there is
    nothing to work with.
    """
    from parhelion.algorithms.symmetry_expansion import keep_copies_together
    from parhelion.io.particles import check_images, read_particles
    from parhelion.io.source import StackSource

    notes: list[str] = []
    particles = read_particles(path, pixel_size_angstrom=pixel_size, notes=notes)
    particles, missing = check_images(particles)
    for note in (*notes, *missing):
        observer.notice(note)
    particles = keep_copies_together(particles, observer)
    colour = contrast_of(particles, contrast, observer)
    return particles, StackSource(particles, colour)


def contrast_of(
    particles: "ParticleSet", wanted: Contrast, observer: "Observer"
) -> Literal["white", "black"]:
    """White or black: as wanted, as the table states, or as the images look."""
    import numpy as np

    from parhelion.images.normalise import contrast_sign
    from parhelion.io.cryosparc import stated_contrast
    from parhelion.io.source import StackSource

    if wanted != "auto":
        return wanted
    stated = stated_contrast(particles)
    if stated is not None:
        observer.notice(f"protein is {stated} in the images, as the table says")
        return "white" if stated == "white" else "black"
    views = particles.views
    rows = np.unique(np.linspace(0, len(views) - 1, min(SAMPLE, len(views))).astype(np.int64))
    images = StackSource(particles).images(rows)
    good = np.isfinite(images).all(axis=(1, 2)) & (np.ptp(images, axis=(1, 2)) > 0)
    if not good.any():
        raise InputError(
            f"none of the {len(rows)} images looked at can be used: they are constant, or hold values that "
            "are not finite; check the step that wrote them"
        )
    if good.sum() < 2:
        raise InputError(
            "a single usable image does not show whether protein is white or black; say so with --contrast"
        )
    guess = contrast_sign(images[good])
    colour: Literal["white", "black"] = "white" if guess.white else "black"
    if abs(guess.z_score) < SURE:
        observer.notice(
            f"the images do not show clearly whether protein is white or black (z = {guess.z_score:.1f}); "
            f"{colour} is assumed, --contrast says otherwise"
        )
    else:
        observer.notice(f"protein is {colour} in the images (z = {guess.z_score:.1f})")
    return colour


def box_of(particles: "ParticleSet") -> int:
    """The edge of the images in pixels, from the header of the first stack that can be opened.

    Raises MetadataError where there is none.
    """
    import numpy as np

    from parhelion.io.formats import open_images
    from parhelion.io.particles import no_images

    problems = []
    for number in np.unique(particles.views.path_id).tolist():
        try:
            return int(open_images(particles.views.image_path[number]).shape[1])
        except InputError as error:
            problems.append(str(error))
    raise no_images(problems)


def size_of(path: Path, pixel_size: float | None, *, poses: bool = False) -> tuple[int, int, float]:
    """Number of particles, box in pixels and pixel size in Å, from table and header only.

    Raises MetadataError where ``poses`` are needed and there are none.
    """
    from parhelion.io.particles import read_particles

    particles = read_particles(path, pixel_size_angstrom=pixel_size)
    if poses:
        require_poses(path, particles)
    return len(particles), box_of(particles), particles.optics[0].pixel_size_angstrom


def first_images(source: "StackSource") -> "np.ndarray":
    """The first few images, for the report."""
    import numpy as np

    images = source.images(np.arange(min(SHOWN, len(source))))
    return np.nan_to_num(images, nan=0.0, posinf=0.0, neginf=0.0)


def check_poses(path: Path) -> None:
    """InputError where ``path`` is no table of particles with poses."""
    from parhelion.io.particles import read_particles

    # the pixel size is another question
    require_poses(path, read_particles(path, pixel_size_angstrom=1.0))


def require_poses(path: Path, particles: "ParticleSet") -> None:
    """MetadataError where the particles have no poses."""
    if particles.rotation is None:
        raise MetadataError(
            f"{path} has no poses (rlnAngleRot, rlnAngleTilt, rlnAnglePsi); refine the particles first"
        )
