"""Whole rounds: poses and maps get better, whatever the number of workers, views and the symmetry."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from parhelion.engine.halves import solve_combined, solve_halves, split_halves
from parhelion.engine.loop import run_round
from parhelion.engine.predict import fourier_volume
from parhelion.engine.solvent import Solvent
from parhelion.engine.state import best_poses
from parhelion.engine.update import MapSums, complete_mates
from parhelion.errors import Cancelled
from parhelion.fourier.filters import lowpass
from parhelion.fourier.shells import fsc
from parhelion.geometry.rotations import align_poses
from parhelion.kernels import dispatch
from parhelion.model.volume import Volume


def start_map(kit, loader, molecule: np.ndarray, resolution: float = 20.0) -> np.ndarray:
    scaled = kit.on_scale_of(loader, molecule)
    return lowpass(Volume(data=scaled, pixel_size_angstrom=kit.PIXEL), resolution).data


def errors(kit, state, particles, operators=None) -> np.ndarray:
    rotation = best_poses(state.kept, len(particles))[0]
    return align_poses(rotation, particles.rotation, operators).error_deg


@pytest.fixture(scope="module")
def two_rounds(kit, noisy):
    """States before, after one and after two rounds on noisy particles, with what they belong to."""
    particles, images, molecule = noisy
    loader = kit.loader_of(particles, images)
    problem = kit.problem_of(loader)
    before = kit.state_of(problem, start_map(kit, loader, molecule))
    after = run_round(problem, before)
    return problem, before, after, run_round(problem, after)


def test_rounds_recover_known_poses(kit, noisy, two_rounds) -> None:
    particles, _, _ = noisy
    _, _, after, later = two_rounds
    error = errors(kit, later, particles)
    assert np.median(error) < 4
    assert (error < 12).mean() > 0.9
    assert np.median(error) <= np.median(errors(kit, after, particles)) + 0.3
    shift = best_poses(later.kept, len(particles))[1] * kit.BOX * kit.PIXEL
    assert np.median(np.abs(shift - particles.shift_xyz_angstrom)[:, :2]) < 1.2


def test_rounds_improve_the_map(kit, noisy, two_rounds) -> None:
    _, _, molecule = noisy
    _, before, _, later = two_rounds
    first, last = (fsc(sum(state.maps).numpy(), molecule)[4:10].mean() for state in (before, later))
    assert last > first + 0.05
    assert last > 0.8


def test_a_round_tells_what_it_found(two_rounds) -> None:
    _, before, after, later = two_rounds
    assert [row["round"] for row in later.history] == [1, 2]
    assert later.plan.round == 2
    assert later.history[1]["moved_deg"] < after.history[0]["moved_deg"]
    assert after.unfiltered is not None
    assert after.mask.max() <= 1
    assert after.combined is None
    assert np.isfinite(after.log_likelihood).all()
    assert (after.uncertainty_deg > 0).all()
    assert before.unfiltered is None


def test_the_noise_becomes_that_of_the_residuals(two_rounds) -> None:
    _, _, _, later = two_rounds
    assert float(later.noise[0, 3:].mean()) == pytest.approx(1, abs=0.1)


def test_the_result_does_not_depend_on_the_number_of_workers(kit, noisy, two_rounds) -> None:
    particles, images, _ = noisy
    _, before, after, _ = two_rounds
    loader = kit.loader_of(particles, images)
    other = run_round(kit.problem_of(loader, executor=kit.Workers(3)), before)
    assert torch.equal(other.maps[0], after.maps[0])
    assert torch.equal(other.maps[1], after.maps[1])
    assert torch.equal(other.kept.rotation, after.kept.rotation)
    assert torch.equal(other.kept.weight, after.kept.weight)
    assert torch.equal(other.noise, after.noise)


def test_a_dihedral_structure(kit) -> None:
    particles, images, molecule = kit.single_particles(60, 0.5, seed=4, symmetry="D2")
    loader = kit.loader_of(particles, images)
    problem = kit.problem_of(loader, symmetry="D2")
    state = kit.state_of(problem, start_map(kit, loader, molecule))
    state = run_round(problem, run_round(problem, state))
    error = errors(kit, state, particles, problem.symmetry.operators)
    assert np.median(error) < 4
    assert (error < 12).mean() > 0.85
    half = state.maps[0].numpy()[1:, 1:, 1:]
    assert np.corrcoef(half.ravel(), half[:, ::-1, ::-1].ravel())[0, 1] > 0.99


def test_a_tilt_series_with_five_views_per_particle(kit) -> None:
    """Too noisy for one view: five together find pose and three-dimensional shift."""
    particles, images, molecule = kit.tilt_series(40, 5, 0.2)
    loader = kit.loader_of(particles, images)
    problem = kit.problem_of(loader)
    state = run_round(problem, kit.state_of(problem, start_map(kit, loader, molecule)))
    error = errors(kit, state, particles)
    assert np.median(error) < 4
    assert (error < 12).mean() > 0.85
    shift = best_poses(state.kept, 40)[1] * kit.BOX * kit.PIXEL
    assert np.median(np.abs(shift - particles.shift_xyz_angstrom), axis=0).max() < 1.5


def test_particles_with_bad_images_have_no_pose_and_spoil_nothing(kit, noisy) -> None:
    particles, images, molecule = noisy
    data = images.data.copy()
    data[:20] = np.nan
    loader = kit.loader_of(particles, kit.Images(data))
    problem = kit.problem_of(loader, chunk=10)
    start = start_map(kit, kit.loader_of(particles, images), molecule)
    state = run_round(problem, kit.state_of(problem, start))
    weight = best_poses(state.kept, len(particles))[2]
    assert (weight[:20] == 0).all()
    assert (weight[20:] > 0).all()
    assert np.isnan(state.log_likelihood[:20]).all()
    assert torch.isfinite(state.maps[0]).all()


def test_a_stop_is_heard_between_chunks(kit, noisy) -> None:
    particles, images, molecule = noisy

    class Stopping:
        asked = 0

        def check(self) -> None:
            self.asked += 1
            if self.asked > 1:
                raise Cancelled("stopped")

    loader = kit.loader_of(particles, images)
    problem = kit.problem_of(loader, chunk=5)
    state = kit.state_of(problem, molecule)
    with pytest.raises(Cancelled):
        run_round(replace(problem, cancel=Stopping()), state)


def test_half_sets_are_kept_where_all_particles_have_one() -> None:
    rng = np.random.default_rng(1)
    given = np.array([1, 2, 2, 1, 2])
    assert split_halves(5, rng, given).tolist() == given.tolist()
    for useless in (None, np.array([0, 1, 2, 1, 1]), np.ones(5, int)):
        half = split_halves(5, rng, useless)
        assert sorted(np.bincount(half)[1:].tolist()) == [2, 3]


def test_the_combined_map_is_better_than_each_half(kit, noisy) -> None:
    particles, _, molecule = noisy
    points = kit.loader_of(*noisy[:2]).points
    model = fourier_volume(torch.from_numpy(molecule), 13)
    rng = np.random.default_rng(3)
    sums = []
    for rows in (slice(0, 50), slice(50, 100)):
        rotation = torch.from_numpy(particles.rotation[rows])
        values = dispatch.extract(model.data, rotation, points.kx, points.ky, model.padding)
        noise = rng.normal(size=values.shape) + 1j * rng.normal(size=values.shape)
        one = MapSums.zeros(kit.BOX, 13, torch.device("cpu"))
        noisy_values = (values + 3 * torch.from_numpy(noise)).to(torch.complex64)
        one.add([(rotation, noisy_values, torch.ones(values.shape))], points)
        sums.append(complete_mates(one))
    halves = solve_halves((sums[0], sums[1]), Solvent.within(kit.BOX, kit.PIXEL, kit.DIAMETER), 13)
    whole = solve_combined((sums[0], sums[1]), halves, 13) * halves.mask
    found = fsc(whole.numpy(), molecule)[2:9].mean()
    assert found > max(fsc(half.numpy(), molecule)[2:9].mean() for half in halves.maps)
    assert 0 < halves.fsc[5] < 1
