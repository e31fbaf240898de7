"""Averages of a few particles of one 2D class in place of particles, as cisTEM has them for first maps.

Members of a class are seen from about the same direction, so that they can be summed in the plane before
anything is known in three dimensions. With the member ``i`` brought to the frame of its class,

    Σ_i |X_i - C_i P|² / σ_i²  =  |N / √D - √D P|² + …,     N = Σ C_i X_i / σ_i²,   D = Σ C_i² / σ_i²,

an average is an image ``N / √D`` with noise of power 1 and ``√D`` for its CTF: nothing is lost but what the
2D poses got wrong, and every average weighs as much as its members together. No zero of the CTF is left.
"""

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from parhelion.algorithms.ab_initio_plan import held_out
from parhelion.algorithms.ab_initio_rounds import AbInitioProblem
from parhelion.engine.batch import ParticleBatch, phase_ramp
from parhelion.engine.loader import ParticleLoader
from parhelion.engine.points import FourierPoints
from parhelion.errors import MetadataError
from parhelion.fourier.image_sampler import ImageSampler
from parhelion.model.particles import ParticleSet
from parhelion.optics.ctf import ctf_of_views

# Members are kept so far beyond what averages keep: turning takes Fourier points from their neighbours.
TURN_MARGIN_SHELLS = 5
# Below this share of an average's mean denominator there is no signal to divide by.
LEAST_DENOMINATOR = 1e-6
LARGEST_TILT_DEG = 0.5
LEAST_AVERAGES = 20


@dataclass(eq=False, kw_only=True)
class AverageLoader(ParticleLoader):
    """Batches of averages; in its table every average stands as the first of its members.

    ``members`` loads the particles, ``groups`` are their rows for each average, ``noise_power``
    ``(noise groups, k)`` is that of the particles. Batches are white already: their noise has power 1.
    """

    members: ParticleLoader
    groups: tuple[np.ndarray, ...]
    noise_power: Tensor
    _kept: dict[int, tuple[Tensor, Tensor, bool]] = field(default_factory=dict)

    def batch(self, rows: np.ndarray, count: int) -> ParticleBatch:
        """Averages ``rows`` on the first ``count`` points."""
        made = [self._average(int(row)) for row in rows]
        zero = torch.zeros((len(rows), 1), dtype=torch.int64)
        return ParticleBatch(
            index=torch.from_numpy(rows),
            data=torch.stack([data[:count] for data, _, _ in made]).unsqueeze(1).to(self.device),
            ctf=torch.stack([ctf[:count] for _, ctf, _ in made]).unsqueeze(1).to(self.device),
            valid=torch.tensor([[valid] for _, _, valid in made], device=self.device),
            tilts=torch.from_numpy(self.tilts).to(self.device),
            noise_group=zero.to(self.device),
        )

    def _average(self, row: int) -> tuple[Tensor, Tensor, bool]:
        """Image and CTF ``(k,)`` of an average, and whether any of its members can be used."""
        if row in self._kept:
            return self._kept[row]
        members = self.groups[row]
        data, waves, valid = self._turned(members)
        group = self.members.particles.views.noise_group[self._views[members]]
        weight = valid[:, None] / self.noise_power[torch.from_numpy(group)].cpu()
        numerator = (data * waves * weight).sum(0)
        denominator = (waves.square() * weight).sum(0)
        amplitude = denominator.sqrt()
        enough = denominator > LEAST_DENOMINATOR * denominator.mean().clamp_min(1e-30)
        image = torch.where(enough, numerator / torch.where(enough, amplitude, 1.0), 0)
        made = image, torch.where(enough, amplitude, 0.0), bool(valid.any())
        size = 12 * len(image)
        if size <= self._cache_left:
            self._cache_left -= size
            self._kept[row] = made
        return made

    @property
    def _views(self) -> np.ndarray:
        """The view of every particle; there is one."""
        return np.argsort(self.members.particles.views.particle, kind="stable")

    def _turned(self, rows: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        """Transforms and CTFs ``(m, k)`` of particles in the frame of their class, and which are usable."""
        particles, wide = self.members.particles, self.members.points
        rotation, shift = particles.rotation, self.members.shift_xyz_angstrom
        if rotation is None or shift is None:
            raise MetadataError("particles without in-plane poses cannot be averaged")
        data, valid = (one[:, 0].cpu() for one in self.members.transforms(rows, len(wide)))
        moved = torch.from_numpy(shift[rows] / self.extent_angstrom)
        data = (
            data * phase_ramp(moved, torch.eye(3, dtype=torch.float64)[None], wide.kx, wide.ky)[:, 0].conj()
        )
        images = _images(data, wide)
        size = images.shape[-1]
        points = torch.stack((self.points.kx, self.points.ky)).double().numpy()
        turned, waves = [], []
        for image, row in zip(images, rows):
            kx, ky = rotation[row, :2, :2] @ points
            turned.append(ImageSampler(size, kx / size, ky / size)(image[None])[0])
            fx, fy = torch.from_numpy(np.stack((kx, ky)) / self.extent_angstrom)
            waves.append(ctf_of_views(fx, fy, particles.views, self._optics, self._views[[row]])[0])
        return torch.stack(turned), torch.stack(waves), valid


def _images(data: Tensor, points: FourierPoints) -> Tensor:
    """Images about pixel ``n // 2`` on a grid just fine enough for transforms ``(m, k)`` on ``points``."""
    n = 2 * (points.max_shell + 1)
    kx, ky = points.kx.long(), points.ky.long()
    full = torch.zeros((len(data), n, n // 2 + 1), dtype=data.dtype)
    full[:, ky % n, kx] = data
    axis = kx == 0
    full[:, (-ky[axis]) % n, kx[axis]] = data[:, axis].conj()
    return torch.fft.fftshift(torch.fft.irfft2(full, s=(n, n), norm="ortho"), dim=(-2, -1))


def class_numbers(particles: ParticleSet) -> np.ndarray:
    """The 2D class of every particle ``(n,)``; MetadataError where there is none, or no in-plane pose."""
    numbers = particles.class_number
    hint = "; take the particles.star or selected.star of class2d"
    if numbers is None:
        raise MetadataError("the particles have no 2D classes (rlnClassNumber)" + hint)
    if particles.rotation is None or particles.shift_xyz_angstrom is None:
        raise MetadataError("the particles have no in-plane poses (rlnAnglePsi, rlnOriginXAngst)" + hint)
    if len(particles.views) != len(particles):
        raise MetadataError("particles of tilt series cannot be averaged in the plane")
    upright = particles.rotation[:, 2, 2]
    tilted = int((upright < np.cos(np.radians(LARGEST_TILT_DEG))).sum())
    if tilted:
        raise MetadataError(
            f"{tilted} of {len(particles)} particles have tilted poses (rlnAngleTilt): their classes are not "
            "those of a 2D classification" + hint
        )
    return numbers


def members_of(numbers: np.ndarray, size: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Rows of about ``size`` particles of a class each; every particle of a class (from 1) is in one."""
    groups: list[np.ndarray] = []
    for number in np.unique(numbers[numbers > 0]):
        rows = rng.permutation(np.flatnonzero(numbers == number))
        groups += np.array_split(rows, max(1, round(len(rows) / size)))
    return tuple(np.sort(group) for group in groups)


def of_averages(problem: AbInitioProblem, size: int, rng: np.random.Generator) -> AbInitioProblem:
    """The same ``problem`` with averages of about ``size`` particles of a class in place of particles.

    Raises MetadataError where the particles have no 2D classes or too few for a search.
    """
    loader = problem.loader
    groups = members_of(class_numbers(loader.particles), size, rng)
    if len(groups) < LEAST_AVERAGES:
        raise MetadataError(
            f"{len(loader.particles)} particles make {len(groups)} averages of {size}; at least "
            f"{LEAST_AVERAGES} are needed for a search, lower --images-per-class"
        )
    points = loader.points
    wide = FourierPoints(points.box, min(points.max_shell + TURN_MARGIN_SHELLS, points.box // 2 - 1))
    averages = AverageLoader(
        particles=loader.particles.take(np.array([group[0] for group in groups])),
        source=loader.source,
        points=points,
        diameter_angstrom=loader.diameter_angstrom,
        cache_bytes=loader.cache_bytes,
        device=loader.device,
        members=replace(loader, points=wide, cache_bytes=0),
        groups=groups,
        noise_power=problem.noise,
    )
    rows, pickers, judges = held_out(len(groups), rng)
    spectrum = torch.ones((1, points.max_shell + 1), dtype=torch.float64)
    problem.observer.notice(
        f"{sum(map(len, groups))} of {len(loader.particles)} particles make {len(groups)} averages of about "
        f"{size} of one 2D class, with which the maps are found"
    )
    return replace(problem, loader=averages, spectrum=spectrum, rows=rows, pickers=pickers, judges=judges)
