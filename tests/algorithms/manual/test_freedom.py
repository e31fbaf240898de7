"""Only the parameters that were named move, and unsigned shells do not care for their sign."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from manual_data import BOX, PIXEL, molecule
from parhelion.algorithms.manual.freedom import Freedom, chi2_of, moved
from parhelion.algorithms.manual.models import predicted
from parhelion.algorithms.manual.scores import correlation, measured
from parhelion.algorithms.manual.settings import PARAMETERS, Focus
from parhelion.engine.batch import ParticleBatch
from parhelion.engine.candidates import Candidates
from parhelion.engine.points import FourierPoints
from parhelion.engine.predict import fourier_volume
from parhelion.geometry.rotations import from_relion, to_relion

COUNT, SHELL = 12, 14
POINTS = FourierPoints(BOX, SHELL)
VOLUME = fourier_volume(torch.from_numpy(molecule(1.5).data), SHELL)
FREE = Freedom(parameters=PARAMETERS, shift_precision=1e-3, signed_shell=float("inf"))


def true_values() -> np.ndarray:
    """phi, theta, psi in degrees, x and y in units of the extent, ``(COUNT, 5)``."""
    rng = np.random.default_rng(2)
    angles = np.stack(
        [rng.uniform(-170, 170, COUNT), rng.uniform(30, 150, COUNT), rng.uniform(-170, 170, COUNT)]
    )
    return np.concatenate([angles.T, rng.uniform(-0.03, 0.03, (COUNT, 2))], axis=1)


def poses_at(values: np.ndarray) -> Candidates:
    shift = np.concatenate([values[:, 3:], np.zeros((COUNT, 1))], axis=1)
    return Candidates(
        particle=torch.arange(COUNT),
        rotation=torch.from_numpy(from_relion(*values[:, :3].T)),
        shift=torch.from_numpy(shift),
    )


def values_of(poses: Candidates) -> np.ndarray:
    return np.concatenate([to_relion(poses.rotation.numpy()), poses.shift.numpy()[:, :2]], axis=1)


def batch_at(values: np.ndarray, noise: float = 0.0) -> ParticleBatch:
    """Images at these poses with a CTF of slow waves."""
    k = len(POINTS)
    ctf = torch.cos(0.15 * torch.from_numpy(POINTS.radius).float() ** 1.2).expand(COUNT, 1, k).contiguous()
    empty = ParticleBatch(
        index=torch.arange(COUNT),
        data=torch.zeros((COUNT, 1, k), dtype=torch.complex64),
        ctf=ctf,
        valid=torch.ones((COUNT, 1), dtype=torch.bool),
        tilts=torch.eye(3, dtype=torch.float64)[None],
        noise_group=torch.zeros((COUNT, 1), dtype=torch.int64),
    )
    image = predicted(empty, VOLUME, poses_at(values), POINTS)
    generator = torch.Generator().manual_seed(4)
    grain = torch.randn((COUNT, 1, k), generator=generator, dtype=torch.complex64)
    return empty.with_data(image + noise * grain, ctf)


def difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    apart = a - b
    apart[:, :3] = (apart[:, :3] + 180) % 360 - 180
    return np.abs(apart)


OFF = np.array([3.0, 3.0, 3.0, 0.01, 0.01])


@pytest.mark.parametrize("number", range(1, 6))
def test_named_parameters_move_to_the_truth_and_others_stay(number: int) -> None:
    truth = true_values()
    batch = batch_at(truth)
    names = ("phi", "theta", "psi", "x", "y")
    for chosen in itertools.combinations(range(5), number):
        start = truth.copy()
        start[:, chosen] += OFF[list(chosen)]
        free = replace(FREE, parameters=tuple(names[i] for i in chosen))
        found = values_of(moved(batch, VOLUME, poses_at(start), free, POINTS, 20))
        apart = difference(found, truth)
        held = [i for i in range(5) if i not in chosen]
        assert (apart[:, held] < 1e-6).all(), free.parameters
        assert (apart[:, chosen] < 0.2 * OFF[list(chosen)]).mean() > 0.9, free.parameters


def test_a_held_parameter_stays_where_it_is_wrong() -> None:
    truth = true_values()
    start = truth + OFF
    free = replace(FREE, parameters=("psi", "theta", "x", "y"))
    found = values_of(moved(batch_at(truth), VOLUME, poses_at(start), free, POINTS, 20))
    assert np.allclose(difference(found, truth)[:, 0], OFF[0], atol=1e-6)


def test_nothing_moves_where_nothing_is_free() -> None:
    truth = true_values()
    found = moved(batch_at(truth), VOLUME, poses_at(truth + OFF), replace(FREE, parameters=()), POINTS, 20)
    assert np.allclose(difference(values_of(found), truth + OFF), 0, atol=1e-6)
    assert found.chi2 is not None and bool((found.chi2 > 0).all())


def inverted_beyond(batch: ParticleBatch, shell: float) -> ParticleBatch:
    sign = torch.where(torch.from_numpy(POINTS.radius) > shell + 0.5, -1.0, 1.0).float()
    return batch.with_data(batch.data * sign, batch.ctf)


def test_beyond_the_signed_limit_the_sign_does_not_count() -> None:
    truth = true_values()
    batch = batch_at(truth)
    wrong = inverted_beyond(batch, 6)
    unsigned = replace(FREE, signed_shell=6.0)
    right = chi2_of(batch, VOLUME, poses_at(truth), unsigned, POINTS)
    assert torch.allclose(chi2_of(wrong, VOLUME, poses_at(truth), unsigned, POINTS), right, atol=1e-3)
    assert bool((chi2_of(wrong, VOLUME, poses_at(truth), FREE, POINTS) > right + 1).all())
    start = poses_at(truth + 0.6 * OFF)
    found = values_of(moved(wrong, VOLUME, start, unsigned, POINTS, 20))
    signed = values_of(moved(wrong, VOLUME, start, FREE, POINTS, 20))
    assert np.median(difference(found, truth)[:, :3]) < 0.3
    assert np.median(difference(signed, truth)[:, :3]) > np.median(difference(found, truth)[:, :3])


def test_unsigned_refinement_holds_angles_too() -> None:
    truth = true_values()
    start = truth + np.array([0.0, 2.0, 0.0, 0.005, 0.0])
    free = replace(FREE, parameters=("theta", "x"), signed_shell=6.0)
    found = values_of(moved(inverted_beyond(batch_at(truth), 6), VOLUME, poses_at(start), free, POINTS, 20))
    assert (difference(found, start)[:, [0, 2, 4]] < 1e-6).all()
    assert np.median(difference(found, truth)[:, 1]) < 0.4


def test_scores_have_the_meaning_of_a_correlation() -> None:
    truth = true_values()
    batch = batch_at(truth)
    far = Focus(centre_xyz_angstrom=(0.0, 0.0, 0.0), radius_angstrom=500.0)
    extent = BOX * PIXEL
    for focus in (None, far):
        perfect = measured(batch, VOLUME, poses_at(truth), FREE, POINTS, 8.0, focus, extent)
        assert torch.allclose(perfect.score, torch.full((COUNT,), 100.0, dtype=torch.float64), atol=8)
        noisy = measured(batch_at(truth, 1.0), VOLUME, poses_at(truth), FREE, POINTS, 8.0, focus, extent)
        assert bool((noisy.score < perfect.score).all()) and bool((noisy.sigma > perfect.sigma).all())
        known = 0.01 * noisy.score
        assert torch.allclose(noisy.sigma, (1 / known**2 - 1).sqrt(), atol=1e-6)
    whole = measured(batch_at(truth, 1.0), VOLUME, poses_at(truth), FREE, POINTS, 8.0, None, extent)
    focused = measured(batch_at(truth, 1.0), VOLUME, poses_at(truth), FREE, POINTS, 8.0, far, extent)
    # a sphere that holds the box sums the same squares, up to the constant of its number of pixels
    shift = focused.log_p - whole.log_p
    assert torch.allclose(shift, shift[:1].expand(COUNT), atol=1e-3)


def test_a_model_of_the_opposite_sign_has_a_negative_score_unless_unsigned() -> None:
    truth = true_values()
    batch = batch_at(truth)
    model = predicted(batch, VOLUME, poses_at(truth), POINTS)
    assert bool((correlation(-batch.data, model, POINTS, float("inf")) < -0.9).all())
    assert bool((correlation(-batch.data, model, POINTS, 0.0) > 0.9).all())


def test_focus_sees_only_the_projected_sphere() -> None:
    truth = true_values()
    batch = batch_at(truth)
    extent = BOX * PIXEL
    # images without the domain against the map with it differ where the domain projects to
    bare = fourier_volume(torch.from_numpy(molecule(0.0).data), SHELL)
    domain = Focus(centre_xyz_angstrom=(24.0, 0.0, 0.0), radius_angstrom=16.0)
    opposite = Focus(centre_xyz_angstrom=(-40.0, 0.0, 0.0), radius_angstrom=16.0)

    def lost(focus: Focus) -> torch.Tensor:
        with_it = measured(batch, VOLUME, poses_at(truth), FREE, POINTS, 14.0, focus, extent)
        without = measured(batch, bare, poses_at(truth), FREE, POINTS, 14.0, focus, extent)
        return with_it.log_p - without.log_p

    assert float(lost(domain).median()) > 5 * float(lost(opposite).median())
