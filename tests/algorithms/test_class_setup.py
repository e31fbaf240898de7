"""Classes carried over, merged, dropped and started anew."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from parhelion.algorithms.class_setup import known_occupancies, parse_recipe, set_up_classes
from parhelion.algorithms.simulate.particles import Microscope, random_views
from parhelion.errors import MetadataError, ParameterError
from parhelion.model.occupancy import occupancies, with_occupancies
from parhelion.model.particles import OpticsGroup, ParticleSet
from parhelion.model.table import Table

COUNT = 60
PERCENT = np.random.default_rng(1).dirichlet([0.5, 0.5, 0.5], COUNT) * 100


def particles(seed: int = 0) -> ParticleSet:
    rng = np.random.default_rng(seed)
    optics = OpticsGroup(
        name="o",
        pixel_size_angstrom=2.0,
        voltage_kv=300.0,
        spherical_aberration_mm=2.7,
        amplitude_contrast=0.1,
        box=16,
    )
    views = replace(random_views(COUNT, 16, Microscope(), rng), image_path=(Path("a.mrcs"),))
    return ParticleSet(
        optics=(optics,),
        views=views,
        count=COUNT,
        rotation=Rotation.random(COUNT, rng=rng).as_matrix(),
        shift_xyz_angstrom=rng.normal(size=(COUNT, 3)),
        extra=Table({"name": np.arange(COUNT)}),
    )


@pytest.fixture
def classified() -> ParticleSet:
    return with_occupancies(particles(), PERCENT)


def test_merged_classes_add_up_and_a_dropped_class_leaves_with_its_particles(classified) -> None:
    made = set_up_classes(classified, "1+2")
    stay = np.flatnonzero(PERCENT.argmax(1) < 2)
    np.testing.assert_array_equal(made.extra["name"], stay)
    np.testing.assert_allclose(occupancies(made), 100.0)
    np.testing.assert_array_equal(made.rotation, classified.rotation[stay])
    swapped = set_up_classes(classified, "3,1+2")
    np.testing.assert_allclose(occupancies(swapped)[:, 0], PERCENT[:, 2])
    np.testing.assert_allclose(occupancies(swapped)[:, 1], PERCENT[:, 0] + PERCENT[:, 1])
    np.testing.assert_array_equal(swapped.class_number, occupancies(swapped).argmax(1) + 1)


def test_all_particles_are_carried_over_on_request(classified) -> None:
    made = set_up_classes(classified, "1,2", carry_all=True)
    assert len(made) == COUNT
    share = PERCENT[:, :2] / PERCENT[:, :2].sum(1, keepdims=True)
    np.testing.assert_allclose(occupancies(made), 100 * share)
    alone = replace(particles(), class_number=np.where(np.arange(COUNT) < 20, 2, 1))
    divided = occupancies(set_up_classes(alone, "1,new", carry_all=True, seed=3))
    assert set(np.unique(divided[:20, 0])) <= {0.0, 50.0}


def test_a_new_class_draws_its_share_of_the_particles(classified) -> None:
    made = occupancies(set_up_classes(classified, "1+2,3,new", seed=1))
    moved = made[:, 2] == 100
    assert moved.sum() == COUNT // 3
    merged = np.stack([PERCENT[:, 0] + PERCENT[:, 1], PERCENT[:, 2]], axis=1)
    np.testing.assert_allclose(made[~moved][:, :2], merged[~moved])
    other = occupancies(set_up_classes(classified, "1+2,3,new", seed=2))[:, 2] == 100
    assert (moved != other).any()


def test_one_class_becomes_several_at_random() -> None:
    made = set_up_classes(particles(), "1,1,1", occupancies="random", seed=5)
    np.testing.assert_array_equal(np.bincount(made.class_number), [0, 20, 20, 20])
    assert set(np.unique(occupancies(made))) == {0.0, 100.0}
    kept = set_up_classes(particles(), "1,1,1")
    np.testing.assert_allclose(occupancies(kept), 100 / 3)


def test_the_class_is_that_of_the_highest_occupancy(classified) -> None:
    wrong = replace(classified, class_number=np.ones(COUNT, np.int64))
    made = set_up_classes(wrong, "1,2,3")
    np.testing.assert_array_equal(made.class_number, PERCENT.argmax(1) + 1)


def test_poses_of_merged_classes_are_the_best_or_random() -> None:
    tables = [
        replace(particles(k), views=particles().views, extra=Table({"cisTEMOccupancy": PERCENT[:, k]}))
        for k in range(3)
    ]
    best = set_up_classes(tables, "1+2+3")
    wanted = np.stack([t.rotation for t in tables])[PERCENT.argmax(1), np.arange(COUNT)]
    np.testing.assert_array_equal(best.rotation, wanted)
    chance = set_up_classes(tables, "1+2+3", poses="random", seed=1)
    sources = [np.isclose(chance.rotation, t.rotation).all((1, 2)) for t in tables]
    assert np.stack(sources).sum(0).tolist() == [1] * COUNT
    assert all(8 <= s.sum() <= 32 for s in sources)
    apart = set_up_classes(tables, "3,1+2")
    mine = PERCENT[:, 2] > PERCENT[:, 0] + PERCENT[:, 1]
    np.testing.assert_array_equal(apart.rotation[mine], tables[2].rotation[mine])


def test_what_cannot_be_is_refused(classified) -> None:
    for recipe in ("1,4", "", "1,,2", "1+new", "0", "one"):
        with pytest.raises(ParameterError, match="numbers from 1 to 3"):
            set_up_classes(classified, recipe)
    with pytest.raises(ParameterError, match="with itself"):
        parse_recipe("1+1", 2)
    with pytest.raises(ParameterError, match="one table per class"):
        set_up_classes(classified, "1+2", poses="random")
    with pytest.raises(ParameterError, match="keep or random"):
        set_up_classes(classified, "1", occupancies="none")
    with pytest.raises(MetadataError, match="same particles"):
        set_up_classes([classified, classified.take(np.arange(5))], "1+2")
    with pytest.raises(MetadataError, match="no column cisTEMOccupancy"):
        set_up_classes([classified, classified], "1+2")


def test_occupancies_come_from_class_numbers_or_one_class() -> None:
    bare = particles()
    np.testing.assert_array_equal(known_occupancies(bare), np.full((COUNT, 1), 100.0))
    numbered = replace(bare, class_number=np.arange(COUNT) % 4)
    known = known_occupancies(numbered)
    assert known.shape == (COUNT, 3)
    np.testing.assert_array_equal(known.sum(1) > 0, numbered.class_number > 0)
