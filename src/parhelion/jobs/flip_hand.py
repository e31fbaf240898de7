"""Mirror maps, which changes their hand.

Cryo-EM cannot tell a molecule from its mirror image; flip the map where helices turn to the left. Give a map
together with its half maps and mask, and all are mirrored alike. The mirror inverts x about the centre of
the box. Particles can follow: they get the poses at which the mirrored map shows what they saw before.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from parhelion.errors import InputError
from parhelion.jobs._inputs import Maps, ParticlesFile
from parhelion.jobs._maps import voxels
from parhelion.jobs._particles import check_poses
from parhelion.registry import Estimate, JobParams, Output, Result, declare, option

if TYPE_CHECKING:
    from parhelion.run.context import Context


class Params(JobParams):
    """What the job takes."""

    input: Maps = option(help="one or more maps", short="i")
    particles: ParticlesFile | None = option(
        None, help="particles with poses in the frame of the maps", default_text="none"
    )


OUTPUTS = (
    Output(name="maps", file="*.mrc", help="the mirrored maps, under their names"),
    Output(name="particles", file="particles.star", help="the particles' new poses", optional=True),
)


def estimate(params: Params) -> Estimate:
    """One map at a time, and its mirror image."""
    counts = [voxels(path) for path in params.input]
    if params.particles is not None:
        check_poses(params.particles)
    return Estimate(memory_bytes=10 * max(counts), disk_bytes=4 * sum(counts))


def run(context: "Context", params: Params) -> Result:
    """Mirror each map about voxel n // 2 and write it."""
    from parhelion.algorithms.hand import mirror_x, poses_of_other_hand
    from parhelion.io import mrc
    from parhelion.io.particles import read_particles, write_particles

    names = [path.stem for path in params.input]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"two inputs are called {twice[0]}; they would overwrite each other")
    written = []
    for number, (path, name) in enumerate(zip(params.input, names, strict=True)):
        context.check()
        flipped = mirror_x(mrc.read_volume(path))
        written.append(context.path("maps", name))
        mrc.write_volume(written[-1], flipped)
        context.report.slices(flipped, name)
        context.progress("mirror", number + 1, len(names))
    outputs: dict[str, Path | list[Path]] = {"maps": written}
    if params.particles is not None:
        notes: list[str] = []
        particles = read_particles(params.particles, notes=notes)
        for note in notes:
            context.notice(note)
        write_particles(context.path("particles"), poses_of_other_hand(particles))
        outputs["particles"] = context.path("particles")
    return Result(figures={"maps": len(written)}, outputs=outputs)


JOB = declare(__name__, __doc__, params=Params, run=run, estimate=estimate, outputs=OUTPUTS)
