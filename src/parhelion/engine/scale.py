"""The grey scale of a starting map: its units are rarely those of the particles."""

import numpy as np
import torch
from torch import Tensor

from parhelion.engine.loader import ParticleLoader
from parhelion.engine.noise import on_points
from parhelion.engine.predict import fourier_volume
from parhelion.engine.search import score, shift_grid, slice_bank
from parhelion.geometry.so3 import so3_grid
from parhelion.geometry.symmetry import SymmetryGroup


def reference_scale(
    loader: ParticleLoader,
    volume: Tensor,
    noise: Tensor,
    symmetry: SymmetryGroup,
    limit: float,
    shift_radius: float,
    sample: int,
    rng: np.random.Generator,
) -> float:
    """The factor that brings ``volume`` to the particles' scale; 0 where they have nothing in common.

    Poses are chosen by normalised correlation on one half of the Fourier points and the factor
    Σ cross / Σ norm is measured on the other half, so that noise which helped to choose a pose does not
    inflate it. ``limit`` is in shells, ``shift_radius`` in units of the extent.
    """
    points = loader.points
    device = loader.device
    rows = np.sort(rng.permutation(len(loader.particles))[:sample])
    count = points.count(limit)
    batch = loader.batch(rows, count).whitened(on_points(noise, points).to(device))
    bank = slice_bank(
        fourier_volume(volume.to(device), points.max_shell),
        torch.from_numpy(so3_grid(2, symmetry=symmetry)).to(device),
        torch.from_numpy(loader.tilts).to(device),
        points,
        count,
        torch.float32,
    )
    shifts = shift_grid(shift_radius, 0.4 / limit).to(device)
    cross_sum, norm_sum = 0.0, 0.0
    even = torch.zeros(count, dtype=torch.bool, device=device)
    even[torch.from_numpy(rng.permutation(count)[: count // 2]).to(device)] = True
    for first in range(0, len(rows), 16):
        part = slice(first, first + 16)
        totals = []
        for chosen in (even, ~even):
            piece = batch.rows(part)
            piece = piece.with_data(piece.data * chosen, piece.ctf * chosen)
            centres = torch.zeros((len(piece), 3), dtype=torch.float64, device=device)
            cross, base, norm = score(piece, bank, shifts, centres, points)
            totals.append(((cross + base.unsqueeze(-1)).flatten(1), norm.repeat(1, len(shifts))))
        best = (totals[0][0] / totals[0][1].clamp_min(1e-20).sqrt()).argmax(1, keepdim=True)
        cross_sum += float(totals[1][0].gather(1, best).sum())
        norm_sum += float(totals[1][1].gather(1, best).sum())
    return max(cross_sum / norm_sum, 0.0) if norm_sum > 0 else 0.0
