"""Refine and classify with every parameter in your own hands, as in cisTEM's manual panel.

Each cycle compares particles with the map of every class, searching everywhere or refining the poses they
have, finds occupancies from the likelihoods of the classes, and makes the maps anew. Every class keeps poses
and scores of its own for all particles. Scores, sigma, log P and occupancies have cisTEM's meaning: a score
of 100 is perfect correlation.
"""

from typing import TYPE_CHECKING

from parhelion.jobs._refine_manual_options import ManualParams as Params
from parhelion.registry import Estimate, Output, Result, declare

if TYPE_CHECKING:
    from parhelion.run.context import Context

OUTPUTS = (
    Output(name="maps", file="map_*.mrc", help="map of each class, filtered by its signal-to-noise ratio"),
    Output(name="half1", file="half1_*.mrc", help="map of the first half of each class, unfiltered"),
    Output(name="half2", file="half2_*.mrc", help="map of the second half of each class, unfiltered"),
    Output(name="masks", file="mask_*.mrc", help="the mask of each class"),
    Output(name="fsc", file="fsc_*.star", help="half-map correlation of each class, with RELION's labels"),
    Output(name="statistics", file="statistics_*.txt", help="the same in the columns of cisTEM's statistics"),
    Output(name="particles", file="particles.star", help="poses and scores of each particle's best class"),
    Output(
        name="class_particles",
        file="particles_*.star",
        help="all particles with the poses and scores of one class",
    ),
    Output(name="changes", file="changes.star", help="what changed for each particle"),
    Output(
        name="projections", file="projections.mrcs", help="the projection that each matches", optional=True
    ),
)
SECONDS_PER_EVALUATION = 1.5e-3
"""CPU time of one image of 64 pixels against one class at its pose, with its share of a map (measured)."""
SECONDS_PER_SEARCH, SECONDS_PER_GRID = 2e-3, 5e-4
"""CPU time of refining a search's hits for one image of 64 pixels, and of a grid of 15 degrees (measured)."""


def estimate(params: Params) -> Estimate:
    """What ``algorithms.manual`` plans for the table's particles."""
    from parhelion.algorithms.manual.problem import memory_plan
    from parhelion.io.particles import read_particles
    from parhelion.jobs._particles import box_of
    from parhelion.jobs._refine_manual_work import DEFAULT_DIAMETER, check_tables, manual_settings, mode_of
    from parhelion.run.memory import available_bytes

    particles = read_particles(params.input, pixel_size_angstrom=params.pixel_size)
    check_tables(params, particles)
    count, box, pixel = len(particles), box_of(particles), particles.optics[0].pixel_size_angstrom
    diameter = params.diameter or DEFAULT_DIAMETER * box * pixel
    settings = manual_settings(params, diameter, mode_of(params, particles), 0)
    plan = memory_plan(count, box, pixel, settings, available_bytes())
    each = SECONDS_PER_EVALUATION
    if settings.mode == "global":
        each += SECONDS_PER_SEARCH + SECONDS_PER_GRID * (15 / settings.angular_step) ** 3
    maps = 5 * params.number * 4 * box**3
    projections = 4 * count * box**2 if params.matching_projections else 0
    return Estimate(
        memory_bytes=plan.shared_bytes,
        per_thread_bytes=plan.per_thread_bytes,
        seconds=each * count * params.number * params.cycles * (box / 64) ** 2,
        disk_bytes=3 * maps + (params.number + 1) * 900 * count + projections,
    )


def run(context: "Context", params: Params) -> Result:
    """Refine, write everything and show it."""
    from parhelion.jobs._refine_manual_report import figures_of, show
    from parhelion.jobs._refine_manual_work import refined, write

    work = refined(context, params)
    outputs = write(context, params, work)
    show(context, work)
    return Result(figures=figures_of(work), outputs=outputs)


JOB = declare(__name__, __doc__, params=Params, run=run, estimate=estimate, outputs=OUTPUTS, resumable=True)
