"""What particles of one structure differ by, at their poses: its leading components, and the split into two.

Images of one structure that varies are y = C P (μ + Σ z_j u_j) + noise with z ~ N(0, 1): probabilistic
principal components (Tipping and Bishop, J. R. Stat. Soc. B 61, 611, 1999), here through projections and CTF
(Punjani and Fleet, J. Struct. Biol. 213, 107702, 2021). Expectation–maximisation finds the u_j, by power
iteration on all particles at coarse resolution, where two structures differ by the fewest unknowns. Along the
components the likelihood of any map μ + Σ ζ_j u_j is a quadratic form, so that a mixture of two is fitted
without touching an image again.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from parhelion.contracts import Executor
from parhelion.engine.batch import phase_ramp
from parhelion.engine.candidates import Candidates
from parhelion.engine.loader import ParticleLoader
from parhelion.engine.noise import on_points
from parhelion.engine.points import FourierPoints
from parhelion.engine.predict import fourier_volume
from parhelion.engine.score import chunks
from parhelion.engine.update import MapSums, complete_mates, solve, symmetrise
from parhelion.fourier.resample import resample_volume
from parhelion.geometry.symmetry import SymmetryGroup
from parhelion.kernels import dispatch
from parhelion.model.volume import Volume

COMPONENTS, ROUNDS = 2, 24
PRIOR = 0.3
"""Of a component, in units of a shell's mean information: what is seen in few views stays small."""
MEAN_PRIOR = 0.05
STARTS, MIXTURE_ROUNDS = 12, 60
LEAST_SHARE = 1e-3
CHUNK = 256


@dataclass(frozen=True, kw_only=True)
class CentredImages:
    """``m`` whitened, centred views of ``n`` particles on ``k`` points: ``data`` ``(m, k)`` complex64,
    ``ctf`` ``(m, k)`` float32, ``rotation`` ``(m, 3, 3)``; ``owner`` ``(m,)`` is the particle, below ``n``,
    and ``weight`` ``(n,)`` how much of it belongs here. ``box`` voxels span the images' extent coarsely.
    """

    data: Tensor
    ctf: Tensor
    rotation: Tensor
    owner: Tensor
    weight: Tensor
    points: FourierPoints
    shell: float
    box: int

    def slices(self, volume: Tensor) -> Tensor:
        """The views' central slices of ``volume`` times their CTF, ``(m, k)``."""
        padded = fourier_volume(volume, self.points.max_shell)
        k = self.data.shape[-1]
        found = dispatch.extract(
            padded.data, self.rotation, self.points.kx[:k], self.points.ky[:k], padded.padding
        )
        return found.view(self.data.shape) * self.ctf

    def volume(
        self, values: Tensor, squares: Tensor, prior: float, symmetry: SymmetryGroup, executor: Executor
    ) -> Tensor:
        """The map ``(box, box, box)`` that explains ``values`` ``(m, k)``, each counted with ``squares``
        ``(m, 1)`` of its information."""
        sums = MapSums.zeros(self.box, self.points.max_shell, self.data.device)
        weight = self.weight[self.owner, None]
        inserted = (values * self.ctf * weight).contiguous()
        information = (self.ctf.square() * squares * weight).contiguous()
        sums.add([(self.rotation, inserted, information)], self.points, executor)
        sums = symmetrise(complete_mates(sums), symmetry.operators, executor)
        priors = torch.full((self.points.max_shell + 1,), prior, dtype=torch.float64)
        return solve(sums, priors, self.shell - 1)

    def per_particle(self, values: Tensor) -> Tensor:
        """The sum over each particle's views of ``values`` ``(m, …)``."""
        return values.new_zeros((len(self.weight), *values.shape[1:])).index_add_(0, self.owner, values)


def centred_images(loader: ParticleLoader, noise: Tensor, poses: Candidates, shell: float) -> CentredImages:
    """The particles of ``poses``, one pose each with its weight, up to ``shell``.

    ``noise`` ``(groups, shells)``; on the CPU, whatever the loader's device.
    """
    if poses.weight is None:
        raise ValueError("variability is analysed with weights")
    highest = min(int(np.ceil(shell)), loader.points.max_shell)
    box = min(2 * (highest + 3), loader.box)
    points, k = FourierPoints(box, highest), loader.points.count(shell)
    power = on_points(noise, loader.points).to(loader.device)
    parts: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    for piece in chunks(torch.arange(len(poses)), CHUNK):
        batch = loader.batch(poses.particle[piece].numpy(), k).whitened(power)
        kx, ky = loader.points.kx[:k].to(loader.device), loader.points.ky[:k].to(loader.device)
        ramp = phase_ramp(poses.shift[piece].to(loader.device), batch.tilts, kx, ky)
        rotation = torch.einsum("vij,njk->nvik", batch.tilts.cpu(), poses.rotation[piece])
        views = batch.data.shape[1]
        parts.append(
            (
                (batch.data * ramp.conj()).cpu().flatten(0, 1),
                batch.ctf.cpu().flatten(0, 1),
                rotation.flatten(0, 1),
                piece.repeat_interleave(views),
            )
        )
    data, ctf, rotation, owner = (torch.cat(column).contiguous() for column in zip(*parts))
    return CentredImages(
        data=data,
        ctf=ctf,
        rotation=rotation,
        owner=owner,
        weight=poses.weight.float(),
        points=points,
        shell=min(shell, highest),
        box=box,
    )


@dataclass(frozen=True, kw_only=True)
class Components:
    """The mean map, the components ``(J, box, box, box)`` by falling strength, and for every particle the
    quadratic form of its log-likelihood along (mean, components): ``linear`` ``(n, J + 1)``, ``quadratic``
    ``(n, J + 1, J + 1)``. ``log L(ζ) = linear·ζ − ½ ζᵀ quadratic ζ``, 0 at the mean."""

    mean: Tensor
    axes: Tensor
    linear: Tensor
    quadratic: Tensor
    strength: np.ndarray


def components(
    images: CentredImages,
    mask: np.ndarray,
    symmetry: SymmetryGroup,
    executor: Executor,
    rng: np.random.Generator,
    inside: np.ndarray | None = None,
) -> Components:
    """The leading components inside ``inside`` (0 to 1; default: the mask) of maps inside ``mask``."""
    where = _coarse(mask, images)
    within = where if inside is None else where * _coarse(inside, images)
    ones = torch.ones((len(images.data), 1))
    mean = images.volume(images.data, ones, MEAN_PRIOR, symmetry, executor) * where
    shown = images.slices(mean)
    residual = images.data - shown
    count = len(images.weight)
    z = torch.from_numpy(rng.normal(size=(count, COMPONENTS)).astype(np.float32))
    second = torch.einsum("nj,nl->njl", z, z)
    seen: Tensor | None = None
    strength = np.zeros(COMPONENTS)
    axes = torch.zeros((COMPONENTS, *where.shape))
    for _ in range(ROUNDS):
        axes = torch.stack(
            [
                _component(images, residual, z, second, seen, j, symmetry, executor) * within
                for j in range(COMPONENTS)
            ]
        )
        seen = torch.stack([images.slices(axis) for axis in axes], 1)
        z, second = _posterior(images, residual, seen)
        axes, turn, strength = _principal(axes, second, images.weight)
        seen = torch.einsum("jl,mlk->mjk", turn.to(seen), seen)
        back = torch.linalg.inv(turn).T
        z, second = z @ back.T, back @ second @ back.T
    if seen is None:
        raise ValueError("components take at least one round")
    linear, quadratic = _form(images, residual, torch.cat([shown[:, None], seen], 1))
    return Components(
        mean=mean, axes=axes, linear=linear.double(), quadratic=quadratic.double(), strength=strength
    )


def told_of(found: Components, images: CentredImages) -> Components:
    """The same components with the likelihood of other particles, which had no part in finding them."""
    shown = images.slices(found.mean)
    seen = torch.stack([images.slices(axis) for axis in found.axes], 1)
    linear, quadratic = _form(images, images.data - shown, torch.cat([shown[:, None], seen], 1))
    return replace(found, linear=linear.double(), quadratic=quadratic.double())


def _coarse(mask: np.ndarray, images: CentredImages) -> Tensor:
    small = resample_volume(
        Volume(data=mask.astype(np.float32), pixel_size_angstrom=1.0), images.box, len(mask) / images.box
    )
    return torch.from_numpy(np.ascontiguousarray(small.data)).float().clamp(0, 1)


def _component(
    images: CentredImages,
    residual: Tensor,
    z: Tensor,
    second: Tensor,
    seen: Tensor | None,
    j: int,
    symmetry: SymmetryGroup,
    executor: Executor,
) -> Tensor:
    """The map that best explains ``residual`` as z_j times its slices, the other components held."""
    values = z[images.owner, j, None] * residual
    if seen is not None:
        for other in range(seen.shape[1]):
            if other != j:
                values = values - second[images.owner, j, other, None] * seen[:, other]
    return images.volume(values, second[images.owner, j, j, None], PRIOR, symmetry, executor)


def _form(images: CentredImages, residual: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
    """Linear ``(n, b)`` and quadratic ``(n, b, b)`` terms of -|residual - Σ ζ basis|², noise of power 1."""
    linear = 2 * torch.einsum("mbk,mk->mb", basis.conj(), residual).real
    quadratic = 2 * torch.einsum("mbk,mck->mbc", basis.conj(), basis).real
    return images.per_particle(linear), images.per_particle(quadratic)


def _posterior(images: CentredImages, residual: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """Mean ``(n, J)`` and second moment ``(n, J, J)`` of the coordinates."""
    linear, quadratic = _form(images, residual, seen)
    spread = torch.linalg.inv(quadratic + torch.eye(seen.shape[1]))
    z = torch.einsum("njl,nl->nj", spread, linear)
    return z, spread + torch.einsum("nj,nl->njl", z, z)


def _principal(axes: Tensor, second: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, np.ndarray]:
    """Axes that are orthogonal, with coordinates of mean square 1; the matrix ``turn`` that makes them from
    the old ones, and their lengths, the largest first."""
    mean = (torch.einsum("n,njl->jl", weight, second) / weight.sum().clamp_min(1e-9)).double()
    value, vector = torch.linalg.eigh(mean)
    root = vector @ torch.diag(value.clamp_min(1e-12).sqrt()) @ vector.T
    flat = axes.flatten(1).double()
    length, side = torch.linalg.eigh(root.T @ (flat @ flat.T) @ root)
    turn = (side.T @ root.T).flip(0)
    turned = (turn @ flat).reshape(axes.shape).float()
    return turned, turn.float(), length.flip(0).clamp_min(0).sqrt().numpy()


def two_of(found: Components, weight: Tensor, rng: np.random.Generator) -> tuple[Tensor, float]:
    """The posterior ``(n, 2)`` of two maps within the components, and what two explain better than one.

    The gain is in nats over all particles, less the halved number of parameters that the second takes.
    """
    linear, quadratic, weight = found.linear, found.quadratic, weight.double()
    size = linear.shape[1]
    alone = torch.linalg.solve(quadratic + torch.eye(size, dtype=torch.float64), linear)
    single = _mixture(linear, quadratic, weight, torch.zeros((1, size), dtype=torch.float64))
    chance = (weight / weight.sum()).numpy()
    best: tuple[float, Tensor] | None = None
    for _ in range(STARTS):
        pick = torch.from_numpy(rng.choice(len(linear), 2, replace=False, p=_somewhere(chance)))
        made = _mixture(linear, quadratic, weight, alone[pick])
        if best is None or made[0] > best[0]:
            best = made
    if best is None:
        raise ValueError("a mixture takes at least one start")
    return best[1], best[0] - single[0] - size / 2


def _somewhere(chance: np.ndarray) -> np.ndarray:
    """A probability of every particle, none quite 0."""
    raised = chance + 1e-12
    return raised / raised.sum()


def _mixture(linear: Tensor, quadratic: Tensor, weight: Tensor, centre: Tensor) -> tuple[float, Tensor]:
    """Log-likelihood and posterior ``(n, c)`` of the mixture that starts from ``centre`` ``(c, b)``."""
    count = len(centre)
    share = torch.full((count,), 1 / count, dtype=torch.float64)
    unit = torch.eye(linear.shape[1], dtype=torch.float64)
    total, posterior = 0.0, linear.new_ones((len(linear), count))
    for _ in range(MIXTURE_ROUNDS):
        logs = linear @ centre.T - 0.5 * torch.einsum("cj,njl,cl->nc", centre, quadratic, centre)
        logs = logs + share.log()
        norm = torch.logsumexp(logs, 1)
        posterior = (logs - norm[:, None]).exp()
        total = float((weight * norm).sum())
        mine = posterior * weight[:, None]
        share = (mine.sum(0) / weight.sum()).clamp_min(LEAST_SHARE)
        share = share / share.sum()
        information = torch.einsum("nc,njl->cjl", mine, quadratic) + unit
        centre = torch.linalg.solve(information, mine.T @ linear)
    return total, posterior
