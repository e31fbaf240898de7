"""cisTEM's scheme is a pure state machine: outcomes in, plans out."""

import math
from dataclasses import replace

import pytest

from parhelion.engine import cistem_schedule as rules
from parhelion.engine.schedule import Outcome, Plan, Progress, ScheduleSettings, Stop
from parhelion.engine.schedule import first_plan as gold_first_plan

SETTINGS = ScheduleSettings(
    extent_angstrom=192.0,
    diameter_angstrom=130.0,
    initial_resolution_angstrom=30.0,
    max_shell=31,
    shift_angstrom=20.0,
    share=0.05,
    scheme="cistem",
)


def outcome(shell: float) -> Outcome:
    return Outcome(resolved_shell=int(shell) + 1, half_shell=shell, moved_deg=3.0, jumped=0.2)


def follow(settings: ScheduleSettings, shells: list[float]) -> list[Plan | Stop]:
    plan, progress = rules.first_plan(settings), Progress()
    found: list[Plan | Stop] = [plan]
    for shell in shells:
        decision, progress = rules.next_plan(settings, plan, outcome(shell), progress)
        found.append(decision)
        if isinstance(decision, Stop):
            break
        plan = decision
    return found


def test_the_first_share() -> None:
    """8000 exp(75/res²) K / (N · asymmetric units) percent."""
    assert rules.first_share(20.0, 100_000, 2, 3) == pytest.approx(80 * math.exp(75 / 400) * 3 / 2e5)
    assert rules.first_share(20.0, 60, 1) == 1.0


def test_three_times_as_many_are_refined_as_used() -> None:
    plan = rules.first_plan(SETTINGS)
    assert plan.share == pytest.approx(0.15)
    assert plan.share * plan.best == pytest.approx(0.05)
    many = rules.first_plan(replace(SETTINGS, share=0.6))
    assert many.share == 1
    assert many.best == pytest.approx(0.6)


def test_everything_is_searched_first_and_less_as_the_limit_gets_finer() -> None:
    plans = [p for p in follow(SETTINGS, [14.0, 16.0, 18.0]) if isinstance(p, Plan)]
    assert plans[0].searched == 1
    limits = [192 / p.refine_shell for p in plans]
    assert [p.searched for p in plans[1:]] == pytest.approx([limit**2 / 1000 for limit in limits[1:]])
    fine = replace(SETTINGS, extent_angstrom=96.0, initial_resolution_angstrom=3.5)
    assert follow(fine, [31.0])[1].searched == 0


def test_the_limit_stays_behind_and_is_never_coarser() -> None:
    behind = rules.bleeding_shells(SETTINGS)
    assert behind == math.ceil(192 / (0.65 * 130)) + 1
    plans = [p for p in follow(SETTINGS, [12.0, 9.0, 30.0]) if isinstance(p, Plan)]
    first = 192 / 30
    assert plans[1].refine_shell == pytest.approx(min(first + 64 / 15, 12 - behind))
    assert plans[2].refine_shell == plans[1].refine_shell
    assert plans[3].refine_shell == pytest.approx(plans[2].refine_shell + 64 / 15)


@pytest.mark.parametrize(("limit", "radius", "order"), [(40, 60, 1), (20, 100, 2), (3, 20, 1), (3, 60, 2)])
def test_the_grid_follows_the_limit(limit, radius, order) -> None:
    assert rules.grid_order(limit, radius) == order


def test_more_particles_when_the_resolution_stands() -> None:
    plans = [p for p in follow(SETTINGS, [12.0, 12.0, 14.0]) if isinstance(p, Plan)]
    used = [p.share * p.best for p in plans]
    assert used == pytest.approx([0.05, 0.05, 0.075, 0.075])


def test_it_stops_after_a_last_round_with_all_particles() -> None:
    plans = follow(SETTINGS, [12.0] * 40)
    stop, last = plans[-1], plans[-2]
    assert isinstance(stop, Stop)
    assert stop.reason == "Resolution is stable – Auto refine is stopping"
    assert last.share == last.best == 1
    assert not last.search
    short = follow(replace(SETTINGS, most_rounds=3), [12.0] * 9)
    assert len(short) == 4
    assert short[2].share == 1
    assert short[2].search  # some have no pose yet
    assert short[2].searched == 0
    assert "most allowed" in short[3].reason
    (only, _) = follow(replace(SETTINGS, most_rounds=1), [12.0])
    assert only.share == 1 and only.search


def test_scores_weigh_once_the_limit_is_fine() -> None:
    coarse = rules.first_plan(SETTINGS)
    fine = rules.first_plan(replace(SETTINGS, initial_resolution_angstrom=7.5))
    assert (coarse.score_weight, fine.score_weight) == (0, 2)
    asked = replace(SETTINGS, score_weight=1.5)
    assert rules.first_plan(asked).score_weight == 1.5
    assert (
        rules.first_plan(replace(asked, score_weight=0.0, initial_resolution_angstrom=7.5)).score_weight == 0
    )
    assert gold_first_plan(replace(asked, scheme="gold")).score_weight == 1.5
    assert gold_first_plan(replace(SETTINGS, scheme="gold")).score_weight == 0
