"""Step 1: exhaustive search over orientations and shifts as matrix products.

For whitened data W and slices P, per particle, shift t and orientation o:

    log p = 2 · cross - norm,   cross = Σ Re[conj(X) S(t) C P],   norm = Σ C² |P|²

Both are dense products whose right-hand side is shared by all particles of a chunk. The mean slice is
taken out of P first and added back per (particle, shift) in float32: what bfloat16 rounds is then the
small difference between orientations, not the large common term.

A half turn in the plane takes k to -k, where a real map's slice has its complex conjugate. Orientations that
come in such pairs, as those of ``so3_grid`` do, share one product of real and one of imaginary parts:

    cross = Re W · Re P ± Im W · Im P

with + for one and - for the other, which halves the work.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from parhelion.engine.batch import ParticleBatch, phase_ramp
from parhelion.engine.points import FourierPoints
from parhelion.engine.predict import FourierVolume
from parhelion.kernels import dispatch


@dataclass(frozen=True, kw_only=True)
class SliceBank:
    """Slices of one reference at ``o`` orientations, laid out for the products.

    ``slices`` ``(o, 2vk)`` without their mean, real and imaginary parts side by side; ``mean``
    ``(v, k)`` complex; ``power`` ``(o, vk)`` = |P|²; ``rotations`` ``(o, 3, 3)``. ``pairs`` is there where
    orientations come in half turns.
    """

    rotations: Tensor
    slices: Tensor
    mean: Tensor
    power: Tensor
    pairs: "HalfTurns | None" = None


@dataclass(frozen=True, kw_only=True)
class HalfTurns:
    """Orientation ``rows[1, i]`` is ``rows[0, i]`` turned by 180° in the plane; ``rows`` ``(2, o / 2)``.

    ``real`` and ``imaginary`` ``(o / 2, vk)`` are the parts of the slices at ``rows[0]`` without the mean,
    ``power`` ``(o / 2, vk)`` is that of either.
    """

    rows: Tensor
    real: Tensor
    imaginary: Tensor
    power: Tensor


@dataclass(frozen=True, kw_only=True)
class Hits:
    """Best poses per particle: log-likelihood ratios, orientation rows and shift rows, all ``(n, top)``."""

    score: Tensor
    orientation: Tensor
    shift: Tensor


def search_precision(device: torch.device) -> torch.dtype:
    """bfloat16 where the processor multiplies it fast, else float32."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return torch.bfloat16 if supported is not None and supported() else torch.float32


def slice_bank(
    reference: FourierVolume,
    rotations: Tensor,
    tilts: Tensor,
    points: FourierPoints,
    count: int,
    precision: torch.dtype,
) -> SliceBank:
    """Slices of ``reference`` at ``rotations`` ``(o, 3, 3)`` for every view, on ``count`` points."""
    device = reference.data.device
    kx, ky = points.kx[:count].to(device), points.ky[:count].to(device)
    rows = half_turn_rows(rotations, tilts)
    chosen = rotations if rows is None else rotations[rows[0]]
    poses = torch.einsum("vij,ojk->ovik", tilts, chosen).reshape(-1, 3, 3).contiguous()
    taken = dispatch.extract(reference.data, poses, kx, ky, reference.padding)
    taken = taken.view(len(chosen), len(tilts), count)
    power = torch.view_as_real(taken).square().sum(-1).reshape(len(chosen), -1)
    if rows is None:
        mean = taken.mean(0)
        flat = torch.view_as_real(taken - mean).reshape(len(chosen), -1).to(precision)
        return SliceBank(rotations=rotations, slices=flat, mean=mean, power=power)
    mean = torch.complex(taken.real.mean(0), torch.zeros_like(taken.real[0]))  # of a slice and its conjugate
    taken = taken - mean
    pairs = HalfTurns(
        rows=rows,
        real=taken.real.reshape(len(chosen), -1).to(precision),
        imaginary=taken.imag.reshape(len(chosen), -1).to(precision),
        power=power,
    )
    slices = torch.empty((len(rotations), 2 * power.shape[1]), dtype=precision, device=device)
    slices[rows[0]] = torch.stack((pairs.real, pairs.imaginary), -1).flatten(1)
    slices[rows[1]] = torch.stack((pairs.real, -pairs.imaginary), -1).flatten(1)
    both = torch.empty((len(rotations), power.shape[1]), device=device)
    both[rows[0]] = both[rows[1]] = power
    return SliceBank(rotations=rotations, slices=slices, mean=mean, power=both, pairs=pairs)


def half_turn_rows(rotations: Tensor, tilts: Tensor) -> Tensor | None:
    """Rows ``(2, o / 2)`` of orientations that differ by 180° in the plane; None where they do not come so.

    They must lie in equal stretches, one half of a stretch the turn of its other half, and every view's
    tilt must commute with the turn, or a half turn of the particle is none of its views'.
    """
    turn = torch.diag(rotations.new_tensor([-1.0, -1.0, 1.0]))
    if not torch.allclose(turn @ tilts, tilts @ turn, atol=1e-9):
        return None
    partner = (rotations - turn @ rotations[0]).abs().amax((1, 2)) < 1e-6
    gap = int(partner.int().argmax())
    if gap == 0 or len(rotations) % (2 * gap):
        return None
    stretches = rotations.view(-1, 2, gap, 3, 3)
    if not torch.allclose(turn @ stretches[:, 0], stretches[:, 1], atol=1e-6):
        return None
    rows = torch.arange(len(rotations), device=rotations.device).view(-1, 2, gap)
    return rows.transpose(0, 1).reshape(2, -1)


def score(
    batch: ParticleBatch,
    bank: SliceBank,
    shifts: Tensor,
    centres: Tensor,
    points: FourierPoints,
) -> tuple[Tensor, Tensor, Tensor]:
    """The products for whitened ``batch`` and ``shifts`` ``(t, 3)`` about ``centres`` ``(n, 3)``.

    Returns cross ``(n, t, o)`` in the bank's precision without the mean slice's share, that share
    ``(n, t)`` and norm ``(n, o)``, both float32. Shifts are in units of the extent.
    """
    flat = torch.view_as_real(_moved(batch, shifts, centres, points)).flatten(1)
    base = (flat @ torch.view_as_real(bank.mean).reshape(-1)).view(len(batch), -1)
    cross = (flat.to(bank.slices.dtype) @ bank.slices.T).view(len(batch), len(shifts), -1)
    return cross, base, _norm(batch, bank.power)


def _moved(batch: ParticleBatch, shifts: Tensor, centres: Tensor, points: FourierPoints) -> Tensor:
    """X conj(S) C for every particle and shift: ``(n t, vk)`` complex64."""
    n, _, k = batch.data.shape
    device = batch.data.device
    kx, ky = points.kx[:k].to(device), points.ky[:k].to(device)
    moved = (batch.shifted(centres, kx, ky) * batch.ctf).unsqueeze(1)
    moved = moved * phase_ramp(shifts, batch.tilts, kx, ky).conj()  # (n, t, v, k)
    return moved.reshape(n * len(shifts), -1)


def _norm(batch: ParticleBatch, power: Tensor) -> Tensor:
    """Σ C² |P|² ``(n, o)``."""
    # A block holds few particles: with them as the narrow right-hand side the large table is read once,
    # not copied first (7.3 ms against 2.1 ms per particle for 3 particles and 36,864 orientations).
    return (power @ batch.ctf.square().reshape(len(batch), -1).T).T.contiguous()


def global_search(
    batch: ParticleBatch,
    bank: SliceBank,
    shifts: Tensor,
    centres: Tensor,
    log_prior: Tensor,
    points: FourierPoints,
    top: int,
) -> Hits:
    """The ``top`` best orientations of each particle, each at its best shift.

    ``batch`` is whitened and limited to the bank's points; ``log_prior`` ``(n, t)`` is added to the
    log-likelihood ratio of each shift.
    """
    if bank.pairs is None:
        cross, base, norm = score(batch, bank, shifts, centres, points)
        best, which = dispatch.best_shift(cross, base + 0.5 * log_prior, norm)
    else:
        best, which = _search_pairs(batch, bank, bank.pairs, shifts, centres, log_prior, points)
    values, column = best.topk(min(top, best.shape[1]), 1)
    orientation = column if bank.pairs is None else bank.pairs.rows.reshape(-1)[column]
    return Hits(score=values, orientation=orientation, shift=which.gather(1, column).long())


def _search_pairs(
    batch: ParticleBatch,
    bank: SliceBank,
    pairs: HalfTurns,
    shifts: Tensor,
    centres: Tensor,
    log_prior: Tensor,
    points: FourierPoints,
) -> tuple[Tensor, Tensor]:
    """Best score and shift ``(n, o)`` per orientation, ``rows[0]`` before ``rows[1]``."""
    moved = _moved(batch, shifts, centres, points)
    base = (moved.real @ bank.mean.real.reshape(-1)).view(len(batch), -1) + 0.5 * log_prior
    shape = (len(batch), len(shifts), -1)
    even = (moved.real.to(pairs.real.dtype) @ pairs.real.T).view(shape)
    odd = (moved.imag.to(pairs.real.dtype) @ pairs.imaginary.T).view(shape)
    norm = _norm(batch, pairs.power)
    first = dispatch.best_shift(even + odd, base, norm)
    second = dispatch.best_shift(even.sub_(odd), base, norm)
    return torch.cat((first[0], second[0]), 1), torch.cat((first[1], second[1]), 1)


def shift_grid(radius: float, step: float) -> Tensor:
    """In-plane shifts ``(t, 3)`` float64 within ``radius`` on a square grid of ``step``; zero included."""
    steps = int(radius / step + 1e-6)
    axis = torch.arange(-steps, steps + 1, dtype=torch.float64) * step
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    grid = torch.stack((x, y, torch.zeros_like(x)), -1).reshape(-1, 3)
    return grid[grid.norm(dim=1) <= radius * (1 + 1e-6)]
