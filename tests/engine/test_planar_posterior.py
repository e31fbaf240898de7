"""Posteriors over class, angle and shift and their sums, against a plain sum over all hypotheses."""

import numpy as np
import pytest
import torch

from parhelion.engine import planar_local, planar_soft
from parhelion.engine.planar_local import FineGrid, Hits
from parhelion.engine.planar_soft import PlanarBank, PlanarImages

N, CLASSES, ANGLES, K, T = 7, 3, 4, 20, 5


@pytest.fixture
def case():
    """Random references, images and shifts on K points; shifts in units of the extent."""
    generator = torch.Generator().manual_seed(4)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    slices = torch.complex(normal(CLASSES, ANGLES, K), normal(CLASSES, ANGLES, K)) * 0.4
    data = torch.complex(normal(N, K), normal(N, K))
    ctf = normal(N, K)
    shifts = normal(T, 2) * 0.05
    points = normal(2, K) * 5
    angle = 2 * torch.pi * (shifts @ points)
    images = PlanarImages.of(data, ctf)
    prior = normal(N, T)
    return slices, data, ctf, shifts, torch.polar(torch.ones_like(angle), angle), images, prior


def plain_scores(slices, data, ctf, ramps, prior) -> np.ndarray:
    """Log-likelihood ratios ``(n, t, c, 2a)`` from the model itself in float64."""
    whole = torch.cat((slices, slices.conj()), 1).numpy().astype(complex)
    score = np.zeros((N, len(ramps), CLASSES, 2 * ANGLES))
    for index in np.ndindex(score.shape):
        n, t, c, a = index
        x = data[n].numpy().astype(complex)
        model = ctf[n].numpy() * ramps[t].numpy() * whole[c, a]
        score[index] = (np.abs(x) ** 2 - np.abs(x - model) ** 2).sum() + float(prior[n, t])
    return score


def tempered(score: np.ndarray, smoothing: float) -> np.ndarray:
    """Posterior whose classes' evidences are raised to ``smoothing``."""
    evidence = np.log(np.exp(score).sum((1, 3), keepdims=True))
    weight = np.exp(score + (smoothing - 1) * evidence)
    return weight / weight.sum((1, 2, 3), keepdims=True)


@pytest.mark.parametrize("smoothing", [1.0, 0.4])
def test_the_posterior_is_that_of_the_model(case, smoothing, monkeypatch) -> None:
    slices, data, ctf, shifts, ramps, images, prior = case
    monkeypatch.setattr(planar_soft, "BLOCK", 2 * T * CLASSES * 2 * ANGLES)  # several blocks
    found, sums = planar_soft.soft_step(images, PlanarBank.of(slices), ramps, shifts, prior, smoothing)
    score = plain_scores(slices, data, ctf, ramps, prior)
    weight = tempered(score, smoothing)
    np.testing.assert_allclose(found.evidence, np.log(np.exp(score).sum((1, 2, 3))), atol=1e-3)
    by_class = weight.sum((1, 3))
    np.testing.assert_array_equal(found.category, by_class.argmax(1))
    np.testing.assert_allclose(found.probability, by_class.max(1), atol=1e-4)
    mine = weight[np.arange(N), :, found.category]
    np.testing.assert_array_equal(found.shift * 2 * ANGLES + found.angle, mine.reshape(N, -1).argmax(1))
    np.testing.assert_allclose(sums.size, by_class.sum(0), rtol=1e-4)
    bare = score - prior.numpy()[:, :, None, None]
    np.testing.assert_allclose(found.fit, (weight * bare).sum((1, 2, 3)), atol=2e-3)
    squares = (ctf.square() @ slices.abs().square().flatten(0, 1).T).view(N, 1, CLASSES, ANGLES)
    norm = np.concatenate((squares, squares), 3)
    np.testing.assert_allclose(found.norm, (weight * norm).sum((1, 2, 3)), rtol=1e-3)


def test_sums_are_those_of_all_weighted_hypotheses(case) -> None:
    slices, data, ctf, shifts, ramps, images, prior = case
    _, sums = planar_soft.soft_step(images, PlanarBank.of(slices), ramps, shifts, prior, 1.0)
    weight = tempered(plain_scores(slices, data, ctf, ramps, prior), 1.0)
    back = (data * ctf).numpy()[:, None] * ramps.conj().resolve_conj().numpy()  # (n, t, k)
    each = np.einsum("ntca,ntk->cak", weight, back)
    numerator = each[:, :ANGLES] + each[:, ANGLES:].conj()
    denominator = np.einsum("ntca,nk->cak", weight, ctf.square().numpy())
    np.testing.assert_allclose(sums.numerator, numerator, atol=2e-4)
    np.testing.assert_allclose(sums.denominator, denominator[:, :ANGLES] + denominator[:, ANGLES:], atol=2e-4)
    whole = torch.cat((slices, slices.conj()), 1).numpy()
    model = ctf.numpy()[:, None, None, None] * ramps.numpy()[None, :, None, None] * whole[None, None]
    residual = np.abs(data.numpy()[:, None, None, None] - model) ** 2
    expected = np.einsum("ntca,ntcak->k", weight, residual)
    np.testing.assert_allclose(images.power + sums.residual, expected, rtol=1e-3)


def test_the_fine_posterior_is_that_of_the_same_hypotheses(case) -> None:
    slices, data, ctf, _, ramps, images, _ = case
    within = 2  # ANGLES fine angles of half a circle are two coarse ones
    fine = FineGrid(within=within, step=1.0, shifts=torch.tensor([[0.0, 0], [1, 0], [0, 1]]), ramps=ramps[:3])
    coarse = ramps[3:]
    hits = Hits(
        score=torch.zeros(N, 3),
        category=torch.tensor([[0, 1, 1]]).repeat(N, 1),
        angle=torch.tensor([[1, 0, 3]]).repeat(N, 1),  # 3 lies on the other half of the circle
        shift=torch.tensor([[0, 1, 0]]).repeat(N, 1),
    )
    score = torch.full((N, 3, within, 3), -torch.inf)
    norm = torch.zeros(N, 3, within)
    for number in range(CLASSES):
        found, norms, place = planar_local.score_class(images, hits, number, slices[number], coarse, fine)
        score[place[:, 0], place[:, 1]] = found
        norm[place[:, 0], place[:, 1]] = norms
    ramp = (coarse[:, None] * fine.ramps).flatten(0, 1)  # shift s · 3 + t
    plain = plain_scores(slices, data, ctf, ramp, torch.zeros(N, len(ramp)))
    for hit, (c, a, s) in enumerate(((0, 1, 0), (1, 0, 1), (1, 3, 0))):
        wanted = plain[:, 3 * s : 3 * s + 3, c, a * within : (a + 1) * within]
        np.testing.assert_allclose(score[:, hit], wanted.transpose(0, 2, 1), atol=1e-3)
    prior = torch.linspace(-1, 1, N * 9).view(N, 3, 3)
    circle = 2 * ANGLES // within
    assigned, weight = planar_local.posterior(score, norm, prior, hits, 1.0, circle, fine)
    both = np.exp(score.numpy().astype(float) + prior.numpy()[:, :, None])
    np.testing.assert_allclose(weight, both / both.sum((1, 2, 3), keepdims=True), atol=1e-4)
    np.testing.assert_allclose(assigned.evidence, np.log(both.sum((1, 2, 3))), atol=1e-3)
    second = weight.numpy()[:, 1:].sum((1, 2, 3))
    np.testing.assert_array_equal(assigned.category, second > 0.5)
    np.testing.assert_allclose(assigned.fit, (weight * score).sum((1, 2, 3)), atol=1e-3)
    squares = ctf.square() @ slices.abs().square().flatten(0, 1).T  # (n, c a)
    wanted_norm = torch.zeros(N)
    for hit, (c, a) in enumerate(((0, 1), (1, 0), (1, 3))):
        for b in range(within):
            wanted_norm += weight[:, hit, b].sum(1) * squares[:, c * ANGLES + (a * within + b) % ANGLES]
    np.testing.assert_allclose(assigned.norm, wanted_norm, rtol=1e-4)
    back = (data * ctf).numpy()[:, None] * ramp.conj().resolve_conj().numpy()
    sums = planar_local.add_class(images, hits, weight, 1, slices[1], coarse, fine)
    wanted = np.zeros((ANGLES, K), complex)
    for hit, a, s in ((1, 0, 1), (2, 3, 0)):
        for b in range(within):
            value = np.einsum("nt,ntk->k", weight[:, hit, b].numpy(), back[:, 3 * s : 3 * s + 3])
            row = a * within + b
            wanted[row % ANGLES] += value if row < ANGLES else value.conj()
    np.testing.assert_allclose(sums.numerator[0], wanted, atol=5e-3 * np.abs(wanted).max() + 2e-3)
    np.testing.assert_allclose(sums.size, second.sum(), rtol=1e-4)


def test_the_coarse_search_finds_the_best_pose_of_each_class_and_angle(case) -> None:
    slices, data, ctf, _, ramps, images, prior = case
    hits = planar_local.search(images, PlanarBank.of(slices), ramps, prior, 6, 1e9)
    score = plain_scores(slices, data, ctf, ramps, prior)
    over_shifts = score.max(1)
    order = np.sort(over_shifts.reshape(N, -1), axis=1)[:, ::-1]
    np.testing.assert_allclose(hits.score, order[:, :6], atol=1e-3)
    row = np.arange(N)[:, None]
    found = score[row, hits.shift, hits.category, hits.angle]
    np.testing.assert_allclose(found, hits.score, atol=1e-3)
    near = planar_local.search(images, PlanarBank.of(slices), ramps, prior, 6, 0.5)
    kept = torch.isfinite(near.score)
    np.testing.assert_array_equal(kept, hits.score >= hits.score[:, :1] - 0.5)


def test_the_peak_about_the_best_pose_lies_between_grid_points() -> None:
    shifts = torch.tensor([[x, y] for y in (-1.0, 0, 1) for x in (-1.0, 0, 1)])
    angles = torch.arange(12.0)
    truth_angle, truth = 11.7, torch.tensor([0.3, -0.2])
    distance = (angles - truth_angle + 6) % 12 - 6
    score = -200 * (distance[None] ** 2 + (shifts - truth).square().sum(1)[:, None])[None]
    best = int(score.flatten().argmax())
    shift = torch.tensor([best // 12])
    turn, move = planar_soft.peak_about(score, torch.tensor([best % 12]), shift, shifts)
    assert (best % 12 + float(turn)) % 12 == pytest.approx(truth_angle, abs=1e-3)
    np.testing.assert_allclose(shifts[best // 12] + move[0], truth, atol=1e-3)
    # at the border a neighbour is missing: the peak stays on the grid along that direction
    _, move = planar_soft.peak_about(score, torch.tensor([0]), torch.tensor([2]), shifts)
    np.testing.assert_array_equal(move, [[0, 0]])
