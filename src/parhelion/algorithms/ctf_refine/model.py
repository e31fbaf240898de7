"""The model of an image and its Jacobian.

    X(k) = a C(k) · exp(i φ(Mk)) · exp(2πi k·t) · w(k) V̂(Aᵀ (Mk, 0)) + noise,    C = envelope · sin χ

Everything is compared after the known phases ``exp(i φ + 2πi k·t)`` are taken off the data, which turns the
columns into products of real functions with the slice ``P``: ``a C' P b`` for a phase ``b`` in χ,
``i a C P b`` for one in φ, and the slope of the slice for the magnification, with what it does to χ and φ.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from parhelion.algorithms.ctf_refine.settings import Column
from parhelion.algorithms.ctf_refine.state import Optics
from parhelion.engine.loader import ParticleLoader
from parhelion.engine.predict import FourierVolume
from parhelion.kernels import dispatch
from parhelion.model.particles import OpticsGroup
from parhelion.optics.aberrations import antisymmetric_phase, even_phase
from parhelion.optics.wavelength import electron_wavelength_angstrom

SLOPE_STEP = 0.25
"""Half the distance in shells over which the slope of a slice is taken."""
STRETCH_STEP = 1e-3
UNDISTORTED = (1.0, 0.0, 0.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class GroupModel:
    """What all particles of an optics group share, on ``k`` points.

    ``kx, ky (k,)`` float32 in shells are where slices are taken; ``chi``, ``phi (k,)`` float64 are the phases
    of Cs, even terms and amplitude contrast, and of odd terms; ``basis`` are the functions ``(k,)`` of each
    column (None for those of a slice's slope); ``coma`` what Cs does to φ through the beam tilt; ``stretch``
    the derivatives of a slice's columns: how fast ``kx, ky`` in shells, χ and φ change.
    """

    wavelength_angstrom: float
    kx: Tensor
    ky: Tensor
    chi: Tensor
    phi: Tensor
    defocus: Tensor
    basis: list[Tensor | None]
    coma: Tensor
    stretch: list[tuple[Tensor, Tensor, Tensor, Tensor] | None]


def slice_frequencies(group: OpticsGroup, loader: ParticleLoader, count: int) -> tuple[Tensor, Tensor]:
    """``M k`` ``(count,)`` float64 in shells: where the slices of a group's images are taken."""
    kx, ky = (k[:count].double().to(loader.device) for k in (loader.points.kx, loader.points.ky))
    m00, m01, m10, m11 = group.magnification
    return m00 * kx + m01 * ky, m10 * kx + m11 * ky


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """Whitened particles ``n`` of one group: ``data`` freed of phases and slices ``(n, k)`` complex64.

    ``sine`` and ``cosine (n, k)`` are those of χ, times the envelope; ``weight (k,)`` is what the slices are
    worth, not yet multiplied in.
    """

    data: Tensor
    slices: Tensor
    sine: Tensor
    cosine: Tensor
    amplitude: Tensor
    weight: Tensor

    @property
    def scale(self) -> Tensor:
        """Amplitude times weight ``(n, k)``."""
        return self.amplitude[:, None] * self.weight

    @property
    def prediction(self) -> Tensor:
        """``a C P``."""
        return self.slices * (self.scale * self.sine)

    @property
    def turned(self) -> Tensor:
        """``a C' P``: the derivative by a phase in χ."""
        return self.slices * (self.scale * self.cosine)


def group_model(
    group: OpticsGroup, columns: tuple[Column, ...], loader: ParticleLoader, count: int, frequency: float
) -> GroupModel:
    """The first ``count`` points of a group; ``frequency`` (1/Å) is where phases of 1 radian are the unit."""
    extent, device = loader.extent_angstrom, loader.device
    kx, ky = (k[:count].double().to(device) for k in (loader.points.kx, loader.points.ky))
    mx, my = slice_frequencies(group, loader, count)
    chi, phi = _phases(group, mx / extent, my / extent)
    s2 = (kx**2 + ky**2) / extent**2
    basis = [_basis(column.name, kx, ky, mx, my, extent * frequency) for column in columns]
    return GroupModel(
        wavelength_angstrom=electron_wavelength_angstrom(group.voltage_kv),
        kx=mx.float(),
        ky=my.float(),
        chi=chi,
        phi=phi,
        defocus=torch.stack([s2, (kx**2 - ky**2) / extent**2, 2 * kx * ky / extent**2]),
        basis=[None if b is None else b.float() for b in basis],
        coma=_coma(group, mx / extent, my / extent, frequency).float(),
        stretch=[_stretched(column.name, group, mx, my, extent) for column in columns],
    )


def _phases(group: OpticsGroup, kx: Tensor, ky: Tensor) -> tuple[Tensor, Tensor]:
    """χ without defocus and φ at undistorted frequencies in 1/Å."""
    wavelength = electron_wavelength_angstrom(group.voltage_kv)
    s2 = kx**2 + ky**2
    chi = -0.5 * math.pi * 1e7 * group.spherical_aberration_mm * wavelength**3 * s2**2
    chi = chi + math.asin(group.amplitude_contrast) - even_phase(kx, ky, group.even_zernike)
    return chi, antisymmetric_phase(kx, ky, replace(group, magnification=UNDISTORTED))


def _coma(group: OpticsGroup, kx: Tensor, ky: Tensor, frequency: float) -> Tensor:
    """Change of φ by as much spherical aberration as adds 1 radian to χ at ``frequency``."""
    wavelength = electron_wavelength_angstrom(group.voltage_kv)
    tilt = replace(group, spherical_aberration_mm=1.0, odd_zernike=(), magnification=UNDISTORTED)
    return antisymmetric_phase(kx, ky, tilt) / (0.5 * math.pi * 1e7 * wavelength**3 * frequency**4)


def _basis(name: str, kx: Tensor, ky: Tensor, mx: Tensor, my: Tensor, scale: float) -> Tensor | None:
    """The phase that one unit of a column adds; ``scale`` is the limit in shells."""
    x, y, u, v = kx / scale, ky / scale, mx / scale, my / scale
    r2 = u**2 + v**2
    functions = {
        # in the frame of the images: where rings and shifts are seen
        "defocus": lambda: x**2 + y**2,
        "astigmatism_1": lambda: x**2 - y**2,
        "astigmatism_2": lambda: 2 * x * y,
        "shift_1": lambda: x,
        "shift_2": lambda: y,
        # signs as in optics.ctf and optics.aberrations
        "spherical_aberration": lambda: -(r2**2),
        "tetrafoil_1": lambda: -(u**4 - 6 * u**2 * v**2 + v**4),
        "tetrafoil_2": lambda: -4 * u * v * (u**2 - v**2),
        "beam_tilt_1": lambda: -r2 * u,
        "beam_tilt_2": lambda: -r2 * v,
        "trefoil_1": lambda: u * (u**2 - 3 * v**2),
        "trefoil_2": lambda: v * (3 * u**2 - v**2),
    }
    return functions[name]() if name in functions else None


def _stretched(
    name: str, group: OpticsGroup, mx: Tensor, my: Tensor, extent: float
) -> tuple[Tensor, Tensor, Tensor, Tensor] | None:
    """How a small stretch or turn moves the frequencies (in shells) and the phases."""
    zero = torch.zeros_like(mx)
    moves = {
        "magnification_xx": (mx, zero),
        "magnification_yy": (zero, my),
        "magnification_xy": (my, mx),
        "turn": (-my, mx),
    }
    if name not in moves:
        return None
    dx, dy = moves[name]
    if name == "turn":  # goes into the poses, not into the optics
        return dx.float(), dy.float(), zero.float(), zero.float()
    ends = [
        _phases(group, (mx + sign * STRETCH_STEP * dx) / extent, (my + sign * STRETCH_STEP * dy) / extent)
        for sign in (1, -1)
    ]
    chi, phi = ((ends[0][i] - ends[1][i]) / (2 * STRETCH_STEP) for i in (0, 1))
    return dx.float(), dy.float(), chi.float(), phi.float()


def chunk_of(
    loader: ParticleLoader,
    rows: np.ndarray,
    model: GroupModel,
    optics: Optics,
    slices: Tensor,
    whitening: Tensor,
    weight: Tensor,
) -> Chunk:
    """Particles ``rows`` of one group, whose central slices are ``slices (n, k)``.

    ``whitening (noise groups, k)`` is 1/σ, ``weight (k,)`` what the reference's amplitudes are worth.
    """
    count, device = len(model.kx), loader.device
    images, valid = loader.transforms(rows, count)
    views = loader.particles.views
    noise = torch.from_numpy(views.noise_group[rows].astype(np.int64)).to(device)
    white = whitening[noise] * valid
    shift = torch.from_numpy(optics.shift_xyz_angstrom[rows]).to(device) / loader.extent_angstrom
    kx, ky = (k[:count].double().to(device) for k in (loader.points.kx, loader.points.ky))
    phase = model.phi + 2 * math.pi * (shift[:, :1] * kx + shift[:, 1:2] * ky)
    data = images[:, 0] * white * _wave(-phase)
    chi = (
        math.pi * model.wavelength_angstrom * (torch.from_numpy(optics.form[rows]).to(device)) @ model.defocus
    )
    chi = chi + model.chi + torch.deg2rad(torch.from_numpy(views.phase_shift_deg[rows]).to(device))[:, None]
    turns = chi / (2 * math.pi)
    angle = (turns - turns.round()).float() * (2 * math.pi)
    envelope = _envelope(loader, rows, model)
    return Chunk(
        data=data,
        slices=slices[:, :count] * white,
        sine=angle.sin() * envelope,
        cosine=angle.cos() * envelope,
        amplitude=torch.from_numpy(optics.amplitude[rows]).float().to(device),
        weight=weight,
    )


def _wave(phase: Tensor) -> Tensor:
    turns = phase / (2 * math.pi)
    angle = (turns - turns.round()).float() * (2 * math.pi)
    return torch.polar(torch.ones_like(angle), angle)


def _envelope(loader: ParticleLoader, rows: np.ndarray, model: GroupModel) -> Tensor:
    """Scale and B-factor that the table gives each image: ``(n, k)`` or ``(n, 1)``."""
    views = loader.particles.views
    scale = torch.from_numpy(views.ctf_scale[rows]).float().to(loader.device)[:, None]
    bfactor = torch.from_numpy(views.ctf_bfactor_angstrom2[rows]).float().to(loader.device)
    if not bool((bfactor != 0).any()):
        return scale
    s2 = (model.kx**2 + model.ky**2) / loader.extent_angstrom**2
    return scale * torch.exp(-0.25 * torch.outer(bfactor, s2))


def central_slices(reference: FourierVolume, rotation: np.ndarray, kx: Tensor, ky: Tensor) -> Tensor:
    """The reference's transform ``(n, k)`` complex64 at ``Aᵀ (kx, ky, 0)``, ``kx, ky`` in shells."""
    poses = torch.from_numpy(np.ascontiguousarray(rotation)).to(reference.data.device)
    return dispatch.extract(reference.data, poses, kx.contiguous(), ky.contiguous(), reference.padding)


def slopes(
    reference: FourierVolume, rotation: np.ndarray, model: GroupModel, whitening: Tensor
) -> tuple[Tensor, Tensor]:
    """How fast the slices ``(n, k)``, times ``whitening (n, k)``, change per shell along kx and ky."""
    made = []
    for dx, dy in ((SLOPE_STEP, 0.0), (0.0, SLOPE_STEP)):
        up = central_slices(reference, rotation, model.kx + dx, model.ky + dy)
        down = central_slices(reference, rotation, model.kx - dx, model.ky - dy)
        made.append((up - down) * (whitening / (2 * SLOPE_STEP)))
    return made[0], made[1]


def jacobian(
    chunk: Chunk, columns: tuple[Column, ...], model: GroupModel, slope: tuple[Tensor, Tensor] | None
) -> Tensor:
    """Columns ``(n, columns, k)`` complex64 of the model ``a C P``; ``slope`` belongs to those of a slice."""
    even, value = chunk.turned, chunk.prediction
    out = value.new_empty((len(value), len(columns), value.shape[1]))
    for at, column in enumerate(columns):
        stretch, basis = model.stretch[at], model.basis[at]
        if column.kind == "amplitude":
            out[:, at] = chunk.slices * (chunk.weight * chunk.sine)
        elif stretch is not None and slope is not None:
            dx, dy, chi, phi = stretch
            moved = slope[0] * dx + slope[1] * dy
            out[:, at] = moved * (chunk.scale * chunk.sine) + even * chi + 1j * value * phi
        elif basis is not None:
            out[:, at] = even * basis if column.kind == "even" else 1j * value * basis
            if column.name == "spherical_aberration":
                out[:, at] += 1j * value * model.coma
    return out
