"""Particle images prepared for another program: smaller, cut, normalised, with phases flipped or inverted."""

from dataclasses import dataclass

import numpy as np
import torch

from parhelion.contracts import ParticleSource
from parhelion.errors import ParameterError
from parhelion.fourier.fft import irfft2, rfft2
from parhelion.fourier.grids import rfft_frequencies
from parhelion.fourier.resample import crop_or_pad, fourier_resize_images
from parhelion.images.normalise import normalise_background
from parhelion.model.particles import ParticleSet
from parhelion.optics.ctf import ctf_of_views


@dataclass(frozen=True, kw_only=True)
class StackSettings:
    """What is done to images of ``source_box`` pixels of ``source_pixel_angstrom``.

    They are resampled to ``resampled_box`` (same extent), cut or filled to ``box``, multiplied by ``factor``
    (-1 turns white protein black) and, with ``background_radius_angstrom``, normalised outside it.
    ``flip_phases`` gives the CTF one sign.
    """

    source_box: int
    source_pixel_angstrom: float
    resampled_box: int
    box: int
    background_radius_angstrom: float | None = None
    flip_phases: bool = False
    factor: float = 1.0

    @property
    def pixel_size_angstrom(self) -> float:
        """Pixel size of the prepared images."""
        return self.source_pixel_angstrom * self.source_box / self.resampled_box


def stack_settings(
    source_box: int,
    source_pixel_angstrom: float,
    *,
    downsample: float = 1.0,
    box: int | None = None,
    normalise: bool = False,
    radius_angstrom: float | None = None,
    flip_phases: bool = False,
    factor: float = 1.0,
) -> StackSettings:
    """Settings from what a user says: a factor, and a box afterwards (default: the whole image).

    The factor is rounded so that the resampled box is even. The background begins at ``radius_angstrom``,
    by default at 3/8 of the box. Raises ParameterError where nothing sensible is left.
    """
    if not downsample >= 1:
        raise ParameterError(f"images are made smaller by a factor of at least 1, found {downsample}")
    resampled = source_box if downsample == 1 else 2 * round(source_box / downsample / 2)
    if resampled < 8:
        raise ParameterError(
            f"a box of {source_box} pixels downsampled {downsample:g} times has {resampled}; "
            "choose a smaller factor"
        )
    final = resampled if box is None else box
    pixel = source_pixel_angstrom * source_box / resampled
    return StackSettings(
        source_box=source_box,
        source_pixel_angstrom=source_pixel_angstrom,
        resampled_box=resampled,
        box=final,
        background_radius_angstrom=(radius_angstrom or 0.375 * final * pixel) if normalise else None,
        flip_phases=flip_phases,
        factor=factor,
    )


def prepared_images(
    source: ParticleSource, particles: ParticleSet | None, rows: np.ndarray, settings: StackSettings
) -> np.ndarray:
    """Images ``(len(rows), box, box)`` float32 of these views; ``particles`` say the CTF of flipped ones.

    Where the new box is larger, each image's own mean fills it. Raises InputError for images that cannot be
    normalised.
    """
    images = source.images(rows)
    if settings.flip_phases:
        if particles is None:
            raise ParameterError("phases are flipped by the CTF, which images without a table do not have")
        images = _one_signed(images, particles, rows, settings.source_pixel_angstrom)
    if settings.resampled_box != settings.source_box:
        images = fourier_resize_images(images, settings.resampled_box)
    if settings.box != settings.resampled_box:
        mean = images.mean(axis=(1, 2), keepdims=True)
        images = crop_or_pad(images - mean, (settings.box, settings.box)) + mean
    images = images * np.float32(settings.factor)
    if settings.background_radius_angstrom is not None:
        radius = settings.background_radius_angstrom / settings.pixel_size_angstrom
        images = normalise_background(images, radius, ramp=False)
    return np.asarray(images, np.float32)


def _one_signed(images: np.ndarray, particles: ParticleSet, rows: np.ndarray, pixel: float) -> np.ndarray:
    """The images with their transforms multiplied by the sign of the CTF."""
    box = images.shape[1]
    fy, fx = rfft_frequencies((box, box), pixel, dtype=torch.float64)
    ky, kx = (f.reshape(-1) for f in torch.broadcast_tensors(fy, fx))
    values = ctf_of_views(kx, ky, particles.views, particles.optics, rows)
    transform = rfft2(torch.from_numpy(images))
    sign = torch.where(values < 0, -1.0, 1.0).reshape(transform.shape)
    return irfft2(transform * sign, (box, box)).numpy()
