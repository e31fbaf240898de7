"""Score, sigma and log-likelihood of poses, with the meaning that cisTEM's users know.

The score is 100 times a correlation coefficient of image and model, the image weighted in every shell by the
signal-to-noise ratio that the model states: √(S / (1 + S)). Beyond the limit of the signed correlation each
shell adds its absolute value. Sigma is the ratio of what the weighted image has beside the best multiple of
the model to that multiple, √(1 / cc² - 1), at most 100. The log-likelihood is that of white Gaussian noise,

    log P = - Σ |X - M|² - N/2 log 2π - |t|² / 2 s²

over the points up to the limit of classification, or, focused on a sphere, over the pixels of its projection.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from parhelion.algorithms.manual.freedom import Freedom
from parhelion.algorithms.manual.models import cross_per_shell, per_shell, predicted, signs_per_shell
from parhelion.algorithms.manual.projections import to_images
from parhelion.algorithms.manual.settings import Focus
from parhelion.engine.batch import ParticleBatch
from parhelion.engine.candidates import Candidates
from parhelion.engine.points import FourierPoints
from parhelion.engine.predict import FourierVolume

LARGEST_SIGMA = 100.0


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Of each of ``m`` poses: score, sigma and log-likelihood, float64."""

    score: Tensor
    sigma: Tensor
    log_p: Tensor


def measured(
    batch: ParticleBatch,
    volume: FourierVolume,
    poses: Candidates,
    freedom: Freedom,
    points: FourierPoints,
    class_shell: float,
    focus: Focus | None,
    extent_angstrom: float,
) -> Measured:
    """What ``poses`` of a whitened ``batch`` are worth, which is limited to what was refined with."""
    data = batch.data[poses.particle]
    model = predicted(batch, volume, poses, points)
    score = correlation(data, model, points, freedom.signed_shell)
    sigma = (1 / score.clamp_min(1e-6).square() - 1).clamp_min(0).sqrt().clamp_max(LARGEST_SIGMA)
    known = points.count(class_shell)
    prior = freedom.shift_precision * poses.shift.square().sum(1)
    if focus is None:
        squares = (data[..., :known] - model[..., :known]).abs().square().double().sum((1, 2))
        freedoms = 2 * known * data.shape[1]
    else:
        residual = (data - model)[..., :known]
        squares = focused_squares(residual, poses, batch.tilts, focus, points, extent_angstrom)
        radius = focus.radius_angstrom / extent_angstrom * points.box
        freedoms = round(math.pi * radius**2) * data.shape[1]
    log_p = -squares - 0.5 * freedoms * math.log(2 * math.pi) - prior
    return Measured(score=100 * score, sigma=sigma, log_p=log_p)


def correlation(data: Tensor, model: Tensor, points: FourierPoints, signed_shell: float) -> Tensor:
    """Weighted correlation coefficient ``(m,)`` of images and models ``(m, v, k)``, from -1 to 1."""
    cross = cross_per_shell(data, model, points)
    image = per_shell(data.abs().square(), points)
    signal = per_shell(model.abs().square(), points)
    shell = points.shell[: data.shape[-1]].to(data.device)
    size = torch.bincount(shell, minlength=points.max_shell + 1).clamp_min(1) * data.shape[1]
    ratio = signal / size
    weight = (ratio / (1 + ratio)).sqrt()
    signs = signs_per_shell(cross, signed_shell)
    norm = ((weight.square() * image).sum(1) * signal.sum(1)).sqrt()
    return (weight * signs * cross).sum(1) / norm.clamp_min(1e-30)


def focused_squares(
    residual: Tensor,
    poses: Candidates,
    tilts: Tensor,
    focus: Focus,
    points: FourierPoints,
    extent_angstrom: float,
) -> Tensor:
    """Half the sum of squares of the residual's image within the projected sphere: ``(m,)`` float64.

    Half of it, since a sum over one of each Friedel pair is what a log-likelihood without focus has.
    """
    box = points.box
    image = to_images(residual, points)
    centre = poses.rotation.new_tensor(focus.centre_xyz_angstrom) / extent_angstrom
    # an image shows the projection moved by minus the shift
    at = torch.einsum("vij,mj->mvi", tilts.to(poses.rotation), poses.rotation @ centre - poses.shift)[..., :2]
    grid = (torch.arange(box, device=residual.device, dtype=at.dtype) - box // 2) / box
    dx = grid[None, None, None, :] - at[..., 0, None, None]
    dy = grid[None, None, :, None] - at[..., 1, None, None]
    inside = (dx.square() + dy.square()).sqrt() <= focus.radius_angstrom / extent_angstrom
    return 0.5 * (image.double().square() * inside).sum((1, 2, 3))
