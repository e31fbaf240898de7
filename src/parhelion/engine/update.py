"""Step 3: sums of inserted slices, and the solve that turns them into a map.

    numerator   += w · C · conj(S) X / σ²        denominator += w · C² / σ²

Both are additive over particles, chunks, workers and symmetry copies. The map's transform is
numerator / (denominator + prior), the prior given per shell.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from parhelion.contracts import Executor
from parhelion.engine.points import FourierPoints
from parhelion.engine.predict import (
    PADDING,
    half_size,
    interpolation_envelope,
    padded_box,
    uncrop_half,
)
from parhelion.kernels import dispatch

Slices = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True, kw_only=True)
class MapSums:
    """Numerator ``(2h+1, 2h+1, h+1)`` complex64 and denominator float32 of one reference and half set.

    ``copies`` counts the operators that were averaged by interpolation (1 when none were).
    """

    numerator: Tensor
    denominator: Tensor
    box: int
    max_shell: int
    padding: float = PADDING
    copies: int = 1

    @staticmethod
    def zeros(box: int, max_shell: int, device: torch.device, padding: float = PADDING) -> "MapSums":
        """Empty sums up to ``max_shell``."""
        padding = padded_box(box, padding) / box
        h = half_size(max_shell, padding)
        shape = (2 * h + 1, 2 * h + 1, h + 1)
        return MapSums(
            numerator=torch.zeros(shape, dtype=torch.complex64, device=device),
            denominator=torch.zeros(shape, dtype=torch.float32, device=device),
            box=box,
            max_shell=max_shell,
            padding=padding,
        )

    def add(self, slices: Sequence[Slices], points: FourierPoints, executor: Executor | None = None) -> None:
        """Inserts (rotations, values, weights) in place; the one operation here that mutates."""
        device = self.numerator.device
        kx, ky = points.kx.to(device), points.ky.to(device)
        dispatch.insert(self.numerator, self.denominator, kx, ky, self.padding, slices, executor)


def complete_mates(sums: MapSums) -> MapSums:
    """Adds to the plane x = 0 what the Friedel mates of its points bring."""
    numerator, denominator = sums.numerator.clone(), sums.denominator.clone()
    numerator[:, :, 0] += sums.numerator[:, :, 0].flip(0, 1).conj()
    denominator[:, :, 0] += sums.denominator[:, :, 0].flip(0, 1)
    return replace(sums, numerator=numerator, denominator=denominator)


def symmetrise(sums: MapSums, operators: np.ndarray, executor: Executor | None = None) -> MapSums:
    """The mean over ``operators`` ``(g, 3, 3)`` of completed sums, by trilinear interpolation."""
    if len(operators) == 1:
        return sums
    numerator, denominator = dispatch.average_over_operators(
        sums.numerator,
        sums.denominator,
        torch.from_numpy(operators),
        sums.max_shell * sums.padding + 1,
        executor,
    )
    return replace(sums, numerator=numerator, denominator=denominator, copies=len(operators))


def shell_of_voxels(sums: MapSums) -> Tensor:
    """Distance of every voxel from the origin in shells of the images' transform, float32."""
    h = sums.numerator.shape[-1] - 1
    axis = torch.arange(-h, h + 1, device=sums.numerator.device, dtype=torch.float32) / sums.padding
    return torch.sqrt(axis[:, None, None] ** 2 + axis[None, :, None] ** 2 + axis[h:] ** 2)


def shell_means(sums: MapSums, radius: Tensor) -> Tensor:
    """Mean denominator per shell, ``(max_shell + 2,)`` float64."""
    shell = radius.round().long().clamp_max(sums.max_shell + 1).reshape(-1)
    total = torch.zeros(sums.max_shell + 2, dtype=torch.float64, device=radius.device)
    total.index_add_(0, shell, sums.denominator.reshape(-1).double())
    return total / torch.bincount(shell, minlength=sums.max_shell + 2).clamp_min(1)


def solve(sums: MapSums, inverse_snr: Tensor, limit: float, soft_shells: float = 2.0) -> Tensor:
    """The map ``(box, box, box)`` float32 by Wiener filtering completed, symmetrised sums.

    The prior per shell is ``inverse_snr`` (one value per shell of ``max_shell + 1``) times that shell's
    mean denominator: where the CTF of few particles leaves a gap, the neighbours on the shell decide,
    not a constant that would damp low frequencies. Frequencies above ``limit`` shells fall to zero
    over ``soft_shells``.
    """
    return to_real_space(_filtered(sums, inverse_snr, limit, soft_shells), sums)


def _filtered(sums: MapSums, inverse_snr: Tensor, limit: float, soft_shells: float) -> Tensor:
    """The map's transform; of its own so that what it needs is free before the padded transform."""
    radius = shell_of_voxels(sums)
    mean = shell_means(sums, radius)
    prior = mean.clone()
    prior[: len(inverse_snr)] *= inverse_snr.to(mean)
    tiny = mean[mean > 0].min() * 1e-6 if bool((mean > 0).any()) else mean.new_tensor(1.0)
    shell = radius.round().long().clamp_max(sums.max_shell + 1)
    estimate = sums.numerator / (sums.denominator + (prior + tiny).float()[shell])
    del shell
    estimate *= ((limit + soft_shells - radius) / soft_shells).clamp(0, 1)
    return estimate


def to_real_space(estimate: Tensor, sums: MapSums) -> Tensor:
    """The central box of the inverse transform, divided by the interpolation's envelope."""
    box = sums.box
    size = padded_box(box, sums.padding)
    transform = uncrop_half(estimate, size).mul_(box)
    del estimate
    padded = torch.fft.irfftn(transform, s=(size,) * 3)
    del transform
    padded = torch.fft.fftshift(padded)
    before = size // 2 - box // 2
    inner = slice(before, before + box)
    return padded[inner, inner, inner] / _insertion_envelope(sums)


def _insertion_envelope(sums: MapSums) -> Tensor:
    """sinc² of the insertion; copies made by interpolation carry it twice, except the identity's."""
    s = interpolation_envelope(sums.box, sums.padding, sums.numerator.device).float()
    once = s[:, None, None] * s[None, :, None] * s
    return (once + (sums.copies - 1) * once**2) / sums.copies
