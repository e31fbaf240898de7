"""The power of the noise per shell, estimated as noise: from the background, then from residuals.

Images are masked, the likelihood uses the noise power of the *unmasked* image: a model that fits in the
mask sees the same noise either way, while the masked image's own power, smaller by the mask's energy,
would count correlated Fourier points as independent and state more confidence than there is.
"""

import numpy as np
import torch
from torch import Tensor

from parhelion.contracts import ParticleSource
from parhelion.engine.batch import ParticleBatch, phase_ramp
from parhelion.engine.loader import EDGE_PIXELS, ParticleLoader, normalise, soft_circle, transform
from parhelion.engine.points import FourierPoints

# With less background than this share of the box, the whole image's power is the better start.
LEAST_BACKGROUND = 0.08


def background_noise(loader: ParticleLoader, sample: int, rng: np.random.Generator) -> Tensor:
    """Noise power ``(groups, max_shell + 1)`` float64 from the part of ``sample`` images outside the mask."""
    views = loader.particles.views
    groups = int(views.noise_group.max()) + 1
    chosen = [np.flatnonzero(views.noise_group == g) for g in range(groups)]
    power = [
        _power(loader.source, rng.permutation(rows)[: max(sample // groups, 50)], loader) for rows in chosen
    ]
    return torch.stack(power)


def _power(source: ParticleSource, rows: np.ndarray, loader: ParticleLoader) -> Tensor:
    radius = loader.diameter_angstrom / 2 / loader.pixel_size_angstrom
    outside = 1 - soft_circle(loader.box, radius + EDGE_PIXELS)
    if float(outside.square().mean()) < LEAST_BACKGROUND:
        outside = torch.ones_like(outside)
    total = torch.zeros(loader.points.max_shell + 1, dtype=torch.float64)
    used = 0
    for first in range(0, len(rows), 256):
        images, good = normalise(
            torch.from_numpy(source.images(np.sort(rows[first : first + 256]))),
            loader.mask,
            scaled=loader.scale_images,
        )
        if not bool(good.any()):
            continue
        data = transform(images[good] * outside, loader.points)
        total += loader.points.shell_mean(data.abs().square()).sum(0)
        used += len(data)
    return smooth_floor(total / max(used, 1) / float(outside.square().mean()))


def smooth_floor(power: Tensor) -> Tensor:
    """Fills empty shells with the nearest measured one and keeps every value positive."""
    values = power.clone()
    values[0] = values[1]
    typical = values[values > 0].median() if bool((values > 0).any()) else values.new_tensor(1.0)
    return torch.where(values > 1e-6 * typical, values, typical)


def on_points(power: Tensor, points: FourierPoints) -> Tensor:
    """Power per shell ``(groups, shells)`` laid out on the points: ``(groups, k)`` float32."""
    return power.float()[:, points.shell]


def residual_power(
    batch: ParticleBatch,
    slices: Tensor,
    shifts: Tensor,
    weight: Tensor,
    points: FourierPoints,
    groups: int,
) -> tuple[Tensor, Tensor]:
    """Weighted sums of |X - C S P|² per group and shell, and the sums of weights ``(groups,)``.

    ``slices`` ``(n, v, k)`` are at the particles' poses, ``shifts`` ``(n, 3)`` in units of the extent.
    """
    k = batch.data.shape[-1]
    device = batch.data.device
    ramp = phase_ramp(shifts, batch.tilts, points.kx[:k].to(device), points.ky[:k].to(device))
    residual = (batch.data - batch.ctf * ramp * slices).abs().square()
    weight = (weight[:, None] * batch.valid).double()
    shells = points.shell_mean(residual.cpu()) * weight.unsqueeze(-1).cpu()
    sums = torch.zeros((groups, points.max_shell + 1), dtype=torch.float64)
    sums.index_add_(0, batch.noise_group.reshape(-1).cpu(), shells.reshape(-1, shells.shape[-1]))
    total = torch.zeros(groups, dtype=torch.float64)
    total.index_add_(0, batch.noise_group.reshape(-1).cpu(), weight.reshape(-1).cpu())
    return sums, total
