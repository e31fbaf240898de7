"""Occupancies travel with the particles."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from parhelion.algorithms.simulate.particles import simulate_particles
from parhelion.errors import MetadataError
from parhelion.io.particles import read_particles, write_particles
from parhelion.model.occupancy import occupancies, with_occupancies, without_occupancies
from parhelion.model.particles import ParticleSet
from parhelion.model.table import Table
from parhelion.model.volume import Volume


@pytest.fixture
def three() -> ParticleSet:
    """Three particles."""
    molecule = Volume(data=np.ones((16, 16, 16), np.float32), pixel_size_angstrom=4.0)
    return simulate_particles(molecule, 3, snr=1.0, seed=1).particles


PERCENT = np.array([[70.0, 30.0], [10.0, 90.0], [50.0, 50.0]])


def test_particles_without_occupancies_have_none(three: ParticleSet) -> None:
    assert occupancies(three) is None


def test_the_class_is_that_of_the_highest_occupancy(three: ParticleSet) -> None:
    found = with_occupancies(three, PERCENT)
    np.testing.assert_array_equal(found.class_number, [1, 2, 1])
    np.testing.assert_array_equal(occupancies(found), PERCENT)


def test_they_follow_a_selection_and_a_file(three: ParticleSet, tmp_path: Path) -> None:
    path = tmp_path / "particles.star"
    write_particles(path, with_occupancies(three, PERCENT).take(np.array([2, 0])))
    np.testing.assert_allclose(occupancies(read_particles(path)), PERCENT[[2, 0]])


def test_fewer_classes_replace_more(three: ParticleSet) -> None:
    more = with_occupancies(three, np.full((3, 4), 25.0))
    assert occupancies(with_occupancies(more, PERCENT)).shape == (3, 2)
    assert occupancies(without_occupancies(more)) is None


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"parhelionOccupancy2": [1.0, 2, 3]}, "numbered from 1"),
        ({"parhelionOccupancy1": [1.0, -2, 3]}, "row 2"),
        ({"parhelionOccupancy1": [1.0, 2, np.nan]}, "row 3"),
    ],
)
def test_wrong_columns_are_refused(three: ParticleSet, columns: dict, message: str) -> None:
    with pytest.raises(MetadataError, match=message):
        occupancies(replace(three, extra=Table({k: np.array(v) for k, v in columns.items()})))


def test_one_row_per_particle(three: ParticleSet) -> None:
    with pytest.raises(MetadataError, match="one row for each"):
        with_occupancies(three, PERCENT[:2])
