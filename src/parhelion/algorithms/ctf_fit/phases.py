"""CTF² and what the fit needs of it, through the package's one CTF (``optics.ctf``)."""

import numpy as np
import torch

from parhelion.algorithms.ctf_fit.settings import Optics
from parhelion.optics.ctf import ctf, electron_wavelength_angstrom


def sine_and_cosine(
    kx: np.ndarray,
    ky: np.ndarray,
    defocus: np.ndarray,
    astigmatism: np.ndarray,
    phase_shift_deg: np.ndarray,
    optics: Optics,
    *,
    cosine: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """The CTF and its quadrature ``(n, k)`` float32 (sin χ and cos χ, χ with the amplitude contrast in it).

    ``defocus`` ``(n,)`` is the mean in Å, ``astigmatism`` ``(n, 2)`` half of U − V times the cosine and sine
    of twice the angle. Without ``cosine`` the second array is empty.
    """
    half = np.hypot(astigmatism[:, 0], astigmatism[:, 1])
    angle = np.rad2deg(0.5 * np.arctan2(astigmatism[:, 1], astigmatism[:, 0]))
    turned = (0.0, 90.0) if cosine else (0.0,)
    shift = np.concatenate([phase_shift_deg + turn for turn in turned])
    rows = [np.tile(column, len(turned)) for column in (defocus + half, defocus - half, angle)]
    u, v, alpha = (torch.from_numpy(row) for row in rows)
    values = ctf(
        torch.from_numpy(np.ascontiguousarray(kx)),
        torch.from_numpy(np.ascontiguousarray(ky)),
        u,
        v,
        alpha,
        torch.from_numpy(shift),
        torch.zeros(len(shift)),
        torch.ones(len(shift)),
        voltage_kv=optics.voltage_kv,
        spherical_aberration_mm=optics.spherical_aberration_mm,
        amplitude_contrast=optics.amplitude_contrast,
    ).numpy()
    return values[: len(defocus)], values[len(defocus) :]


def ring_rate(s: np.ndarray, defocus: np.ndarray | float, optics: Optics) -> np.ndarray:
    """Periods of CTF² per 1/Å at ``s``, ``|2 λ Δf s − 2 Cs λ³ s³|``: what a box must resolve."""
    wavelength = electron_wavelength_angstrom(optics.voltage_kv)
    spherical = 2e7 * optics.spherical_aberration_mm * wavelength**3 * s**3
    return np.abs(2.0 * wavelength * np.asarray(defocus) * s - spherical)


def attenuation(periods_per_bin: np.ndarray) -> np.ndarray:
    """What averaging over one frequency bin leaves of rings this dense; nothing from one period per bin."""
    return np.where(periods_per_bin < 1.0, np.sinc(periods_per_bin), 0.0)


def thickness_factor(s: np.ndarray, thickness_angstrom: float, optics: Optics) -> np.ndarray:
    """What this thickness leaves of the rings at ``s``: ``sinc(λ t s²)``, negative beyond a node.

    Layers at all heights add their power, each with its own defocus (McMullan, Vinothkumar & Henderson 2015,
    Ultramicroscopy 158, 26).
    """
    wavelength = electron_wavelength_angstrom(optics.voltage_kv)
    return np.asarray(np.sinc(wavelength * thickness_angstrom * s**2))
