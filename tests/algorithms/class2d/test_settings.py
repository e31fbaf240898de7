"""The schedules of resolution and of percentages, as cisTEM states them."""

import numpy as np
import pytest

from parhelion.algorithms.class2d.settings import (
    Class2dSettings,
    check_classes,
    chosen_rows,
    classes_for,
    plan,
)
from parhelion.errors import ParameterError


def plans(cycles: int, count: int, classes: int, **options):
    settings = Class2dSettings(diameter_angstrom=100.0, cycles=cycles, **options)
    return [plan(settings, cycle, count, classes) for cycle in range(cycles)]


def test_the_limit_falls_linearly_and_arrives_at_three_quarters() -> None:
    limits = [p.limit_angstrom for p in plans(20, 1000, 5)]
    np.testing.assert_allclose(limits[:16], np.linspace(40, 8, 16))
    assert limits[15:] == [8.0] * 5
    short = plans(2, 1000, 5, initial_resolution_angstrom=30.0, final_resolution_angstrom=10.0)
    assert [p.limit_angstrom for p in short] == [30.0, 10.0]
    assert [p.limit_angstrom for p in plans(1, 1000, 5)] == [40.0]


@pytest.mark.parametrize(
    ("cycles", "expected"),
    [
        (9, [1.0] * 9),
        (12, [0.15] * 5 + [0.3] * 2 + [1.0] * 5),
        (20, [0.15] * 10 + [0.3] * 5 + [1.0] * 5),
        (30, [0.15] * 15 + [0.3] * 10 + [1.0] * 5),
    ],
)
def test_percentages_grow_from_300_per_class_to_all(cycles, expected) -> None:
    np.testing.assert_allclose([p.share for p in plans(cycles, 100_000, 50)], expected)


def test_few_particles_are_all_used_and_a_given_percentage_holds() -> None:
    assert {p.share for p in plans(25, 2374, 50)} == {1.0}
    assert {p.share for p in plans(25, 100_000, 50, percent=20.0)} == {0.2}


def test_no_less_is_taken_than_the_input_classification_took() -> None:
    shares = [p.share for p in plans(20, 100_000, 50, least_percent=25.0)]
    np.testing.assert_allclose(shares, [0.25] * 10 + [0.3] * 5 + [1.0] * 5)
    assert {p.share for p in plans(20, 100_000, 50, least_percent=100.0)} == {1.0}
    assert {p.share for p in plans(20, 100_000, 50, least_percent=25.0, percent=10.0)} == {0.1}


def test_the_published_worked_example() -> None:
    """VSV polymerase, 84,608 particles in 50 classes: 0.18 of them at first, five cycles of all at 7 Å."""
    found = plans(20, 84_608, 50, final_resolution_angstrom=7.0)
    np.testing.assert_allclose([p.share for p in found[:10]], 0.18, atol=0.005)
    last = [(p.limit_angstrom, p.share) for p in found if p.limit_angstrom == 7.0]
    assert last == [(7.0, 1.0)] * 5


@pytest.mark.parametrize(
    ("count", "classes"), [(100, 5), (3000, 10), (6000, 20), (12_000, 40), (15_000, 50), (10**6, 50)]
)
def test_the_number_of_classes_follows_the_particles(count, classes) -> None:
    assert classes_for(count) == classes


def test_fewer_particles_than_classes_is_refused_with_advice() -> None:
    with pytest.raises(ParameterError, match=r"9 particles are too few for 5 classes.*at most 4"):
        check_classes(9, 5)
    check_classes(10, 5)


def test_a_share_is_drawn_without_repetition() -> None:
    rows = np.arange(100, 200)
    drawn = chosen_rows(rows, 0.25, np.random.default_rng(1))
    assert len(np.unique(drawn)) == 25
    assert np.isin(drawn, rows).all()
    np.testing.assert_array_equal(chosen_rows(rows, 1.0, np.random.default_rng(1)), rows)


def test_lengths_come_from_the_diameter_unless_given() -> None:
    settings = Class2dSettings(diameter_angstrom=100.0)
    assert (settings.mask_radius, settings.shift_range) == (60.0, 20.0)
    given = Class2dSettings(diameter_angstrom=100.0, mask_radius_angstrom=70.0, shift_range_angstrom=0.0)
    assert (given.mask_radius, given.shift_range) == (70.0, 0.0)
