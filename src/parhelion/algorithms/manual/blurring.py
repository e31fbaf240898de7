"""Likelihood blurring: a particle is inserted at several in-plane angles and shifts around its pose."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from parhelion.algorithms.manual.models import ramps, slices_at
from parhelion.engine.batch import ParticleBatch
from parhelion.engine.candidates import Candidates
from parhelion.engine.points import FourierPoints
from parhelion.engine.predict import FourierVolume

ANGLES, SHIFTS = 3, 2
"""Steps to either side of the pose."""
LEAST_WEIGHT = 0.01


def blurred(
    batch: ParticleBatch,
    volume: FourierVolume,
    poses: Candidates,
    points: FourierPoints,
    *,
    smoothing: float,
    angle_step_rad: float,
    shift_precision: float,
) -> Candidates:
    """Weighted poses around each of ``poses``: in-plane angle and both shifts on a grid, by likelihood.

    Weights are exp(smoothing · log P), so that a smaller ``smoothing`` blurs more; below 1 % of the best they
    are dropped. Shifts step by a quarter of the finest detail of the whitened, limited ``batch``.
    """
    if not len(poses):
        return replace(poses, weight=poses.shift.new_zeros(0))
    k = batch.data.shape[-1]
    limit = float(points.radius[k - 1])
    turns = _turns(angle_step_rad).to(poses.rotation)
    offsets = _offsets(0.25 / limit).to(poses.shift)
    m, p, t = len(poses), len(turns), len(offsets)
    rotation = (turns[None] @ poses.rotation[:, None]).reshape(m * p, 3, 3)
    slices = slices_at(volume, rotation, batch.tilts, points, k).view(m, p, -1)
    centred = batch.data[poses.particle] * ramps(poses.shift, batch.tilts, points, k).conj()
    ctf = batch.ctf[poses.particle]
    norm = (slices.abs().square() * ctf.square().reshape(m, 1, -1)).sum(2)
    moves = ramps(offsets, batch.tilts, points, k).conj().reshape(1, t, -1)
    shifted = (centred * ctf).reshape(m, 1, -1) * moves
    cross = (shifted.real @ slices.real.mT + shifted.imag @ slices.imag.mT).double()  # (m, t, p)
    total = poses.shift[:, None] + offsets
    prior = shift_precision * total.square().sum(-1)
    log_p = smoothing * (2 * cross - norm.double()[:, None] - prior[..., None])
    weight = torch.softmax(log_p.reshape(m, -1), 1)
    keep = weight >= LEAST_WEIGHT * weight.amax(1, keepdim=True)
    row, column = torch.nonzero(keep, as_tuple=True)
    kept = weight * keep
    kept = kept / kept.sum(1, keepdim=True)
    return Candidates(
        particle=poses.particle[row],
        rotation=rotation.view(m, p, 3, 3)[row, column % p],
        shift=total[row, column // p],
        weight=kept[row, column],
    )


def _turns(step_rad: float) -> Tensor:
    """In-plane rotations ``(p, 3, 3)``, applied on the left."""
    angle = step_rad * np.arange(-ANGLES, ANGLES + 1)
    turns = np.tile(np.eye(3), (len(angle), 1, 1))
    turns[:, 0, 0] = turns[:, 1, 1] = np.cos(angle)
    turns[:, 1, 0], turns[:, 0, 1] = np.sin(angle), -np.sin(angle)
    return torch.from_numpy(turns)


def _offsets(step: float) -> Tensor:
    axis = torch.arange(-SHIFTS, SHIFTS + 1, dtype=torch.float64) * step
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return torch.stack((x, y, torch.zeros_like(x)), -1).reshape(-1, 3)
