"""The engine's second operation: weighted poses of a chunk give slices to insert and noise statistics."""

from dataclasses import dataclass

import torch
from torch import Tensor

from parhelion.engine.batch import ParticleBatch, phase_ramp
from parhelion.engine.candidates import Candidates
from parhelion.engine.noise import residual_power
from parhelion.engine.points import FourierPoints
from parhelion.engine.predict import FourierVolume
from parhelion.engine.update import Slices
from parhelion.kernels import dispatch


@dataclass(frozen=True, kw_only=True)
class NoiseSums:
    """Weighted residual power per noise group and shell, and the weights: additive."""

    power: Tensor
    weight: Tensor

    def plus(self, other: "NoiseSums") -> "NoiseSums":
        """The sum over both."""
        return NoiseSums(power=self.power + other.power, weight=self.weight + other.weight)


def insertion_slices(batch: ParticleBatch, poses: Candidates, points: FourierPoints) -> list[Slices]:
    """(rotations, w C conj(S) X / σ², w C² / σ²) per view for the weighted poses of a whitened batch."""
    if poses.weight is None:
        raise ValueError("poses are inserted with weights")
    k = batch.data.shape[-1]
    device = batch.data.device
    kx, ky = points.kx[:k].to(device), points.ky[:k].to(device)
    owner = poses.particle
    ramp = phase_ramp(poses.shift, batch.tilts, kx, ky)
    ctf = batch.ctf[owner]
    weight = poses.weight.float()[:, None, None]
    values = batch.data[owner] * ramp.conj() * (ctf * weight)
    weights = ctf.square() * weight
    rotations = torch.einsum("vij,mjk->mvik", batch.tilts, poses.rotation)
    return [
        (rotations[:, v].contiguous(), values[:, v].contiguous(), weights[:, v].contiguous())
        for v in range(batch.data.shape[1])
    ]


def noise_sums(
    batch: ParticleBatch, poses: Candidates, reference: FourierVolume, points: FourierPoints, groups: int
) -> NoiseSums:
    """Residual power of the poses against ``reference``; ``batch`` is not whitened."""
    if poses.weight is None:
        raise ValueError("residuals are averaged with weights")
    k = batch.data.shape[-1]
    device = batch.data.device
    owner = poses.particle
    rotations = torch.einsum("vij,mjk->mvik", batch.tilts, poses.rotation).reshape(-1, 3, 3)
    slices = dispatch.extract(
        reference.data,
        rotations.contiguous(),
        points.kx[:k].to(device),
        points.ky[:k].to(device),
        reference.padding,
    )
    chosen = ParticleBatch(
        index=batch.index[owner],
        data=batch.data[owner],
        ctf=batch.ctf[owner],
        valid=batch.valid[owner],
        tilts=batch.tilts,
        noise_group=batch.noise_group[owner],
    )
    power, weight = residual_power(
        chosen, slices.view(chosen.data.shape), poses.shift, poses.weight, points, groups
    )
    return NoiseSums(power=power, weight=weight)
