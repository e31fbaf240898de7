"""Least squares over poses of which only some parameters may move, with or without the correlation's sign.

All angles or none, and the in-plane angle alone, are axes of the engine's solver. Other combinations are
Euler angles that stay exactly as they are while the others move: Levenberg-Marquardt over the angles
themselves. Where the sign of a shell's correlation does not count, the image's shell is turned to agree with
the model at the present pose, which bounds the objective from below and touches it there; repeated, that
climbs the unsigned correlation (Stewart and Grigorieff, Ultramicroscopy 102, 67, 2004).
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from parhelion.algorithms.manual.models import (
    cross_per_shell,
    per_shell,
    predicted,
    ramps,
    signs_per_shell,
    slices_at,
)
from parhelion.engine.batch import ParticleBatch
from parhelion.engine.candidates import Candidates
from parhelion.engine.points import FourierPoints
from parhelion.engine.predict import FourierVolume
from parhelion.geometry.rotations import from_relion, to_relion
from parhelion.kernels import dispatch

SIGN_ROUNDS = 3
MOST_ANGLE = 0.3
TOLERANCE = 0.02
NUDGE_VOXELS = 0.4
"""Half the distance, at the outermost shell, over which a slope is taken: finer than the interpolation."""


@dataclass(frozen=True, kw_only=True)
class Freedom:
    """Which parameters move (names of ``settings.PARAMETERS``), the prior's precision of shifts in units of
    the extent, and up to which shell the correlation's sign counts."""

    parameters: tuple[str, ...]
    shift_precision: float
    signed_shell: float

    @property
    def axes(self) -> list[bool] | None:
        """Free axes of the engine's solver, three rotations and three shifts; None where they do not do."""
        angles = [name in self.parameters for name in ("phi", "theta", "psi")]
        if any(angles) and not all(angles) and angles != [False, False, True]:
            return None
        turns = [all(angles), all(angles), angles[2]]
        return [*turns, "x" in self.parameters, "y" in self.parameters, False]


def moved(
    batch: ParticleBatch,
    volume: FourierVolume,
    start: Candidates,
    freedom: Freedom,
    points: FourierPoints,
    steps: int,
) -> Candidates:
    """``start`` after at most ``steps`` steps, with chi²; ``batch`` is whitened and limited."""
    if not len(start) or not freedom.parameters:
        return replace(start, chi2=chi2_of(batch, volume, start, freedom, points))
    if freedom.signed_shell >= float(points.radius[batch.data.shape[-1] - 1]):
        return _signed(batch, volume, start, freedom, points, steps)
    best = replace(start, chi2=chi2_of(batch, volume, start, freedom, points))
    for _ in range(SIGN_ROUNDS):
        turned = _agreeing(batch, volume, best, freedom, points)
        numbered = replace(best, particle=torch.arange(len(best), device=best.particle.device))
        found = _signed(turned, volume, numbered, freedom, points, steps)
        found = replace(found, particle=best.particle)
        chi2 = chi2_of(batch, volume, found, freedom, points)
        best = _better_of(best, replace(found, chi2=chi2))
    return best


def chi2_of(
    batch: ParticleBatch,
    volume: FourierVolume,
    poses: Candidates,
    freedom: Freedom,
    points: FourierPoints,
) -> Tensor:
    """Σ |X - M|² with unsigned shells turned to agree, plus the prior of the shift: ``(m,)`` float64."""
    data = batch.data[poses.particle]
    model = predicted(batch, volume, poses, points)
    cross = cross_per_shell(data, model, points)
    signs = signs_per_shell(cross, freedom.signed_shell)
    squares = per_shell(data.abs().square() + model.abs().square(), points).sum(1)
    return squares - 2 * (signs * cross).sum(1) + freedom.shift_precision * poses.shift.square().sum(1)


def _better_of(first: Candidates, second: Candidates) -> Candidates:
    if first.chi2 is None or second.chi2 is None:
        raise ValueError("poses are compared by chi²")
    better = second.chi2 < first.chi2
    return replace(
        first,
        rotation=torch.where(better[:, None, None], second.rotation, first.rotation),
        shift=torch.where(better[:, None], second.shift, first.shift),
        chi2=torch.where(better, second.chi2, first.chi2),
    )


def _agreeing(
    batch: ParticleBatch,
    volume: FourierVolume,
    poses: Candidates,
    freedom: Freedom,
    points: FourierPoints,
) -> ParticleBatch:
    """A batch with a row per pose, unsigned shells turned to agree with the model."""
    k = batch.data.shape[-1]
    at = poses.particle
    data = batch.data[at]
    cross = cross_per_shell(data, predicted(batch, volume, poses, points), points)
    sign = signs_per_shell(cross, freedom.signed_shell).float()[:, points.shell[:k].to(data.device)]
    return replace(
        batch,
        index=batch.index[at.to(batch.index.device)],
        data=data * sign[:, None],
        ctf=batch.ctf[at],
        valid=batch.valid[at],
        noise_group=batch.noise_group[at],
    )


def _signed(
    batch: ParticleBatch,
    volume: FourierVolume,
    start: Candidates,
    freedom: Freedom,
    points: FourierPoints,
    steps: int,
) -> Candidates:
    axes = freedom.axes
    if axes is None:
        return _over_euler_angles(batch, volume, start, freedom, points, steps)
    device = batch.data.device
    k = batch.data.shape[-1]
    rotation, shift, chi2, hessian = dispatch.refine_poses(
        volume.data,
        start.rotation,
        start.shift,
        start.particle,
        batch.data.contiguous(),
        batch.ctf.contiguous(),
        batch.valid,
        batch.tilts,
        points.kx[:k].to(device),
        points.ky[:k].to(device),
        volume.padding,
        torch.tensor(axes, device=device),
        freedom.shift_precision,
        steps,
        MOST_ANGLE,
        TOLERANCE,
    )
    return replace(start, rotation=rotation, shift=shift, chi2=chi2, hessian=hessian)


def _over_euler_angles(
    batch: ParticleBatch,
    volume: FourierVolume,
    start: Candidates,
    freedom: Freedom,
    points: FourierPoints,
    steps: int,
) -> Candidates:
    """Levenberg-Marquardt over those of phi, theta, psi, x, y that are free."""
    names = ("phi", "theta", "psi", "x", "y")
    free = [number for number, name in enumerate(names) if name in freedom.parameters]
    values = _values(start)
    poses = replace(start, chi2=None, hessian=None)
    current, slope, normal = _derivatives(batch, volume, poses, values, free, freedom, points)
    damping = torch.full_like(current, 1e-3)
    for _ in range(steps):
        scale = torch.diagonal(normal, dim1=1, dim2=2).clamp_min(1e-9)
        step = torch.linalg.solve(normal + torch.diag_embed(damping[:, None] * scale + 1e-12), slope)
        trial = values.clone()
        trial[:, free] += _limited(step, free)
        chi2, new_slope, new_normal = _derivatives(batch, volume, poses, trial, free, freedom, points)
        better = chi2 < current
        gained = torch.where(better, current - chi2, torch.zeros_like(chi2))
        values = torch.where(better[:, None], trial, values)
        current = torch.where(better, chi2, current)
        slope = torch.where(better[:, None], new_slope, slope)
        normal = torch.where(better[:, None, None], new_normal, normal)
        damping = torch.where(better, damping * 0.3, damping * 6)
        if bool(better.any()) and float(gained.max()) < TOLERANCE:
            break
    return replace(_at(poses, values), chi2=current)


def _values(poses: Candidates) -> Tensor:
    """phi, theta, psi in radians, x and y ``(m, 5)``."""
    angles = np.radians(to_relion(poses.rotation.cpu().numpy())).reshape(-1, 3)
    return torch.cat((torch.from_numpy(angles).to(poses.shift), poses.shift[:, :2]), 1)


def _at(poses: Candidates, values: Tensor) -> Candidates:
    angles = np.degrees(values[:, :3].cpu().numpy())
    rotation = torch.from_numpy(from_relion(*angles.T)).to(poses.rotation)
    return replace(poses, rotation=rotation, shift=torch.cat((values[:, 3:], poses.shift[:, 2:]), 1))


def _limited(step: Tensor, free: list[int]) -> Tensor:
    """The step, no angle of it larger than the solver's largest."""
    angles = [column for column, number in enumerate(free) if number < 3]
    largest = step[:, angles].abs().amax(1, keepdim=True).clamp_min(1e-12)
    return step * (MOST_ANGLE / largest).clamp_max(1.0)


def _derivatives(
    batch: ParticleBatch,
    volume: FourierVolume,
    poses: Candidates,
    values: Tensor,
    free: list[int],
    freedom: Freedom,
    points: FourierPoints,
) -> tuple[Tensor, Tensor, Tensor]:
    """chi² ``(m,)``, half its negative gradient ``(m, f)`` and the normal matrix ``(m, f, f)``."""
    k = batch.data.shape[-1]
    here = _at(poses, values)
    carried = batch.ctf[here.particle] * ramps(here.shift, batch.tilts, points, k)
    model = carried * slices_at(volume, here.rotation, batch.tilts, points, k)
    residual = (batch.data[here.particle] - model).to(torch.complex128)
    columns = []
    nudge = NUDGE_VOXELS / (volume.padding * float(points.radius[k - 1]))
    for number in free:
        if number < 3:
            ends = []
            for sign in (1.0, -1.0):
                nudged = values.clone()
                nudged[:, number] += sign * nudge
                ends.append(slices_at(volume, _at(poses, nudged).rotation, batch.tilts, points, k))
            columns.append(carried * (ends[0] - ends[1]) / (2 * nudge))
        else:
            along = batch.tilts[:, :2, number - 3].float()
            wave = along[:, :1] * points.kx[:k].to(along) + along[:, 1:] * points.ky[:k].to(along)
            columns.append(model * (2j * torch.pi * wave))
    jacobian = torch.stack(columns, 1).flatten(2).to(torch.complex128)
    slope = (jacobian.conj() * residual.flatten(1)[:, None]).real.sum(2)
    normal = (jacobian.conj() @ jacobian.mT).real
    chi2 = residual.abs().square().sum((1, 2)) + freedom.shift_precision * here.shift.square().sum(1)
    for column, number in enumerate(free):
        if number >= 3:
            slope[:, column] -= freedom.shift_precision * values[:, number]
            normal[:, column, column] += freedom.shift_precision
    return chi2, slope, normal
