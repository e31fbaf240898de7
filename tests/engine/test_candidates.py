"""Lists of candidate poses: joining, pruning, weights."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from parhelion.engine.candidates import Candidates, joined, pruned, rank_within_particle, weighted


def candidates(particle, angles_deg, chi2=None, shift=0.0, hessian=None) -> Candidates:
    count = len(particle)
    vectors = np.radians(np.outer(angles_deg, [1.0, 0, 0]))
    return Candidates(
        particle=torch.tensor(particle),
        rotation=torch.from_numpy(Rotation.from_rotvec(vectors).as_matrix()),
        shift=torch.full((count, 3), float(shift), dtype=torch.float64),
        chi2=None if chi2 is None else torch.tensor(chi2, dtype=torch.float64),
        hessian=hessian if hessian is not None else torch.eye(6, dtype=torch.float64).repeat(count, 1, 1),
    )


def test_joined_lists_are_sorted_by_particle() -> None:
    both = joined(candidates([0, 2], [0, 1]), candidates([1, 2, 0], [10, 11, 12]))
    assert both.particle.tolist() == [0, 0, 1, 2, 2]
    assert both.chi2 is None
    angles = np.degrees(Rotation.from_matrix(both.rotation.numpy()).magnitude())
    np.testing.assert_allclose(angles, [0, 12, 10, 1, 11], atol=1e-9)


def test_ranks_count_within_particles() -> None:
    assert rank_within_particle(torch.tensor([3, 3, 3, 5, 7, 7])).tolist() == [0, 1, 2, 0, 0, 1]
    assert len(rank_within_particle(torch.zeros(0, dtype=torch.long))) == 0


def test_pruning_keeps_the_best_few_that_are_near_the_best() -> None:
    many = candidates([1, 0, 1, 1, 0], [0, 20, 40, 60, 80], chi2=[5.0, 1.0, 3.0, 4.0, 30.0])
    kept = pruned(many, most=2, worse_by=10.0, same_angle_rad=0.01, same_shift=0.1)
    assert kept.particle.tolist() == [0, 1, 1]
    assert kept.chi2.tolist() == [1.0, 3.0, 4.0]


def test_pruning_counts_poses_that_met_only_once() -> None:
    many = candidates([0, 0, 0, 1], [10.0, 10.4, 30.0, 10.0], chi2=[2.0, 1.0, 3.0, 7.0])
    kept = pruned(many, most=5, worse_by=99.0, same_angle_rad=np.radians(1), same_shift=0.1)
    assert kept.chi2.tolist() == [1.0, 3.0, 7.0]
    apart = candidates([0, 0], [10.0, 10.0], chi2=[2.0, 1.0])
    apart = Candidates(
        particle=apart.particle,
        rotation=apart.rotation,
        shift=torch.tensor([[0.0, 0, 0], [0.5, 0, 0]], dtype=torch.float64),
        chi2=apart.chi2,
        hessian=apart.hessian,
    )
    assert len(pruned(apart, 5, 99.0, np.radians(1), 0.1)) == 2


def test_pruning_counts_symmetry_mates_once() -> None:
    """A twofold along the axis about which the helper's poses turn: 10° and 190.3° are one pose."""
    many = candidates([0, 0, 0], [10.0, 190.3, 60.0], chi2=[1.0, 2.0, 3.0])
    about = many.rotation[0] @ many.rotation[1].mT
    axis = Rotation.from_matrix(about.numpy()).as_rotvec()
    twofold = Rotation.from_rotvec(np.pi * axis / np.linalg.norm(axis)).as_matrix()
    operators = torch.from_numpy(np.stack([np.eye(3), twofold]))
    same = {"same_angle_rad": np.radians(1), "same_shift": 0.1}
    assert pruned(many, 5, 99.0, operators=operators, **same).chi2.tolist() == [1.0, 3.0]
    assert pruned(many, 5, 99.0, **same).chi2.tolist() == [1.0, 2.0, 3.0]


def test_weights_are_laplace_shares() -> None:
    """exp(-chi²) times the mode's volume: a matrix four times as large halves the weight per dimension."""
    hessian = torch.eye(6, dtype=torch.float64).repeat(3, 1, 1)
    hessian[1, 0, 0] = 4.0
    found = weighted(candidates([0, 0, 1], [0, 50, 0], [1.0, 1.0, 9.0], hessian=hessian))
    assert found.weight.tolist() == pytest.approx([2 / 3, 1 / 3, 1.0])


def test_negligible_candidates_are_dropped_and_the_rest_sum_to_one() -> None:
    found = weighted(candidates([0, 0, 0], [0, 50, 90], [0.0, 0.5, 20.0]))
    assert len(found) == 2
    assert float(found.weight.sum()) == pytest.approx(1)
    assert float(found.weight[0] / found.weight[1]) == pytest.approx(np.exp(0.5))


def test_no_candidates_have_no_weights() -> None:
    empty = weighted(candidates([0], [0], [1.0]).take(torch.zeros(1, dtype=torch.bool)))
    assert len(empty) == 0
    assert empty.weight is not None


def test_unrefined_candidates_cannot_be_pruned_or_weighted() -> None:
    with pytest.raises(ValueError, match="after refinement"):
        pruned(candidates([0], [0]), 1, 1.0, 0.1, 0.1)
    with pytest.raises(ValueError, match="after refinement"):
        weighted(candidates([0], [0]))
