"""A ball of uneven density, without symmetry: little but its inside tells its views apart."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from parhelion.algorithms.ab_initio import AbInitioSettings, ab_initio
from parhelion.algorithms.ab_initio_courses import inverted
from parhelion.algorithms.ab_initio_problem import make_problem
from parhelion.algorithms.ab_initio_rounds import evidence_of
from parhelion.algorithms.ab_initio_start import given_maps
from parhelion.algorithms.map_alignment import align_maps
from parhelion.algorithms.simulate.particles import simulate_particles
from parhelion.contracts import SerialExecutor, SilentObserver
from parhelion.fourier.shells import fsc
from parhelion.images.masks import spherical_mask
from parhelion.model.volume import Volume

BOX, PIXEL, RADIUS, COUNT = 32, 5.0, 45.0, 400
SETTINGS = AbInitioSettings(diameter_angstrom=110.0, starts=1, rounds=20, seed=2)


class Never:
    def check(self) -> None:
        pass


class Images:
    box = BOX

    def __init__(self, simulated) -> None:
        self.all = simulated.images(np.arange(COUNT))

    def images(self, views: np.ndarray) -> np.ndarray:
        return self.all[views]


@pytest.fixture(scope="module")
def case():
    uneven = gaussian_filter(np.random.default_rng(2).normal(size=(BOX,) * 3), 1.6)
    density = (1 + 0.5 * uneven / uneven.std()) * spherical_mask(BOX, PIXEL, RADIUS, 12.0)
    truth = Volume(data=density.astype(np.float32), pixel_size_angstrom=PIXEL)
    simulated = simulate_particles(truth, COUNT, snr=2.0, shift_angstrom=4.0, seed=3)
    return truth, simulated.particles, Images(simulated)


def deviation(volume: Volume) -> np.ndarray:
    """What is not spherical: half the difference between a map and its inverse."""
    one = torch.from_numpy(np.ascontiguousarray(volume.data, dtype=np.float32))[None]
    return (0.5 * (one - inverted(one))[0]).numpy()


@pytest.mark.long
def test_the_inside_of_a_ball_is_found_from_nothing(case):
    truth, particles, images = case
    found = ab_initio(
        particles, images, SETTINGS, executor=SerialExecutor(), observer=SilentObserver(), cancel=Never()
    )
    limit = int(BOX * PIXEL / found.resolution_limit_angstrom)
    laid = align_maps(found.volume, truth).aligned
    assert np.mean(fsc(deviation(laid), deviation(truth))[1 : limit + 1]) > 0.7


def test_held_out_particles_tell_a_ball_from_its_inverse(case):
    truth, particles, images = case
    problem = make_problem(
        particles, images, SETTINGS, SerialExecutor(), SilentObserver(), Never(), "cpu", None
    )
    right = given_maps(problem, [truth], np.random.default_rng(0))
    told = [
        evidence_of(problem, maps, problem.pickers, 15.0, problem.last_shell)
        for maps in (right, inverted(right), 0.5 * (right + inverted(right)))
    ]
    assert told[0] > max(told[1:]) + 1
