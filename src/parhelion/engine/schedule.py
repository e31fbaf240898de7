"""When a refinement searches everywhere, to which resolution it looks, and when it stops.

A pure state machine: plans in, outcomes in, plans out. It knows numbers of shells, never a tensor, and
is tested without running a refinement.
"""

from dataclasses import dataclass, replace
from typing import Literal

# Cycles per particle diameter up to which the exhaustive search looks. A 15° grid leaves 7.5° at most to the
# nearest node, which blurs what is compared beyond some ten cycles; Gauss-Newton does the rest. On fresh
# stacks twelve found the right basin for 98 % of apoferritin's particles where nine found 95 %, fifteen no
# more, and nothing got worse.
SEARCH_CYCLES = 12.0
GROWTH = 1.5
"""By how much the share of the particles grows when the resolution does not improve."""

Searched = Literal["all", "chance", "new"]


@dataclass(frozen=True, kw_only=True)
class ScheduleSettings:
    """Limits of a run. Shells count 1/extent; ``max_shell`` is the highest the data, or the user, allow in a
    ``box`` of so many pixels (None: one that ends there).

    ``extent_angstrom`` is box times pixel size, ``shift_angstrom`` the radius of the first shift search.
    ``share`` of the particles take part in the first rounds, ``best`` of those, the ones that fit best, go
    into the maps; ``score_weight`` is Plan's, None where the scheme says it. ``scheme`` is
    "gold" or "cistem" (``cistem_schedule``).
    """

    extent_angstrom: float
    diameter_angstrom: float
    initial_resolution_angstrom: float
    max_shell: int
    shift_angstrom: float
    grid_step_deg: float = 15.0
    least_searches: int = 4
    most_searches: int = 8
    most_rounds: int = 25
    settled_angle_deg: float = 0.5
    search: bool = True
    share: float = 1.0
    best: float = 1.0
    score_weight: float | None = None
    scheme: str = "gold"
    box: int | None = None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What one round does. Resolution limits are in shells, shifts in Å.

    ``share`` of the particles are looked at, ``best`` of these go into the maps. A round that searches does
    so for all of them, for some by ``chance`` (``cistem_searches``), or for the ``new`` ones alone, those
    without a pose; the others are refined from where they are. ``score_weight`` (Å²) makes fine detail of
    particles that fit well count more (``score_weights``). Maps are made up to ``map_shell``, None for all
    there is.
    """

    round: int
    search: bool
    grid_step_deg: float
    search_shell: float
    refine_shell: float
    shift_radius_angstrom: float
    shift_step_angstrom: float
    share: float = 1.0
    best: float = 1.0
    searched: Searched = "all"
    score_weight: float = 0.0
    map_shell: float | None = None

    @property
    def twice(self) -> bool:
        """Whether all scores must be known before the first particle goes into a map."""
        return self.best < 1 or self.score_weight > 0


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a round showed: FSC = 0.143 and 0.5 in shells, and how far the best poses moved.

    ``moved_deg`` is the median angle between a particle's best pose before and after, ``jumped`` the
    share of particles that moved by more than 10°.
    """

    resolved_shell: float
    moved_deg: float
    jumped: float
    half_shell: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Progress:
    """The machine's memory: rounds since the resolution last improved, and the best so far."""

    best_shell: float = 0.0
    stale: int = 0
    searches: int = 0
    local_rounds: int = 0
    final: bool = False


@dataclass(frozen=True, kw_only=True)
class Stop:
    """The run is over, and why."""

    reason: str


def first_plan(settings: ScheduleSettings) -> Plan:
    """The first round: everywhere, at the starting map's resolution."""
    limit = min(settings.extent_angstrom / settings.initial_resolution_angstrom, settings.max_shell)
    share = settings.share if settings.most_rounds > 1 else 1.0
    return plan_of(settings, 0, settings.search, limit, settings.shift_angstrom, share)


def next_plan(
    settings: ScheduleSettings, plan: Plan, outcome: Outcome, progress: Progress
) -> tuple[Plan | Stop, Progress]:
    """The round after ``plan``, or the end.

    The search goes on while it still finds better poses or resolution; then poses are only refined from
    where they are, until neither resolution nor poses move.
    """
    improved = outcome.resolved_shell >= progress.best_shell + 1
    progress = replace(
        progress,
        best_shell=max(progress.best_shell, outcome.resolved_shell),
        stale=0 if improved else progress.stale + 1,
        searches=progress.searches + plan.search,
        local_rounds=progress.local_rounds + (not plan.search),
    )
    number = plan.round + 1
    if number >= settings.most_rounds:
        return Stop(reason=f"{number} rounds, the most allowed"), progress
    everything = plan.share >= 1
    settled = progress.stale >= 2 and outcome.moved_deg < settings.settled_angle_deg
    if progress.local_rounds and everything and settled:
        reason = (
            f"no better resolution in {progress.stale} rounds and poses moved by {outcome.moved_deg:.2f}°"
        )
        return Stop(reason=reason), progress
    search = plan.search and (progress.searches < settings.most_searches or plan.share < 1)
    if search and progress.searches >= settings.least_searches:
        # a particle that no search has seen has no pose to refine
        search = improved or outcome.jumped > 0.05 or plan.share < 1
    limit = min(outcome.resolved_shell + max(3.0, 0.1 * outcome.resolved_shell), settings.max_shell)
    radius = max(settings.shift_angstrom * 0.6, 1.5 * plan.shift_step_angstrom)
    # more particles once these teach nothing new; rounds without a search look at all of them
    share = 1.0 if not search else plan.share if improved else min(1.0, GROWTH * plan.share)
    if number == settings.most_rounds - 1:
        share = 1.0  # no particle may be left without a pose
    return plan_of(settings, number, search, max(limit, 4.0), radius, share), progress


def plan_of(
    settings: ScheduleSettings, number: int, search: bool, limit: float, radius: float, share: float = 1.0
) -> Plan:
    """Round ``number`` up to shell ``limit``, its search no further than the particle's size allows."""
    cap = SEARCH_CYCLES * settings.extent_angstrom / settings.diameter_angstrom
    search_shell = min(limit, cap)
    return Plan(
        round=number,
        search=search,
        grid_step_deg=settings.grid_step_deg,
        search_shell=search_shell,
        refine_shell=limit,
        shift_radius_angstrom=radius,
        # 0.4 of the resolution: what lies between two nodes is within reach of the refinement.
        shift_step_angstrom=0.4 * settings.extent_angstrom / search_shell,
        share=share,
        best=settings.best,
        score_weight=settings.score_weight or 0.0,
    )
