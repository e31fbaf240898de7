"""The engine's first operation: a chunk of particles against one reference gives weighted poses.

Search everywhere (optional) → candidates → Gauss-Newton in stages of rising resolution → weights.
"""

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from parhelion.engine import candidates as cand
from parhelion.engine.batch import ParticleBatch
from parhelion.engine.candidates import Candidates
from parhelion.engine.points import FourierPoints
from parhelion.engine.predict import FourierVolume
from parhelion.engine.search import SliceBank, global_search
from parhelion.kernels import dispatch

# Memory of one block of scores: small enough to be reduced while it is in the cache.
SCORE_BLOCK = 4_000_000


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One refinement stage: up to ``limit`` shells, at most ``steps`` steps, then keep the best ``keep``."""

    limit: float
    steps: int
    keep: int
    worse_by: float


@dataclass(frozen=True, kw_only=True)
class ScoreSettings:
    """How poses are found in one round. Shifts in units of the extent, angles in radians.

    ``operators`` ``(g, 3, 3)`` float64 are those of the symmetry; poses that differ by one are the same.
    """

    top: int
    stages: tuple[Stage, ...]
    shift_precision: float
    same_angle_rad: float
    same_shift: float
    operators: Tensor | None = None
    three_dimensional_shift: bool = False


def stages_between(search_shell: float, refine_shell: float, kept: int) -> tuple[Stage, ...]:
    """Resolution at most doubles from stage to stage, so that each starts within the next one's reach."""
    limits = [min(search_shell, refine_shell)]
    while limits[-1] * 1.02 < refine_shell:
        limits.append(min(refine_shell, limits[-1] * 2))
    first = Stage(limit=limits[0], steps=3, keep=kept, worse_by=15.0)
    if len(limits) == 1:
        return (first, Stage(limit=limits[0], steps=8, keep=kept, worse_by=10.0))
    return (first, *(Stage(limit=limit, steps=8, keep=kept, worse_by=10.0) for limit in limits[1:]))


def searched(
    batch: ParticleBatch,
    bank: SliceBank,
    shifts: Tensor,
    centres: Tensor,
    settings: ScoreSettings,
    points: FourierPoints,
) -> Candidates:
    """The search's ``top`` poses of each particle of a whitened batch, limited to the bank's points."""
    block = max(1, SCORE_BLOCK // (len(shifts) * len(bank.rotations)))
    parts = []
    for first in range(0, len(batch), block):
        rows = slice(first, first + block)
        part = batch.rows(rows)
        total = centres[rows, None, :] + shifts
        prior = -settings.shift_precision * total.square().sum(-1).float()
        hits = global_search(part, bank, shifts, centres[rows], prior, points, settings.top)
        n, top = hits.orientation.shape
        owner = torch.arange(first, first + n, device=centres.device).repeat_interleave(top)
        parts.append(
            Candidates(
                particle=owner,
                rotation=bank.rotations[hits.orientation.reshape(-1)],
                shift=centres[owner] + shifts[hits.shift.reshape(-1)],
            )
        )
    return Candidates(
        particle=torch.cat([p.particle for p in parts]),
        rotation=torch.cat([p.rotation for p in parts]),
        shift=torch.cat([p.shift for p in parts]),
    )


def refined(
    batch: ParticleBatch,
    reference: FourierVolume,
    start: Candidates,
    settings: ScoreSettings,
    points: FourierPoints,
) -> Candidates:
    """Gauss-Newton from ``start`` through the stages, then posterior weights. ``batch`` is whitened."""
    return cand.weighted(located(batch, reference, start, settings, points))


def located(
    batch: ParticleBatch,
    reference: FourierVolume,
    start: Candidates,
    settings: ScoreSettings,
    points: FourierPoints,
) -> Candidates:
    """Gauss-Newton from ``start`` through the stages: distinct poses with chi² and normal matrix."""
    device = batch.data.device
    free = torch.tensor([True] * 5 + [settings.three_dimensional_shift], device=device)
    current = start
    for number, stage in enumerate(settings.stages):
        count = min(points.count(stage.limit), batch.data.shape[-1])
        part = batch if count == batch.data.shape[-1] else batch.limited(count)
        rotation, shift, chi2, hessian = dispatch.refine_poses(
            reference.data,
            current.rotation,
            current.shift,
            current.particle,
            part.data,
            part.ctf,
            part.valid,
            part.tilts,
            points.kx[:count].to(device),
            points.ky[:count].to(device),
            reference.padding,
            free,
            settings.shift_precision,
            stage.steps,
            0.3,
            0.02,
        )
        current = Candidates(
            particle=current.particle, rotation=rotation, shift=shift, chi2=chi2, hessian=hessian
        )
        angle = settings.same_angle_rad * (3 if number == 0 else 1)
        current = cand.pruned(
            current, stage.keep, stage.worse_by, angle, settings.same_shift, settings.operators
        )
    return current


def chunks(rows: Tensor, size: int) -> list[Tensor]:
    """Consecutive pieces of at most ``size`` rows."""
    borders = itertools.pairwise([*range(0, len(rows), size), len(rows)])
    return [rows[a:b] for a, b in borders]
