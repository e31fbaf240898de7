"""Make class averages of particles that were classified in parts, with --partial-sums.

Each part is a run of ``class2d --partial-sums --references CLASSES --cycles 1 --first N --last M`` with the
same particles, references and options, on any machine. Sums are additive: the averages are those of one run
over all particles, but for rounding. They can be the references of the next cycle.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import model_validator

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
    select: Literal["auto", "none"] = option(
        "auto", help="auto writes the particles of good classes to selected.star"
    )
    select_score: float | None = option(
        None,
        help="score from which on a class counts as good",
        unit="1",
        ge=0,
        le=1,
        default_text="0.2, or a third of what the best classes reach where that is less",
    )

    @model_validator(mode="after")
    def _fit(self) -> "Params":
        if self.select == "none" and "select_score" in self.model_fields_set:
            raise ValueError("--select-score belongs to --select auto")
        return self


OUTPUTS = (
    Output(name="classes", file="classes.mrcs", help="class averages, the largest class first"),
    Output(name="table", file="classes.star", help="the table of classes, as class2d writes it"),
    Output(name="start", file="start.mrcs", help="the references that all parts had"),
    Output(
        name="particles",
        file="particles.star",
        help="class, in-plane angle, shift and scores of each particle",
        optional=True,
    ),
    Output(name="selected", file="selected.star", help="particles of good classes", optional=True),
)


def estimate(params: Params) -> Estimate:
    """All sums, and what is made of them."""
    sizes = [path.stat().st_size for path in params.input]
    return Estimate(memory_bytes=2 * sum(sizes) + 6 * max(sizes), disk_bytes=2 * max(sizes))


def run(context: "Context", params: Params) -> Result:
    """Add the sums, make and show the averages."""
    import numpy as np

    from parhelion.algorithms.class2d import partial
    from parhelion.algorithms.class2d.selection import (
        class_quality,
        explained_share,
        good_classes,
        score_threshold,
    )
    from parhelion.jobs import _class2d

    parts = [partial.load(path) for path in params.input]
    found = partial.merged(parts)
    settings = partial.settings_of(parts[0])
    left = partial.left_out(parts)
    if left:
        context.notice(
            f"{left} particles are in none of the files; the classes are made of {len(found.rows)}"
        )
    quality = class_quality(
        found.averages,
        found.frc,
        found.extent_angstrom,
        settings.diameter_angstrom,
        settings.final_resolution_angstrom,
        explained_share(found.category, found.evidence, len(found.averages)),
    )
    members = np.bincount(found.category, minlength=len(found.averages))
    threshold = params.select_score
    if threshold is None:
        threshold = score_threshold(quality.score, members)
    good = good_classes(quality.score, threshold) & (members > 0)
    names = ["classes", "table", "start"]
    particles = _particles(context, params, partial.count_of(parts[0]), found.pixel_size_angstrom)
    names += _class2d.write(
        context, particles, found, quality, members, good, threshold if params.select == "auto" else None
    )
    _class2d.show(context, found, quality, members, good, params.select == "auto")
    figures = _class2d.figures_of(found, quality, members, good) | {"parts": len(parts)}
    outputs: dict[str, Path | list[Path]] = {name: context.path(name) for name in names}
    return Result(figures=figures, outputs=outputs)


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
