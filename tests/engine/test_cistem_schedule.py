"""cisTEM's scheme is a pure state machine: outcomes in, plans out."""

import math
from dataclasses import replace

import numpy as np
import pytest

from parhelion.engine import cistem_schedule as rules
from parhelion.engine.cistem_searches import Searches, chances, drawn
from parhelion.engine.schedule import Outcome, Plan, Progress, ScheduleSettings, Stop
from parhelion.engine.schedule import first_plan as gold_first_plan
from parhelion.geometry.so3 import so3_grid

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


def test_everything_is_searched_first_then_some_by_chance_and_the_rest_at_last() -> None:
    plans = [p for p in follow(replace(SETTINGS, most_rounds=4), [14.0, 16.0, 18.0]) if isinstance(p, Plan)]
    assert [p.searched for p in plans] == ["all", "chance", "chance", "new"]
    assert not any(p.search for p in follow(replace(SETTINGS, search=False), [14.0, 16.0]))


def test_the_chance_of_a_search_falls_with_every_search() -> None:
    """d² (d' - d) / (1000 max(1, (n - floor(r / 3))²)), never finer than 4 Å, never after a search to 5 Å."""
    past = Searches(
        number=np.array([1, 3, 3, 1, 1]),
        since=np.array([1, 1, 4, 1, 1]),
        limit_angstrom=np.array([20.0, 20.0, 20.0, 11.0, 5.0]),
    )
    first = 9**2 * 11 / 1000
    np.testing.assert_allclose(chances(past, 9.0), [first, first / 9, first / 4, 9**2 * 2 / 1000, 0.0])
    assert not chances(past, 3.9).any()
    assert (chances(past, 4.1) > 0).tolist() == [True, True, True, True, False]


def test_a_good_map_is_shown_once_to_particles_that_were_searched_for_coarsely() -> None:
    past = Searches(
        number=np.array([9, 9, 9]), since=np.array([1, 0, 1]), limit_angstrom=np.array([20.0, 20.0, 8.5])
    )
    row = {"resolution_angstrom": 4.9, "used_share": 1.0}
    never = np.ones(3)
    assert drawn(past, 7.0, (row,) * 3, never).tolist() == [True, False, False]  # the second was just there
    for other in ({"resolution_angstrom": 5.1}, {"used_share": 0.5}):
        assert not drawn(past, 7.0, ({**row, **other},) * 3, never).any()
    assert not drawn(past, 8.1, (row,) * 3, never).any()
    assert not drawn(past, 7.0, (row,) * 2, never).any()
    assert drawn(past, 7.0, (row,) * 2, np.zeros(3)).tolist() == [True, False, True]


def test_what_particles_remember_of_searches() -> None:
    past = Searches.none(2).after(np.array([True, False]), 20.0).after(np.array([False, True]), 15.0)
    assert past.number.tolist() == [1, 1]
    assert past.since.tolist() == [1, 0]
    assert past.limit_angstrom.tolist() == [20.0, 15.0]


def test_the_limit_stays_behind_and_is_never_coarser() -> None:
    behind = rules.bleeding_shells(SETTINGS)
    assert behind == math.ceil(192 / (0.65 * 130)) + 1
    plans = [p for p in follow(SETTINGS, [12.0, 9.0, 30.0]) if isinstance(p, Plan)]
    first = 192 / 30
    assert plans[1].refine_shell == pytest.approx(min(first + 64 / 15, 12 - behind))
    assert plans[2].refine_shell == plans[1].refine_shell
    assert plans[3].refine_shell == pytest.approx(plans[2].refine_shell + 64 / 15)


@pytest.mark.parametrize(("limit", "radius"), [(40, 60), (20, 60), (20, 100), (9, 30), (3, 30)])
def test_the_grid_follows_the_limit(limit, radius) -> None:
    """deg(2 max(limit, 8 Å) / radius), or what is next below it and divides the half circle."""
    asked, step = math.degrees(2 * max(limit, 8) / radius), rules.angular_step(limit, radius)
    assert 0.75 * asked < step <= asked
    assert 180 / step == pytest.approx(round(180 / step))
    assert len(so3_grid(step_deg=step)) % 2 == 0


def test_no_grid_is_finer_than_least_squares_need() -> None:
    assert rules.angular_step(8.0, 130.0) == 15


def test_maps_go_a_tenth_of_the_box_beyond_the_limit() -> None:
    """Of a box of 64 pixels: 6.4 shells; the last round's maps have all there is."""
    plans = [p for p in follow(replace(SETTINGS, most_rounds=3), [9.0, 10.0]) if isinstance(p, Plan)]
    assert [p.map_shell for p in plans] == [pytest.approx(p.refine_shell + 6.4) for p in plans[:2]] + [None]
    assert rules.map_shell(SETTINGS, 25.0) is None
    # a limit of the user's does not make the box smaller
    limited = replace(SETTINGS, max_shell=20, box=64)
    assert rules.map_shell(limited, 10.0) == pytest.approx(16.4)
    plans = [p for p in follow(limited, [19.0, 19.0]) if isinstance(p, Plan)]
    assert plans[1].refine_shell == pytest.approx(plans[0].refine_shell + 64 / 15)
    assert rules.first_plan(replace(SETTINGS, most_rounds=1)).map_shell is None


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
    assert short[2].searched == "new"
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
