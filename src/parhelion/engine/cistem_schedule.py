"""The rounds of cisTEM's automatic refinement: one reference, a limit well below its resolution.

A pure state machine like ``engine.schedule``, whose plans it makes. All particles are aligned to one map, so
the two halves have seen each other; the FSC stays honest only where nothing was aligned to, and the limit
therefore stays behind the resolution at FSC = 0.5 by the shells into which the mask carries correlation. Few
particles take part at first, more when they teach nothing new (Grant, Rohou & Grigorieff 2018, eLife 7,
e35383).
"""

import math
from dataclasses import replace

from parhelion.engine.schedule import (
    GROWTH,
    Outcome,
    Plan,
    Progress,
    ScheduleSettings,
    Searched,
    Stop,
    plan_of,
)

LEAST_ROUNDS = 5
REFINED_PER_USED = 3.0
"""Of the particles that are refined a third, the best, goes into the map."""
BETTER_ANGSTROM, STABLE_ANGSTROM = 0.1, 0.001
FINEST_GRID_ANGSTROM = 8.0
FINEST_STEP_DEG = 15.0
"""Images are searched to a dozen cycles per diameter at most (``schedule.SEARCH_CYCLES``), for which least
squares reach every pose from such a grid: a finer one finds the same poses at a higher price."""
SCORED_ANGSTROM, USUAL_SCORE_WEIGHT = 8.0, 2.0
STABLE = "Resolution is stable – Auto refine is stopping"


def first_share(resolution_angstrom: float, particles: int, operators: int, classes: int = 1) -> float:
    """The share of the particles whose best are used first: ``80 exp(75/d²) K / (N · asymmetric units)``."""
    wanted = 80.0 * math.exp(75.0 / resolution_angstrom**2) * classes / (particles * operators)
    return min(1.0, wanted)


def angular_step(limit_angstrom: float, radius_angstrom: float) -> float:
    """The step in degrees of a search up to this limit: ``2 · max(limit, 8 Å) / radius``, at least 15°.

    It divides the half circle, so that the grid has the half turns that the search makes use of.
    """
    step_deg = math.degrees(2 * max(limit_angstrom, FINEST_GRID_ANGSTROM) / radius_angstrom)
    return 180.0 / math.ceil(180.0 / max(step_deg, FINEST_STEP_DEG) - 1e-9)


def map_shell(settings: ScheduleSettings, limit: float) -> float | None:
    """Maps of a round go a tenth of the box further than its alignment; None where that is everywhere."""
    shell = limit + _box(settings) / 10.0
    return None if shell >= settings.max_shell else shell


def bleeding_shells(settings: ScheduleSettings) -> int:
    """How many shells a mask of 0.65 diameters carries correlation outwards."""
    return math.ceil(settings.extent_angstrom / (0.65 * settings.diameter_angstrom)) + 1


def _box(settings: ScheduleSettings) -> int:
    return settings.box or 2 * (settings.max_shell + 1)


def first_plan(settings: ScheduleSettings) -> Plan:
    """Everywhere, at the starting map's resolution, with the share of the settings."""
    limit = min(settings.extent_angstrom / settings.initial_resolution_angstrom, settings.max_shell)
    share = settings.share if settings.most_rounds > 1 else 1.0
    plan = _plan(settings, 0, limit, share, searched="all", search=settings.search)
    return plan if settings.most_rounds > 1 else replace(plan, map_shell=None)


def next_plan(
    settings: ScheduleSettings, plan: Plan, outcome: Outcome, progress: Progress
) -> tuple[Plan | Stop, Progress]:
    """The round after ``plan``, or the end after a last round with all particles."""
    extent, number = settings.extent_angstrom, plan.round + 1
    resolved, best = max(outcome.half_shell, 1.0), max(progress.best_shell, 1.0)
    gain = extent / best - extent / resolved
    progress = replace(
        progress,
        best_shell=max(best, resolved),
        stale=0 if gain > STABLE_ANGSTROM else progress.stale + 1,
        searches=progress.searches + plan.search,
        local_rounds=progress.local_rounds + (not plan.search),
    )
    if progress.final:
        return Stop(reason=STABLE), progress
    if number >= settings.most_rounds:
        return Stop(reason=f"{number} rounds, the most allowed"), progress
    used = plan.share * plan.best
    if gain <= BETTER_ANGSTROM:
        used = min(1.0, GROWTH * used)
    limit = max(plan.refine_shell, _next_limit(settings, plan, resolved))
    # only after this round's own share was everything may its resolution be called stable
    stable = number >= LEAST_ROUNDS and plan.share >= 1 and progress.stale >= 2
    if stable or number == settings.most_rounds - 1:
        progress = replace(progress, final=stable)
        search = settings.search and plan.share < 1
        return replace(
            _plan(settings, number, limit, 1.0, searched="new", search=search), map_shell=None
        ), progress
    return _plan(settings, number, limit, used, searched="chance", search=settings.search), progress


def _next_limit(settings: ScheduleSettings, plan: Plan, resolved: float) -> float:
    """A fifteenth of the box further at most, and behind the resolution by what the mask carries."""
    shells = _box(settings) / 15.0
    behind = resolved - bleeding_shells(settings)
    return min(plan.refine_shell + shells, behind, settings.max_shell)


def _plan(
    settings: ScheduleSettings, number: int, limit: float, used: float, *, searched: Searched, search: bool
) -> Plan:
    """``used`` of the particles go into the map; ``searched`` of them if ``search`` says so."""
    share = min(1.0, REFINED_PER_USED * used)
    plan = plan_of(settings, number, search, limit, settings.shift_angstrom, share)
    best = min(settings.best, used / share)
    return replace(
        plan,
        grid_step_deg=angular_step(settings.extent_angstrom / limit, settings.diameter_angstrom / 2),
        best=best,
        searched=searched,
        score_weight=_score_weight(settings, limit),
        map_shell=map_shell(settings, limit),
    )


def _score_weight(settings: ScheduleSettings, limit: float) -> float:
    """As asked for; otherwise 2 Å² once the limit is finer than 8 Å."""
    if settings.score_weight is not None:
        return settings.score_weight
    return USUAL_SCORE_WEIGHT if settings.extent_angstrom / limit < SCORED_ANGSTROM else 0.0
