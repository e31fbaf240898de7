"""From images to batches: background, mask, transform, Fourier crop, CTF."""

from dataclasses import dataclass, field, replace
from functools import lru_cache, partial

import numpy as np
import torch
from torch import Tensor

from parhelion.contracts import ParticleSource
from parhelion.engine.batch import ParticleBatch
from parhelion.engine.points import FourierPoints
from parhelion.errors import MetadataError
from parhelion.fourier.image_sampler import ImageSampler
from parhelion.model.particles import OpticsGroup, ParticleSet
from parhelion.optics.aberrations import antisymmetric_phase
from parhelion.optics.ctf import ctf_of_views

# Where |CTF| is below this, dividing a premultiplied image by it would only bring noise.
SMALLEST_CTF = 0.02
EDGE_PIXELS = 4.0
UNDISTORTED = (1.0, 0.0, 0.0, 1.0)
LEAST_DETERMINANT = 1e-6
KEPT_SAMPLERS = 32
"""Magnification matrices whose interpolation is kept: 15 MB each for boxes of 256 pixels."""


@dataclass(eq=False, kw_only=True)
class ParticleLoader:
    """Batches of ``particles`` on ``points``, masked by a soft circle of ``diameter_angstrom``.

    Images of a group with a magnification matrix ``M`` are sampled at ``M⁻¹ k``: what the engine sees at
    ``k`` is the undistorted particle, and all groups share their slices. ``shift_xyz_angstrom`` are the
    particles' shifts in that frame (``undistorted_shifts``). Unless ``scale_images`` they
    keep their scale.

    Transforms are kept in memory while they fit into ``cache_bytes``; beyond that images are read again
    each round. Images that are not finite or constant become views that are not valid; ``bad_views``
    collects them.
    """

    particles: ParticleSet
    source: ParticleSource
    points: FourierPoints
    diameter_angstrom: float
    scale_images: bool = True
    cache_bytes: int = 2**31
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    bad_views: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        optics = self.particles.optics
        self.pixel_size_angstrom = optics[0].pixel_size_angstrom
        for group in optics:
            _refuse_another_pixel_size(group, self.pixel_size_angstrom)
        self.box = self.source.box
        self.extent_angstrom = self.box * self.pixel_size_angstrom
        self.mask = soft_circle(self.box, self.diameter_angstrom / 2 / self.pixel_size_angstrom)
        # CTF and aberrations are taken at the undistorted frequencies, where the images are sampled
        self._optics = tuple(replace(group, magnification=UNDISTORTED) for group in optics)
        # groups of one microscope share their matrix: thousands of groups, one sampler
        self._sampler = lru_cache(KEPT_SAMPLERS)(partial(_sampler, self.points))
        _refuse_singular(optics)
        self.shift_xyz_angstrom = undistorted_shifts(self.particles)
        self._rows, self.tilts = _view_rows(self.particles)
        self._cache: dict[int, Tensor] = {}
        self._cache_left = self.cache_bytes

    @property
    def mask_energy(self) -> float:
        """Mean square of the mask: the share of the noise power that masked images keep."""
        return float(self.mask.square().mean())

    def batch(self, rows: np.ndarray, count: int) -> ParticleBatch:
        """Particles ``rows`` on the first ``count`` points."""
        views = self._rows[rows]  # (n, v), -1 where a particle has no such view
        flat = np.maximum(views, 0).reshape(-1)
        data, valid = self.transforms(rows, count)
        waves = self._ctf(flat, count)
        table = self.particles.views
        return ParticleBatch(
            index=torch.from_numpy(rows),
            data=data,
            ctf=waves.view(*views.shape, count).to(self.device),
            valid=valid,
            tilts=torch.from_numpy(self.tilts).to(self.device),
            noise_group=torch.from_numpy(table.noise_group[flat].reshape(views.shape).astype(np.int64)).to(
                self.device
            ),
        )

    def transforms(self, rows: np.ndarray, count: int) -> tuple[Tensor, Tensor]:
        """Transforms ``(n, v, count)`` of images of particles ``rows``, and which are usable ``(n, v)``."""
        views = self._rows[rows]
        data, good = self._data(np.maximum(views, 0).reshape(-1))
        valid = torch.from_numpy(views >= 0) & good.view(views.shape)
        return data[:, :count].reshape(*views.shape, count).to(self.device), valid.to(self.device)

    def _data(self, views: np.ndarray) -> tuple[Tensor, Tensor]:
        """Transforms ``(m, k)`` on all points and which are good, from the cache or from the images."""
        missing = np.array([v for v in np.unique(views) if int(v) not in self._cache], dtype=np.int64)
        fresh: dict[int, Tensor] = {}
        if len(missing):
            transforms, good = self._transform(missing)
            self.bad_views.update(int(v) for v in missing[~good.numpy()])
            fresh = dict(zip(missing.tolist(), transforms))
            size = transforms.numel() * transforms.element_size()
            if size <= self._cache_left:
                self._cache_left -= size
                self._cache.update(fresh)
        data = torch.stack([self._cache[int(v)] if int(v) in self._cache else fresh[int(v)] for v in views])
        return data, torch.tensor([int(v) not in self.bad_views for v in views])

    def _transform(self, views: np.ndarray) -> tuple[Tensor, Tensor]:
        images, good = self.normalised(views)
        data = transform(images * self.mask, self.points)
        groups = self.particles.views.optics_group[views]
        for number in np.unique(groups).tolist():
            group, member = self._optics[number], torch.from_numpy(groups == number)
            matrix = self.particles.optics[number].magnification
            if matrix != UNDISTORTED:
                data[member] = self._sampler(tuple(matrix))(images[member] * self.mask)
            if any(group.beam_tilt_xy_mrad) or any(group.odd_zernike):
                phase = antisymmetric_phase(*self._frequencies(len(self.points)), group).float()
                data[member] *= torch.polar(torch.ones_like(phase), -phase)
            if group.ctf_premultiplied:
                waves = self._ctf(views[member.numpy()], len(self.points))
                usable = waves.abs() > SMALLEST_CTF
                data[member] = torch.where(usable, data[member] / torch.where(usable, waves, 1.0), 0)
        return data, good

    def normalised(self, views: np.ndarray) -> tuple[Tensor, Tensor]:
        """The images of ``views`` with a background of mean 0 and deviation 1, and which are usable."""
        return normalise(torch.from_numpy(self.source.images(views)), self.mask, scaled=self.scale_images)

    def _frequencies(self, count: int) -> tuple[Tensor, Tensor]:
        return (
            self.points.kx[:count].double() / self.extent_angstrom,
            self.points.ky[:count].double() / self.extent_angstrom,
        )

    def _ctf(self, views: np.ndarray, count: int) -> Tensor:
        return ctf_of_views(*self._frequencies(count), self.particles.views, self._optics, views)


def _refuse_singular(optics: tuple[OpticsGroup, ...]) -> None:
    for group in optics:
        if abs(np.linalg.det(np.reshape(group.magnification, (2, 2)))) < LEAST_DETERMINANT:
            raise MetadataError(
                f"optics group {group.name} has the singular magnification matrix {group.magnification} "
                "(rlnMagMat00 …); one close to the identity is expected"
            )


def _sampler(points: FourierPoints, magnification: tuple[float, float, float, float]) -> ImageSampler:
    """Samples images with this ``magnification`` where the undistorted particle has the frequencies
    ``points``."""
    inverse = np.linalg.inv(np.reshape(magnification, (2, 2)))
    grid = np.stack([points.kx.numpy(), points.ky.numpy()]).astype(np.float64) / points.box
    # the outermost points may leave the box's transform by the distortion; they take its border
    return ImageSampler(points.box, *np.clip(inverse @ grid, -0.5, 0.5))


def undistorted_shifts(particles: ParticleSet, back: bool = False) -> np.ndarray | None:
    """Shifts ``(n, 3)`` in Å of the undistorted particles; with ``back``, of the images from such shifts.

    A shift ``t`` of an image multiplies its transform at ``M⁻¹ k`` by the phase of ``M⁻ᵀ t`` at ``k``.
    """
    shift = particles.shift_xyz_angstrom
    if shift is None or all(group.magnification == UNDISTORTED for group in particles.optics):
        return shift
    matrices = np.stack([np.reshape(group.magnification, (2, 2)) for group in particles.optics])
    change = matrices.mT if back else np.linalg.inv(matrices).mT
    first_view = np.unique(particles.views.particle, return_index=True)[1]
    moved = shift.copy()
    moved[:, :2] = np.einsum("nij,nj->ni", change[particles.views.optics_group[first_view]], shift[:, :2])
    return moved


def _refuse_another_pixel_size(group: OpticsGroup, pixel_size_angstrom: float) -> None:
    if abs(group.pixel_size_angstrom / pixel_size_angstrom - 1) > 1e-4:
        raise MetadataError(
            f"optics group {group.name} has {group.pixel_size_angstrom} Å per pixel, the first group "
            f"{pixel_size_angstrom} Å; bring all groups to one pixel size first"
        )


def _view_rows(particles: ParticleSet) -> tuple[np.ndarray, np.ndarray]:
    """View rows ``(n, v)``, -1 where missing, and the tilts ``(v, 3, 3)`` that all particles share."""
    owner = particles.views.particle
    order = np.argsort(owner, kind="stable")
    counts = np.bincount(owner, minlength=len(particles))
    width = int(counts.max(initial=0))
    if width == 0 or counts.min() == 0:
        raise MetadataError(f"{int((counts == 0).sum())} of {len(particles)} particles have no image")
    rank = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    rows = np.full((len(particles), width), -1)
    rows[owner[order], rank] = order
    tilts = particles.views.tilt_rotation
    if tilts is None:
        if width > 1:
            raise MetadataError("particles with several views need a tilt rotation for every view")
        return rows, np.eye(3)[None]
    shared = tilts[rows[np.argmax(counts)]]
    for particle, view in zip(*np.nonzero(rows >= 0)):
        if not np.allclose(tilts[rows[particle, view]], shared[view], atol=1e-6):
            raise MetadataError(
                f"particle {particle + 1} has another tilt geometry than the first; "
                "batches of one geometry are needed"
            )
    return rows, np.ascontiguousarray(shared, dtype=np.float64)


def soft_circle(box: int, radius: float) -> Tensor:
    """Mask ``(box, box)`` float32: 1 within ``radius`` pixels of n // 2, cosine edge outwards."""
    axis = torch.arange(box, dtype=torch.float32) - box // 2
    distance = torch.hypot(axis[:, None], axis[None, :])
    fall = ((distance - radius) / EDGE_PIXELS).clamp(0, 1)
    return 0.5 * (1 + torch.cos(torch.pi * fall))


def normalise(images: Tensor, mask: Tensor, scaled: bool = True) -> tuple[Tensor, Tensor]:
    """Images ``(m, box, box)`` with background mean 0 and deviation 1, and which of them are usable.

    The background is what the mask leaves out; where it leaves less than a fiftieth of the box, the
    whole image. Unless ``scaled`` the deviation stays as it is. Unusable images (not finite, or constant)
    become zero.
    """
    outside = mask < 0.01
    if outside.float().mean() < 0.02:
        outside = torch.ones_like(outside)
    background = images[:, outside]
    mean, deviation = background.mean(1), background.std(1)
    finite = torch.isfinite(images).flatten(1).all(1)
    good = finite & (deviation > 1e-6 * images.abs().amax((1, 2)).clamp_min(1e-30))
    scale = torch.where(good, 1 / deviation if scaled else torch.ones_like(deviation), 0.0)
    centred = torch.where(good[:, None, None], images - mean[:, None, None], 0.0)
    return centred * scale[:, None, None], good


def transform(images: Tensor, points: FourierPoints) -> Tensor:
    """Unitary transforms of ``(m, box, box)`` images about their centre on the points: ``(m, k)``."""
    full = torch.fft.rfft2(torch.fft.ifftshift(images, dim=(-2, -1)), norm="ortho")
    return full[:, points.ky.long() % points.box, points.kx.long()]
