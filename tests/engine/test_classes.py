"""How maps of classes are filtered before particles are compared with them, and posteriors over classes."""

import numpy as np
import pytest
import torch

from parhelion.engine.candidates import Candidates
from parhelion.engine.class_filter import filtered, joint_filters, taught
from parhelion.engine.class_posterior import weighted_over_classes
from parhelion.engine.classes import filtered_by_shell

SIZE, SHELL = 24, 10
SHARE = np.array([0.6, 0.4])


def halves(signal: torch.Tensor, noise: float, seed: int) -> torch.Tensor:
    """The mean of two classes and their differences from it ``(3, 2, n, n, n)``; the maps of the classes
    ``signal (2, n, n, n)`` have noise as of their share."""
    made = torch.Generator().manual_seed(seed)
    rest = noise * torch.randn((2, 2, SIZE, SIZE, SIZE), generator=made)
    every = signal[:, None] + rest / torch.from_numpy(SHARE).sqrt().float()[:, None, None, None, None]
    mean = torch.einsum("k,khzyx->hzyx", torch.from_numpy(SHARE).float(), every)
    return torch.cat([mean[None], every - mean])


def structures() -> torch.Tensor:
    """Two maps, the second with something more where the first has nothing."""
    made = torch.Generator().manual_seed(1)
    both = torch.randn((2, SIZE, SIZE, SIZE), generator=made)
    return torch.stack([both[0], both[0] + 0.5 * both[1]])


def test_what_both_halves_agree_on_is_not_filtered_at_all() -> None:
    maps = halves(structures(), 0.0, 2)
    filters = joint_filters(maps, SHARE, SIZE // 2, None, None)
    kept, whole = filtered(maps, filters), filtered_by_shell(maps[:, 0], np.ones(SIZE // 2 + 1))
    assert float((kept[:, 0] - whole).abs().max()) < 1e-3


def test_a_comparison_with_filtered_maps_states_its_own_certainty() -> None:
    truth = structures()
    maps = halves(truth, 1.0, 3)
    found = filtered(maps, joint_filters(maps, SHARE, SHELL, None, None))[:, 0]
    first, second = found[0] + found[1], found[0] + found[2]
    apart = second - first
    # of a noiseless image of the second, the log-likelihood ratio is half of what it varies by
    target = filtered_by_shell(truth, np.ones(SHELL + 1))
    for shown, sign in ((1, 1.0), (0, -1.0)):
        ratio = float(((target[shown] - (first + second) / 2) * apart).sum())
        assert sign * ratio == pytest.approx(float(apart.square().sum()) / 2, rel=0.2)
    # maps as they are claim more than they know
    raw = maps[2, 0] - maps[1, 0]
    assert float(raw.square().sum()) > 4 * float(apart.square().sum())


def test_what_halves_taught_each_other_is_taken_off() -> None:
    rng = np.random.default_rng(4)
    feedback = 0.6
    off_mean = np.eye(2) - SHARE
    noise = rng.normal(size=(2, 2, 20000)) / np.sqrt(SHARE)[None, :, None]
    noise = np.einsum("kl,hlx->hkx", off_mean, noise)
    matrix = feedback * np.eye(2)
    agreed = np.stack([noise[h] + matrix @ noise[1 - h] for h in (0, 1)]) / (1 - feedback**2)
    cross = agreed[0] @ agreed[1].T
    total = (agreed[0] @ agreed[0].T + agreed[1] @ agreed[1].T) / 2
    assert np.trace(cross) > 0.8 * np.trace(total)
    left = (cross + cross.T) / 2 - taught(total - (cross + cross.T) / 2, matrix)
    assert abs(np.trace(left)) < 0.05 * np.trace(total)


def test_a_class_with_symmetry_holds_its_orientations_more_densely() -> None:
    def pose() -> Candidates:
        return Candidates(
            particle=torch.tensor([0]),
            rotation=torch.eye(3, dtype=torch.float64)[None],
            shift=torch.zeros((1, 3), dtype=torch.float64),
            chi2=torch.tensor([3.0], dtype=torch.float64),
            hessian=torch.eye(6, dtype=torch.float64)[None],
            reference=torch.tensor([0]),
        )

    other = pose()
    other.reference[:] = 1
    found = [pose(), other]
    share = np.array([0.5, 0.5])
    searched = weighted_over_classes(found, share, (1, 7), True, None)[0].weight
    np.testing.assert_allclose(searched, [1 / 8, 7 / 8])
    kept = weighted_over_classes(found, share, (1, 7), False, None)[0].weight
    np.testing.assert_allclose(kept, [0.5, 0.5])
