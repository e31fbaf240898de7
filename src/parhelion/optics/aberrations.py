"""Aberrations beyond defocus and Cs, in RELION's definitions (Zivanov, Nakane & Scheres 2020, IUCrJ 7, 253).

The transform of an image is that of the ideal projection times the CTF times ``exp(i φ)`` with the
antisymmetric phase ``φ`` of beam tilt and odd Zernike terms; even terms are part of the CTF. Zernike
polynomials take the frequency itself in 1/Å as their radius, not a fraction of an aperture. All are evaluated
at ``M k`` where the optics group has a magnification matrix ``M``, and so is the slice through the volume.
"""

import math
from collections.abc import Sequence

import torch

from parhelion.errors import MetadataError
from parhelion.model.particles import OpticsGroup
from parhelion.optics.wavelength import electron_wavelength_angstrom


def apply_magnification(
    kx: torch.Tensor, ky: torch.Tensor, matrix: Sequence[float]
) -> tuple[torch.Tensor, torch.Tensor]:
    """The frequencies ``M k`` of the undistorted particle that an image shows at ``k = (kx, ky)``.

    ``matrix`` is row by row ``(m00, m01, m10, m11)`` (``rlnMagMat00`` …). Raises MetadataError where it is
    singular.
    """
    m00, m01, m10, m11 = matrix
    if abs(m00 * m11 - m01 * m10) < 1e-6:
        raise MetadataError(
            f"the magnification matrix {tuple(matrix)} is singular; expected one close to the identity"
        )
    if (m00, m01, m10, m11) == (1.0, 0.0, 0.0, 1.0):
        return kx, ky
    return m00 * kx + m01 * ky, m10 * kx + m11 * ky


def antisymmetric_phase(kx: torch.Tensor, ky: torch.Tensor, group: OpticsGroup) -> torch.Tensor:
    """Phase ``(k,)`` float64 in radians that beam tilt and odd Zernike terms add at ``kx, ky`` in 1/Å.

    An image's transform is multiplied by ``exp(i φ)``; to correct an observed image multiply by
    ``exp(-i φ)``. A beam tilt ``τ`` contributes ``-2π Cs λ² s² (τ · k)``. Antisymmetric: ``φ(-k) = -φ(k)``.
    """
    kx, ky = apply_magnification(kx.double(), ky.double(), group.magnification)
    phase = _zernike_sum(kx, ky, group.odd_zernike, odd=True)
    tilt_x, tilt_y = (1e-3 * tilt for tilt in group.beam_tilt_xy_mrad)
    if tilt_x or tilt_y:
        wavelength = electron_wavelength_angstrom(group.voltage_kv)
        strength = -2.0 * math.pi * 1e7 * group.spherical_aberration_mm * wavelength**2
        phase = phase + strength * (kx**2 + ky**2) * (tilt_x * kx + tilt_y * ky)
    return phase


def even_phase(kx: torch.Tensor, ky: torch.Tensor, even_zernike: Sequence[float]) -> torch.Tensor:
    """Sum ``(k,)`` float64 in radians of the even Zernike terms at ``kx, ky`` in 1/Å; 0 without terms.

    RELION adds it to its phase γ, which is minus the χ of ``optics.ctf``.
    """
    return _zernike_sum(kx.double(), ky.double(), even_zernike, odd=False)


def zernike_indices(position: int, odd: bool) -> tuple[int, int]:
    """``(m, n)`` of the coefficient at ``position`` (0-based) in RELION's list of odd or even terms.

    Lists run through n = 1, 3, 5 … or 0, 2, 4 …, and for each n through m = -n, -n+2 … n.
    """
    n = 1 if odd else 0
    while position > n:
        position -= n + 1
        n += 2
    return 2 * position - n, n


def zernike_polynomial(m: int, n: int, kx: torch.Tensor, ky: torch.Tensor) -> torch.Tensor:
    """``R_n^|m|(ρ) cos mφ`` for m ≥ 0, ``R_n^|m|(ρ) sin |m|φ`` for m < 0, with ρ, φ the polar ``kx, ky``."""
    radius2 = kx**2 + ky**2
    order = abs(m)
    # ρ^|m| e^{i|m|φ} as a power of kx + i ky: no angle is needed, and none is undefined at the origin
    real, imaginary = torch.ones_like(kx), torch.zeros_like(kx)
    for _ in range(order):
        real, imaginary = real * kx - imaginary * ky, real * ky + imaginary * kx
    radial = torch.zeros_like(kx)
    for j in range((n - order) // 2 + 1):
        coefficient = (
            (-1) ** j
            * math.factorial(n - j)
            / (
                math.factorial(j)
                * math.factorial((n + order) // 2 - j)
                * math.factorial((n - order) // 2 - j)
            )
        )
        radial = radial + coefficient * radius2 ** ((n - order) // 2 - j)
    return radial * (real if m >= 0 else imaginary)


def _zernike_sum(
    kx: torch.Tensor, ky: torch.Tensor, coefficients: Sequence[float], odd: bool
) -> torch.Tensor:
    total = torch.zeros_like(kx)
    for position, coefficient in enumerate(coefficients):
        if coefficient != 0.0:
            total = total + coefficient * zernike_polynomial(*zernike_indices(position, odd), kx, ky)
    return total
