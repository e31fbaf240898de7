"""The schedule is a pure state machine: tables of outcomes in, plans out."""

import subprocess
import sys
from dataclasses import replace

import pytest

from parhelion.engine.schedule import (
    SEARCH_CYCLES,
    Outcome,
    Plan,
    Progress,
    ScheduleSettings,
    Stop,
    first_plan,
    next_plan,
)

SETTINGS = ScheduleSettings(
    extent_angstrom=192.0,
    diameter_angstrom=130.0,
    initial_resolution_angstrom=40.0,
    max_shell=30,
    shift_angstrom=20.0,
)


def follow(settings: ScheduleSettings, outcomes: list[Outcome]) -> list[Plan | Stop]:
    plan, progress = first_plan(settings), Progress()
    found: list[Plan | Stop] = [plan]
    for outcome in outcomes:
        decision, progress = next_plan(settings, plan, outcome, progress)
        found.append(decision)
        if isinstance(decision, Stop):
            break
        plan = decision
    return found


def outcome(shell: float, moved: float = 5.0, jumped: float = 0.3) -> Outcome:
    return Outcome(resolved_shell=shell, moved_deg=moved, jumped=jumped)


def test_it_knows_nothing_of_torch() -> None:
    code = "import sys, parhelion.engine.schedule; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_first_round_looks_at_the_starting_resolution() -> None:
    plan = first_plan(SETTINGS)
    assert plan.search
    assert plan.round == 0
    assert plan.search_shell == plan.refine_shell == pytest.approx(192 / 40)
    assert plan.shift_radius_angstrom == 20
    assert plan.shift_step_angstrom == pytest.approx(0.4 * 40)


def test_the_search_is_capped_by_the_particles_size() -> None:
    plans = follow(SETTINGS, [outcome(25)])
    assert plans[1].search_shell == pytest.approx(SEARCH_CYCLES * 192 / 130)
    assert plans[1].refine_shell == pytest.approx(28)


@pytest.mark.parametrize(
    ("resolved", "expected"), [(8.0, 11.0), (20.0, 23.0), (29.0, 30.0), (0.5, 4.0), (30.0, 30.0)]
)
def test_the_limit_is_a_little_beyond_the_resolution(resolved, expected) -> None:
    assert follow(SETTINGS, [outcome(resolved)])[1].refine_shell == expected


@pytest.mark.parametrize(
    ("outcomes", "searches"),
    [
        # settled at once: the least number of searches, then local rounds
        ([outcome(17, 0.4, 0.0)] * 6, [True, True, True, True, False]),
        # poses still jump: the search goes on, to the most allowed
        ([outcome(17, 5.0, 0.3)] * 9, [True] * 8 + [False, False]),
        # resolution still improves: the search goes on without jumps
        (
            [outcome(s, 0.4, 0.0) for s in (10, 12, 14, 16, 18, 18, 18, 18)],
            [True, True, True, True, True, True, False],
        ),
    ],
)
def test_when_it_searches(outcomes, searches) -> None:
    plans = follow(SETTINGS, outcomes)
    assert [p.search for p in plans if isinstance(p, Plan)][: len(searches)] == searches


def test_it_stops_when_neither_resolution_nor_poses_move() -> None:
    plans = follow(SETTINGS, [outcome(17, 0.4, 0.0)] * 30)
    assert isinstance(plans[-1], Stop)
    assert "no better resolution" in plans[-1].reason
    assert len(plans) - 1 == SETTINGS.least_searches + 1


def test_it_does_not_stop_while_poses_move() -> None:
    plans = follow(SETTINGS, [outcome(17, 2.0, 0.0)] * 40)
    assert "25 rounds" in plans[-1].reason
    assert len(plans) - 1 == 25


def test_local_runs_never_search() -> None:
    plans = follow(replace(SETTINGS, search=False), [outcome(s, 0.2, 0.0) for s in (15, 20, 22, 22, 22, 22)])
    assert not any(p.search for p in plans if isinstance(p, Plan))
    assert isinstance(plans[-1], Stop)


def test_rounds_are_limited() -> None:
    plans = follow(replace(SETTINGS, most_rounds=1), [outcome(10)])
    assert isinstance(plans[1], Stop)
    assert "most allowed" in plans[1].reason


@pytest.mark.parametrize("most", [1, 2, 3])
def test_the_last_round_allowed_looks_at_all_particles(most) -> None:
    """Particles that no round has looked at would have no pose."""
    plans = follow(replace(SETTINGS, most_rounds=most, share=0.1), [outcome(10), outcome(14), outcome(18)])
    assert isinstance(plans[-1], Stop) and len(plans) == most + 1
    assert [p.share for p in plans[:-1]] == [0.1] * (most - 1) + [1.0]
    assert plans[-2].search


def test_a_share_grows_and_everything_is_searched_before_the_search_ends() -> None:
    plans = follow(replace(SETTINGS, share=0.1, best=0.8), [outcome(17, 0.4, 0.0)] * 30)
    rounds = [p for p in plans if isinstance(p, Plan)]
    shares = [p.share for p in rounds]
    # the first resolution is an improvement, later ones are not
    assert shares[:3] == pytest.approx([0.1, 0.1, 0.15])
    assert shares == sorted(shares)
    first_local = next(p for p in rounds if not p.search)
    assert rounds[first_local.round - 1].share == 1
    assert all(p.share == 1 for p in rounds[first_local.round :])
    assert all(p.best == 0.8 for p in rounds)
    assert isinstance(plans[-1], Stop)
