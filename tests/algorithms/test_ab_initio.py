"""A structure from nothing on a small simulated stack, and what bad settings lead to."""

import numpy as np
import pytest

from parhelion.algorithms.ab_initio import (
    AbInitioSettings,
    ab_initio,
    map_box,
    planned_bytes,
    shell_limits,
)
from parhelion.algorithms.map_alignment import align_maps
from parhelion.algorithms.simulate.demo_molecule import demo_molecule
from parhelion.algorithms.simulate.particles import simulate_particles
from parhelion.contracts import SerialExecutor, SilentObserver
from parhelion.errors import ParameterError
from parhelion.fourier.shells import fsc
from parhelion.geometry.symmetry import symmetry_group


class Never:
    def check(self) -> None:
        pass


class Images:
    def __init__(self, simulated) -> None:
        self.all = simulated.images(np.arange(len(simulated.particles)))
        self.box = self.all.shape[-1]

    def images(self, views: np.ndarray) -> np.ndarray:
        return self.all[views]


def found_map(symmetry: str, starts: int):
    truth = demo_molecule(32, 6.0, symmetry=symmetry_group(symmetry), diameter_angstrom=130.0)
    simulated = simulate_particles(truth, 400, snr=0.3, shift_angstrom=4.0, seed=3)
    settings = AbInitioSettings(
        diameter_angstrom=140.0, symmetry=symmetry, starts=starts, rounds=20, final_resolution_angstrom=18.0
    )
    return truth, found_in(simulated, settings)


def found_in(simulated, settings: AbInitioSettings):
    return ab_initio(
        simulated.particles,
        Images(simulated),
        settings,
        executor=SerialExecutor(),
        observer=SilentObserver(),
        cancel=Never(),
    )


@pytest.mark.parametrize("symmetry", ["C1", "D2"])
def test_a_molecule_is_found_from_nothing(symmetry):
    truth, result = found_map(symmetry, 2)
    aligned = align_maps(result.volume, truth)
    limit = int(32 * 6.0 / result.resolution_limit_angstrom)
    assert np.mean(fsc(aligned.aligned.data, truth.data)[1 : limit + 1]) > 0.8
    assert result.volume.data.shape == truth.data.shape
    evidence = [start.evidence for start in result.starts]
    assert result.chosen == int(np.argmax(evidence))
    assert (result.symmetry_correlation is None) == (symmetry == "C1")


def test_the_same_seed_gives_the_same_map():
    first, second = (found_map("C1", 1)[1].volume.data for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_limits_that_make_no_sense_are_refused():
    settings = AbInitioSettings(
        diameter_angstrom=100.0, initial_resolution_angstrom=10.0, final_resolution_angstrom=30.0
    )
    with pytest.raises(ParameterError, match="finer"):
        shell_limits(settings, 200.0, 30)


def test_too_few_particles_for_the_classes_are_refused():
    simulated = simulate_particles(
        demo_molecule(28, 4.86, symmetry=symmetry_group("C1"), diameter_angstrom=80.0), 100, snr=0.5, seed=3
    )
    with pytest.raises(ParameterError, match=r"100 particles are too few for 50 classes.* 5 or fewer"):
        found_in(simulated, AbInitioSettings(diameter_angstrom=89.0, classes=50))


def test_a_small_particle_in_a_small_box_stays_below_nyquist():
    """Its resolution limits lie within a margin of Nyquist, beyond which there is no transform to keep."""
    truth = demo_molecule(28, 4.86, symmetry=symmetry_group("C1"), diameter_angstrom=80.0)
    simulated = simulate_particles(truth, 40, snr=0.5, seed=3)
    result = found_in(simulated, AbInitioSettings(diameter_angstrom=89.0, starts=1, rounds=2))
    assert result.volume.box == 28


def test_maps_live_on_a_grid_that_holds_the_last_shell():
    for shell in (5, 20, 47):
        assert min(400, 2 * shell) < map_box(shell, 400) <= 400
    assert map_box(20, 40) == 40


def test_planned_memory_grows_with_particles_only_as_far_as_the_cache():
    settings = AbInitioSettings(diameter_angstrom=150.0)
    plan = [planned_bytes(count, 256, 1.0, settings, 2**33)[0] for count in (1_000, 10_000, 1_000_000)]
    assert plan[0] < plan[1] < plan[2]
    assert plan[2] < 2**33
    assert planned_bytes(1_000, 64, 3.5, settings, 2**33)[0] < plan[0] * 1.5
