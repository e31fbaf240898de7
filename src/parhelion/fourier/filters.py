"""Radial filters of images and volumes; all envelopes are factors per Fourier coefficient."""

import numpy as np
import torch

from parhelion.errors import ParameterError
from parhelion.fourier.fft import Array, as_tensor, irfft2, irfft3, like, rfft2, rfft3
from parhelion.fourier.grids import rfft_radius
from parhelion.fourier.shells import shell_index, shell_mean
from parhelion.model.volume import Volume


def lowpass_envelope(
    radius: torch.Tensor, resolution_angstrom: float, width_inverse_angstrom: float
) -> torch.Tensor:
    """1 below, 0 above, a cosine edge of this width centred on 1/resolution; ``radius`` in 1/Å."""
    if not resolution_angstrom > 0:
        raise ParameterError(f"a low-pass needs a positive resolution in Å, found {resolution_angstrom}")
    centre = 1.0 / resolution_angstrom
    if width_inverse_angstrom <= 0:
        return (radius <= centre).to(radius.dtype)
    phase = ((radius - centre) / width_inverse_angstrom + 0.5).clamp(0.0, 1.0)
    return 0.5 + 0.5 * torch.cos(torch.pi * phase)


def highpass_envelope(
    radius: torch.Tensor, resolution_angstrom: float, width_inverse_angstrom: float
) -> torch.Tensor:
    """0 below 1/resolution, 1 above, with the soft edge of lowpass_envelope."""
    return 1.0 - lowpass_envelope(radius, resolution_angstrom, width_inverse_angstrom)


def gaussian_envelope(radius: torch.Tensor, sigma_angstrom: float) -> torch.Tensor:
    """Transform of a normalised Gaussian of standard deviation ``sigma_angstrom`` in real space."""
    return torch.exp(-2 * (torch.pi * sigma_angstrom * radius) ** 2)


def bfactor_envelope(radius: torch.Tensor, bfactor_angstrom2: float) -> torch.Tensor:
    """exp(-B s²/4): positive B dampens, negative B sharpens."""
    return torch.exp(-0.25 * bfactor_angstrom2 * radius**2)


def apply_envelope(data: Array, envelope: torch.Tensor) -> Array:
    """``data`` with its transform multiplied by ``envelope`` (half layout; 2 axes: images, 3: volumes)."""
    tensor = as_tensor(data)
    shape = tuple(int(n) for n in tensor.shape[-envelope.ndim :])
    envelope = envelope.to(tensor.device, tensor.dtype)
    if envelope.ndim == 2:
        return like(irfft2(rfft2(tensor) * envelope, (shape[0], shape[1])), data)
    return like(irfft3(rfft3(tensor) * envelope, (shape[0], shape[1], shape[2])), data)


def _edge(volume: Volume, edge_shells: float) -> float:
    return edge_shells / (max(volume.data.shape) * volume.pixel_size_angstrom)


def _filtered(volume: Volume, envelope: torch.Tensor) -> Volume:
    data = apply_envelope(volume.data, envelope)
    return Volume(data=data.astype(np.float32), pixel_size_angstrom=volume.pixel_size_angstrom)


def lowpass(volume: Volume, resolution_angstrom: float, edge_shells: float = 2.0) -> Volume:
    """The map without detail finer than ``resolution_angstrom`` (cosine edge of ``edge_shells``)."""
    radius = rfft_radius(volume.data.shape, volume.pixel_size_angstrom)
    return _filtered(volume, lowpass_envelope(radius, resolution_angstrom, _edge(volume, edge_shells)))


def highpass(volume: Volume, resolution_angstrom: float, edge_shells: float = 2.0) -> Volume:
    """The map without features coarser than ``resolution_angstrom``."""
    radius = rfft_radius(volume.data.shape, volume.pixel_size_angstrom)
    return _filtered(volume, highpass_envelope(radius, resolution_angstrom, _edge(volume, edge_shells)))


def gaussian(volume: Volume, sigma_angstrom: float) -> Volume:
    """The map convolved with a Gaussian of this standard deviation."""
    radius = rfft_radius(volume.data.shape, volume.pixel_size_angstrom)
    return _filtered(volume, gaussian_envelope(radius, sigma_angstrom))


def apply_bfactor(volume: Volume, bfactor_angstrom2: float) -> Volume:
    """The map damped by exp(-B s²/4); a negative B-factor sharpens."""
    radius = rfft_radius(volume.data.shape, volume.pixel_size_angstrom)
    return _filtered(volume, bfactor_envelope(radius, bfactor_angstrom2))


def whiten(data: Array, ndim: int) -> Array:
    """``data (..., n × ndim)`` with the power of every Fourier shell set to 1 (unitary), averaged over
    the leading axes; coefficients beyond the last whole shell follow that shell."""
    tensor = as_tensor(data)
    shape = tuple(int(n) for n in tensor.shape[-ndim:])
    transform = (rfft2 if ndim == 2 else rfft3)(tensor, unitary=True)
    power = (transform.abs() ** 2).reshape(-1, *transform.shape[-ndim:]).mean(0)
    mean = shell_mean(power, shape)
    scale = torch.where(mean > 0, mean.clamp_min(1e-300) ** -0.5, torch.zeros_like(mean))
    index = shell_index(shape).clamp_max(len(mean) - 1).to(scale.device)
    return apply_envelope(data, scale[index])


def randomise_phases(data: Array, first_shell: int, generator: np.random.Generator) -> Array:
    """A volume ``(z, y, x)`` whose phases are random from ``first_shell`` on; amplitudes stay.

    The substitution test for overfitting and mask correlation (Chen et al., Ultramicroscopy 135, 24,
    2013).
    """
    tensor = as_tensor(data)
    shape = (int(tensor.shape[-3]), int(tensor.shape[-2]), int(tensor.shape[-1]))
    transform = rfft3(tensor)
    # Phases of the transform of real white noise are uniform and Friedel symmetric at once.
    noise = torch.from_numpy(generator.standard_normal(shape, dtype=np.float32)).to(tensor.device)
    phase = rfft3(noise)
    phase = phase / phase.abs().clamp_min(1e-20)
    beyond = shell_index(shape).to(tensor.device) >= first_shell
    return like(irfft3(torch.where(beyond, transform.abs() * phase, transform), shape), data)
