"""Likelihood blurring: a particle goes into the map at every pose near its own, by how likely each is.

In-plane angle and shifts around the pose are tried on a small grid, steps of a fraction of the resolution
that the reference is used to. What is inserted are the images at these poses, weighted by their likelihood
against a reference (the maximum-likelihood average of cisTEM and Sigworth 1998, J. Struct. Biol. 122, 328).
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from parhelion.contracts import Observer
from parhelion.engine.batch import ParticleBatch, phase_ramp
from parhelion.engine.candidates import Candidates
from parhelion.engine.loader import ParticleLoader
from parhelion.engine.noise import on_points
from parhelion.engine.points import FourierPoints
from parhelion.engine.predict import FourierVolume, fourier_volume
from parhelion.errors import InputError
from parhelion.geometry.rotations import exp_so3
from parhelion.kernels import dispatch
from parhelion.model.volume import Volume

STEPS = 5
"""Steps to either side, of the angle and of each shift."""
SHIFT_STEP, ANGLE_STEP = 0.12, 0.24
"""Of a shift in units of the resolution; of the angle in the resolution over the particle's radius."""
LEAST = 0.005
SAMPLE = 200


@dataclass(frozen=True, kw_only=True)
class Blurring:
    """The reference at the particles' scale, used on the first ``count`` points; ``turns`` ``(a, 3, 3)`` and
    ``shifts`` ``(s, 3)`` (units of the extent) are tried. ``smoothing`` below 1 flattens the likelihood."""

    volume: FourierVolume
    count: int
    turns: Tensor
    shifts: Tensor
    smoothing: float

    def blurred(self, batch: ParticleBatch, poses: Candidates, points: FourierPoints) -> Candidates:
        """Poses around ``poses`` (one of each particle) with weights that add up to 1 for each."""
        n, shifts = len(poses), len(self.shifts)
        rotation = torch.einsum("aij,njk->naik", self.turns.to(poses.rotation), poses.rotation)
        moved = poses.shift[:, None] + self.shifts.to(poses.shift)
        logarithm = torch.stack([self._log_likelihood(batch, poses, rotation, i, points) for i in range(n)])
        weight = torch.softmax(self.smoothing * logarithm.view(n, -1), dim=1)
        weight = torch.where(weight >= LEAST * weight.amax(1, keepdim=True), weight, 0.0)
        weight = weight / weight.sum(1, keepdim=True)
        particle, at = torch.nonzero(weight, as_tuple=True)
        turn, shift = at // shifts, at % shifts
        return Candidates(
            particle=poses.particle[particle],
            rotation=rotation[particle, turn],
            shift=moved[particle, shift],
            weight=weight[particle, at],
        )

    def _log_likelihood(
        self, batch: ParticleBatch, poses: Candidates, rotation: Tensor, i: int, points: FourierPoints
    ) -> Tensor:
        """``(turns, shifts)`` of particle ``i``: ``2 cross − norm``."""
        device = batch.data.device
        kx, ky = points.kx[: self.count].to(device), points.ky[: self.count].to(device)
        row = int(poses.particle[i])
        data, ctf = batch.data[row, 0, : self.count], batch.ctf[row, 0, : self.count]
        slices = dispatch.extract(self.volume.data, rotation[i].contiguous(), kx, ky, self.volume.padding)
        slices = slices * ctf
        own = phase_ramp(poses.shift[i : i + 1], batch.tilts, kx, ky)[0, 0]
        ramps = phase_ramp(self.shifts.to(poses.shift), batch.tilts, kx, ky)[:, 0]
        cross = ((slices.conj() * (data * own.conj())) @ ramps.conj().T).real
        return (2 * cross - slices.abs().square().sum(1, keepdim=True)).double()


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
    angles = step * np.arange(-STEPS, STEPS + 1)
    grid = SHIFT_STEP * resolution / extent * np.arange(-STEPS, STEPS + 1)
    x, y = (axis.ravel() for axis in np.meshgrid(grid, grid))
    blurring = Blurring(
        volume=volume,
        count=count,
        turns=torch.from_numpy(exp_so3(angles[:, None] * np.array([0.0, 0.0, 1.0]))),
        shifts=torch.from_numpy(np.stack([x, y, np.zeros_like(x)], axis=1)),
        smoothing=smoothing,
    )
    scale = _scale(blurring, loader, noise, rows)
    observer.notice(
        f"particles are blurred over {2 * STEPS + 1} angles {np.degrees(step):.2f} degrees apart and shifts "
        f"{SHIFT_STEP * resolution:.2f} Å apart, by their likelihood to {resolution:.1f} Å"
    )
    scaled = FourierVolume(
        data=volume.data * scale, box=volume.box, max_shell=volume.max_shell, padding=volume.padding
    )
    return Blurring(
        volume=scaled, count=count, turns=blurring.turns, shifts=blurring.shifts, smoothing=smoothing
    )


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
