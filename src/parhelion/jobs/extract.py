"""Cut particles out of micrographs.

From picked coordinates, or from a table of particles that were extracted before: those are cut again at
their refined centres, in another box or at another scale, and keep poses, CTF, classes and half sets. Each
image is cropped in Fourier space if asked, cleaned of dust, turned to white protein, and its background
brought to mean 0 and variance 1. Micrographs are read one at a time; one that fails is left out and named.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, model_validator

from parhelion.jobs._inputs import check_exists, expand, expand_one
from parhelion.jobs._micrographs import (
    MicrographFiles,
    amplitude_contrast_option,
    cs_option,
    pixel_size_option,
    voltage_option,
)
from parhelion.jobs._particles import Contrast
from parhelion.registry import Estimate, FileKind, JobParams, Output, Result, declare, option

if TYPE_CHECKING:
    from parhelion.algorithms.extraction import ExtractSettings
    from parhelion.jobs._extract_positions import Positions
    from parhelion.model.micrographs import Micrographs
    from parhelion.run.context import Context

BOXES, IMAGES, MICROSCOPE = "Boxes", "Images", "Micrographs"
BOX_PER_DIAMETER = 1.5
AT_ONCE = 64
"""Boxes that a thread works on at a time."""
COPIES = 8
"""Copies of a box that its way through Fourier space and normalisation takes at most."""
LOOKED_AT = 50
"""Micrographs whose headers are read to plan memory."""


def positions_kind(paths: tuple[Path, ...]) -> tuple[Path, ...]:
    """InputError unless the files hold coordinates or particles."""
    from parhelion.io.coordinates import check_coordinates
    from parhelion.jobs._extract_positions import holds_particles

    if not holds_particles(paths):
        for path in paths:
            check_coordinates(path)
    return paths


PositionFile = Annotated[
    Path, BeforeValidator(expand_one), FileKind("coordinates or particles", check_exists)
]
PositionFiles = Annotated[tuple[PositionFile, ...], BeforeValidator(expand), AfterValidator(positions_kind)]


class Params(JobParams):
    """What the job takes."""

    input: PositionFiles = option(
        help="coordinates (STAR, EMAN .box, cisTEM text, SPIDER document, CSV), or particles to cut again",
        short="i",
    )
    micrographs: MicrographFiles = option(help="table of micrographs with their CTF", short="m")
    box: int | None = option(
        None,
        help="edge of the boxes, in pixels of the micrographs; an even number",
        unit="pixels",
        ge=16,
        le=4096,
        default_text=f"{BOX_PER_DIAMETER:g} times --diameter",
        group=BOXES,
    )
    diameter: float | None = option(
        None,
        help="the largest dimension of the particle, to choose the box",
        unit="Å",
        gt=0,
        le=5000,
        short="d",
        default_text="not needed with --box",
        group=BOXES,
    )
    rescale: int | None = option(
        None,
        help="crop the images in Fourier space to this edge; an even number",
        unit="pixels",
        ge=16,
        le=4096,
        default_text="the box: no change of scale",
        group=BOXES,
    )
    edge: Literal["skip", "fill"] = option(
        "skip",
        help="boxes that reach over the edge of the micrograph: left out, or filled with their mean",
        group=BOXES,
    )
    centres: Literal["refined", "original"] | None = option(
        None,
        help="for particles: cut where refinement found them, or where they were cut before",
        default_text="refined, where particles have shifts",
        group=BOXES,
    )
    min_merit: float | None = option(
        None,
        help="leave out coordinates whose figure of merit is lower",
        unit="1",
        default_text="all are taken",
        group=BOXES,
    )
    min_distance: float = option(
        0.0,
        help="leave out the worse of two positions that are not further from each other than this",
        unit="Å",
        ge=0,
        le=5000,
        group=BOXES,
    )
    contrast: Contrast = option(
        "auto",
        help="how protein looks in the micrographs: white or black; auto looks at boxes of some of them",
        group=IMAGES,
    )
    normalise: bool = option(
        True, help="bring the background of each image to mean 0 and variance 1", group=IMAGES
    )
    background_radius: float | None = option(
        None,
        help="what lies further from the centre is background",
        unit="Å",
        gt=0,
        le=5000,
        default_text="3/8 of the box",
        group=IMAGES,
    )
    ramp: bool = option(True, help="subtract the plane that fits the background", group=IMAGES)
    white_dust: float | None = option(
        None,
        help="replace pixels this far above the mean, in standard deviations, white in the micrograph",
        unit="1",
        ge=3,
        default_text="none are replaced",
        group=IMAGES,
    )
    black_dust: float | None = option(
        None,
        help="the same below the mean, black in the micrograph",
        unit="1",
        ge=3,
        default_text="none are replaced",
        group=IMAGES,
    )
    float16: bool = option(
        False,
        help="store images in half the space (MRC mode 12, which RELION reads from version 4 on)",
        group=IMAGES,
    )
    ctf: Literal["particles", "micrographs"] | None = option(
        None,
        help="whose CTF the particles get: their own from before, or that of their micrograph",
        default_text="their own where they have one",
        group=MICROSCOPE,
    )
    coordinates_pixel_size: float | None = option(
        None,
        help="pixel size that the coordinates count in, where it is not that of the micrographs",
        unit="Å",
        ge=0.1,
        le=30,
        default_text="that of the micrographs",
        group=MICROSCOPE,
    )
    pixel_size: float | None = pixel_size_option(MICROSCOPE)
    voltage: float | None = voltage_option(MICROSCOPE)
    cs: float | None = cs_option(MICROSCOPE)
    amplitude_contrast: float | None = amplitude_contrast_option(MICROSCOPE)

    @model_validator(mode="after")
    def _fit(self) -> "Params":
        from parhelion.jobs._extract_positions import holds_particles

        if (self.box is None) == (self.diameter is None):
            raise ValueError("give --box in pixels or --diameter in Å, one of them")
        for flag, value in (("--box", self.box), ("--rescale", self.rescale)):
            if value is not None and value % 2:
                raise ValueError(f"{flag} is {value}; an even number is expected")
        if self.box is not None and self.rescale is not None and self.rescale > self.box:
            raise ValueError(
                f"--rescale {self.rescale} is larger than --box {self.box}; images are only made smaller"
            )
        background = {
            "--background-radius": self.background_radius,
            "--no-ramp": None if self.ramp else False,
        }
        if not self.normalise and any(value is not None for value in background.values()):
            raise ValueError(
                f"{' and '.join(background)} belong to normalisation, --no-normalise leaves it out"
            )
        particles = holds_particles(self.input)
        if not particles and (self.centres is not None or self.ctf == "particles"):
            raise ValueError(
                "--centres and --ctf particles are for cutting particles again; coordinates have neither"
            )
        if particles and self.min_merit is not None:
            raise ValueError("--min-merit is for coordinates; choose particles with select")
        return self


OUTPUTS = (
    Output(name="particles", file="particles.star", help="particles with CTF and coordinates"),
    Output(name="stacks", file="particles/*.mrcs", help="their images, one stack per micrograph"),
)


def estimate(params: Params) -> Estimate:
    """A micrograph and a run of boxes per thread, in float32; the images on disk."""
    from parhelion.io.relion_micrographs import read_micrographs
    from parhelion.jobs._extract_positions import holds_particles
    from parhelion.jobs._micrographs import largest_shape

    found = read_micrographs(params.micrographs, pixel_size_angstrom=params.pixel_size, needs=("pixel_size",))
    step = max(1, len(found) // LOOKED_AT)
    _, height, width = largest_shape(found.path[::step])
    box, final_box = _boxes(params, found.optics[0].pixel_size_angstrom)
    count = _count(params, holds_particles(params.input))
    return Estimate(
        memory_bytes=2000 * count,
        per_thread_bytes=8 * height * width + AT_ONCE * COPIES * 4 * box**2,
        disk_bytes=count * final_box**2 * (2 if params.float16 else 4),
    )


def _count(params: Params, particles: bool) -> int:
    from parhelion.io.coordinates import read_coordinates
    from parhelion.io.particles import read_particles

    if particles:
        return len(read_particles(params.input[0]))
    return len(read_coordinates(params.input, pixel_size_angstrom=1.0))


def run(context: "Context", params: Params) -> Result:
    """Find the positions, settle the contrast, cut every micrograph, and write the table."""
    from parhelion.io.particles import write_particles
    from parhelion.jobs import _extract_cut as cut
    from parhelion.jobs._extract_report import figures, show, tell
    from parhelion.jobs._extract_table import result_set
    from parhelion.jobs._micrographs import each

    micrographs, positions, fitted = _read(context, params)
    box, final_box = _boxes(params, micrographs.optics[0].pixel_size_angstrom)
    contrast = params.contrast
    if contrast == "auto":
        contrast = cut.contrast_of(micrographs, positions, box, context)
    settings = _settings(params, box, final_box, contrast == "black", micrographs)
    used = sorted(set(positions.micrograph.tolist()))
    files = cut.stack_files(micrographs.name)
    (context.folder / "particles").mkdir(exist_ok=True)

    def work(i: int) -> dict[str, Any]:
        return cut.extract_micrograph(
            micrographs,
            positions,
            used[i],
            context.folder / files[used[i]],
            files[used[i]],
            settings,
            seed=context.seed,
            float16=params.float16,
            ctf_needed=fitted,
        )

    outcome = each(context, [micrographs.name[m] for m in used], work, "Cutting particles")
    rows = {used[i]: row for i, row in enumerate(outcome.rows) if row is not None}
    particles = result_set(
        positions, micrographs, rows, context.folder, box=box, final_box=final_box, fitted_ctf=fitted
    )
    write_particles(context.path("particles"), particles)
    tell(context, outcome)
    show(context, particles, outcome)
    return Result(
        figures=figures(particles, outcome, box) | {"contrast": contrast},
        outputs={"particles": context.path("particles"), "stacks": list(particles.views.image_path)},
    )


def _read(context: "Context", params: Params) -> "tuple[Micrographs, Positions, bool]":
    """Micrographs, positions in them, and whether the particles get their micrographs' CTF."""
    from parhelion.errors import MetadataError
    from parhelion.jobs import _extract_positions as where
    from parhelion.jobs._micrographs import read

    again = where.holds_particles(params.input)
    fitted = params.ctf == "micrographs" or not again
    micrographs = read(
        context,
        params.micrographs,
        pixel_size=params.pixel_size,
        voltage=params.voltage,
        cs=params.cs,
        amplitude_contrast=params.amplitude_contrast,
        movies=False,
        needs=("pixel_size",) if again else None,
    )
    if fitted and micrographs.ctf is None:
        raise MetadataError(
            f"{params.micrographs[0]} has no CTF (rlnDefocusU); run ctf on the micrographs first"
        )
    scale = {"coordinates_pixel_size": params.coordinates_pixel_size}
    if again:
        refined = None if params.centres is None else params.centres == "refined"
        positions = where.positions_from_particles(
            params.input[0], micrographs, context, refined=refined, **scale
        )
    else:
        positions = where.positions_from_coordinates(
            params.input, micrographs, context, min_merit=params.min_merit, **scale
        )
    if again and not params.min_distance:
        # one image may stand for several particles, each with its own pose
        return micrographs, positions, fitted
    distinct = where.without_near_ones(positions, micrographs, params.min_distance)
    if len(distinct) < len(positions):
        near = f"within {params.min_distance:g} Å of" if params.min_distance else "at the place of"
        context.notice(
            f"{len(positions) - len(distinct)} of {len(positions)} positions are {near} another and left out"
        )
    return micrographs, distinct, fitted


def _boxes(params: Params, pixel_size: float) -> tuple[int, int]:
    """Edge of the boxes and of the images."""
    from parhelion.algorithms.extraction import even_box

    box = params.box or even_box(BOX_PER_DIAMETER * (params.diameter or 0.0) / pixel_size)
    if params.rescale is not None and params.rescale > box:
        from parhelion.errors import ParameterError

        raise ParameterError(
            f"--rescale {params.rescale} is larger than the box of {box} pixels that --diameter gives; "
            "images are only made smaller"
        )
    return box, params.rescale or box


def _settings(
    params: Params, box: int, final_box: int, invert: bool, micrographs: "Micrographs"
) -> "ExtractSettings":
    from parhelion.algorithms.extraction import BACKGROUND_FRACTION, ExtractSettings

    fraction = BACKGROUND_FRACTION
    if params.background_radius is not None:
        fraction = params.background_radius / (box * micrographs.optics[0].pixel_size_angstrom)
    return ExtractSettings(
        box=box,
        final_box=final_box,
        invert=invert,
        background_radius=fraction if params.normalise else None,
        ramp=params.ramp,
        white_dust_sigmas=params.white_dust,
        black_dust_sigmas=params.black_dust,
        edge=params.edge,
    )


JOB = declare(__name__, __doc__, params=Params, run=run, estimate=estimate, outputs=OUTPUTS, resumable=True)
