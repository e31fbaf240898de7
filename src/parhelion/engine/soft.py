"""Expectation and maximisation over a whole grid of poses, both as matrix products.

    posterior  w[(n,t), o] ∝ exp(log p / T)
    numerator  [o, k] = Σ w[(n,t), o] · C conj(S) X / σ²       denominator [o, k] = Σ_n (Σ_t w)[n, o] · C²/σ²

Nothing is truncated to a few best poses: while a reference is poor, thousands of poses share the weight,
and their average is what leads out of it. Each orientation is inserted once, whatever the number of
particles.
"""

import functools
import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from parhelion.engine.batch import ParticleBatch, phase_ramp
from parhelion.engine.points import FourierPoints
from parhelion.engine.search import SliceBank

BLOCK = 3_000_000


@dataclass(frozen=True, kw_only=True)
class SoftSums:
    """Per orientation: numerator ``(o, v, k)`` complex64, denominator ``(o, v, k)`` float32; additive.

    ``information`` is the sum of what each posterior (at its temperature) knows more than a uniform one,
    in nats; ``log_evidence`` the sum over particles of log Σ exp(log p), at temperature 1, against no
    particle at all; ``top`` the sum of largest posterior weights per particle; ``count`` the particles.
    """

    numerator: Tensor
    denominator: Tensor
    log_evidence: float
    information: float
    top: float
    count: int

    def plus(self, other: "SoftSums") -> "SoftSums":
        """The sums over both sets of particles."""
        return SoftSums(
            numerator=self.numerator + other.numerator,
            denominator=self.denominator + other.denominator,
            information=self.information + other.information,
            log_evidence=self.log_evidence + other.log_evidence,
            top=self.top + other.top,
            count=self.count + other.count,
        )


def soft_step(
    batch: ParticleBatch,
    bank: SliceBank,
    shifts: Tensor,
    log_prior: Tensor,
    temperature: float,
    points: FourierPoints,
    maximise: bool = True,
) -> SoftSums:
    """Posterior and sums of a whitened ``batch`` limited to the bank's points.

    ``shifts`` ``(t, 3)`` in units of the extent with ``log_prior`` ``(t,)``. With ``maximise`` False only
    the evidence is computed, for particles that judge a map they have not seen.
    """
    n, views, k = batch.data.shape
    device = batch.data.device
    orientations = len(bank.rotations)
    ramp = phase_ramp(shifts, batch.tilts, points.kx[:k].to(device), points.ky[:k].to(device)).conj()
    numerator = torch.zeros((orientations, 2 * views * k), device=device)
    share = torch.zeros((n, orientations), device=device)
    mean = torch.view_as_real(bank.mean).reshape(-1)
    norm = batch.ctf.square().reshape(n, -1) @ bank.power.T
    evidence = torch.zeros((), dtype=torch.float64, device=device)
    information = torch.zeros_like(evidence)
    top = 0.0
    block = max(1, BLOCK // (len(shifts) * orientations))
    for first in range(0, n, block):
        rows = slice(first, first + block)
        moved = ((batch.data[rows] * batch.ctf[rows]).unsqueeze(1) * ramp).flatten(0, 1)
        flat = torch.view_as_real(moved).reshape(len(moved), -1)
        low = flat.to(bank.slices.dtype)
        base = (flat @ mean).view(-1, len(shifts), 1) + 0.5 * log_prior[:, None]
        score = (low @ bank.slices.T).float().view(-1, len(shifts), orientations).add_(base)
        score.mul_(2).sub_(norm[rows].unsqueeze(1))
        score = score.flatten(1)
        evidence += torch.logsumexp(score, 1).double().sum()
        if not maximise:
            continue
        weight = torch.softmax(score / temperature, 1)
        peak = weight.amax(1)
        top += float(peak.sum())
        # Σ w log w, with w = exp(score / T) / Z taken from the largest weight and its score.
        log_z = score.amax(1) / temperature - peak.log()
        information += ((weight * score).sum(1) / temperature - log_z).double().sum()
        weight = weight.view(-1, len(shifts), orientations)
        share[rows] = weight.sum(1)
        numerator += (weight.flatten(0, 1).to(low.dtype).T @ low).float()
    denominator = share.T @ batch.ctf.square().reshape(n, -1)
    uniform = math.log(len(shifts) * orientations)
    return SoftSums(
        numerator=torch.view_as_complex(numerator.view(orientations, views, k, 2)),
        denominator=denominator.view(orientations, views, k),
        log_evidence=float(evidence) - n * uniform,
        information=float(information) + n * uniform,
        top=top,
        count=n,
    )


def merged(parts: Iterable[SoftSums]) -> SoftSums:
    """The sum of all parts, in order, holding no more than two at a time."""
    return functools.reduce(SoftSums.plus, parts)
