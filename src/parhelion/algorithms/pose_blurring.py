"""Likelihood blurring: a particle goes into the map at every pose near its own, by how likely each is.

In-plane angle and shifts around the pose are tried on a small grid, steps of a fraction of the resolution
that the reference is used to. What is inserted are the images at these poses, weighted by their likelihood
against a reference (the maximum-likelihood average of cisTEM and Sigworth 1998, J. Struct. Biol. 122, 328).
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from parhelion.contracts import Observer
from parhelion.engine.batch import ParticleBatch, phase_ramp
from parhelion.engine.candidates import Candidates
from parhelion.engine.loader import ParticleLoader
from parhelion.engine.noise import on_points
from parhelion.engine.predict import FourierVolume, fourier_volume
from parhelion.errors import InputError
from parhelion.geometry.rotations import exp_so3
from parhelion.kernels import dispatch
from parhelion.model.volume import Volume

STEPS = 5
"""Steps to either side, of the angle and of each shift."""
TURNS, SHIFTS = 2 * STEPS + 1, (2 * STEPS + 1) ** 2
SHIFT_STEP, ANGLE_STEP = 0.12, 0.24
"""Of a shift in units of the resolution; of the angle in the resolution over the particle's radius."""
LEAST = 0.005
SAMPLE = 200


@dataclass(frozen=True, kw_only=True)
class Blurring:
    """The reference at the particles' scale, used on the first ``count`` points; ``turns`` ``(a, 3, 3)`` and
    shifts are tried, whose phase ``ramps`` ``(s, k)`` are the same for all particles. ``kx_ky`` are the
    points' coordinates. ``smoothing`` below 1 flattens the likelihood."""

    volume: FourierVolume
    count: int
    turns: Tensor
    ramps: Tensor
    kx_ky: tuple[Tensor, Tensor]
    smoothing: float

    def blurred(self, batch: ParticleBatch, poses: Candidates) -> tuple[ParticleBatch, Candidates]:
        """An image for each angle about ``poses`` (one of each particle), which is the mean over shifts, and
        its pose; weights add up to 1 for each particle.

        Poses that differ by a shift alone are one slice, so that a flat likelihood costs as much as a sharp
        one. ``index`` of the batch says of which particle an image is.
        """
        rotation = torch.einsum("aij,njk->naik", self.turns.to(poses.rotation), poses.rotation)
        owner, turns, weights, images = [], [], [], []
        for i, row in enumerate(poses.particle.tolist()):
            centred = self._centred(batch, poses, i)
            logarithm = self._log_likelihood(batch, row, centred, rotation[i])
            weight = torch.softmax(self.smoothing * logarithm.reshape(-1), dim=0)
            weight = torch.where(weight >= LEAST * weight.max(), weight, 0.0)
            weight = (weight / weight.sum()).view(logarithm.shape)
            total = weight.sum(1)
            kept = torch.nonzero(total).squeeze(1)
            mean = (weight[kept] / total[kept, None]).to(self.ramps)
            images.append(centred * (mean @ self.ramps.conj()))
            weights.append(total[kept])
            turns.append(rotation[i, kept])
            owner.append(torch.full_like(kept, row))
        of = torch.cat(owner)
        spread = batch.rows(of.cpu()).with_data(torch.cat(images)[:, None], batch.ctf[of])
        found = Candidates(
            particle=torch.arange(len(of), device=of.device),
            rotation=torch.cat(turns),
            shift=torch.zeros((len(of), 3), dtype=poses.shift.dtype, device=of.device),
            weight=torch.cat(weights),
        )
        return spread, found

    def _centred(self, batch: ParticleBatch, poses: Candidates, i: int) -> Tensor:
        """The image ``(k,)`` of pose ``i``, moved to the centre."""
        data, device = batch.data[int(poses.particle[i]), 0], batch.data.device
        kx, ky = self.kx_ky[0].to(device), self.kx_ky[1].to(device)
        return data * phase_ramp(poses.shift[i : i + 1], batch.tilts, kx, ky)[0, 0].conj()

    def _log_likelihood(self, batch: ParticleBatch, row: int, centred: Tensor, rotation: Tensor) -> Tensor:
        """``(turns, shifts)`` of a particle: ``2 cross − norm``."""
        kx, ky = (axis[: self.count].to(centred.device) for axis in self.kx_ky)
        slices = dispatch.extract(self.volume.data, rotation.contiguous(), kx, ky, self.volume.padding)
        slices = slices * batch.ctf[row, 0, : self.count]
        cross = ((slices.conj() * centred[: self.count]) @ self.ramps[:, : self.count].conj().T).real
        return (2 * cross - slices.abs().square().sum(1, keepdim=True)).double()


def blurring_around(
    volume: FourierVolume,
    loader: ParticleLoader,
    count: int,
    angle_step_rad: float,
    shift_step: float,
    smoothing: float,
) -> Blurring:
    """Blurring against ``volume``, at the particles' scale, on the first ``count`` points; ``shift_step`` in
    units of the extent."""
    steps, points = np.arange(-STEPS, STEPS + 1), loader.points
    axis = angle_step_rad * steps[:, None] * np.array([0.0, 0.0, 1.0])
    x, y = (grid.ravel() for grid in np.meshgrid(shift_step * steps, shift_step * steps))
    shifts = torch.from_numpy(np.stack([x, y, np.zeros_like(x)], axis=1)).to(loader.device)
    kx, ky = points.kx.to(loader.device), points.ky.to(loader.device)
    return Blurring(
        volume=volume,
        count=count,
        turns=torch.from_numpy(exp_so3(axis)),
        ramps=phase_ramp(shifts, torch.from_numpy(loader.tilts).to(loader.device), kx, ky)[:, 0],
        kx_ky=(kx, ky),
        smoothing=smoothing,
    )


def make_blurring(
    reference: Volume,
    loader: ParticleLoader,
    noise: Tensor,
    *,
    diameter_angstrom: float,
    resolution_angstrom: float | None,
    smoothing: float,
    rows: np.ndarray,
    observer: Observer,
) -> Blurring:
    """Blurring against ``reference`` (on the particles' grid), at the scale of the particles ``rows``.

    Raises InputError where the reference has nothing in common with them, or is of a tilt series.
    """
    points, extent = loader.points, loader.extent_angstrom
    if len(loader.tilts) > 1:
        raise InputError("likelihood blurring is for single particles, found several images of a particle")
    finest = extent / points.max_shell
    resolution = max(resolution_angstrom or finest, finest)
    count = points.count(extent / resolution)
    data = torch.from_numpy(np.array(reference.data, np.float32)).to(loader.device)
    volume = fourier_volume(data, points.max_shell)
    step = ANGLE_STEP * resolution / (diameter_angstrom / 2)
    blurring = blurring_around(volume, loader, count, step, SHIFT_STEP * resolution / extent, smoothing)
    scale = _scale(blurring, loader, noise, rows)
    observer.notice(
        f"particles are blurred over {2 * STEPS + 1} angles {np.degrees(step):.2f} degrees apart and shifts "
        f"{SHIFT_STEP * resolution:.2f} Å apart, by their likelihood to {resolution:.1f} Å"
    )
    scaled = FourierVolume(
        data=volume.data * scale, box=volume.box, max_shell=volume.max_shell, padding=volume.padding
    )
    return replace(blurring, volume=scaled)


def _scale(blurring: Blurring, loader: ParticleLoader, noise: Tensor, rows: np.ndarray) -> float:
    """The factor that brings the reference to the particles' scale, at their poses: Σ cross / Σ norm."""
    rotation, shift = loader.particles.rotation, loader.shift_xyz_angstrom
    if rotation is None or shift is None:
        raise InputError("the particles have no poses")
    chosen = rows[np.unique(np.linspace(0, len(rows) - 1, min(SAMPLE, len(rows))).astype(int))]
    device = loader.device
    batch = loader.batch(chosen, blurring.count).whitened(on_points(noise, loader.points).to(device))
    kx, ky = (axis[: blurring.count].to(device) for axis in (loader.points.kx, loader.points.ky))
    turned = torch.from_numpy(np.ascontiguousarray(rotation[chosen], dtype=np.float64)).to(device)
    slices = dispatch.extract(blurring.volume.data, turned, kx, ky, blurring.volume.padding)
    moved = torch.from_numpy(shift[chosen] / loader.extent_angstrom).to(device)
    slices = slices * batch.ctf[:, 0] * phase_ramp(moved, batch.tilts, kx, ky)[:, 0]
    norm = float(slices.abs().square().sum())
    cross = float((slices.conj() * batch.data[:, 0]).real.sum())
    if not (norm > 0 and cross > 0):
        raise InputError(
            "the particles do not correlate with the reference at their poses; blurring needs the map that "
            "they were aligned to"
        )
    return cross / norm
