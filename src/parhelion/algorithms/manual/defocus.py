"""Per-particle defocus: a search over changes of both defoci, which keeps the astigmatism."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from parhelion.algorithms.manual.models import ramps, slices_at
from parhelion.engine.batch import ParticleBatch
from parhelion.engine.candidates import Candidates
from parhelion.engine.loader import UNDISTORTED, ParticleLoader
from parhelion.engine.points import FourierPoints
from parhelion.engine.predict import FourierVolume
from parhelion.optics.ctf import ctf_of_views


def changes(range_angstrom: float, step_angstrom: float) -> np.ndarray:
    """Changes of defocus in Å from -range to range that include 0."""
    steps = int(range_angstrom / step_angstrom + 1e-6)
    return np.arange(-steps, steps + 1) * step_angstrom


def best_changes(
    loader: ParticleLoader,
    batch: ParticleBatch,
    noise: Tensor,
    volume: FourierVolume,
    poses: Candidates,
    every: np.ndarray,
    first_shell: float,
) -> tuple[np.ndarray, ParticleBatch]:
    """The change of ``every`` (Å) that fits best for each of ``poses`` ``(m,)``, and the batch with that CTF.

    There is one pose per particle. ``batch`` is whitened by the power ``noise`` ``(groups, k)`` and limited
    to what counts.
    """
    points = loader.points
    k = batch.data.shape[-1]
    slices = slices_at(volume, poses.rotation, batch.tilts, points, k)
    model = ramps(poses.shift, batch.tilts, points, k) * slices
    data = batch.data[poses.particle]
    amplitude = noise[:, :k].rsqrt()[batch.noise_group[poses.particle]]
    inside = torch.from_numpy(points.radius[:k] >= first_shell).to(data.device)
    amplitude = torch.where(batch.valid[poses.particle].unsqueeze(-1), amplitude * inside, 0.0)
    rows = batch.index.cpu().numpy()[poses.particle.cpu().numpy()]
    least = torch.full((len(poses),), torch.inf, dtype=torch.float64, device=data.device)
    found, chosen = torch.zeros_like(least), batch.ctf[poses.particle]
    for change in every[np.argsort(np.abs(every), kind="stable")]:
        ctf = _ctf(loader, points, rows, float(change), k, data.shape[1]).to(data.device) * amplitude
        chi2 = (data - ctf * model).abs().square().double().sum((1, 2))
        better = chi2 < least
        least = torch.where(better, chi2, least)
        found = torch.where(better, torch.full_like(found, float(change)), found)
        chosen = torch.where(better[:, None, None], ctf, chosen)
    waves = batch.ctf.clone()
    waves[poses.particle] = chosen
    return found.cpu().numpy(), batch.with_data(batch.data, waves)


def _ctf(
    loader: ParticleLoader, points: FourierPoints, rows: np.ndarray, change: float, k: int, views: int
) -> Tensor:
    """CTFs ``(m, views, k)`` of particles ``rows`` with both defoci changed."""
    table = loader.particles.views
    at = _views_of(loader, rows, views)
    moved = replace(
        table,
        defocus_u_angstrom=table.defocus_u_angstrom + change,
        defocus_v_angstrom=table.defocus_v_angstrom + change,
    )
    optics = tuple(replace(group, magnification=UNDISTORTED) for group in loader.particles.optics)
    kx, ky = (c[:k].double() / loader.extent_angstrom for c in (points.kx, points.ky))
    return ctf_of_views(kx, ky, moved, optics, at.reshape(-1)).view(len(rows), views, k)


def _views_of(loader: ParticleLoader, rows: np.ndarray, views: int) -> np.ndarray:
    """Table rows ``(m, views)`` of the particles' views; a missing one repeats another (of no weight)."""
    owner = loader.particles.views.particle
    order = np.argsort(owner, kind="stable")
    first = np.searchsorted(owner[order], rows)
    count = np.searchsorted(owner[order], rows, side="right") - first
    offset = np.minimum(np.arange(views), count[:, None] - 1)
    return np.asarray(order[first[:, None] + offset])
