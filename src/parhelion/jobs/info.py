"""Say what a file holds: particles, optics, classes, symmetry, refinements …

Takes tables of particles of any program, tables of micrographs, maps, stacks of images, refinement packages
and partial sums. The figures are printed, and written to info.json; the report shows the first images, the
particles with their parameters, the refinements of a package, or a map's slices.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import BeforeValidator

from parhelion.jobs._inputs import expand_one
from parhelion.jobs._package import table_of, tables_of
from parhelion.registry import Estimate, FileKind, JobParams, Output, Result, declare, option

if TYPE_CHECKING:
    from parhelion.jobs._info import Facts
    from parhelion.run.context import Context


def check_any(path: Path) -> None:
    """Raise InputError where nothing is known of the file."""
    from parhelion.jobs._info import facts_of

    facts_of(path)


AnyFile = Annotated[
    Path,
    BeforeValidator(expand_one),
    BeforeValidator(table_of),
    FileKind("file that parhelion knows", check_any),
]
AnyFiles = Annotated[tuple[AnyFile, ...], BeforeValidator(tables_of)]


class Params(JobParams):
    """What the job takes."""

    input: AnyFiles = option(help="files, or folders of packages and refinements", short="i")
    rows: int = option(
        20, help="particles whose parameters the report lists", unit="particles", ge=0, le=100_000
    )


OUTPUTS = (Output(name="info", file="info.json", help="what is printed, by the name of each file"),)


def estimate(params: Params) -> Estimate:
    """The largest file."""
    return Estimate(memory_bytes=3 * max(path.stat().st_size for path in params.input), disk_bytes=10_000)


def run(context: "Context", params: Params) -> Result:
    """Look at every file and show what is in it."""
    import json

    from parhelion.io.atomic import write_text
    from parhelion.jobs._info import facts_of, in_short

    every: dict[str, Facts] = {}
    for path in params.input:
        context.check()
        every[str(path)] = facts_of(path)
        section = context.report.section(path.name)
        section.figures(every[str(path)])
        _show(context, path, every[str(path)], params.rows)
    write_text(context.path("info"), json.dumps(every, indent=2, ensure_ascii=False) + "\n")
    figures: Facts = next(iter(every.values())) if len(every) == 1 else {"files": len(every)}
    if len(every) > 1:
        names = [Path(path_text).name for path_text in every]
        for path_text, name, facts in zip(every, names, every.values()):
            figures[name if names.count(name) == 1 else path_text] = in_short(facts)
    return Result(figures=figures, outputs={"info": context.path("info")})


def _show(context: "Context", path: Path, facts: "Facts", most: int) -> None:
    from parhelion.io import mrc
    from parhelion.io.package import read_package
    from parhelion.io.particles import read_particles

    kind, report = facts["kind"], context.report
    if kind == "refinement package":
        package = read_package(path)
        rows = [
            [r.number, r.job, r.finished, r.resolution_angstrom or "", len(r.maps), r.folder]
            for r in package.refinements
        ]
        if rows:
            report.table(rows, ["refinement", "job", "finished (UTC)", "resolution (Å)", "maps", "folder"])
        references = [
            [r.number, r.map or "", r.half1 or "", r.half2 or "", r.origin] for r in package.references
        ]
        report.table(references, ["class", "reference", "half map 1", "half map 2", "from"])
        path = path.parent / package.particles
    if kind in ("refinement package", "particles"):
        _show_particles(context, path, most)
    elif kind == "map":
        pixel = mrc.read_header(path).pixel_size_angstrom or 1.0
        report.slices(mrc.read_volume(path, pixel), path.name)
    elif kind == "images":
        _gallery(context, path)
    if kind == "particles" and most:
        particles = read_particles(path)
        if particles.rotation is not None:
            report.angular_distribution(particles.rotation)


def _show_particles(context: "Context", path: Path, most: int) -> None:
    """Parameters of the first particles, and their images where they can be read."""
    from parhelion.errors import InputError
    from parhelion.io.particles import check_images, read_particles
    from parhelion.io.source import StackSource
    from parhelion.jobs._info import table_of_particles
    from parhelion.jobs._particles import first_images

    particles = read_particles(path)
    if most:
        heads, rows = table_of_particles(particles, most)
        context.report.table(rows, heads)
    try:
        there, missing = check_images(particles)
    except InputError as error:
        context.notice(str(error))
        return
    for note in missing:
        context.notice(note)
    shown = list(first_images(StackSource(there)))
    context.report.gallery(shown, [f"particle {i + 1}" for i in range(len(shown))], "First images")


def _gallery(context: "Context", path: Path) -> None:
    import numpy as np

    from parhelion.io.formats import open_images

    stack = open_images(path)
    count = min(12, len(stack))
    shown = list(stack.read(np.arange(count)))
    context.report.gallery(shown, [f"image {i + 1}" for i in range(count)], "First images")


JOB = declare(__name__, __doc__, params=Params, run=run, estimate=estimate, outputs=OUTPUTS)
