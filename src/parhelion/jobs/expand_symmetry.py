"""Expand particles by a symmetry: one copy per asymmetric unit.

Each particle is repeated once per operator, at the poses that show the same image. Masked classification and
refinement of one subunit then treat every subunit as a particle. All copies of an image stay in one half set.
Later reconstructions and refinements of the expanded set are to be done in C1.
"""

from typing import TYPE_CHECKING

from parhelion.jobs._inputs import ParticlesFile, Symmetry
from parhelion.registry import Estimate, JobParams, Output, Result, declare, option

if TYPE_CHECKING:
    from parhelion.run.context import Context

BYTES_PER_PARTICLE = 2000
"""Memory of a row of a table with its pose and CTF, before it is written."""


class Params(JobParams):
    """What the job takes."""

    input: ParticlesFile = option(help="particles with poses", short="i")
    symmetry: Symmetry = option(help="point group in RELION's setting: C4, D2, T, O, I1 …")


OUTPUTS = (Output(name="particles", file="particles.star", help="the expanded particles"),)


def estimate(params: Params) -> Estimate:
    """Rows of the expanded table."""
    from parhelion.geometry.symmetry import symmetry_group

    copies = len(symmetry_group(params.symmetry))
    size = params.input.stat().st_size
    rows = max(1, size // 100)
    return Estimate(memory_bytes=rows * copies * BYTES_PER_PARTICLE, disk_bytes=copies * (size + 20 * rows))


def run(context: "Context", params: Params) -> Result:
    """Expand, write and show where the copies look from."""
    import numpy as np

    from parhelion.algorithms.symmetry_expansion import expand_by_symmetry
    from parhelion.geometry.symmetry import symmetry_group
    from parhelion.io.particles import read_particles, write_particles

    notes: list[str] = []
    particles = read_particles(params.input, notes=notes)
    for note in notes:
        context.notice(note)
    group = symmetry_group(params.symmetry)
    if len(group) == 1:
        context.notice(f"{group.name} has one operator only: every particle stays a single one")
    expanded = expand_by_symmetry(particles, group, np.random.default_rng([context.seed, 11]))
    if particles.half is None:
        context.notice(
            "half sets were drawn image by image, so that copies of one image never meet in a "
            "comparison of halves"
        )
    write_particles(context.path("particles"), expanded)
    if particles.rotation is not None and expanded.rotation is not None:
        context.report.angular_distribution(particles.rotation, "Views before")
        context.report.angular_distribution(expanded.rotation, "Views of all copies")
    figures = {"particles": len(expanded), "input_particles": len(particles), "copies": len(group)}
    return Result(figures=figures, outputs={"particles": context.path("particles")})


JOB = declare(__name__, __doc__, params=Params, run=run, estimate=estimate, outputs=OUTPUTS, computes=False)
