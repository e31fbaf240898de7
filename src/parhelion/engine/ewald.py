"""Slices on the Ewald sphere, inserted as two sidebands.

Layers of a particle at different heights are imaged at different defoci: at the frequency ``k`` an image
holds the transform at two points above and below the central section, ``kz = ∓ λ k² / 2`` (Wolf, DeRosier &
Grigorieff 2006, Ultramicroscopy 106, 376; Russo & Henderson 2018, Ultramicroscopy 187, 26):

    X(k) = a F(k, −σ λ k²/2) + b F(k, +σ λ k²/2),   a = exp(iγ) / 2i,  b = −exp(−iγ) / 2i,  a + b = sin γ

``γ`` is the phase of the CTF; ``σ = +1`` where points of larger ``z`` in the frame of the view are further
out of focus. Each sideband is inserted at its own place, by the conjugate of its factor. What the other
sideband leaves there, ``−exp(∓2iγ)/4`` of it, averages out over defoci where the two places hold independent
transforms, and belongs to the signal where they do not: its expected share ``ρ`` is the correlation of the
transform of a ball of the particle's diameter over the distance ``λ k²``. With ``ρ = 1`` the sums are those
of a flat slice.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from parhelion.contracts import Executor
from parhelion.engine.batch import ParticleBatch, phase_ramp
from parhelion.engine.candidates import Candidates
from parhelion.engine.loader import UNDISTORTED, ParticleLoader
from parhelion.engine.points import FourierPoints
from parhelion.engine.update import MapSums
from parhelion.errors import MetadataError
from parhelion.kernels import dispatch
from parhelion.model.particles import ParticleSet
from parhelion.optics.ctf import ctf_of_views
from parhelion.optics.wavelength import electron_wavelength_angstrom

CurvedSlices = tuple[Tensor, Tensor, Tensor, Tensor]
"""Rotations ``(m, 3, 3)``, kz ``(m, k)`` in shells, values and weights ``(m, k)``."""


@dataclass(frozen=True, kw_only=True)
class Curvature:
    """``sign`` is ``σ``, +1 or −1; ``diameter_angstrom`` that of the particle."""

    sign: int
    diameter_angstrom: float


def check_curvature(particles: ParticleSet) -> None:
    """MetadataError for particles that cannot be divided into sidebands."""
    if len(particles.views) != len(particles):
        raise MetadataError("the Ewald sphere is for single particles, found several images of a particle")
    for group in particles.optics:
        if group.ctf_premultiplied:
            raise MetadataError(
                f"the images of optics group {group.name} are multiplied by their CTF, which mixes the "
                "sidebands; extract them without"
            )


def quadrature(loader: ParticleLoader, rows: np.ndarray) -> Tensor:
    """``cos γ`` with the CTF's envelope ``(n, 1, k)``, what the CTF would be 90 degrees later."""
    points, views = loader.points, loader.particles.views
    later = replace(views, phase_shift_deg=views.phase_shift_deg + 90.0)
    optics = tuple(replace(group, magnification=UNDISTORTED) for group in loader.particles.optics)
    kx, ky = points.kx.double() / loader.extent_angstrom, points.ky.double() / loader.extent_angstrom
    order = np.argsort(views.particle, kind="stable")
    return ctf_of_views(kx, ky, later, optics, order[rows]).unsqueeze(1).to(loader.device)


def overlap(kz: Tensor, diameter: float) -> Tensor:
    """``ρ`` of points ``2 kz`` apart, for a ball: ``3 (sin x − x cos x) / x³`` with ``x = 2π kz D``."""
    x = (2 * math.pi * diameter * kz.double()).abs().clamp_min(1e-3)
    return (3 * (torch.sin(x) - x * torch.cos(x)) / x**3).float()


def curved_slices(
    batch: ParticleBatch,
    cosine: Tensor,
    poses: Candidates,
    loader: ParticleLoader,
    curvature: Curvature,
) -> list[CurvedSlices]:
    """Both sidebands of the weighted poses of a whitened batch; ``cosine`` ``(n, 1, k)`` is its quadrature,
    weighted as its CTF is."""
    if poses.weight is None:
        raise ValueError("poses are inserted with weights")
    points, device = loader.points, batch.data.device
    kx, ky = points.kx.to(device), points.ky.to(device)
    owner = poses.particle
    weight = poses.weight.float()[:, None]
    ramp = phase_ramp(poses.shift, batch.tilts, kx, ky)[:, 0]
    data = batch.data[owner, 0] * ramp.conj() * weight
    sine, cosine = batch.ctf[owner, 0], cosine[owner, 0]
    kz = _height(batch, loader)[owner]
    mixed = overlap(kz, curvature.diameter_angstrom / loader.extent_angstrom)
    share = ((sine**2 + cosine**2) - mixed * (cosine**2 - sine**2)) * (0.25 * weight)
    wave = torch.complex(0.5 * sine, 0.5 * cosine)
    rotations = poses.rotation.contiguous()
    return [
        (rotations, -curvature.sign * kz, data * wave, share),
        (rotations, curvature.sign * kz, data * wave.conj(), share),
    ]


def _height(batch: ParticleBatch, loader: ParticleLoader) -> Tensor:
    """``λ k² / 2`` ``(n, k)`` in shells."""
    groups = loader.particles.views.optics_group[np.argsort(loader.particles.views.particle, kind="stable")]
    wavelength = np.array([electron_wavelength_angstrom(g.voltage_kv) for g in loader.particles.optics])
    own = torch.from_numpy(wavelength[groups[batch.index.cpu().numpy()]])
    square = torch.from_numpy(loader.points.radius**2)
    return torch.outer(own / (2 * loader.extent_angstrom), square).float().to(batch.data.device)


def insert_curved(
    sums: MapSums, slices: Sequence[CurvedSlices], points: FourierPoints, executor: Executor | None = None
) -> None:
    """Adds slices that leave the central section, in place, by trilinear interpolation."""
    device = sums.numerator.device
    kx, ky = points.kx.to(device), points.ky.to(device)
    dispatch.insert_curved(sums.numerator, sums.denominator, kx, ky, sums.padding, slices, executor)
