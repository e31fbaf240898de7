"""Spectra and micrographs with a known CTF, from formulas of their own."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from parhelion.algorithms.ctf_fit.settings import Optics
from parhelion.algorithms.ctf_fit.spectrum import Spectrum

OPTICS = Optics(voltage_kv=300.0, spherical_aberration_mm=2.7, amplitude_contrast=0.07)


@dataclass(frozen=True, kw_only=True)
class Truth:
    """A CTF and how strongly its rings stand out of the background; ``cut`` ends them at this spacing."""

    defocus: float = 15000.0
    astigmatism: float = 400.0
    angle: float = 30.0
    phase_shift: float = 0.0
    signal: float = 0.4
    bfactor: float = 80.0
    cut: float = 0.0
    ice: float = 0.0
    thickness: float = 0.0

    def power(self, kx: np.ndarray, ky: np.ndarray) -> np.ndarray:
        """Expected power at ``kx, ky`` in 1/Å; the angle counts from +x (columns) towards +y (rows)."""
        wavelength = 12.2642598 / np.sqrt(300e3 * (1 + 300e3 * 0.978475598e-6))
        s2 = kx**2 + ky**2
        s = np.sqrt(s2)
        local = self.defocus + 0.5 * self.astigmatism * np.cos(
            2 * (np.arctan2(ky, kx) - np.deg2rad(self.angle))
        )
        chi = np.pi * wavelength * local * s2 - 0.5 * np.pi * 2.7e7 * wavelength**3 * s2**2
        ctf = np.sin(chi + np.deg2rad(self.phase_shift) + np.arcsin(0.07))
        nodes = np.sinc(wavelength * self.thickness * s2)
        rings = self.signal * np.exp(-0.5 * self.bfactor * s2) * (0.5 - nodes * (0.5 - ctf**2))
        rings = np.where(s > 1 / self.cut, 0.0, rings) if self.cut else rings
        background = 1 + 3 * np.exp(-s2 / (2 * 0.02**2))
        return background * (1 + rings) + self.ice * np.exp(-((s - 1 / 3.67) ** 2) / (2 * 0.002**2))


@pytest.fixture
def optics() -> Optics:
    return OPTICS


@pytest.fixture
def spectrum() -> Callable[..., Spectrum]:
    """``spectrum(truth, size=512, pixel=1.4, noise=0.05, seed=0)`` with relative noise in every amplitude."""

    def make(
        truth: Truth, size: int = 512, pixel: float = 1.4, noise: float = 0.05, seed: int = 0
    ) -> Spectrum:
        ky, kx = (np.indices((size, size)) - size // 2) / (size * pixel)
        amplitude = np.sqrt(truth.power(kx, ky))
        amplitude *= 1 + noise * np.random.default_rng(seed).standard_normal(amplitude.shape)
        return Spectrum(amplitude=amplitude.astype(np.float32), pixel_size_angstrom=pixel)

    return make


@pytest.fixture
def micrograph() -> Callable[..., np.ndarray]:
    """``micrograph(truth, n=768, pixel=1.5, slope=(0, 0), seed=0)``: filtered noise ``(n, n)`` float32.

    ``slope`` (x, y) in Å per Å tilts the defocus about the pixel ``n // 2``.
    """

    def make(
        truth: Truth,
        n: int = 768,
        pixel: float = 1.5,
        slope: tuple[float, float] = (0.0, 0.0),
        seed: int = 0,
    ) -> np.ndarray:
        noise = np.fft.rfft2(np.random.default_rng(seed).standard_normal((n, n)))
        kx, ky = np.fft.rfftfreq(n, pixel)[None], np.fft.fftfreq(n, pixel)[:, None]
        y, x = (np.indices((n, n)) - n // 2) * pixel
        height = slope[0] * x + slope[1] * y
        levels = np.linspace(height.min(), height.max(), 24 if np.any(height) else 1)
        image = np.zeros((n, n))
        width = levels[1] - levels[0] if len(levels) > 1 else 1.0
        for level in levels:
            shifted = Truth(**{**truth.__dict__, "defocus": truth.defocus + level})
            part = np.fft.irfft2(noise * np.sqrt(shifted.power(kx, ky)), (n, n))
            image += part * np.clip(1 - np.abs(height - level) / width, 0, None)
        return image.astype(np.float32)

    return make


@pytest.fixture
def truth() -> type[Truth]:
    return Truth
