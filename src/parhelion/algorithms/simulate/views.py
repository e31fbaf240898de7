"""Noise-free images of a map as a table of particles sees it: pose, shift and, if wanted, its optics."""

import numpy as np
import torch

from parhelion.algorithms.simulate.project import Projector
from parhelion.errors import MetadataError
from parhelion.fourier.fft import irfft2
from parhelion.fourier.grids import rfft_frequencies
from parhelion.fourier.resample import crop_or_pad
from parhelion.model.particles import ParticleSet
from parhelion.optics.aberrations import antisymmetric_phase
from parhelion.optics.ctf import ctf_of_views

PADDING = 2
UNDISTORTED = (1.0, 0.0, 0.0, 1.0)


def images_of_particles(
    projector: Projector,
    particles: ParticleSet,
    index: np.ndarray,
    box: int,
    pixel_size_angstrom: float,
    *,
    with_ctf: bool,
    padding: int = PADDING,
) -> np.ndarray:
    """Images ``(len(index), box, box)`` float32 of these single particles (rows), protein white.

    The image shows the projection moved by minus the particle's shift. ``with_ctf`` applies all that the
    optics groups state: CTF with even Zernike terms, beam tilt, odd terms and magnification. They act in a
    frame of ``padding`` times the box, so that what they spread beyond the box is lost, as in an extracted
    particle; with 1 it wraps around. Raises MetadataError for particles without poses or with several
    views.
    """
    if particles.rotation is None or particles.shift_xyz_angstrom is None:
        raise MetadataError("the particles have no poses; projections need angles and shifts")
    if len(particles.views) != len(particles):
        raise MetadataError("projections are made of single particles, found particles of tilt series")
    size = padding * box
    index = np.asarray(index)
    transform = torch.from_numpy(_slices(projector, particles, index, size, with_ctf))
    fy, fx = rfft_frequencies((size, size), pixel_size_angstrom, dtype=torch.float64)
    shift = torch.from_numpy(np.asarray(particles.shift_xyz_angstrom[index], np.float64))
    phase = 2 * torch.pi * (shift[:, :1, None] * fx + shift[:, 1:2, None] * fy)
    transform = transform * torch.polar(torch.ones_like(phase), phase).to(torch.complex64)
    if with_ctf:
        ky, kx = (f.reshape(-1) for f in torch.broadcast_tensors(fy, fx))
        values = ctf_of_views(kx, ky, particles.views, particles.optics, index)
        transform = transform * values.reshape(transform.shape).to(torch.float32)
        _add_phases(transform, particles, index, kx, ky)
    images = irfft2(transform, (size, size))
    return np.asarray(crop_or_pad(images, (box, box)).numpy(), np.float32)


def _slices(
    projector: Projector, particles: ParticleSet, index: np.ndarray, size: int, distorted: bool
) -> np.ndarray:
    """Central slices, each at the frequencies that the magnification of its optics group asks for."""
    if particles.rotation is None:
        raise MetadataError("the particles have no poses; projections need angles and shifts")
    rotation, member = particles.rotation[index], particles.views.optics_group[index]
    if not distorted or all(group.magnification == UNDISTORTED for group in particles.optics):
        return projector.slices(rotation, size)
    out = np.zeros((len(index), size, size // 2 + 1), np.complex64)
    for number in np.unique(member):
        matrix = np.reshape(particles.optics[int(number)].magnification, (2, 2))
        out[member == number] = projector.slices(rotation[member == number], size, matrix)
    return out


def _add_phases(
    transform: torch.Tensor, particles: ParticleSet, index: np.ndarray, kx: torch.Tensor, ky: torch.Tensor
) -> None:
    """Multiplies by the antisymmetric phases of beam tilt and odd Zernike terms, in place."""
    for number, group in enumerate(particles.optics):
        member = torch.from_numpy(particles.views.optics_group[index] == number)
        if bool(member.any()) and (any(group.beam_tilt_xy_mrad) or any(group.odd_zernike)):
            phase = antisymmetric_phase(kx, ky, group).reshape(transform.shape[1:])
            transform[member] *= torch.polar(torch.ones_like(phase), phase).to(torch.complex64)
