"""One round of ab-initio expectation-maximisation, and how maps are judged.

Maps of ``c`` classes are one tensor ``(c, box, box, box)`` throughout.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from parhelion.algorithms.ab_initio_plan import CHUNK, SHIFT_STEP
from parhelion.algorithms.ab_initio_schedule import RoundPlan
from parhelion.contracts import Cancel, Executor, Observer
from parhelion.engine.loader import ParticleLoader
from parhelion.engine.noise import on_points
from parhelion.engine.predict import fourier_volume
from parhelion.engine.score import chunks
from parhelion.engine.search import SliceBank, search_precision, shift_grid, slice_bank
from parhelion.engine.soft import SoftSums, merged, soft_step
from parhelion.engine.solvent import Solvent
from parhelion.engine.update import MapSums, complete_mates, shell_means, shell_of_voxels, solve, symmetrise
from parhelion.geometry.rotations import random_rotations
from parhelion.geometry.so3 import so3_grid
from parhelion.geometry.symmetry import SymmetryGroup, symmetry_group

# Share of the old map that is kept: rounds on different particles average.
KEPT = 0.4
# The prior per shell is 1 / (FUDGE · power of the map), relative to the data between these bounds.
FUDGE, LEAST_PRIOR, MOST_PRIOR = 4.0, 0.02, 0.5
# What is left of negative density, which is mostly noise and CTF fringes.
NEGATIVE = 0.2
RECENTRED, MASKED = 0.7, 0.3


@dataclass(frozen=True, kw_only=True)
class AbInitioProblem:
    """What all rounds share. Maps are ``box`` pixels wide, the images' Fourier points the loader's.

    ``spectrum`` ``(groups, shells)`` is the power of the noise, ``noise`` ``(groups, k)`` the same on the
    points. ``rows`` are images to learn from; ``pickers``, which choose among the beginnings of a start, and
    ``judges``, which choose among the starts, are held out. Limits are in shells.
    """

    loader: ParticleLoader
    spectrum: Tensor
    rows: np.ndarray
    pickers: np.ndarray
    judges: np.ndarray
    box: int
    extent_angstrom: float
    first_shell: float
    last_shell: float
    shift_angstrom: float
    solvent: Solvent
    executor: Executor
    observer: Observer
    cancel: Cancel

    @cached_property
    def noise(self) -> Tensor:
        """See the class."""
        return on_points(self.spectrum, self.loader.points)

    @property
    def pixel_size_angstrom(self) -> float:
        """Of the maps."""
        return self.extent_angstrom / self.box


@dataclass(frozen=True, kw_only=True)
class RoundOutcome:
    """Means per particle of what a round's posteriors told.

    ``sigma`` is what is left of the images, in units of the noise; ``shares`` are those of the classes.
    """

    limit_angstrom: float
    particles: int
    information: float
    evidence: float
    sigma: float
    top: float
    shares: tuple[float, ...]


def soft_round(
    problem: AbInitioProblem,
    volumes: Tensor,
    plan: RoundPlan,
    rng: np.random.Generator,
    symmetry: SymmetryGroup | None = None,
) -> tuple[Tensor, RoundOutcome]:
    """The maps after one round on a random batch of particles, and what the posteriors told."""
    rows = np.sort(rng.permutation(problem.rows)[: plan.looked_at])
    banks = _banks(problem, volumes, plan.limit, plan.step_deg, rng, symmetry)
    if plan.particles < len(rows):
        judged = _posterior(problem, banks, rows, plan.limit, 1.0, maximise=False).evidence
        rows = rows[np.sort(torch.argsort(judged, descending=True, stable=True)[: plan.particles].numpy())]
    total = _posterior(problem, banks, rows, plan.limit, plan.temperature)
    kept = []
    for number, (bank, old) in enumerate(zip(banks, volumes)):
        first = number * len(bank.rotations)
        mine = slice(first, first + len(bank.rotations))
        sums = _inserted(problem, bank, total.numerator[mine], total.denominator[mine])
        if symmetry is not None:
            sums = symmetrise(sums, symmetry.operators, problem.executor)
        prior = _prior(sums, old.to(problem.loader.device), problem.loader.points.max_shell)
        new = solve(sums, prior, plan.limit).cpu() * torch.from_numpy(problem.solvent.sphere)
        kept.append(_tidied(problem, KEPT * old + (1 - KEPT) * new, plan.progress, symmetry))
    return torch.stack(kept), _outcome(problem, total, plan.limit)


def _inserted(problem: AbInitioProblem, bank: SliceBank, numerator: Tensor, denominator: Tensor) -> MapSums:
    """Sums over the orientations of one class, whose slices are there once."""
    loader, points = problem.loader, problem.loader.points
    sums = MapSums.zeros(problem.box, points.max_shell, loader.device)
    tilts = torch.from_numpy(loader.tilts).to(loader.device)
    for view in range(len(tilts)):
        poses = (tilts[view] @ bank.rotations).contiguous()
        slices = (poses, numerator[:, view].contiguous(), denominator[:, view].contiguous())
        sums.add([slices], points, problem.executor)
    return complete_mates(sums)


def _outcome(problem: AbInitioProblem, total: SoftSums, limit: float) -> RoundOutcome:
    views = len(problem.loader.tilts)
    values = total.count * views * problem.loader.points.count(limit)
    return RoundOutcome(
        limit_angstrom=problem.extent_angstrom / limit,
        particles=total.count,
        information=total.information / total.count,
        evidence=total.log_evidence / total.count,
        sigma=float(np.sqrt(max(total.residual, 0.0) / values)),
        top=total.top / total.count,
        shares=tuple((total.share / total.share.sum()).tolist()),
    )


def evidence_of(
    problem: AbInitioProblem,
    volumes: Tensor,
    rows: np.ndarray,
    step_deg: float,
    limit: float,
    symmetry: SymmetryGroup | None = None,
) -> float:
    """Mean log-likelihood ratio (nats) of the held-out particles ``rows``, all poses summed.

    Where none are held out, those that are learnt from tell it. ``limit`` in shells. With ``symmetry``, which
    the maps obey, fewer poses say the same.
    """
    rng = np.random.default_rng(0)
    banks = _banks(problem, volumes, limit, step_deg, rng, symmetry)
    total = _posterior(problem, banks, rows if len(rows) else problem.rows, limit, 1.0, maximise=False)
    return total.log_evidence / total.count


def _banks(
    problem: AbInitioProblem,
    volumes: Tensor,
    limit: float,
    step_deg: float,
    rng: np.random.Generator,
    symmetry: SymmetryGroup | None,
) -> list[SliceBank]:
    """Slices of every map on a grid turned at random, within the asymmetric unit."""
    turn = random_rotations(1, rng)[0]
    grid = so3_grid(step_deg=step_deg, symmetry=symmetry or symmetry_group("C1"), turn=turn)
    return [bank_of(problem, volume, grid, limit) for volume in volumes]


def bank_of(problem: AbInitioProblem, volume: Tensor, grid: np.ndarray, limit: float) -> SliceBank:
    """Slices of one map at the rotations ``grid`` ``(o, 3, 3)``."""
    loader = problem.loader
    return slice_bank(
        fourier_volume(volume.to(loader.device), loader.points.max_shell),
        torch.from_numpy(grid).to(loader.device),
        torch.from_numpy(loader.tilts).to(loader.device),
        loader.points,
        loader.points.count(limit),
        search_precision(loader.device),
    )


def shifts_of(problem: AbInitioProblem, limit: float) -> Tensor:
    """Shifts ``(t, 3)`` that are looked at, in units of the extent."""
    radius = problem.shift_angstrom / problem.extent_angstrom
    return shift_grid(radius, SHIFT_STEP / limit).to(problem.loader.device)


def _posterior(
    problem: AbInitioProblem,
    banks: list[SliceBank],
    rows: np.ndarray,
    limit: float,
    temperature: float,
    maximise: bool = True,
) -> SoftSums:
    loader = problem.loader
    shifts = shifts_of(problem, limit)
    spread = problem.shift_angstrom / problem.extent_angstrom
    log_prior = -(shifts.square().sum(1) / spread**2).float()
    noise = problem.noise.to(loader.device)
    count = loader.points.count(limit)

    def step(piece: Tensor) -> SoftSums:
        problem.cancel.check()
        batch = loader.batch(piece.numpy(), count).whitened(noise)
        return soft_step(batch, banks, shifts, log_prior, temperature, loader.points, maximise)

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
