"""The frames of one movie before the detector counts: damage, ice, motion and transfer function."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch

from parhelion.algorithms.simulate.detector import Detector
from parhelion.algorithms.simulate.exposure import ctf_on_grid
from parhelion.algorithms.simulate.ice import WanderingIce, persistence, phase_power
from parhelion.algorithms.simulate.particles import Microscope, interaction_radian_per_volt_angstrom
from parhelion.algorithms.simulate.warp import warp
from parhelion.fourier.fft import irfft2, rfft2
from parhelion.fourier.grids import rfft_frequencies, rfft_radius
from parhelion.optics.dose import signal_left
from parhelion.optics.wavelength import electron_wavelength_angstrom

if TYPE_CHECKING:
    from parhelion.algorithms.simulate.movies import MovieSettings, MovieTruth

RADIAL_STEPS = 8192
DEFOCUS_STEP_ANGSTROM = 100.0


def expected_frames(
    contrast: torch.Tensor,
    margin_px: int,
    truth: "MovieTruth",
    settings: "MovieSettings",
    microscope: Microscope,
    detector: Detector,
    generator: np.random.Generator,
) -> Iterator[np.ndarray]:
    """Expected electrons ``(height, width)`` float32 per pixel of each frame, at least 0.

    ``contrast`` is that of the particles on a canvas whose field begins at ``margin_px`` along both axes.
    """
    shape = (int(contrast.shape[0]), int(contrast.shape[1]))
    pixel = settings.pixel_size_angstrom
    radius = rfft_radius(shape, pixel)
    damage = _RadialTable(radius)
    particles = rfft2(contrast).mul_(detector.mtf(shape))
    ice = (
        _Ice(shape, margin_px, radius, truth, settings, microscope, generator) if settings.ice_noise else None
    )
    mtf = detector.mtf(shape)
    mean = settings.dose_per_frame * pixel**2
    for frame in range(settings.frames):
        dose = settings.pre_exposure + (frame + 0.5) * settings.dose_per_frame
        moved = _motion_factor(shape, truth.motion.global_xy_px[frame], truth.motion.blur_xy_px[frame])
        left = damage.spread(signal_left(damage.line, torch.tensor([dose]), microscope.voltage_kv)[0])
        image = irfft2(particles * left * moved, shape)
        if ice is not None:
            image += ice.next_frame(moved.mul_(mtf))
        field = _field(image.numpy(), truth.motion.local_coefficients(frame), settings.shape, margin_px)
        yield np.maximum(mean * (1.0 + field), 0.0, dtype=np.float32)


def _field(image: np.ndarray, coefficients: np.ndarray, shape: tuple[int, int], margin_px: int) -> np.ndarray:
    """The field of view, its content moved locally."""
    if not coefficients.any():
        return image[margin_px : margin_px + shape[0], margin_px : margin_px + shape[1]]
    return warp(image, shape, coefficients, (margin_px, margin_px))


def _motion_factor(shape: tuple[int, int], moved_px: np.ndarray, blur_px: np.ndarray) -> torch.Tensor:
    """``exp(-2πi k·d) sinc(k·b)`` ``(y, x // 2 + 1)``: content moved by ``d`` and smeared along ``b``."""
    fy, fx = rfft_frequencies(shape)
    along_x = torch.polar(torch.ones_like(fx), -2 * torch.pi * float(moved_px[0]) * fx)
    along_y = torch.polar(torch.ones_like(fy), -2 * torch.pi * float(moved_px[1]) * fy)
    factor = along_y * along_x
    if np.any(blur_px):
        factor *= torch.sinc(float(blur_px[0]) * fx + float(blur_px[1]) * fy)
    return factor


class _RadialTable:
    """Functions of the radius, computed on a fine line and spread over the plane."""

    def __init__(self, radius: torch.Tensor) -> None:
        self.line = torch.linspace(0.0, float(radius.max()), RADIAL_STEPS)
        step = float(self.line[1])
        self.index = torch.round(radius / step).to(torch.int32).clamp_max_(RADIAL_STEPS - 1)

    def spread(self, values: torch.Tensor) -> torch.Tensor:
        """``values`` on the line, at every point of the plane."""
        return values.to(torch.float32)[self.index]


class _Ice:
    """Images of the ice's noise, one per frame; on a tilted specimen the CTF follows the defocus."""

    def __init__(
        self,
        shape: tuple[int, int],
        margin_px: int,
        radius: torch.Tensor,
        truth: "MovieTruth",
        settings: "MovieSettings",
        microscope: Microscope,
        generator: np.random.Generator,
    ) -> None:
        self.shape = shape
        self.ice = WanderingIce(shape, persistence(radius, settings.dose_per_frame), generator)
        offsets, self.weights = _defocus_layers(shape, margin_px, truth, settings)
        strength = ice_amplitude(radius, settings, microscope)
        self.amplitudes = [
            strength * depth_averaged_ctf(shape, radius, truth, float(offset), settings, microscope)
            for offset in offsets
        ]

    def next_frame(self, factor: torch.Tensor) -> torch.Tensor:
        """Contrast ``(y, x)`` of the ice in the next frame, its transform multiplied by ``factor``."""
        state = self.ice.next_frame() * factor
        if len(self.amplitudes) == 1:
            return irfft2(state.mul_(self.amplitudes[0]), self.shape)
        total = torch.zeros(self.shape)
        for number, amplitude in enumerate(self.amplitudes):
            share = (1 - (self.weights - number).abs()).clamp_min_(0.0)
            total += share.mul_(irfft2(state * amplitude, self.shape))
        return total


def ice_amplitude(radius: torch.Tensor, settings: "MovieSettings", microscope: Microscope) -> torch.Tensor:
    """Factor that turns the transform of white noise (variance 1 per pixel) into that of the ice's phase,
    times 2 for the contrast, where the CTF is 1."""
    sigma = interaction_radian_per_volt_angstrom(microscope.voltage_kv)
    power = phase_power(radius.numpy(), settings.ice_thickness_angstrom, sigma)
    amplitude = 2 * settings.ice_noise / settings.pixel_size_angstrom * np.sqrt(power)
    return torch.from_numpy(amplitude.astype(np.float32))


def depth_averaged_ctf(
    shape: tuple[int, int],
    radius: torch.Tensor,
    truth: "MovieTruth",
    offset_angstrom: float,
    settings: "MovieSettings",
    microscope: Microscope,
) -> torch.Tensor:
    """Root of the mean of CTF² over the depth of the ice, whose layers scatter independently.

    With CTF = sin χ, CTF² = (1 - cos 2χ) / 2, and cos 2χ averaged over defoci within ± t/2 is cos 2χ ·
    sinc(λ t k²).
    """
    defocus = (truth.defocus_u_angstrom + offset_angstrom, truth.defocus_v_angstrom + offset_angstrom)
    centre = ctf_on_grid(shape, settings.pixel_size_angstrom, defocus, truth.defocus_angle_deg, microscope)
    depth = electron_wavelength_angstrom(microscope.voltage_kv) * settings.ice_thickness_angstrom
    mean = 0.5 * (1 - (1 - 2 * centre**2) * torch.sinc(depth * radius**2))
    return mean.clamp_min_(0.0).sqrt_()


def _defocus_layers(
    shape: tuple[int, int], margin_px: int, truth: "MovieTruth", settings: "MovieSettings"
) -> tuple[np.ndarray, torch.Tensor]:
    """Defocus offsets ``(m,)`` in Å and, for every pixel of the canvas, its place between them."""
    if not truth.tilt_deg:
        return np.zeros(1), torch.zeros(())
    axis = math.radians(truth.tilt_axis_deg)
    slope = math.tan(math.radians(truth.tilt_deg)) * settings.pixel_size_angstrom
    x = np.arange(shape[1]) - margin_px - (settings.shape[1] - 1) / 2
    y = np.arange(shape[0])[:, None] - margin_px - (settings.shape[0] - 1) / 2
    height = slope * (math.cos(axis) * y - math.sin(axis) * x)
    low, high = float(height.min()), float(height.max())
    number = max(2, math.ceil((high - low) / DEFOCUS_STEP_ANGSTROM) + 1)
    offsets = np.linspace(low, high, number)
    place = (height - low) / (high - low) * (number - 1)
    return offsets, torch.from_numpy(place.astype(np.float32))
