"""Find a first map from particles alone, from nothing.

Several independent starts from random orientations are annealed from coarse to finer detail, without
symmetry (for T, O and I every second start has it imposed); each is judged by how well it explains particles
that it has never seen. The best is turned to the axes of the symmetry, averaged over it, and shown beside the
others: a map that several starts agree on can be trusted, one that stands alone cannot. The hand is
arbitrary, as images do not show it.
"""

from typing import TYPE_CHECKING

from pydantic import model_validator

from parhelion.jobs._inputs import ParticlesFile, Symmetry
from parhelion.jobs._particles import Contrast, contrast_option, particle_pixel_size_option
from parhelion.registry import Estimate, JobParams, Output, Result, declare, option

if TYPE_CHECKING:
    from parhelion.algorithms.ab_initio import AbInitioResult, AbInitioSettings
    from parhelion.run.context import Context

SEARCH = "Search"
AGREE = 0.5
"""Mean FSC from which on two starts count as the same map."""
FEW = 300
"""Particles below which a start from nothing rarely succeeds."""


class Params(JobParams):
    """What the job takes."""

    input: ParticlesFile = option(help="table of particles with their CTF", short="i")
    symmetry: Symmetry = option("C1", help="point group: C1, C2 …, D2 …, T, O, I1 to I4")
    diameter: float = option(help="the largest dimension of the particle", unit="Å", gt=0, le=5000, short="d")
    contrast: Contrast = contrast_option()
    pixel_size: float | None = particle_pixel_size_option()
    starts: int = option(
        3, help="independent starts, of which the best is taken", unit="starts", ge=1, le=50, group=SEARCH
    )
    rounds: int = option(30, help="rounds of each start", unit="rounds", ge=2, le=500, group=SEARCH)
    batch: int = option(
        1000, help="particles per round at the end of a start", unit="particles", ge=20, group=SEARCH
    )
    initial_resolution: float | None = option(
        None,
        help="coarsest detail, of the first rounds",
        unit="Å",
        gt=0,
        le=300,
        default_text="diameter / 4.5",
        group=SEARCH,
    )
    final_resolution: float | None = option(
        None,
        help="finest detail, of the last rounds",
        unit="Å",
        gt=0,
        le=200,
        default_text="diameter / 9, at least Nyquist",
        group=SEARCH,
    )

    @model_validator(mode="after")
    def _fit(self) -> "Params":
        first, last = self.initial_resolution, self.final_resolution
        if first is not None and last is not None and last > first:
            raise ValueError(f"--final-resolution {last:g} must be finer than --initial-resolution {first:g}")
        return self


OUTPUTS = (
    Output(name="map", file="map_001.mrc", help="the chosen start, symmetry imposed"),
    Output(name="starts", file="start_*.mrc", help="every start as it ended, before the axes were sought"),
)

SECONDS_PER_IMAGE = 1e-3
"""CPU time of an image in a round at 64 pixels (measured)."""


def estimate(params: Params) -> Estimate:
    """What ``algorithms.ab_initio`` plans for the table's particles."""
    from parhelion.algorithms.ab_initio import planned_bytes
    from parhelion.jobs._particles import size_of
    from parhelion.run.memory import available_bytes

    count, box, pixel = size_of(params.input, params.pixel_size)
    per_round = min(params.batch, count)
    shared, per_thread = planned_bytes(count, box, pixel, _settings(params, 0), available_bytes())
    return Estimate(
        memory_bytes=shared,
        per_thread_bytes=per_thread,
        seconds=SECONDS_PER_IMAGE * params.starts * params.rounds * per_round,
        disk_bytes=4 * box**3 * (1 + params.starts),
    )


def run(context: "Context", params: Params) -> Result:
    """Search, write and show."""
    from parhelion.algorithms.ab_initio import ab_initio
    from parhelion.io import mrc
    from parhelion.jobs._particles import first_images, read_with_images
    from parhelion.run.memory import available_bytes

    particles, source = read_with_images(
        params.input, context, contrast=params.contrast, pixel_size=params.pixel_size
    )
    if len(particles) < FEW:
        context.notice(f"{len(particles)} particles are few for a start from nothing: look at the map")
    context.report.gallery(
        first_images(source), [f"particle {i + 1}" for i in range(min(12, len(source)))], "First particles"
    )
    found = ab_initio(
        particles,
        source,
        _settings(params, context.seed),
        executor=context.executor,
        observer=context,
        cancel=context,
        device=context.device,
        available_bytes=available_bytes(),
    )
    for note in (*found.notes, *doubts(found)):
        context.notice(note)
    mrc.write_volume(context.path("map"), found.volume)
    paths = [context.path("starts", f"{i + 1:03d}") for i in range(len(found.starts))]
    for path, start in zip(paths, found.starts):
        mrc.write_volume(path, start.volume)
    show(context, found)
    figures = figures_of(found) | {"particles": len(particles)}
    return Result(figures=figures, outputs={"map": context.path("map"), "starts": paths})


def _settings(params: Params, seed: int) -> "AbInitioSettings":
    from parhelion.algorithms.ab_initio import AbInitioSettings

    return AbInitioSettings(
        diameter_angstrom=params.diameter,
        symmetry=params.symmetry,
        starts=params.starts,
        rounds=params.rounds,
        initial_resolution_angstrom=params.initial_resolution,
        final_resolution_angstrom=params.final_resolution,
        batch=params.batch,
        seed=seed,
    )


def best_rival(found: "AbInitioResult") -> int | None:
    """Number of the start with the next best evidence; None where there was one start only."""
    others = [i for i in range(len(found.starts)) if i != found.chosen]
    return max(others, key=lambda i: found.starts[i].evidence) if others else None


def best_agreement(found: "AbInitioResult") -> float | None:
    """The mean FSC of the chosen start with the start that is most like it."""
    others = [start.agreement for i, start in enumerate(found.starts) if i != found.chosen]
    return max(others) if others else None


def doubts(found: "AbInitioResult") -> list[str]:
    """Why the map may be wrong, in sentences for the user; none where nothing speaks against it."""
    said = []
    rival, agreement = best_rival(found), best_agreement(found)
    if rival is None or agreement is None:
        said.append("a single start cannot be checked against others; --starts 3 makes more")
    elif agreement < AGREE:
        chosen, other = found.starts[found.chosen].evidence, found.starts[rival].evidence
        said.append(
            f"the initial map is doubtful: no other start led to it (mean FSC at most {agreement:.2f}; its "
            f"evidence is {chosen:.3f}, the next best {other:.3f} per particle); look at the map, or use "
            "more --starts or --rounds"
        )
    return said


def figures_of(found: "AbInitioResult") -> dict[str, float | int | str | None]:
    """The key figures; evidence is in nats per particle that the start has not seen."""
    rival = best_rival(found)
    return {
        "chosen_start": found.chosen + 1,
        "evidence": found.starts[found.chosen].evidence,
        "evidence_of_the_next": None if rival is None else found.starts[rival].evidence,
        "agreement": best_agreement(found),
        "symmetry_correlation": found.symmetry_correlation,
        "resolution_limit_angstrom": found.resolution_limit_angstrom,
    }


def show(context: "Context", found: "AbInitioResult") -> None:
    """The chosen map, all starts side by side, and how they came about."""
    from parhelion.report.images import axis_projections

    report = context.report
    title = f"Initial map ({found.symmetry}), to {found.resolution_limit_angstrom:.1f} Å"
    report.surface(found.volume, title)
    report.slices(found.volume, "Central slices")
    report.projections(found.volume, "Projections")
    starts = report.section("All starts")
    starts.text(
        "Evidence is what a particle that the start has not seen gains from its map over pure noise, in "
        "nats; agreement is the mean Fourier shell correlation with the chosen start."
    )
    starts.table(
        [
            (i + 1, start.evidence, start.agreement, "chosen" if i == found.chosen else "")
            for i, start in enumerate(found.starts)
        ],
        heads=("start", "evidence", "agreement", ""),
    )
    for i, start in enumerate(found.starts):
        mark = ", chosen" if i == found.chosen else ""
        starts.gallery(
            axis_projections(start.volume),
            ["along z", "along y", "along x"],
            f"Start {i + 1}{mark}: evidence {start.evidence:.3f}, agreement {start.agreement:.2f}",
        )
    report.history(context.history.get("rounds", []), "Rounds")


JOB = declare(__name__, __doc__, params=Params, run=run, estimate=estimate, outputs=OUTPUTS)
