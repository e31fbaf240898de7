"""What a map predicts for images at given poses, and sums of it per shell."""

import torch
from torch import Tensor

from parhelion.engine.batch import ParticleBatch, phase_ramp
from parhelion.engine.candidates import Candidates
from parhelion.engine.points import FourierPoints
from parhelion.engine.predict import FourierVolume
from parhelion.kernels import dispatch


def slices_at(
    volume: FourierVolume, rotation: Tensor, tilts: Tensor, points: FourierPoints, count: int
) -> Tensor:
    """Slices ``(m, v, count)`` complex64 of ``volume`` at poses ``rotation`` ``(m, 3, 3)``, one per view."""
    device = volume.data.device
    turned = torch.einsum("vij,mjk->mvik", tilts, rotation).reshape(-1, 3, 3).contiguous()
    kx, ky = points.kx[:count].to(device), points.ky[:count].to(device)
    taken = dispatch.extract(volume.data, turned, kx, ky, volume.padding)
    return taken.view(len(rotation), len(tilts), count)


def ramps(shift: Tensor, tilts: Tensor, points: FourierPoints, count: int) -> Tensor:
    """The phases ``(m, v, count)`` of shifts ``(m, 3)`` in units of the extent."""
    device = shift.device
    return phase_ramp(shift, tilts, points.kx[:count].to(device), points.ky[:count].to(device))


def predicted(
    batch: ParticleBatch, volume: FourierVolume, poses: Candidates, points: FourierPoints
) -> Tensor:
    """CTF · shift · slice of every pose ``(m, v, k)``, on the points of a whitened ``batch``."""
    k = batch.data.shape[-1]
    slices = slices_at(volume, poses.rotation, batch.tilts, points, k)
    return batch.ctf[poses.particle] * ramps(poses.shift, batch.tilts, points, k) * slices


def per_shell(values: Tensor, points: FourierPoints) -> Tensor:
    """Sums of real ``values`` ``(m, v, k)`` over views and shells: ``(m, shells)`` float64."""
    summed = values.double().sum(1)
    shell = points.shell[: summed.shape[-1]].to(values.device)
    sums = torch.zeros((len(values), points.max_shell + 1), dtype=torch.float64, device=values.device)
    return sums.index_add_(1, shell, summed)


def cross_per_shell(data: Tensor, model: Tensor, points: FourierPoints) -> Tensor:
    """Re Σ conj(image) · model per shell ``(m, shells)``."""
    return per_shell(data.real * model.real + data.imag * model.imag, points)


def signs_per_shell(cross: Tensor, signed_shell: float) -> Tensor:
    """1 where the sign counts (up to ``signed_shell``); beyond it the sign that makes ``cross`` positive."""
    shell = torch.arange(cross.shape[1], device=cross.device)
    flipped = torch.where(cross < 0, -1.0, 1.0)
    return torch.where(shell[None] <= signed_shell, torch.ones_like(flipped), flipped)
