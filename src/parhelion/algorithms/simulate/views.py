"""Noise-free images of a map as a table of particles sees it: pose, shift and, if wanted, CTF."""

import numpy as np
import torch

from parhelion.algorithms.simulate.project import Projector
from parhelion.errors import MetadataError
from parhelion.fourier.fft import irfft2
from parhelion.fourier.grids import rfft_frequencies
from parhelion.fourier.resample import crop_or_pad
from parhelion.model.particles import ParticleSet
from parhelion.optics.ctf import ctf_of_views

PADDING = 2


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

    The image shows the projection moved by minus the particle's shift. The CTF acts in a frame of
    ``padding`` times the box, so that what it spreads beyond the box is lost, as in an extracted
    particle; with 1 it wraps around. Raises MetadataError for particles without poses or with several
    views.
    """
    if particles.rotation is None or particles.shift_xyz_angstrom is None:
        raise MetadataError("the particles have no poses; projections need angles and shifts")
    if len(particles.views) != len(particles):
        raise MetadataError("projections are made of single particles, found particles of tilt series")
    size = padding * box
    transform = torch.from_numpy(projector.slices(particles.rotation[index], size))
    fy, fx = rfft_frequencies((size, size), pixel_size_angstrom, dtype=torch.float64)
    shift = torch.from_numpy(np.asarray(particles.shift_xyz_angstrom[index], np.float64))
    phase = 2 * torch.pi * (shift[:, :1, None] * fx + shift[:, 1:2, None] * fy)
    transform = transform * torch.polar(torch.ones_like(phase), phase).to(torch.complex64)
    if with_ctf:
        ky, kx = (f.reshape(-1) for f in torch.broadcast_tensors(fy, fx))
        values = ctf_of_views(kx, ky, particles.views, particles.optics, np.asarray(index))
        transform = transform * values.reshape(transform.shape).to(torch.float32)
    images = irfft2(transform, (size, size))
    return np.asarray(crop_or_pad(images, (box, box)).numpy(), np.float32)
