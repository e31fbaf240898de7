"""How well each particle's best pose fits, and how far it can be trusted."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from parhelion.engine.batch import ParticleBatch
from parhelion.engine.candidates import Candidates


@dataclass(frozen=True, kw_only=True)
class PoseFit:
    """Of ``n`` particles (rows ``particle``): what their likeliest poses say; all float64 on the CPU.

    ``log_likelihood`` is that of the pose less that of an image of noise alone, on the Fourier points in
    use, ``power`` that of the whitened image there. ``angle_deg`` is the root mean square angle of the
    posterior around the pose.
    """

    particle: Tensor
    log_likelihood: Tensor
    angle_deg: Tensor
    power: Tensor


def pose_fit(batch: ParticleBatch, poses: Candidates) -> PoseFit:
    """The fit of refined, weighted ``poses`` of a whitened ``batch`` on the points they were refined with.

    Laplace's approximation: log p = -chi², so that the covariance is half the inverse of the normal
    matrix; its first three rows are rotations, in radians, with shifts marginalised.
    """
    if poses.weight is None or poses.chi2 is None or poses.hessian is None:
        raise ValueError("a fit is known after refinement and weighting")
    order = torch.argsort(poses.weight, stable=True, descending=True)
    order = order[torch.argsort(poses.particle[order], stable=True)]
    first = torch.ones(len(order), dtype=torch.bool, device=order.device)
    first[1:] = poses.particle[order][1:] != poses.particle[order][:-1]
    particle = poses.particle[order[first]]
    power = batch.data.abs().square().double().sum((1, 2))
    ridge = 1e-9 * torch.eye(6, dtype=torch.float64, device=power.device)
    covariance = 0.5 * torch.linalg.inv_ex(poses.hessian[order[first]] + ridge).inverse
    angle = covariance[:, [0, 1, 2], [0, 1, 2]].sum(1).clamp_min(0).sqrt()
    return PoseFit(
        particle=particle.cpu(),
        log_likelihood=(power[particle] - poses.chi2[order[first]]).cpu(),
        # a pose that the data leave open has no narrower statement than "anywhere"
        angle_deg=torch.rad2deg(angle).nan_to_num(180.0).clamp_max(180.0).cpu(),
        power=power[particle].cpu(),
    )


def table_of_fits(parts: list[PoseFit], count: int) -> tuple[np.ndarray, np.ndarray]:
    """Log-likelihood and angle in degrees ``(count,)`` of all particles; NaN where one has no pose."""
    log_likelihood, angle = np.full(count, np.nan), np.full(count, np.nan)
    for part in parts:
        rows = part.particle.numpy()
        log_likelihood[rows] = part.log_likelihood.numpy()
        angle[rows] = part.angle_deg.numpy()
    return log_likelihood, angle
