"""Convert images, maps or particle tables from one format to another.

Reads MRC, TIFF, SPIDER, and the particle tables of RELION, cryoSPARC, cisTEM and FREALIGN; the format of the
input is found from its content. Values stay as they are; lengths, angles, signs and counts are translated.
Images of particles are not copied, unless the options under "New stack" ask for new ones; with these, a stack
of images without a table is prepared as well.
"""

from typing import TYPE_CHECKING, Literal

from pydantic import model_validator

from parhelion.errors import InputError
from parhelion.jobs._inputs import File, Files
from parhelion.jobs._maps import images_at_once
from parhelion.jobs._particles import Contrast
from parhelion.registry import Estimate, JobParams, Output, Result, declare, option

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from parhelion.io.exchange import ImageFacts
    from parhelion.model.particles import ParticleSet
    from parhelion.run.context import Context

EXTENSIONS = {
    "mrc": ".mrc",
    "mrcs": ".mrcs",
    "tiff": ".tif",
    "star": ".star",
    "star30": ".star",
    "cistem": ".star",
    "cistem-binary": ".cistem",
    "cs": ".cs",
    "par": ".par",
}
USUAL = {"volume": "mrc", "stack": "mrcs", "particles": "star"}
LEFT_OUT = "What a par or cistem table leaves out"
NEW_STACK = "New stack"
CHANGES = ("downsample", "box", "normalise", "radius", "flip_phases", "stack_contrast")
TORCH_BYTES = 400_000_000
BYTES_PER_PIXEL = 40
"""Memory of an image while it is prepared: transforms, copies, and the next chunk."""


class Params(JobParams):
    """What the job takes."""

    input: Files = option(help="one or more files", short="i")
    to: Literal["mrc", "mrcs", "tiff", "star", "star30", "cistem", "cistem-binary", "cs", "par"] | None = (
        option(
            None,
            help="format to write (mrc: map, mrcs: images, star: RELION 3.1, star30: RELION 3.0, "
            "cistem: cisTEM's STAR, cistem-binary: the same in binary, cs: cryoSPARC, par: FREALIGN)",
            default_text="mrc for maps, mrcs for images, star for particles",
        )
    )
    pixel_size: float | None = option(
        None,
        help="pixel size, where the input is wrong or does not say it",
        unit="Å",
        ge=0.1,
        le=30,
        default_text="from the input",
    )
    contrast: Contrast = option(
        "auto",
        help="how protein looks in the images, which par, cistem and cs pass on; auto takes what the table "
        "says, or looks at the images where that is needed",
    )
    positions: Literal["fractions", "coordinates", "flipped"] = option(
        "fractions",
        help="positions in micrographs that cryoSPARC gives: kept as its fractions, as RELION's coordinates, "
        "or as coordinates with y counted from the other end, for micrographs that lie upside down "
        "to its own",
    )
    stack: File | None = option(
        None, help="the stack of images", default_text="as the table says", group=LEFT_OUT
    )
    voltage: float | None = option(
        None,
        help="acceleration voltage",
        unit="kV",
        ge=60,
        le=400,
        default_text="as the table says",
        group=LEFT_OUT,
    )
    cs: float | None = option(
        None,
        help="spherical aberration",
        unit="mm",
        ge=0,
        le=10,
        default_text="as the table says",
        group=LEFT_OUT,
    )
    amplitude_contrast: float | None = option(
        None,
        help="amplitude contrast",
        unit="1",
        ge=0,
        le=1,
        default_text="as the table says",
        group=LEFT_OUT,
    )
    occupancies_of: int | None = option(
        None,
        help="write the occupancies of this class, as cisTEM and FREALIGN have a table for each",
        unit="1",
        ge=1,
        le=1000,
        default_text="those that the table gives for the particle",
    )
    new_stack: bool = option(
        False, help="write the particles' images into one new stack beside the table", group=NEW_STACK
    )
    downsample: float = option(
        1.0, help="make the images smaller by this factor", unit="1", ge=1, le=10, group=NEW_STACK
    )
    box: int | None = option(
        None,
        help="cut or fill the images to this box, after downsampling",
        unit="pixels",
        ge=8,
        le=4096,
        default_text="the whole image",
        group=NEW_STACK,
    )
    normalise: bool = option(
        False, help="give the background mean 0 and standard deviation 1", group=NEW_STACK
    )
    radius: float | None = option(
        None,
        help="radius of the particle, outside of which is background",
        unit="Å",
        gt=0,
        default_text="3/8 of the box",
        group=NEW_STACK,
    )
    flip_phases: bool = option(
        False, help="multiply the images' transforms by the sign of their CTF", group=NEW_STACK
    )
    stack_contrast: Literal["keep", "white", "black"] = option(
        "keep",
        help="how protein is to look in the new images (RELION: white, FREALIGN and cisTEM: black)",
        group=NEW_STACK,
    )

    @model_validator(mode="after")
    def _only_with_a_stack(self) -> "Params":
        asked = [name for name in CHANGES if name in self.model_fields_set]
        if asked and not self.new_stack:
            raise ValueError(f"--{asked[0].replace('_', '-')} changes images; ask for them with --new-stack")
        if self.radius is not None and not self.normalise:
            raise ValueError("--radius says where --normalise begins, which is not asked for")
        return self


OUTPUTS = (Output(name="files", file="*", help="the converted files, under their names"),)


def estimate(params: Params) -> Estimate:
    """The largest file, as float32 and as written."""
    sizes = [path.stat().st_size for path in params.input]
    memory, disk, per_thread = 4 * max(sizes), 4 * sum(sizes), 0
    if params.new_stack:
        stacks = [_stack_size(path) for path in params.input]
        edge = max([params.box or 0, *(box for _, box in stacks)])
        memory += TORCH_BYTES
        disk += sum(4 * count * (params.box or box) ** 2 for count, box in stacks)
        per_thread = BYTES_PER_PIXEL * images_at_once(edge) * edge**2 if edge else 0
    return Estimate(memory_bytes=memory, disk_bytes=disk, per_thread_bytes=per_thread)


def _stack_size(path: "Path") -> tuple[int, int]:
    """Number and box of the images in ``path``, 0 where they cannot be found out."""
    from parhelion.io.formats import format_of, open_images
    from parhelion.io.particles import read_particles
    from parhelion.jobs._particles import box_of

    try:
        kind = format_of(path).kind
        if kind == "stack":
            count, _, box = open_images(path).shape
            return count, box
        if kind != "particles":
            return 0, 0
        particles = read_particles(path, pixel_size_angstrom=1.0)
        return len(particles), box_of(particles)
    except InputError:
        # what is wrong is said when the table is read for good
        return 0, 0


def run(context: "Context", params: Params) -> Result:
    """Convert one file after the other."""
    from parhelion.io.convert import convert
    from parhelion.jobs._new_stack import rewritten_stack

    names = [path.with_suffix("").name for path in params.input]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"two inputs are called {twice[0]}; they would overwrite each other")
    written = []
    for number, (path, name) in enumerate(zip(params.input, names, strict=True)):
        context.check()
        target = context.path("files", name + EXTENSIONS[_format(path, params)])
        stack = context.path("files", name + ".mrcs")
        if params.new_stack and _is_stack(path):
            rewritten_stack(context, params, path, stack)
            written.append(stack)
            context.progress("convert", number + 1, len(names))
            continue
        notes = convert(
            path,
            target,
            pixel_size_angstrom=params.pixel_size,
            to_format=params.to,
            facts=_facts(params),
            change=_change(context, params, stack),
        )
        for note in notes:
            context.notice(note)
        written += [target, *([stack] if params.new_stack else [])]
        context.progress("convert", number + 1, len(names))
    return Result(figures={"files": len(written)}, outputs={"files": written})


def _is_stack(path: "Path") -> bool:
    from parhelion.io.formats import format_of

    return format_of(path).kind == "stack"


def _format(path: "Path", params: Params) -> str:
    from parhelion.io.formats import format_of

    kind = format_of(path).kind
    if kind == "stack" and params.new_stack:
        of_tables = params.flip_phases or _facts(params) is not None or params.occupancies_of is not None
        if of_tables or params.to not in (None, "mrcs"):
            raise InputError(
                f"{path} is a stack without a table: it has no CTF or optics, and the new one is mrcs"
            )
        return "mrcs"
    asks = params.new_stack or params.contrast != "auto" or params.occupancies_of is not None
    if kind != "particles" and (asks or _facts(params) is not None):
        raise InputError(f"{path} is a {kind}; options on images and optics are for tables of particles")
    return params.to or USUAL[kind]


def _facts(params: Params) -> "ImageFacts | None":
    """What the options say about images and optics, None where they say nothing."""
    from parhelion.io.exchange import ImageFacts

    facts = ImageFacts(
        stack=params.stack,
        voltage_kv=params.voltage,
        spherical_aberration_mm=params.cs,
        amplitude_contrast=params.amplitude_contrast,
    )
    return None if facts == ImageFacts() else facts


def _change(
    context: "Context", params: Params, stack: "Path"
) -> "Callable[[ParticleSet], ParticleSet] | None":
    """What happens to particles between reading and writing."""
    from parhelion.io.cryosparc import with_coordinates
    from parhelion.io.exchange import states_white, with_contrast
    from parhelion.jobs._new_stack import rewritten
    from parhelion.jobs._particles import contrast_of

    def change(particles: "ParticleSet") -> "ParticleSet":
        if params.contrast != "auto":
            particles = with_contrast(particles, params.contrast == "white")
        elif states_white(particles) is None and params.stack_contrast != "keep":
            particles = with_contrast(particles, contrast_of(particles, "auto", context) == "white")
        elif states_white(particles) is None and params.to in ("cs", "cistem", "par"):
            try:
                particles = with_contrast(particles, contrast_of(particles, "auto", context) == "white")
            except InputError as error:
                context.notice(f"the images do not say how protein looks in them: {error}")
        if params.occupancies_of is not None:
            particles = _of_class(particles, params.occupancies_of)
        if params.positions != "fractions":
            particles = with_coordinates(particles, params.positions == "flipped")
        return rewritten(context, params, particles, stack) if params.new_stack else particles

    return change


def _of_class(particles: "ParticleSet", number: int) -> "ParticleSet":
    """The particles with the occupancies of one class in cisTEM's column."""
    from dataclasses import replace

    from parhelion.model.occupancy import occupancies

    percent = occupancies(particles)
    if percent is None or number > percent.shape[1]:
        found = "no occupancies" if percent is None else f"occupancies of {percent.shape[1]} classes"
        raise InputError(f"--occupancies-of {number}: the particles have {found}")
    columns = {"cisTEMOccupancy": percent[:, number - 1]}
    return replace(particles, extra=particles.extra.with_columns(columns))


JOB = declare(__name__, __doc__, params=Params, run=run, estimate=estimate, outputs=OUTPUTS, computes=False)
