"""One round of ab-initio expectation-maximisation, and how a map is judged."""

from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from parhelion.contracts import Cancel, Executor, Observer
from parhelion.engine.loader import ParticleLoader
from parhelion.engine.predict import fourier_volume
from parhelion.engine.score import chunks
from parhelion.engine.search import SliceBank, search_precision, shift_grid, slice_bank
from parhelion.engine.soft import SoftSums, merged, soft_step
from parhelion.engine.solvent import Solvent
from parhelion.engine.update import MapSums, complete_mates, shell_means, shell_of_voxels, solve, symmetrise
from parhelion.geometry.rotations import random_rotations
from parhelion.geometry.so3 import so3_grid
from parhelion.geometry.symmetry import SymmetryGroup, symmetry_group

GRID_ORDER = 2
CHUNK = 64
# Particles of the first round, growing to the batch size.
FIRST_BATCH = 300
# Share of the old map that is kept: rounds on different particles average.
KEPT = 0.4
# The prior per shell is 1 / (FUDGE · power of the map), relative to the data between these bounds.
FUDGE, LEAST_PRIOR, MOST_PRIOR = 4.0, 0.02, 0.5
FIRST_PRIOR = 0.3
# What is left of negative density, which is mostly noise and CTF fringes.
NEGATIVE = 0.2
RECENTRED, MASKED = 0.7, 0.3
SHIFT_STEP = 0.4


@dataclass(frozen=True, kw_only=True)
class AbInitioProblem:
    """What all rounds share. Maps are ``box`` pixels wide, the images' Fourier points the loader's.

    ``noise`` ``(groups, k)``; ``rows`` are particles to learn from, ``judges`` are held out; limits in
    shells.
    """

    loader: ParticleLoader
    noise: Tensor
    rows: np.ndarray
    judges: np.ndarray
    box: int
    extent_angstrom: float
    first_shell: float
    last_shell: float
    shift_angstrom: float
    batch: int
    solvent: Solvent
    executor: Executor
    observer: Observer
    cancel: Cancel

    @property
    def pixel_size_angstrom(self) -> float:
        """Of the maps."""
        return self.extent_angstrom / self.box

    def limit(self, progress: float) -> float:
        """Resolution limit in shells when ``progress`` goes from 0 to 1."""
        return self.first_shell + (self.last_shell - self.first_shell) * progress


@dataclass(frozen=True, kw_only=True)
class RoundOutcome:
    """Means per particle of what a round's posteriors told."""

    limit_angstrom: float
    information: float
    evidence: float
    top: float


def random_map(problem: AbInitioProblem, rng: np.random.Generator) -> Tensor:
    """A map from random poses: about spherical, with noise that breaks the symmetry."""
    loader, points = problem.loader, problem.loader.points
    rows = np.sort(rng.permutation(problem.rows)[:FIRST_BATCH])
    count = points.count(problem.first_shell)
    batch = loader.batch(rows, count).whitened(problem.noise.to(loader.device))
    turns = torch.from_numpy(random_rotations(len(rows), rng)).to(loader.device)
    rotations = torch.einsum("vij,njk->vnik", torch.from_numpy(loader.tilts).to(loader.device), turns)
    sums = MapSums.zeros(problem.box, points.max_shell, loader.device)
    for view in range(len(rotations)):
        values = (batch.data[:, view] * batch.ctf[:, view]).contiguous()
        sums.add([(rotations[view].contiguous(), values, batch.ctf[:, view].square().contiguous())], points)
    prior = torch.full((points.max_shell + 1,), FIRST_PRIOR, dtype=torch.float64)
    return solve(complete_mates(sums), prior, problem.first_shell).cpu() * torch.from_numpy(
        problem.solvent.sphere
    )


def soft_round(
    problem: AbInitioProblem,
    volume: Tensor,
    progress: float,
    temperature: float,
    rng: np.random.Generator,
    symmetry: SymmetryGroup | None = None,
) -> tuple[Tensor, RoundOutcome]:
    """The map after one round on a random batch of particles, and what the posteriors told."""
    loader, points = problem.loader, problem.loader.points
    size = int(FIRST_BATCH + max(problem.batch - FIRST_BATCH, 0) * progress)
    rows = np.sort(rng.permutation(problem.rows)[:size])
    limit = problem.limit(progress)
    bank = _bank(problem, volume, limit, rng, symmetry)
    total = _posterior(problem, bank, rows, limit, temperature)
    sums = MapSums.zeros(problem.box, points.max_shell, loader.device)
    tilts = torch.from_numpy(loader.tilts).to(loader.device)
    for view in range(len(tilts)):
        poses = (tilts[view] @ bank.rotations).contiguous()
        sums.add(
            [(poses, total.numerator[:, view].contiguous(), total.denominator[:, view].contiguous())],
            points,
            problem.executor,
        )
    sums = complete_mates(sums)
    if symmetry is not None:
        sums = symmetrise(sums, symmetry.operators, problem.executor)
    prior = _prior(sums, volume.to(loader.device), points.max_shell)
    new = solve(sums, prior, limit).cpu() * torch.from_numpy(problem.solvent.sphere)
    volume = _tidied(problem, KEPT * volume + (1 - KEPT) * new, progress, symmetry)
    return volume, RoundOutcome(
        limit_angstrom=problem.extent_angstrom / limit,
        information=total.information / total.count,
        evidence=total.log_evidence / total.count,
        top=total.top / total.count,
    )


def evidence_of(problem: AbInitioProblem, volume: Tensor) -> float:
    """Mean log-likelihood ratio (nats) of the held-out particles, all poses summed, at the last limit."""
    rng = np.random.default_rng(0)
    judges = problem.judges if len(problem.judges) else problem.rows
    bank = _bank(problem, volume, problem.last_shell, rng, None)
    total = _posterior(problem, bank, judges, problem.last_shell, 1.0, maximise=False)
    return total.log_evidence / total.count


def _bank(
    problem: AbInitioProblem,
    volume: Tensor,
    limit: float,
    rng: np.random.Generator,
    symmetry: SymmetryGroup | None,
) -> SliceBank:
    """Slices on a 15° grid, turned at random, within the asymmetric unit."""
    loader = problem.loader
    grid = so3_grid(GRID_ORDER, symmetry=symmetry or symmetry_group("C1"), turn=random_rotations(1, rng)[0])
    return slice_bank(
        fourier_volume(volume.to(loader.device), loader.points.max_shell),
        torch.from_numpy(grid).to(loader.device),
        torch.from_numpy(loader.tilts).to(loader.device),
        loader.points,
        loader.points.count(limit),
        search_precision(loader.device),
    )


def _posterior(
    problem: AbInitioProblem,
    bank: SliceBank,
    rows: np.ndarray,
    limit: float,
    temperature: float,
    maximise: bool = True,
) -> SoftSums:
    loader, extent = problem.loader, problem.extent_angstrom
    radius = problem.shift_angstrom / extent
    shifts = shift_grid(radius, SHIFT_STEP / limit).to(loader.device)
    log_prior = -(shifts.square().sum(1) / radius**2).float()
    noise = problem.noise.to(loader.device)
    count = loader.points.count(limit)

    def step(piece: Tensor) -> SoftSums:
        problem.cancel.check()
        batch = loader.batch(piece.numpy(), count).whitened(noise)
        return soft_step(batch, bank, shifts, log_prior, temperature, loader.points, maximise)

    return merged(problem.executor.map(step, chunks(torch.from_numpy(rows), CHUNK)))


def _prior(sums: MapSums, volume: Tensor, max_shell: int) -> Tensor:
    """Inverse signal-to-noise ratio per shell ``(max_shell + 1,)`` from the present map's power.

    Scheres, J. Mol. Biol. 415, 406 (2012), without half sets and with a factor FUDGE against the shrinkage
    that a map's own power feeds back.
    """
    radius = shell_of_voxels(sums)
    shell = radius.round().long().clamp_max(max_shell + 1).reshape(-1)
    power = torch.zeros(max_shell + 2, dtype=torch.float64, device=radius.device)
    transform = fourier_volume(volume, max_shell).data
    power.index_add_(0, shell, transform.abs().square().reshape(-1).double())
    power /= torch.bincount(shell, minlength=max_shell + 2).clamp_min(1)
    signal = FUDGE * power * shell_means(sums, radius)
    return (1 / signal.clamp_min(1e-12)).clamp(LEAST_PRIOR, MOST_PRIOR)[: max_shell + 1]


def _tidied(
    problem: AbInitioProblem, volume: Tensor, progress: float, symmetry: SymmetryGroup | None
) -> Tensor:
    """Negative density damped, the centre of mass in the box's centre, the solvent flattened later on.

    A symmetric map stays where its axes cross.
    """
    volume = torch.where(volume < 0, NEGATIVE * volume, volume)
    if progress < RECENTRED and symmetry is None:
        density = volume.clamp_min(0).numpy()
        centre = np.array(ndimage.center_of_mass(density)) if density.any() else np.full(3, problem.box // 2)
        offset = problem.box // 2 - centre
        volume = torch.from_numpy(ndimage.shift(volume.numpy(), offset, order=1))
    if progress > MASKED:
        volume = volume * problem.solvent.mask(volume, volume)
    return volume
