"""Where every particle belongs once the maps are there: class, best pose and how sure both are.

The search's best poses are refined in every class. A class explains a particle by the sum over its modes,
each worth exp(-χ²) times its volume (Laplace's approximation); the shares of the classes that make all
particles likeliest follow by expectation-maximisation on that table.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from parhelion.algorithms.ab_initio_plan import CHUNK
from parhelion.algorithms.ab_initio_rounds import AbInitioProblem, bank_of, shifts_of
from parhelion.engine.candidates import Candidates
from parhelion.engine.loader import undistorted_shifts
from parhelion.engine.predict import FourierVolume, fourier_volume
from parhelion.engine.score import ScoreSettings, chunks, located, searched, stages_between
from parhelion.engine.search import SliceBank
from parhelion.errors import InputError
from parhelion.geometry.rotations import random_rotations
from parhelion.geometry.so3 import so3_grid
from parhelion.geometry.symmetry import SymmetryGroup
from parhelion.model.occupancy import with_occupancies
from parhelion.model.particles import ParticleSet

TOP, KEPT = 8, 4
SAME_ANGLE_DEG = 1.0
SHARE_ROUNDS = 100


@dataclass(frozen=True, kw_only=True)
class _Found:
    """Of ``n`` particles and ``c`` classes, float64: best poses, their weight in the class, and what each
    class explains; ``rows`` are the particles whose images can be used, ``log_likelihood`` ``(n, c)`` that of
    the best pose less that of noise alone."""

    rows: np.ndarray
    rotation: np.ndarray
    shift: np.ndarray
    weight: np.ndarray
    explained: np.ndarray
    log_likelihood: np.ndarray


def assigned(
    problem: AbInitioProblem,
    volumes: Tensor,
    step_deg: float,
    rng: np.random.Generator,
    symmetry: SymmetryGroup,
) -> tuple[ParticleSet, np.ndarray]:
    """All usable particles with poses, classes and probabilities, and the classes' shares ``(c,)``.

    ``volumes`` ``(c, box, box, box)`` obey ``symmetry``; classes keep their order. Raises InputError where no
    image can be used.
    """
    loader, device = problem.loader, problem.loader.device
    limit = problem.last_shell
    grid = so3_grid(step_deg=step_deg, symmetry=symmetry, turn=random_rotations(1, rng)[0])
    banks = [bank_of(problem, volume, grid, limit) for volume in volumes]
    maps = [fourier_volume(volume.to(device), loader.points.max_shell) for volume in volumes]
    spread = problem.shift_angstrom / problem.extent_angstrom
    settings = ScoreSettings(
        top=TOP,
        stages=stages_between(limit, limit, KEPT),
        shift_precision=0.5 / spread**2,
        same_angle_rad=np.radians(SAME_ANGLE_DEG),
        same_shift=0.1 / limit,
        operators=torch.from_numpy(symmetry.operators).to(device),
        three_dimensional_shift=len(loader.tilts) > 1,
    )
    pieces = chunks(torch.arange(len(loader.particles)), CHUNK)

    def step(piece: Tensor) -> _Found:
        problem.cancel.check()
        return _assigned_chunk(problem, banks, maps, settings, piece)

    found: list[_Found] = []
    for one in problem.executor.map(step, pieces):
        found.append(one)
        problem.observer.progress("poses of all particles", float(len(found)), float(len(pieces)))
    return _with_all(problem, found)


def _assigned_chunk(
    problem: AbInitioProblem,
    banks: list[SliceBank],
    maps: list[FourierVolume],
    settings: ScoreSettings,
    rows: Tensor,
) -> _Found:
    loader, points = problem.loader, problem.loader.points
    batch = loader.batch(rows.numpy(), points.count(problem.last_shell))
    usable = torch.nonzero(batch.valid.any(1)).squeeze(1)
    white = batch.whitened(problem.noise.to(loader.device))
    centres = torch.zeros((len(rows), 3), dtype=torch.float64, device=loader.device)
    power = white.data.abs().square().double().sum((1, 2))
    shifts = shifts_of(problem, problem.last_shell)
    classes = []
    for bank, volume in zip(banks, maps):
        start = searched(white, bank, shifts, centres, settings, points)
        start = start.take(batch.valid.any(1)[start.particle])
        classes.append(_best(located(white, volume, start, settings, points), power))
    kept = usable.cpu().numpy()
    joined = [np.stack([one[part][kept] for one in classes], 1) for part in range(5)]
    return _Found(
        rows=rows.numpy()[kept],
        rotation=joined[0],
        shift=joined[1],
        weight=joined[2],
        explained=joined[3],
        log_likelihood=joined[4],
    )


def _best(poses: Candidates, power: Tensor) -> tuple[np.ndarray, ...]:
    """Per particle of a chunk: rotation, shift, weight of the best pose, log of all modes, log-likelihood."""
    if poses.chi2 is None or poses.hessian is None:
        raise ValueError("poses are judged after refinement")
    count = len(power)
    ridge = 1e-9 * torch.eye(6, dtype=poses.hessian.dtype, device=power.device)
    log_weight = (power[poses.particle] - poses.chi2) - 0.5 * torch.linalg.slogdet(poses.hessian + ridge)[1]
    table = torch.full((count,), -torch.inf, dtype=log_weight.dtype, device=power.device)
    peak = table.scatter_reduce(0, poses.particle, log_weight, "amax")
    share = torch.exp(log_weight - peak[poses.particle])
    total = torch.zeros_like(table).index_add_(0, poses.particle, share)
    best = log_weight == peak[poses.particle]
    rotation = torch.eye(3, dtype=torch.float64, device=power.device).repeat(count, 1, 1)
    shift = torch.zeros((count, 3), dtype=torch.float64, device=power.device)
    likelihood = torch.zeros_like(table)
    owner = poses.particle[best]
    rotation[owner], shift[owner] = poses.rotation[best], poses.shift[best]
    likelihood[owner] = power[owner] - poses.chi2[best]
    values = rotation, shift, 1 / total.clamp_min(1), peak + total.clamp_min(1).log(), likelihood
    return tuple(value.cpu().numpy() for value in values)


def shares_of(explained: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Shares ``(c,)`` that make particles with log-likelihoods ``(n, c)`` likeliest, and posteriors."""
    share = np.full(explained.shape[1], 1 / explained.shape[1])
    for _ in range(SHARE_ROUNDS):
        log_weight = explained + np.log(np.maximum(share, 1e-12))
        posterior = np.exp(log_weight - log_weight.max(1, keepdims=True))
        posterior /= posterior.sum(1, keepdims=True)
        share = posterior.mean(0)
    return share, posterior


def _with_all(problem: AbInitioProblem, found: list[_Found]) -> tuple[ParticleSet, np.ndarray]:
    def every(name: str) -> np.ndarray:
        return np.concatenate([getattr(one, name) for one in found])

    rows = every("rows")
    if not len(rows):
        raise InputError("none of the images can be used (not finite, or constant)")
    share, posterior = shares_of(every("explained"))
    best = posterior.argmax(1)
    pick = (np.arange(len(rows)), best)
    posed = problem.loader.particles.take(rows).with_poses(
        every("rotation")[pick], every("shift")[pick] * problem.extent_angstrom
    )
    posed = replace(posed, shift_xyz_angstrom=undistorted_shifts(posed, back=True))
    columns = {
        "rlnLogLikeliContribution": every("log_likelihood")[pick].round(4),
        "rlnMaxValueProbDistribution": (posterior[pick] * every("weight")[pick]).round(6),
    }
    posed = replace(posed, extra=posed.extra.with_columns(columns))
    return with_occupancies(posed, (100 * posterior).round(3)), share
