"""Make class averages of particles that were classified in parts, with --partial-sums.

Each part is a run of ``class2d --partial-sums --references CLASSES --cycles 1 --first N --last M`` with the
same particles, references and options, on any machine. Sums are additive: the averages are those of one run
over all particles, but for rounding. They can be the references of the next cycle.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import model_validator

from parhelion.jobs._class2d_options import (
    CLASSES,
    SELECTED,
    Select,
    check_selection,
    select_option,
    select_score_option,
    select_sigma_option,
)
from parhelion.jobs._inputs import Files, ParticlesFile
from parhelion.registry import Estimate, JobParams, Output, Result, declare, option

if TYPE_CHECKING:
    from parhelion.model.particles import ParticleSet
    from parhelion.run.context import Context


class Params(JobParams):
    """What the job takes."""

    input: Files = option(help="partial sums, sums.npz of each part", short="i")
    particles: ParticlesFile | None = option(
        None,
        help="table of all particles, as given to class2d; without it no table of particles is written",
        default_text="none",
    )
    select: Select = select_option()
    select_score: float | None = select_score_option()
    select_sigma: float = select_sigma_option()

    @model_validator(mode="after")
    def _fit(self) -> "Params":
        check_selection(self.select, self.model_fields_set)
        return self


OUTPUTS = (
    CLASSES,
    Output(name="table", file="classes.star", help="the table of classes, as class2d writes it"),
    Output(name="start", file="start.mrcs", help="the references that all parts had"),
    Output(
        name="particles",
        file="particles.star",
        help="class, in-plane angle, shift and scores of each particle",
        optional=True,
    ),
    SELECTED,
)


def estimate(params: Params) -> Estimate:
    """All sums, and what is made of them."""
    sizes = [path.stat().st_size for path in params.input]
    return Estimate(memory_bytes=2 * sum(sizes) + 6 * max(sizes), disk_bytes=2 * max(sizes))


def run(context: "Context", params: Params) -> Result:
    """Add the sums, make and show the averages."""
    from parhelion.algorithms.class2d import partial
    from parhelion.algorithms.class2d.selection import judge
    from parhelion.jobs import _class2d

    parts = [partial.load(path) for path in params.input]
    found = partial.merged(parts)
    left = partial.left_out(parts)
    if left:
        context.notice(
            f"{left} particles are in none of the files; the classes are made of {len(found.rows)}"
        )
    judged = judge(found, partial.settings_of(parts[0]), params.select_score, params.select_sigma)
    particles = _particles(context, params, partial.count_of(parts[0]), found.pixel_size_angstrom)
    selects = params.select == "auto"
    names = ["classes", "table", "start", *_class2d.write(context, particles, found, judged, selects)]
    _class2d.show(context, found, judged, selects)
    outputs: dict[str, Path | list[Path]] = {name: context.path(name) for name in names}
    return Result(figures=_class2d.figures_of(found, judged) | {"parts": len(parts)}, outputs=outputs)


def _particles(context: "Context", params: Params, count: int, pixel_size: float) -> "ParticleSet | None":
    """The table as ``class2d`` saw it; InputError where it is another one."""
    from parhelion.errors import InputError
    from parhelion.jobs._particles import read_with_images

    if params.particles is None:
        return None
    particles, _ = read_with_images(params.particles, context, contrast="white", pixel_size=pixel_size)
    if len(particles) != count:
        raise InputError(
            f"{params.particles} holds {len(particles)} particles, the parts were made from {count}; "
            "give the table that class2d was given"
        )
    return particles


JOB = declare(__name__, __doc__, params=Params, run=run, estimate=estimate, outputs=OUTPUTS, computes=False)
