"""Rules of an ab-initio start: resolution, how many particles, angles."""

from dataclasses import replace

import pytest
import torch

from parhelion.algorithms.ab_initio_courses import inverted
from parhelion.algorithms.ab_initio_plan import SHIFT_STEP, orientations, planned_bytes, shift_count
from parhelion.algorithms.ab_initio_schedule import resets, round_plan, step_for
from parhelion.algorithms.ab_initio_settings import AbInitioSettings
from parhelion.engine.annealing import Annealing
from parhelion.engine.search import shift_grid
from parhelion.errors import ParameterError
from parhelion.geometry.so3 import so3_grid
from parhelion.images.masks import radius_grid

SETTINGS = AbInitioSettings(diameter_angstrom=150.0, rounds=40)


def plan(settings: AbInitioSettings, done: int, available: int = 100_000, operators: int = 1):
    return round_plan(
        settings,
        Annealing(rounds=settings.rounds, done=done),
        limits=(5.0, 15.0),
        extent_angstrom=300.0,
        available=available,
        operators=operators,
    )


def test_the_limit_rises_evenly_and_particles_with_it():
    limits = [plan(SETTINGS, done).limit for done in range(40)]
    assert (limits[0], limits[-1]) == (5.0, 15.0)
    assert limits == sorted(limits)
    assert [plan(SETTINGS, done).particles for done in (0, 39)] == [300, 1000]
    assert plan(replace(SETTINGS, classes=3), 39).particles == 3000


def test_resets_go_back_to_the_first_limit_in_two_of_every_ten_parts():
    """cisTEM: cycle mod round(N/10) <= 1 while cycle <= 0.65 N; 40 cycles give pairs of four."""
    settings = replace(SETTINGS, schedule="resets")
    back = [done for done in range(40) if plan(settings, done).limit == 5.0]
    assert back == [d for d in range(27) if d % 4 <= 1]
    assert plan(settings, 39).limit == 15.0
    assert plan(settings, 2).limit == plan(SETTINGS, 2).limit
    assert not resets(27, 40)


def test_particles_in_percent_or_in_asymmetric_units():
    percent = replace(SETTINGS, percent=(10.0, 50.0))
    assert [plan(percent, done, available=2000).particles for done in (0, 39)] == [200, 1000]
    units = replace(SETTINGS, asymmetric_units=(2500.0, 10000.0), classes=2)
    assert [plan(units, done).particles for done in (0, 39)] == [5000, 20000]
    assert [plan(units, done, operators=4).particles for done in (0, 39)] == [1250, 5000]
    with pytest.raises(ParameterError, match="not both"):
        replace(percent, asymmetric_units=(2500.0, 10000.0))


def test_the_best_of_more_particles_make_the_map():
    third = replace(SETTINGS, best_percent=33.0)
    first = plan(third, 0)
    assert (first.particles, first.looked_at) == (300, 910)
    few = plan(third, 39, available=1000)
    assert (few.particles, few.looked_at) == (330, 1000)


def test_the_angular_step_follows_detail_beyond_the_usual():
    assert step_for(150.0, 150 / 9) == 15.0
    assert 6 < step_for(125.0, 6.5) < 8
    assert plan(replace(SETTINGS, angular_step_deg=10.0), 0).step_deg == 10.0
    for step in (15.0, 10.0, 22.0):
        assert orientations(step) == len(so3_grid(step_deg=step))


def test_smoothing_heats_and_without_blurring_the_best_pose_alone_counts():
    assert plan(replace(SETTINGS, smoothing=0.5), 39).temperature == 2.0
    assert plan(replace(SETTINGS, blurring=False), 39).temperature == 0.0


def test_memory_is_planned_for_every_class_and_for_a_finer_grid():
    shared, thread = planned_bytes(1000, 64, 3.0, SETTINGS, 2**33)
    assert planned_bytes(1000, 64, 3.0, replace(SETTINGS, symmetry="O"), 2**33)[0] > shared
    for more in (replace(SETTINGS, classes=4), replace(SETTINGS, angular_step_deg=7.5)):
        assert planned_bytes(1000, 64, 3.0, more, 2**33)[0] > shared
        assert planned_bytes(1000, 64, 3.0, more, 2**33)[1] > thread


def test_memory_holds_all_scores_of_a_particle():
    """A wide range of shifts on a fine grid has more scores of one particle than a block has."""
    _, thread = planned_bytes(1000, 64, 3.0, SETTINGS, 2**33)
    wide = replace(SETTINGS, shift_range_angstrom=90.0, angular_step_deg=5.0)
    narrow = replace(SETTINGS, shift_range_angstrom=20.0, angular_step_deg=5.0)
    scores = planned_bytes(1000, 64, 3.0, wide, 2**33)[1] - planned_bytes(1000, 64, 3.0, narrow, 2**33)[1]
    assert scores > 1e9 > thread


def test_shifts_are_counted_as_they_are_made():
    for radius in (0.3, 1.0, 2.0, 7.0):
        made = len(shift_grid(radius, SHIFT_STEP))
        assert made <= shift_count(radius) <= 6 * made + 6


def test_an_inverted_map_has_the_other_deviation_from_its_spherical_average():
    """A shell stays what it is; lobes on it become dents and back."""
    generator = torch.Generator().manual_seed(1)
    maps = torch.randn((2, 16, 16, 16), generator=generator)
    mates = inverted(maps)
    torch.testing.assert_close(inverted(mates), maps)
    ring = torch.from_numpy(radius_grid((16, 16, 16))).round()
    shell = torch.exp(-((ring - 5) ** 2))
    torch.testing.assert_close(inverted(shell[None])[0], shell)
    lobes = 0.2 * shell * torch.linspace(-1, 1, 17)[:16]
    lobes -= inverted(lobes[None])[0] / 2 + lobes / 2
    torch.testing.assert_close(inverted((shell + lobes)[None])[0], shell - lobes)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"start_from": "here"}, "random, previous"),
        ({"schedule": "falling"}, "rising, resets"),
        ({"impose": "never"}, "auto, always, later"),
        ({"inner_radius_angstrom": 90.0}, "leaves nothing"),
    ],
)
def test_settings_that_make_no_sense_are_refused(change, said):
    with pytest.raises(ParameterError, match=said):
        replace(SETTINGS, **change)
