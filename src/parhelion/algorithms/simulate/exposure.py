"""The contrast that particles leave in a micrograph, free of noise and motion.

A molecule's projected potential ``∫V dz`` shifts the phase of the electrons by ``φ = σ ∫V dz``. In the
weak-phase approximation the image is ``I = I₀ (1 + C)`` with the transform ``Ĉ(k) = -2 CTF(k) φ̂(k)``, where
``CTF(k) = √(1-w²) sin χ + w cos χ`` (``optics.ctf``): protein is darker than ice at underfocus.
"""

import numpy as np
import torch
from scipy.fft import next_fast_len

from parhelion.algorithms.simulate.particles import Microscope, interaction_radian_per_volt_angstrom
from parhelion.algorithms.simulate.placement import Placement
from parhelion.algorithms.simulate.project import Projector
from parhelion.fourier.fft import irfft2, rfft2
from parhelion.fourier.grids import rfft_frequencies
from parhelion.fourier.resample import crop_or_pad
from parhelion.optics.ctf import ctf
from parhelion.optics.wavelength import electron_wavelength_angstrom


def ctf_on_grid(
    shape: tuple[int, int],
    pixel_size_angstrom: float,
    defocus_uv_angstrom: tuple[float, float],
    defocus_angle_deg: float,
    microscope: Microscope,
) -> torch.Tensor:
    """CTF ``(y, x // 2 + 1)`` float32 in the half layout of images of this ``shape``."""
    fy, fx = rfft_frequencies(shape, pixel_size_angstrom, dtype=torch.float64)
    ky, kx = (f.reshape(-1) for f in torch.broadcast_tensors(fy, fx))
    values = ctf(
        kx,
        ky,
        torch.tensor([defocus_uv_angstrom[0]]),
        torch.tensor([defocus_uv_angstrom[1]]),
        torch.tensor([defocus_angle_deg]),
        torch.tensor([microscope.phase_shift_deg]),
        torch.tensor([microscope.ctf_bfactor_angstrom2]),
        torch.ones(1),
        voltage_kv=microscope.voltage_kv,
        spherical_aberration_mm=microscope.spherical_aberration_mm,
        amplitude_contrast=microscope.amplitude_contrast,
    )
    return values.reshape(shape[0], shape[1] // 2 + 1)


def spread_px(defocus_angstrom: float, pixel_size_angstrom: float, voltage_kv: float) -> int:
    """How far the CTF carries the finest detail (at Nyquist), in pixels: λ Δf k."""
    at_nyquist = 0.5 / pixel_size_angstrom
    reach = electron_wavelength_angstrom(voltage_kv) * abs(defocus_angstrom) * at_nyquist
    return int(np.ceil(reach / pixel_size_angstrom))


def particle_contrast(
    projector: Projector,
    placement: Placement,
    defocus_uv_angstrom: np.ndarray,
    defocus_angle_deg: float,
    microscope: Microscope,
    pixel_size_angstrom: float,
    shape: tuple[int, int],
    origin_xy: tuple[int, int],
) -> np.ndarray:
    """Contrast ``C`` ``(height, width)`` float32 of all particles, each with its own CTF and wherever it is
    carried by it; ``placement`` counts from ``origin_xy`` of the image. ``projector`` holds a potential in V.
    """
    canvas = np.zeros(shape, np.float32)
    if not len(placement):
        return canvas
    spread = spread_px(float(np.abs(defocus_uv_angstrom).max()), pixel_size_angstrom, microscope.voltage_kv)
    box = min(next_fast_len(projector.box + 2 * spread, real=True), 2 * max(shape))
    strength = -2 * interaction_radian_per_volt_angstrom(microscope.voltage_kv) * pixel_size_angstrom
    fy, fx = rfft_frequencies((box, box))
    for i in range(len(placement)):
        projection = torch.from_numpy(projector.images(placement.rotation[i : i + 1])[0])
        transform = rfft2(crop_or_pad(projection, (box, box)))
        corner = np.floor(placement.xy_px[i] + 0.5).astype(int)
        dx, dy = (float(d) for d in placement.xy_px[i] - corner)
        ramp = torch.polar(torch.ones_like(fx * fy), -2 * torch.pi * (dx * fx + dy * fy))
        u, v = defocus_uv_angstrom[i]
        transfer = ctf_on_grid(
            (box, box), pixel_size_angstrom, (float(u), float(v)), defocus_angle_deg, microscope
        )
        image = irfft2(transform * ramp * (strength * transfer), (box, box)).numpy()
        _add(canvas, image, corner[0] + origin_xy[0] - box // 2, corner[1] + origin_xy[1] - box // 2)
    return canvas


def _add(canvas: np.ndarray, image: np.ndarray, left: int, top: int) -> None:
    """Add ``image`` with its first pixel at ``left``, ``top``; what lies outside is lost."""
    height, width = canvas.shape
    y0, y1 = max(top, 0), min(top + image.shape[0], height)
    x0, x1 = max(left, 0), min(left + image.shape[1], width)
    if y0 < y1 and x0 < x1:
        canvas[y0:y1, x0:x1] += image[y0 - top : y1 - top, x0 - left : x1 - left]
