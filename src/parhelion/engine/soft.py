"""Expectation and maximisation over a whole grid of poses, and over classes, as matrix products.

    posterior  w[(n,t), o] ∝ exp(log p / T)
    numerator  [o, k] = Σ w[(n,t), o] · C conj(S) X / σ²       denominator [o, k] = Σ_n (Σ_t w)[n, o] · C²/σ²

Nothing is truncated to a few best poses: while a reference is poor, thousands of poses share the weight,
and their average is what leads out of it. Each orientation is inserted once, whatever the number of
particles. With several references ``o`` runs over the orientations of all of them, so that a particle's
posterior is one over poses and classes together.
"""

import functools
import math
from collections.abc import Iterable, Sequence
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

    The orientations of the first class come first. ``information`` is the sum of what each posterior (at its
    temperature) knows more than a uniform one, in nats; ``evidence`` ``(n,)`` float64 is every particle's
    log Σ exp(log p), at temperature 1, against no particle at all; ``top`` the sum of largest posterior
    weights per particle; ``residual`` the sum of what is left of the whitened images' power; ``share``
    ``(classes,)`` float64 the sum of posteriors; ``count`` the particles.
    """

    numerator: Tensor
    denominator: Tensor
    evidence: Tensor
    information: float
    top: float
    residual: float
    share: Tensor
    count: int

    @property
    def log_evidence(self) -> float:
        """The sum over particles."""
        return float(self.evidence.sum())

    def plus(self, other: "SoftSums") -> "SoftSums":
        """The sums over both sets of particles."""
        return SoftSums(
            numerator=self.numerator + other.numerator,
            denominator=self.denominator + other.denominator,
            evidence=torch.cat((self.evidence, other.evidence)),
            information=self.information + other.information,
            top=self.top + other.top,
            residual=self.residual + other.residual,
            share=self.share + other.share,
            count=self.count + other.count,
        )


def soft_step(
    batch: ParticleBatch,
    banks: Sequence[SliceBank],
    shifts: Tensor,
    log_prior: Tensor,
    temperature: float,
    points: FourierPoints,
    maximise: bool = True,
) -> SoftSums:
    """Posterior and sums of a whitened ``batch`` limited to the points of the ``banks``, one per class.

    ``shifts`` ``(t, 3)`` in units of the extent with ``log_prior`` ``(t,)``. A ``temperature`` of 0 gives
    each particle's best pose all the weight. With ``maximise`` False only the evidence is computed, for
    particles that judge a map they have not seen.
    """
    n, views, k = batch.data.shape
    device = batch.data.device
    sizes = [len(bank.rotations) for bank in banks]
    orientations = sum(sizes)
    ramp = phase_ramp(shifts, batch.tilts, points.kx[:k].to(device), points.ky[:k].to(device)).conj()
    numerator = torch.zeros((orientations, 2 * views * k), device=device)
    share = torch.zeros((n, orientations), device=device)
    norm = torch.cat([batch.ctf.square().reshape(n, -1) @ bank.power.T for bank in banks], 1)
    evidence = torch.zeros(n, dtype=torch.float64, device=device)
    information = torch.zeros((), dtype=torch.float64, device=device)
    residual = batch.data.abs().square().sum().double()
    top = 0.0
    block = max(1, BLOCK // (len(shifts) * orientations))
    for first in range(0, n, block):
        rows = slice(first, first + block)
        moved = ((batch.data[rows] * batch.ctf[rows]).unsqueeze(1) * ramp).flatten(0, 1)
        flat = torch.view_as_real(moved).reshape(len(moved), -1)
        low = flat.to(banks[0].slices.dtype)
        crosses = [_cross(flat, low, bank, log_prior) for bank in banks]
        score = crosses[0] if len(crosses) == 1 else torch.cat(crosses, 2)
        score.mul_(2).sub_(norm[rows].unsqueeze(1))
        score = score.flatten(1)
        evidence[rows] = torch.logsumexp(score, 1).double()
        if not maximise:
            continue
        weight, told = _posterior(score, temperature)
        top += float(weight.amax(1).sum())
        information += told
        residual -= (weight * score).sum().double()
        weight = weight.view(-1, len(shifts), orientations)
        share[rows] = weight.sum(1)
        numerator += (weight.flatten(0, 1).to(low.dtype).T @ low).float()
    denominator = share.T @ batch.ctf.square().reshape(n, -1)
    uniform = math.log(len(shifts) * orientations)
    return SoftSums(
        numerator=torch.view_as_complex(numerator.view(orientations, views, k, 2)),
        denominator=denominator.view(orientations, views, k),
        evidence=evidence.cpu() - uniform,
        information=float(information) + n * uniform,
        top=top,
        residual=float(residual),
        share=torch.stack([part.sum().double() for part in share.sum(0).split(sizes)]).cpu(),
        count=n,
    )


def _cross(flat: Tensor, low: Tensor, bank: SliceBank, log_prior: Tensor) -> Tensor:
    """Σ Re[conj(X) S C P] and half the log prior ``(n, t, o)``; ``low``: ``flat`` as precise as the bank."""
    mean = torch.view_as_real(bank.mean).reshape(-1)
    base = (flat @ mean).view(-1, len(log_prior), 1) + 0.5 * log_prior[:, None]
    return (low @ bank.slices.T).float().view(-1, len(log_prior), len(bank.rotations)).add_(base)


def _posterior(score: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Weights ``(n, t o)`` at the temperature, and the sum of Σ w log w."""
    if temperature == 0:
        best = score.argmax(1, keepdim=True)
        return torch.zeros_like(score).scatter_(1, best, 1.0), score.new_zeros((), dtype=torch.float64)
    weight = torch.softmax(score / temperature, 1)
    # w = exp(score / T) / Z is taken from the largest weight and its score.
    log_z = score.amax(1) / temperature - weight.amax(1).log()
    return weight, ((weight * score).sum(1) / temperature - log_z).double().sum()


def merged(parts: Iterable[SoftSums]) -> SoftSums:
    """The sum of all parts, in order, holding no more than two at a time."""
    return functools.reduce(SoftSums.plus, parts)
