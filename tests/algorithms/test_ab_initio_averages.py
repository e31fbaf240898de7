"""Averages of members of a 2D class in place of particles: what they hold, and that a map comes of them."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from parhelion.algorithms.ab_initio import AbInitioSettings, ab_initio
from parhelion.algorithms.ab_initio_averages import class_numbers, members_of, of_averages
from parhelion.algorithms.ab_initio_problem import make_problem
from parhelion.algorithms.map_alignment import align_maps
from parhelion.algorithms.simulate.demo_molecule import demo_molecule
from parhelion.algorithms.simulate.particles import Microscope, simulate_particles
from parhelion.contracts import SerialExecutor, SilentObserver
from parhelion.engine.predict import fourier_volume
from parhelion.engine.search import slice_bank
from parhelion.errors import MetadataError
from parhelion.fourier.shells import fsc
from parhelion.geometry.rotations import from_relion, random_rotations
from parhelion.geometry.symmetry import symmetry_group

BOX, PIXEL, DIAMETER = 32, 6.0, 140.0
VIEWS, PER_VIEW = 160, 3


class Never:
    def check(self) -> None:
        pass


class Images:
    box = BOX

    def __init__(self, simulated) -> None:
        self.all = simulated.images(np.arange(len(simulated.particles)))

    def images(self, views: np.ndarray) -> np.ndarray:
        return self.all[views]


class Heard(SilentObserver):
    def __init__(self) -> None:
        self.rows: list[dict] = []
        self.notes: list[str] = []

    def notice(self, message: str) -> None:
        self.notes.append(message)

    def record(self, table: str, **values) -> None:
        self.rows.append(values)


def in_plane(psi_deg: np.ndarray) -> np.ndarray:
    return from_relion(np.zeros(len(psi_deg)), np.zeros(len(psi_deg)), psi_deg)


class Case:
    """Every view of a molecule several times, turned and shifted in the plane, and their 2D classes."""

    def __init__(self, snr: float, odd_optics: bool = False, views: int = VIEWS) -> None:
        rng = np.random.default_rng(4)
        self.truth = demo_molecule(BOX, PIXEL, symmetry=symmetry_group("C1"), diameter_angstrom=130.0)
        self.views = random_rotations(views, rng)
        turns = in_plane(rng.uniform(0, 360, views * PER_VIEW))
        self.number = np.repeat(np.arange(views), PER_VIEW)
        microscope = Microscope(
            astigmatism_angstrom=10000.0, beam_tilt_xy_mrad=(3.0, -2.0) if odd_optics else (0.0, 0.0)
        )
        self.simulated = simulate_particles(
            self.truth,
            len(turns),
            snr=snr,
            shift_angstrom=8.0,
            rotation=turns @ self.views[self.number],
            microscope=microscope,
            seed=2,
        )
        self.images = Images(self.simulated)
        known = self.simulated.particles
        self.particles = replace(
            known.with_poses(turns, known.shift_xyz_angstrom), class_number=self.number + 1
        )

    def problem(self, **options):
        settings = AbInitioSettings(
            **{
                "diameter_angstrom": DIAMETER,
                "starts": 1,
                "rounds": 15,
                "final_resolution_angstrom": 18.0,
                **options,
            }
        )
        return settings, make_problem(
            self.particles, self.images, settings, SerialExecutor(), SilentObserver(), Never(), "cpu", None
        )


@pytest.mark.parametrize("odd_optics", [False, True])
def test_an_average_is_the_view_times_its_ctf(odd_optics):
    """Whatever the turns, shifts, astigmatism and beam tilt of its members."""
    case = Case(snr=1e4, odd_optics=odd_optics, views=24)
    _, problem = case.problem()
    made = of_averages(problem, PER_VIEW, np.random.default_rng(1))
    groups = made.loader.groups
    assert [len(group) for group in groups] == [PER_VIEW] * 24
    points = problem.loader.points
    count = points.count(problem.last_shell)
    batch = made.loader.batch(np.arange(len(groups)), count)
    views = torch.from_numpy(case.views[[case.number[group[0]] for group in groups]])
    truth = fourier_volume(torch.from_numpy(case.truth.data), points.max_shell)
    bank = slice_bank(truth, views, torch.eye(3, dtype=torch.float64)[None], points, count, torch.float32)
    expected = (torch.view_as_complex(bank.slices.reshape(-1, count, 2)) + bank.mean) * batch.ctf[:, 0]
    found = batch.data[:, 0]
    cross = (found * expected.conj()).real.sum(1)
    likeness = cross / (found.abs().square().sum(1) * expected.abs().square().sum(1)).sqrt()
    assert float(likeness.min()) > 0.97


def test_noise_of_an_average_has_the_power_that_is_said():
    """Images of noise alone: averages have power 1 on all shells and know the sum of their members' CTF²."""
    case = Case(snr=1e-6)
    _, problem = case.problem()
    made = of_averages(problem, PER_VIEW, np.random.default_rng(1))
    points = problem.loader.points
    batch = made.loader.batch(np.arange(VIEWS), len(points))
    power = points.shell_mean(batch.data[:, 0].abs().square()).mean(0)[2:]
    np.testing.assert_allclose(power, problem.loader.mask_energy, rtol=0.12)
    single = problem.loader.batch(np.arange(VIEWS * PER_VIEW), len(points)).whitened(problem.noise)
    of_members = PER_VIEW * float(single.ctf.square().mean())
    assert float(batch.ctf.square().mean()) == pytest.approx(of_members, rel=0.02)


def test_a_molecule_is_found_from_averages():
    """To a likeness that 480 such particles alone do not reach (0.83)."""
    case = Case(snr=0.3)
    settings, _ = case.problem(images_per_class=PER_VIEW, seed=1)
    said = Heard()
    found = ab_initio(
        case.particles, case.images, settings, executor=SerialExecutor(), observer=said, cancel=Never()
    )
    limit = int(BOX * PIXEL / found.resolution_limit_angstrom)
    laid = align_maps(found.volume, case.truth)
    assert np.mean(fsc(laid.aligned.data, case.truth.data)[1 : limit + 1]) > 0.9
    assert any("480 of 480 particles make 160 averages" in note for note in said.notes)
    # a round cannot look at more averages than there are to learn from
    assert max(row["particles"] for row in said.rows) <= 0.8 * VIEWS
    assert len(found.particles) == VIEWS * PER_VIEW


def test_every_member_is_in_one_average_of_its_class():
    numbers = np.repeat([0, 1, 2, 3], (4, 12, 2, 7))
    groups = members_of(numbers, 5, np.random.default_rng(0))
    assert sorted(np.concatenate(groups)) == list(range(4, 25))
    assert all(len(np.unique(numbers[group])) == 1 for group in groups)
    assert [len(group) for group in groups] == [6, 6, 2, 7]


def test_particles_that_cannot_be_averaged_are_refused():
    case = Case(snr=1.0, views=8)
    assert (class_numbers(case.particles) == case.number + 1).all()
    for broken, said in (
        (replace(case.particles, class_number=None), "no 2D classes"),
        (replace(case.particles, rotation=None), "no in-plane poses"),
        (replace(case.particles, rotation=random_rotations(24, np.random.default_rng(0))), "tilted poses"),
    ):
        with pytest.raises(MetadataError, match=said):
            class_numbers(broken)
    _, problem = case.problem()
    with pytest.raises(MetadataError, match="24 particles make 8 averages of 3"):
        of_averages(problem, PER_VIEW, np.random.default_rng(0))
