"""The contrast transfer function.

For white protein, with ``w`` the amplitude contrast (Wade 1992, Ultramicroscopy 46, 145; Rohou & Grigorieff
2015, J. Struct. Biol. 192, 216):

    CTF(k) = scale · exp(-B s²/4) · ( √(1-w²) sin χ + w cos χ )
    χ(k)   = π λ Δf(θ) s² − ½ π Cs λ³ s⁴ + phase shift − Z_even(k),   s = |k|

so that CTF(0) = +w, underfocus is positive, and ``Δf(θ) = (U+V)/2 + (U-V)/2 · cos 2(θ-α)`` with the defocus
angle ``α`` counted from +x towards +y. ``Z_even`` is the sum of RELION's even Zernike terms.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch

from parhelion.errors import MetadataError
from parhelion.model.particles import OpticsGroup, Views
from parhelion.optics.aberrations import apply_magnification, even_phase
from parhelion.optics.wavelength import electron_wavelength_angstrom

__all__ = ["ctf", "ctf_of_views", "electron_wavelength_angstrom"]

ELEMENTS_IN_CACHE = 1 << 17
"""Values worked on at a time on a CPU: their float64 phases stay in the cache of one core."""
ELEMENTS_ON_GPU = 1 << 26
"""The same on a GPU: enough to keep it busy, at half a gigabyte for the phases."""


def ctf(
    kx: torch.Tensor,
    ky: torch.Tensor,
    defocus_u_angstrom: torch.Tensor,
    defocus_v_angstrom: torch.Tensor,
    defocus_angle_deg: torch.Tensor,
    phase_shift_deg: torch.Tensor,
    bfactor_angstrom2: torch.Tensor,
    scale: torch.Tensor,
    *,
    voltage_kv: float,
    spherical_aberration_mm: float,
    amplitude_contrast: float,
    even_zernike: Sequence[float] = (),
) -> torch.Tensor:
    """CTF ``(n, k)`` float32 of ``n`` images at the frequencies ``kx, ky`` ``(k,)`` in 1/Å.

    The other tensors are ``(n,)``. The result is on the device of ``kx``. The phase is a product of an
    ``(n, 4)`` and a ``(4, k)`` matrix, taken in float64 and reduced to one turn before it is rounded: at
    hundreds of radians float32 would lose digits, and a processor set to TF32 or bfloat16 products nearly all
    of them. Raises MetadataError where a parameter is physically impossible.
    """
    if not 0.0 <= amplitude_contrast <= 1.0:
        raise MetadataError(f"an amplitude contrast of {amplitude_contrast} is not between 0 and 1")
    wavelength = electron_wavelength_angstrom(voltage_kv)
    kx, ky = kx.double(), ky.double()
    s2 = kx**2 + ky**2
    basis = torch.stack([s2, kx**2 - ky**2, 2.0 * kx * ky, torch.ones_like(s2)])
    spherical = -0.5 * math.pi * (1e7 * spherical_aberration_mm) * wavelength**3 * s2**2
    common = spherical + math.asin(amplitude_contrast) - even_phase(kx, ky, even_zernike)
    u, v, angle, shift = (
        column.to(kx.device, torch.float64)
        for column in (defocus_u_angstrom, defocus_v_angstrom, defocus_angle_deg, phase_shift_deg)
    )
    angle = torch.deg2rad(angle)
    half = math.pi * wavelength * 0.5
    coefficients = torch.stack(
        [
            half * (u + v),
            half * (u - v) * torch.cos(2.0 * angle),
            half * (u - v) * torch.sin(2.0 * angle),
            torch.deg2rad(shift),
        ],
        dim=1,
    )
    turn = 1.0 / (2.0 * math.pi)
    values = _sine_of_turns(common * turn, coefficients * turn, basis)
    return _apply_envelope(values, s2, bfactor_angstrom2.to(kx.device), scale.to(kx.device))


def ctf_of_views(
    kx: torch.Tensor, ky: torch.Tensor, views: Views, optics: Sequence[OpticsGroup], rows: np.ndarray
) -> torch.Tensor:
    """CTF ``(len(rows), k)`` float32 of the views ``rows`` at the image frequencies ``kx, ky`` in 1/Å.

    Each view is evaluated with its optics group: voltage, Cs, amplitude contrast, even Zernike terms and, as
    RELION does, at the frequencies that the magnification matrix maps ``kx, ky`` to. Beam tilt and odd terms
    are no part of a real CTF: ``aberrations.antisymmetric_phase``.
    """
    rows = np.asarray(rows)
    out = torch.empty((len(rows), len(kx)), dtype=torch.float32, device=kx.device)
    for index in np.unique(views.optics_group[rows]):
        group = optics[int(index)]
        at = np.flatnonzero(views.optics_group[rows] == index)
        columns = (
            views.defocus_u_angstrom,
            views.defocus_v_angstrom,
            views.defocus_angle_deg,
            views.phase_shift_deg,
            views.ctf_bfactor_angstrom2,
            views.ctf_scale,
        )
        out[torch.from_numpy(at).to(kx.device)] = ctf(
            *apply_magnification(kx, ky, group.magnification),
            *(torch.from_numpy(np.asarray(column[rows[at]], dtype=np.float64)) for column in columns),
            voltage_kv=group.voltage_kv,
            spherical_aberration_mm=group.spherical_aberration_mm,
            amplitude_contrast=group.amplitude_contrast,
            even_zernike=group.even_zernike,
        )
    return out


def _sine_of_turns(common: torch.Tensor, coefficients: torch.Tensor, basis: torch.Tensor) -> torch.Tensor:
    """``sin 2π(common + coefficients · basis)`` ``(n, k)`` float32, rows in blocks that fit the cache."""
    n, k = len(coefficients), basis.shape[1]
    out = torch.empty((n, k), dtype=torch.float32, device=basis.device)
    step = max(1, (ELEMENTS_ON_GPU if basis.is_cuda else ELEMENTS_IN_CACHE) // max(k, 1))
    for start in range(0, n, step):
        turns = torch.addmm(common, coefficients[start : start + step], basis)
        out[start : start + step] = turns.sub_(turns.round()).float().mul_(2.0 * math.pi).sin_()
    return out


def _apply_envelope(
    values: torch.Tensor, s2: torch.Tensor, bfactor_angstrom2: torch.Tensor, scale: torch.Tensor
) -> torch.Tensor:
    if bool((bfactor_angstrom2 != 0).any()):
        values *= torch.exp(torch.outer(-0.25 * bfactor_angstrom2.float(), s2.float()))
    if bool((scale != 1).any()):
        values *= scale.float()[:, None]
    return values
