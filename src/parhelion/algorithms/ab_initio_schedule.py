"""How an ab-initio start goes from coarse to fine: pure rules for resolution, particles and angles.

The limit rises evenly in shells, so that each round adds about as much as the one before; cisTEM's schedule,
which falls back to the first limit time and again, is there for those who want it.
"""

import math
from dataclasses import dataclass

from parhelion.algorithms.ab_initio_settings import AbInitioSettings
from parhelion.engine.annealing import Annealing
from parhelion.errors import ParameterError

FIRST_CYCLES, LAST_CYCLES = 4.5, 9.0
# Particles of the first round, growing to the batch size.
FIRST_BATCH = 300
# cisTEM goes back to the first limit in two of every so many cycles, until this share of them.
RESETS, RESETS_END = 10, 0.65
# No coarser a grid; where detail is finer than usual, the step follows it.
COARSEST_STEP_DEG, STEP_OF_DETAIL = 15.0, 1.2


@dataclass(frozen=True, kw_only=True)
class RoundPlan:
    """One round: resolution ``limit`` in shells, how many particles make the map, and of how many the best.

    ``temperature`` is what log-likelihoods are divided by, 0 for the best pose alone; ``progress`` goes from
    0 to 1.
    """

    limit: float
    particles: int
    looked_at: int
    temperature: float
    step_deg: float
    progress: float


def shell_limits(settings: AbInitioSettings, extent_angstrom: float, highest: int) -> tuple[float, float]:
    """First and last resolution limit in shells; ParameterError where they make no sense."""
    diameter = settings.diameter_angstrom
    first = extent_angstrom / (settings.initial_resolution_angstrom or diameter / FIRST_CYCLES)
    last = extent_angstrom / (settings.final_resolution_angstrom or diameter / LAST_CYCLES)
    first, last = min(first, highest), min(last, highest)
    if first < 2 or last < first:
        raise ParameterError(
            f"the resolution limits go from {extent_angstrom / first:.0f} Å to "
            f"{extent_angstrom / last:.0f} Å; the last must be finer than "
            "the first, and the first finer than half of the box"
        )
    return first, last


def resets(done: int, rounds: int) -> bool:
    """Whether round ``done`` of ``rounds`` goes back to the first limit, as in cisTEM."""
    period = max(round(rounds / RESETS), 1)
    return done <= RESETS_END * rounds and done % period <= 1


def round_plan(
    settings: AbInitioSettings,
    annealing: Annealing,
    *,
    limits: tuple[float, float],
    extent_angstrom: float,
    available: int,
    operators: int,
) -> RoundPlan:
    """The next round; ``limits`` in shells, ``available`` particles, ``operators`` of the symmetry."""
    progress = annealing.progress
    first, last = limits
    limit = first + (last - first) * progress
    if settings.schedule == "resets" and resets(annealing.done, annealing.rounds):
        limit = first
    wanted = wanted_particles(settings, progress, available, operators)
    best = settings.best_percent / 100
    particles = max(1, min(wanted, math.floor(available * best)))
    return RoundPlan(
        limit=limit,
        particles=particles,
        looked_at=min(available, math.ceil(particles / best)),
        temperature=annealing.temperature / settings.smoothing if settings.blurring else 0.0,
        step_deg=settings.angular_step_deg or step_for(settings.diameter_angstrom, extent_angstrom / limit),
        progress=progress,
    )


def wanted_particles(settings: AbInitioSettings, progress: float, available: int, operators: int) -> int:
    """How many particles make the maps of a round."""
    if settings.percent is not None:
        first, last = (available * share / 100 for share in settings.percent)
    elif settings.asymmetric_units is not None:
        first, last = (settings.classes * units / operators for units in settings.asymmetric_units)
    else:
        first = settings.classes * FIRST_BATCH
        last = settings.classes * max(settings.batch, FIRST_BATCH)
    return max(1, round(first + (last - first) * progress))


def step_for(diameter_angstrom: float, resolution_angstrom: float) -> float:
    """Angular step in degrees that follows ``resolution_angstrom`` at the particle's rim, at most 15."""
    return min(COARSEST_STEP_DEG, STEP_OF_DETAIL * math.degrees(2 * resolution_angstrom / diameter_angstrom))
