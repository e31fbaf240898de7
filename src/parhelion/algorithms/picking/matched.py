"""Matched filters for round particles: a soft disc in coloured noise, and a Gaussian blob.

The disc's filter is Sigworth's (2004, J. Struct. Biol. 145, 111): image and CTF-modulated template are made
white with the noise of the background, so that the score is the signal in units of its noise.
"""

from dataclasses import dataclass

import numpy as np
import torch

from parhelion.algorithms.picking.background import Background
from parhelion.algorithms.picking.local import wrapped_distance
from parhelion.algorithms.picking.reduced import ReducedMicrograph
from parhelion.fourier.grids import rfft_frequencies, rfft_weight
from parhelion.optics.ctf import ctf

EDGE_PIXELS = 5.0


@dataclass(frozen=True, kw_only=True)
class PickingCtf:
    """The CTF of one micrograph; lengths in the units of the names."""

    defocus_u_angstrom: float
    defocus_v_angstrom: float
    defocus_angle_deg: float
    voltage_kv: float
    spherical_aberration_mm: float
    amplitude_contrast: float
    phase_shift_deg: float = 0.0

    def on_grid(self, shape: tuple[int, int], pixel_yx_angstrom: tuple[float, float]) -> torch.Tensor:
        """The CTF ``(y, x // 2 + 1)`` (half layout) of an image of ``shape``, positive for white protein."""
        fy, fx = rfft_frequencies(shape, dtype=torch.float64)
        ky, kx = torch.broadcast_tensors(fy / pixel_yx_angstrom[0], fx / pixel_yx_angstrom[1])
        columns = (
            self.defocus_u_angstrom,
            self.defocus_v_angstrom,
            self.defocus_angle_deg,
            self.phase_shift_deg,
            0.0,
            1.0,
        )
        values = ctf(
            kx.reshape(-1),
            ky.reshape(-1),
            *(torch.tensor([value], dtype=torch.float64) for value in columns),
            voltage_kv=self.voltage_kv,
            spherical_aberration_mm=self.spherical_aberration_mm,
            amplitude_contrast=self.amplitude_contrast,
        )
        return values.reshape(kx.shape)


def soft_disc(distance_angstrom: torch.Tensor, radius_angstrom: float, pixel_angstrom: float) -> torch.Tensor:
    """A disc with a cosine edge of five pixels, 0.5 at ``radius_angstrom``."""
    phase = ((distance_angstrom - radius_angstrom) / (EDGE_PIXELS * pixel_angstrom) + 0.5).clamp(0.0, 1.0)
    return 0.5 + 0.5 * torch.cos(torch.pi * phase)


def whitened(micrograph: ReducedMicrograph, background: Background) -> torch.Tensor:
    """Transform (half layout) of the micrograph with white background noise of variance 1, mean 0."""
    shape = (int(micrograph.data.shape[0]), int(micrograph.data.shape[1]))
    transform = torch.fft.rfft2(torch.from_numpy(micrograph.data))
    transform = transform * background.whitening(shape, micrograph.pixel_yx_angstrom)
    transform[0, 0] = 0
    return transform


def blob_score(
    micrograph: ReducedMicrograph,
    background: Background,
    radius_angstrom: float,
    ctf_values: PickingCtf | None,
    transform: torch.Tensor | None = None,
) -> np.ndarray:
    """Score ``(y, x)``: the filter's answer to a disc of this radius, in standard deviations of the
    background's answers. ``transform`` is ``whitened(…)``, where it is at hand."""
    shape = (int(micrograph.data.shape[0]), int(micrograph.data.shape[1]))
    pixel = micrograph.pixel_yx_angstrom
    transform = whitened(micrograph, background) if transform is None else transform
    distance = wrapped_distance(shape, pixel)
    template = torch.fft.rfft2(soft_disc(distance, radius_angstrom, micrograph.pixel_angstrom))
    if ctf_values is not None:
        template = template * ctf_values.on_grid(shape, pixel)
    template = template * background.whitening(shape, pixel)
    template[0, 0] = 0
    power = float((template.abs() ** 2 * rfft_weight(shape)).sum()) / (shape[0] * shape[1])
    score = torch.fft.irfft2(transform * template.conj(), s=shape).numpy() / np.sqrt(power)
    return calibrated(score, background, least_sigma=1.0)


def calibrated(score: np.ndarray, background: Background, least_sigma: float = 0.0) -> np.ndarray:
    """The score less its mean in the background boxes, in units of its deviation there, taken as
    ``least_sigma`` at least.

    Only the middle half of each box counts, whose answers see little beyond the box. ``least_sigma`` is
    the filter's own unit: boxes chosen for little noise must not make the score look larger.
    """
    reach = max(1, background.box // 4)
    offset = np.arange(-reach, reach + 1)
    y = background.centres_yx[:, 0, None, None] + offset[None, :, None]
    x = background.centres_yx[:, 1, None, None] + offset[None, None, :]
    values = score[y, x].astype(np.float64)
    sigma = max(least_sigma, float(values.std()), 1e-12)
    return ((score - values.mean()) / sigma).astype(np.float32)


def gaussian_score(
    micrograph: ReducedMicrograph, background: Background, radius_angstrom: float
) -> np.ndarray:
    """Score ``(y, x)``: correlation with a Gaussian blob, in standard deviations of the noise boxes.

    The blob has the second moment of a disc of ``radius_angstrom`` (σ = half the radius), less a surround
    of twice its width, so that a slow background cancels. Level and spread of the noise are those of the
    answers in the boxes (SPIDER's picking by a Gaussian blob).
    """
    shape = (int(micrograph.data.shape[0]), int(micrograph.data.shape[1]))
    fy, fx = rfft_frequencies(shape)
    squares = (fy / micrograph.pixel_yx_angstrom[0]) ** 2 + (fx / micrograph.pixel_yx_angstrom[1]) ** 2
    exponent = -2 * (torch.pi * 0.5 * radius_angstrom) ** 2 * squares
    kernel = torch.exp(exponent) - torch.exp(4 * exponent)
    score = torch.fft.irfft2(torch.fft.rfft2(torch.from_numpy(micrograph.data)) * kernel, s=shape).numpy()
    return calibrated(score, background)
