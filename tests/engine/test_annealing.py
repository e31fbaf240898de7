"""The temperature rule: pure numbers in, pure numbers out."""

import pytest

from parhelion.engine.annealing import ANNEALED, COLDEST, FIRST_NATS, HOTTEST, LAST_NATS, Annealing


def test_targets_rise_from_first_to_last():
    assert Annealing(rounds=30).target_nats == FIRST_NATS
    assert Annealing(rounds=30, done=29).target_nats == pytest.approx(LAST_NATS)


def test_too_much_information_warms_and_too_little_cools():
    state = Annealing(rounds=30)
    assert state.after(FIRST_NATS + 1).temperature > 1 > state.after(FIRST_NATS - 1).temperature
    assert state.after(FIRST_NATS).temperature == pytest.approx(1.0)


def test_temperature_stays_in_bounds_whatever_is_told():
    for told, bound in ((1e9, HOTTEST), (-1e9, COLDEST)):
        state = Annealing(rounds=1000)
        for _ in range(100):
            state = state.after(told)
        assert state.temperature == bound


def test_the_end_is_the_likelihood_as_it_is():
    state = Annealing(rounds=40, done=int(ANNEALED * 40), temperature=20.0)
    while state.done < 40:
        state = state.after(0.0)
    assert state.temperature == 1.0


def test_one_round_is_no_division_by_zero():
    assert Annealing(rounds=1).progress == 0.0
