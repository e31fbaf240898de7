"""Posterior and sums over all poses against a plain evaluation in float64."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from parhelion.engine.batch import ParticleBatch
from parhelion.engine.points import FourierPoints
from parhelion.engine.predict import fourier_volume
from parhelion.engine.search import shift_grid, slice_bank
from parhelion.engine.soft import merged, soft_step
from parhelion.geometry.rotations import random_rotations
from parhelion.kernels import reference

POINTS = FourierPoints(box=16, max_shell=4)
ORIENTATIONS, PARTICLES = 6, 5


@pytest.fixture(scope="module")
def case():
    rng = np.random.default_rng(0)
    z, y, x = np.mgrid[:16, :16, :16] - 8.0
    density = sum(
        np.exp(-((z - a) ** 2 + (y - b) ** 2 + (x - c) ** 2) / 3) for a, b, c in rng.uniform(-3, 3, (5, 3))
    )
    volume = fourier_volume(torch.from_numpy(density.astype(np.float32)), 4)
    rotations = random_rotations(ORIENTATIONS, rng)
    k = len(POINTS)
    data = (rng.normal(size=(PARTICLES, 1, k)) + 1j * rng.normal(size=(PARTICLES, 1, k))).astype(np.complex64)
    ctf = rng.uniform(-1, 1, (PARTICLES, 1, k)).astype(np.float32)
    batch = ParticleBatch(
        index=torch.arange(PARTICLES),
        data=torch.from_numpy(data),
        ctf=torch.from_numpy(ctf),
        valid=torch.ones((PARTICLES, 1), dtype=torch.bool),
        tilts=torch.eye(3, dtype=torch.float64)[None],
        noise_group=torch.zeros((PARTICLES, 1), dtype=torch.int64),
    )
    bank = slice_bank(volume, torch.from_numpy(rotations), batch.tilts, POINTS, k, torch.float32)
    shifts = shift_grid(0.1, 0.1)
    log_prior = torch.linspace(0, -0.4, len(shifts))
    return volume, rotations, batch, bank, shifts, log_prior


def plain(case, temperature):
    """Scores, weights and sums, pose by pose."""
    volume, rotations, batch, _, shifts, log_prior = case
    kx, ky = POINTS.kx.numpy().astype(float), POINTS.ky.numpy().astype(float)
    slices = reference.extract(volume.data.numpy(), rotations, kx, ky, volume.padding)
    data, ctf = batch.data[:, 0].numpy().astype(complex), batch.ctf[:, 0].numpy().astype(float)
    ramp = np.exp(2j * np.pi * (shifts[:, :1].numpy() * kx + shifts[:, 1:2].numpy() * ky))
    model = ctf[:, None, None] * ramp[None, :, None] * slices[None, None]
    score = 2 * (data.conj()[:, None, None] * model).real.sum(-1) - (abs(model) ** 2).sum(-1)
    score += log_prior.numpy()[None, :, None]
    flat = score.reshape(len(data), -1)
    weight = np.exp((flat - flat.max(1, keepdims=True)) / temperature)
    weight /= weight.sum(1, keepdims=True)
    information = (weight * np.log(weight)).sum() + len(data) * np.log(flat.shape[1])
    evidence = np.logaddexp.reduce(flat, axis=1).sum() - len(data) * np.log(flat.shape[1])
    weight = weight.reshape(score.shape)
    centred = ctf[:, None] * data[:, None] * ramp.conj()[None]
    numerator = np.einsum("nto,ntk->ok", weight, centred)
    denominator = np.einsum("no,nk->ok", weight.sum(1), ctf**2)
    return numerator, denominator, evidence, information


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_sums_agree_with_a_plain_evaluation(case, temperature):
    _, _, batch, bank, shifts, log_prior = case
    found = soft_step(batch, (bank,), shifts, log_prior, temperature, POINTS)
    numerator, denominator, evidence, information = plain(case, temperature)
    np.testing.assert_allclose(found.numerator[:, 0].numpy(), numerator, atol=2e-4)
    np.testing.assert_allclose(found.denominator[:, 0].numpy(), denominator, atol=2e-4)
    assert found.log_evidence == pytest.approx(evidence, abs=1e-3)
    assert found.information == pytest.approx(information, abs=1e-3)
    assert found.count == PARTICLES


def test_sums_add_over_chunks(case):
    _, _, batch, bank, shifts, log_prior = case
    whole = soft_step(batch, (bank,), shifts, log_prior, 1.0, POINTS)
    parts = merged(
        soft_step(batch.rows(part), (bank,), shifts, log_prior, 1.0, POINTS)
        for part in (slice(0, 2), slice(2, 5))
    )
    np.testing.assert_allclose(parts.numerator.numpy(), whole.numerator.numpy(), atol=1e-5)
    assert parts.log_evidence == pytest.approx(whole.log_evidence, abs=1e-4)
    assert parts.count == whole.count


def test_judging_gives_the_same_evidence_without_sums(case):
    _, _, batch, bank, shifts, log_prior = case
    judged = soft_step(batch, (bank,), shifts, log_prior, 1.0, POINTS, maximise=False)
    assert judged.log_evidence == pytest.approx(plain(case, 1.0)[2], abs=1e-3)
    assert not judged.numerator.any()


def halves_of(bank):
    """The orientations of one bank as those of two classes."""
    return [
        replace(
            bank, rotations=bank.rotations[part], slices=bank.slices[part], power=bank.power[part], pairs=None
        )
        for part in (slice(0, 2), slice(2, ORIENTATIONS))
    ]


def test_a_posterior_runs_over_classes_and_poses_together(case):
    """Classes that are parts of one set of orientations share its posterior."""
    _, _, batch, bank, shifts, log_prior = case
    whole = soft_step(batch, (bank,), shifts, log_prior, 1.0, POINTS)
    parts = soft_step(batch, halves_of(bank), shifts, log_prior, 1.0, POINTS)
    np.testing.assert_allclose(parts.numerator.numpy(), whole.numerator.numpy(), atol=1e-5)
    np.testing.assert_allclose(parts.evidence.numpy(), whole.evidence.numpy(), atol=1e-5)
    assert parts.share.sum().item() == pytest.approx(PARTICLES, abs=1e-4)
    assert parts.share[0].item() < parts.share[1].item() < PARTICLES


def test_at_temperature_zero_the_best_pose_has_all_weight(case):
    _, _, batch, bank, shifts, log_prior = case
    hard = soft_step(batch, (bank,), shifts, log_prior, 0.0, POINTS)
    cold = soft_step(batch, (bank,), shifts, log_prior, 1e-3, POINTS)
    assert hard.top == pytest.approx(PARTICLES)
    np.testing.assert_allclose(hard.numerator.numpy(), cold.numerator.numpy(), atol=1e-3)
    assert hard.information == pytest.approx(PARTICLES * np.log(len(shifts) * ORIENTATIONS))


def test_the_residual_is_what_the_posterior_leaves_of_the_images(case):
    volume, rotations, batch, bank, shifts, log_prior = case
    flat = torch.zeros_like(log_prior)
    found = soft_step(batch, (bank,), shifts, flat, 0.0, POINTS)
    kx, ky = POINTS.kx.numpy().astype(float), POINTS.ky.numpy().astype(float)
    slices = reference.extract(volume.data.numpy(), rotations, kx, ky, volume.padding)
    ramp = np.exp(2j * np.pi * (shifts[:, :1].numpy() * kx + shifts[:, 1:2].numpy() * ky))
    ctf = batch.ctf[:, 0].numpy()
    model = ctf[:, None, None] * ramp[None, :, None] * slices[None, None]
    left = (abs(batch.data[:, 0].numpy()[:, None, None] - model) ** 2).sum(-1)
    assert found.residual == pytest.approx(left.reshape(PARTICLES, -1).min(1).sum(), rel=1e-4)
