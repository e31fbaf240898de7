"""One cycle's expectation: posteriors of the chosen particles, and the sums that make new averages."""

import functools
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from parhelion.algorithms.class2d.problem import Class2dProblem, ClassState
from parhelion.algorithms.class2d.settings import Class2dSettings, arrival
from parhelion.engine import planar_local, planar_soft
from parhelion.engine.noise import on_points
from parhelion.engine.planar import PlanarGrid, PlanarSums, planar_grid, planar_transform, turned
from parhelion.engine.planar_local import FineGrid
from parhelion.engine.planar_soft import Assigned, FoldedSums, PlanarBank, PlanarImages, shift_ramps
from parhelion.engine.search import search_precision, shift_grid

CHUNK = 64
GROUP_BYTES = 2**28
"""Images of a coarse-to-fine group that are kept at once."""
TURNED_BYTES = 2**28
"""Turned averages that are kept during a cycle."""
REACH = 0.7
"""Share of the mask's radius by which angles are told apart: most of a particle lies within."""
COARSE_SHIFT, FINE_SHIFT = 0.4, 0.3
"""Steps of shifts, of the wavelength of the resolution limit."""
FINE_ANGLE = 0.6
"""How far a fine angular step moves the mask's rim, of the wavelength of the resolution limit."""
LOCAL_STEPS = 2.3
"""How far a particle is looked for about its last centre, in steps."""
WIDE_SHARE = 0.35
"""Share of the cycles that look for every particle in the whole range."""
TOP, NATS = 24, 16.0
"""Coarse poses that are looked at closer: how many, and how far below the best in log-likelihood."""
MOST_WITHIN = 4
SMALLEST_RANGE = 1e-6
"""In Å, for a range of 0."""


@dataclass(frozen=True, kw_only=True)
class Expectation:
    """``rows`` looked at with their new class, psi, shift, probability and evidence; and the sums.

    ``sums`` holds class c of half h as average h · classes + c, ``size`` ``(c,)`` sums posteriors,
    ``residual`` ``(k,)`` is the mean of |X - C S P|²/σ² per image. Per particle, means over its posterior:
    ``fit`` and ``norm`` (``planar_soft.Assigned``), and ``energy`` Σ|X|²/σ² over the ``points`` in use.
    """

    rows: np.ndarray
    category: np.ndarray
    psi_deg: np.ndarray
    shift_angstrom: np.ndarray
    probability: np.ndarray
    evidence: np.ndarray
    fit: np.ndarray
    norm: np.ndarray
    energy: np.ndarray
    points: int
    sums: PlanarSums
    size: np.ndarray
    residual: Tensor


@dataclass(frozen=True, kw_only=True)
class _Part:
    """Some particles with what was found about them."""

    rows: np.ndarray
    assigned: Assigned
    psi_deg: np.ndarray
    shift_angstrom: np.ndarray
    energy: Tensor


_Found = tuple[list[_Part], Tensor, Tensor]
"""Parts, residual ``(k,)`` and sizes ``(c,)`` of one half's particles."""


@dataclass(frozen=True, kw_only=True)
class _Cycle:
    """What one cycle's chunks share. Shifts in units of the extent, angles in degrees."""

    problem: Class2dProblem
    state: ClassState
    noise: Tensor
    count: int
    transform: Tensor
    coarse: PlanarGrid
    bank: PlanarBank
    fine: FineGrid | None
    fine_grid: PlanarGrid
    shift_step: float
    told: list[float]
    turned: dict[int, Tensor]

    def slices(self, number: int) -> Tensor:
        """Class ``number`` at all fine angles ``(a b, k)``; kept for the cycle where there is room."""
        found = self.turned.get(number)
        if found is None:
            found = turned(self.transform[:, number : number + 1], self.fine_grid)[0]
            if found.nbytes * self.problem.classes <= TURNED_BYTES:
                self.turned[number] = found
        return found

    @property
    def log_poses(self) -> float:
        """Log of the classes and coarse angles, and of the shifts' prior summed over the whole range."""
        shifts = _coarse_shifts(self, False)
        spread = torch.logsumexp(self.log_prior(torch.zeros_like(shifts[:1]), shifts), 1)
        return float(spread) + float(np.log(2 * self.bank.angles * self.bank.classes))

    def log_prior(self, centres: Tensor, shifts: Tensor) -> Tensor:
        """Gaussian on the distance from the box's centre, none beyond the ranges: ``(n, t)`` float32."""
        placed = (centres[:, None] + shifts) * self.problem.extent
        prior = -0.5 * (placed.norm(dim=-1) / self.state.shift_sigma_angstrom) ** 2
        beyond = _beyond(placed, self.problem.settings) & (shifts.norm(dim=-1) > 0)
        return prior.float().masked_fill(beyond, planar_soft.IMPOSSIBLE)


def expect(
    problem: Class2dProblem, state: ClassState, limit_angstrom: float, rows: np.ndarray, turn: float
) -> Expectation:
    """Posteriors of ``rows`` at ``limit_angstrom``; ``turn`` in 0…1 moves the grid of angles."""
    cycle = _prepare(problem, state, limit_angstrom, turn)
    wide = state.cycle < WIDE_SHARE * problem.settings.cycles
    sums = PlanarSums.zeros(
        2 * problem.classes,
        problem.box,
        problem.points.max_shell,
        problem.loader.device,
        problem.settings.padding,
    )
    residual = torch.zeros(cycle.count, dtype=torch.float64)
    size = np.zeros(problem.classes)
    parts: list[_Part] = []
    for half in (0, 1):
        for known in (False, True):
            seen = ((state.category[rows] >= 0) & (not wide)) | problem.settings.local
            mine = rows[(problem.half[rows] == half) & (seen == known)]
            if not len(mine):
                continue
            step = _soft if cycle.fine is None else _local
            found, more, more_size = step(cycle, mine, half, known, sums)
            parts += found
            residual += more.cpu()
            size += more_size.cpu().numpy()
    order = np.argsort(np.concatenate([part.rows for part in parts]))
    assigned = planar_soft.joined([part.assigned for part in parts])
    return Expectation(
        rows=rows,
        category=assigned.category.cpu().numpy()[order],
        psi_deg=np.concatenate([part.psi_deg for part in parts])[order],
        shift_angstrom=np.concatenate([part.shift_angstrom for part in parts])[order],
        probability=assigned.probability.cpu().numpy()[order].astype(np.float64),
        evidence=assigned.evidence.cpu().numpy()[order].astype(np.float64),
        fit=assigned.fit.cpu().numpy()[order].astype(np.float64),
        norm=assigned.norm.cpu().numpy()[order].astype(np.float64),
        energy=torch.cat([part.energy for part in parts]).cpu().numpy()[order].astype(np.float64),
        points=int(torch.isfinite(cycle.noise[0]).sum()),
        sums=sums,
        size=size,
        residual=residual / len(rows),
    )


def _prepare(problem: Class2dProblem, state: ClassState, limit_angstrom: float, turn: float) -> _Cycle:
    settings, points, device = problem.settings, problem.points, problem.loader.device
    limit = min(problem.extent / limit_angstrom, points.max_shell)
    half_circle = max(1, round(180 / settings.angular_step_deg))
    step = 180 / half_circle
    coarse_limit = min(limit, problem.extent / (np.radians(step) * REACH * settings.mask_radius))
    count, coarse_count = points.count(limit), points.count(coarse_limit)
    noise = on_points(torch.from_numpy(state.noise), points)[:, :count].clone()
    low = problem.extent / settings.low_resolution_angstrom
    noise[:, torch.from_numpy(points.radius[:count] < low)] = torch.inf
    transform = planar_transform(
        torch.from_numpy(state.averages).to(device), points.max_shell, problem.padding
    )
    base = turn * step
    angles = base + step * torch.arange(half_circle, dtype=torch.float64, device=device)
    dense = coarse_count == count and state.cycle < arrival(settings.cycles)
    coarse = planar_grid(angles, points, coarse_count, problem.padding)
    fine, fine_grid = None, coarse
    shift_step = COARSE_SHIFT / coarse_limit
    if not dense:
        wanted = np.degrees(FINE_ANGLE * limit_angstrom / settings.mask_radius)
        within = int(np.clip(np.ceil(step / wanted), 1, MOST_WITHIN))
        first = base - step * (within - 1) / (2 * within)
        fine_angles = first + step / within * torch.arange(half_circle * within, dtype=torch.float64)
        fine_grid = planar_grid(fine_angles.to(device), points, count, problem.padding)
        fine_step = FINE_SHIFT / limit
        shifts = shift_grid(0.75 * shift_step, fine_step)[:, :2].to(device)
        fine = FineGrid(
            within=within, step=fine_step, shifts=shifts.float(), ramps=shift_ramps(points, shifts, count)
        )
    precision = torch.float32 if dense else search_precision(device)
    return _Cycle(
        problem=problem,
        state=state,
        noise=noise.to(device),
        count=count,
        transform=transform,
        coarse=coarse,
        bank=PlanarBank.of(turned(transform, coarse), precision),
        fine=fine,
        fine_grid=fine_grid,
        shift_step=shift_step,
        told=[0.0],
        turned={},
    )


def _soft(cycle: _Cycle, rows: np.ndarray, half: int, known: bool, sums: PlanarSums) -> _Found:
    """The whole posterior of every particle on the coarse grid."""
    problem = cycle.problem
    shifts = _coarse_shifts(cycle, known)
    ramps = shift_ramps(problem.points, shifts, cycle.count)

    def step(piece: np.ndarray) -> tuple[_Part, Tensor, FoldedSums]:
        problem.cancel.check()
        images, centres = _images(cycle, piece, known)
        assigned, found = planar_soft.soft_step(
            images,
            cycle.bank,
            ramps,
            shifts.float(),
            cycle.log_prior(centres, shifts),
            problem.settings.smoothing,
        )
        part = _placed(cycle, piece, assigned, centres + shifts[assigned.shift], images.energy)
        return part, images.power, found

    parts, powers, found = [], [], None
    for part, power, more in problem.executor.map(step, _chunks(rows, CHUNK)):
        parts.append(part)
        powers.append(power)
        found = more if found is None else found.plus(more)
        _tell(cycle, len(part.rows))
    if found is None:
        raise ValueError("no particles were given")
    sums.insert(half * problem.classes, found.numerator, found.denominator, cycle.coarse)
    return parts, found.residual + functools.reduce(torch.add, powers), found.size


def _local(cycle: _Cycle, rows: np.ndarray, half: int, known: bool, sums: PlanarSums) -> _Found:
    """A coarse search for every particle, and the posterior on the fine grid about its best poses."""
    parts = []
    residual = torch.zeros(cycle.count, dtype=torch.float64, device=cycle.noise.device)
    size = torch.zeros(cycle.problem.classes, dtype=torch.float64, device=cycle.noise.device)
    group = max(CHUNK, GROUP_BYTES // (12 * cycle.count))
    for piece in _chunks(rows, group):
        part, more, more_size = _local_group(cycle, piece, half, known, sums)
        parts.append(part)
        residual += more
        size += more_size
        _tell(cycle, len(piece))
    return parts, residual, size


def _local_group(
    cycle: _Cycle, rows: np.ndarray, half: int, known: bool, sums: PlanarSums
) -> tuple[_Part, Tensor, Tensor]:
    """``_local`` for as many particles as fit into memory at once."""
    problem, fine = cycle.problem, cycle.fine
    if fine is None:
        raise ValueError("a fine grid is needed")
    shifts = _coarse_shifts(cycle, known)
    ramps = shift_ramps(problem.points, shifts, cycle.count)
    images, centres, hits = _searched(cycle, rows, known, shifts, ramps)

    def scored(number: int) -> tuple[Tensor, Tensor, Tensor]:
        problem.cancel.check()
        slices = cycle.slices(number)
        return planar_local.score_class(images, hits, number, slices, ramps, fine)

    n, m = hits.score.shape
    score = torch.full((n, m, fine.within, len(fine.shifts)), -torch.inf, device=centres.device)
    norm = torch.zeros((n, m, fine.within), device=centres.device)
    for found, norms, place in problem.executor.map(scored, range(problem.classes)):
        score[place[:, 0], place[:, 1]] = found
        norm[place[:, 0], place[:, 1]] = norms
    absolute = shifts[hits.shift][:, :, None] + fine.shifts.double()  # (n, m, t, 2)
    assigned, weight = planar_local.posterior(
        score,
        norm,
        cycle.log_prior(centres, absolute.flatten(1, 2)).view(n, m, -1),
        hits,
        problem.settings.smoothing,
        2 * len(cycle.coarse.angles_deg),
        fine,
    )

    def added(number: int) -> FoldedSums:
        problem.cancel.check()
        slices = cycle.slices(number)
        return planar_local.add_class(images, hits, weight, number, slices, ramps, fine)

    residual = images.power.clone()
    size = []
    for number, more in enumerate(problem.executor.map(added, range(problem.classes))):
        first = half * problem.classes + number
        sums.insert(first, more.numerator, more.denominator, cycle.fine_grid)
        residual += more.residual
        size.append(more.size)
    row = torch.arange(n, device=centres.device)
    hit, at = assigned.shift // len(fine.shifts), assigned.shift % len(fine.shifts)
    placed = centres + shifts[hits.shift[row, hit]] + fine.shifts.double()[at]
    return _placed(cycle, rows, assigned, placed, images.energy), residual, torch.cat(size)


def _searched(
    cycle: _Cycle, rows: np.ndarray, known: bool, shifts: Tensor, ramps: Tensor
) -> tuple[PlanarImages, Tensor, planar_local.Hits]:
    """All images of a group, their centres, and the hits of the coarse search."""
    problem = cycle.problem
    count = cycle.coarse.points

    def step(piece: np.ndarray) -> tuple[PlanarImages, Tensor, planar_local.Hits]:
        problem.cancel.check()
        images, centres = _images(cycle, piece, known)
        hits = planar_local.search(
            images,
            cycle.bank,
            ramps[:, :count],
            cycle.log_prior(centres, shifts),
            TOP,
            NATS,
        )
        return images, centres, hits

    found = list(problem.executor.map(step, _chunks(rows, CHUNK)))
    images = PlanarImages(
        moved=torch.cat([i.moved for i, _, _ in found]),
        ctf2=torch.cat([i.ctf2 for i, _, _ in found]),
        power=functools.reduce(torch.add, [i.power for i, _, _ in found]),
        energy=torch.cat([i.energy for i, _, _ in found]),
    )
    names = planar_local.Hits.__dataclass_fields__
    hits = planar_local.Hits(**{name: torch.cat([getattr(h, name) for *_, h in found]) for name in names})
    return images, torch.cat([c for _, c, _ in found]), hits


def _images(cycle: _Cycle, rows: np.ndarray, known: bool) -> tuple[PlanarImages, Tensor]:
    """Whitened images moved to their last centres (where ``known``), and these ``(n, 2)``."""
    problem = cycle.problem
    batch = problem.loader.batch(rows, cycle.count).whitened(cycle.noise)
    sigma = torch.from_numpy(cycle.state.sigma[rows]).float().to(batch.data.device)[:, None]
    scale = torch.from_numpy(cycle.state.scale[rows]).float().to(batch.data.device)[:, None]
    data, ctf = batch.data[:, 0] / sigma, batch.ctf[:, 0] * (scale / sigma)
    centres = torch.zeros((len(rows), 2), dtype=torch.float64, device=data.device)
    if known:
        centres = torch.from_numpy(cycle.state.shift_angstrom[rows] / problem.extent).to(data.device)
    ramps = shift_ramps(problem.points, centres, cycle.count) if known else None
    return PlanarImages.of(data, ctf, ramps), centres


def _coarse_shifts(cycle: _Cycle, known: bool) -> Tensor:
    """Shifts ``(t, 2)`` float64 about the centres: the whole range, or the surroundings of a known place."""
    whole = cycle.problem.settings.shift_range / cycle.problem.extent
    radius = min(LOCAL_STEPS * cycle.shift_step, whole) if known else whole
    shifts = shift_grid(radius, cycle.shift_step)[:, :2]
    if not known:
        shifts = shifts[~_beyond(shifts * cycle.problem.extent, cycle.problem.settings)]
    return shifts.to(cycle.noise.device)


def _beyond(shift_angstrom: Tensor, settings: Class2dSettings) -> Tensor:
    """Which of the shifts ``(…, 2)`` lie outside the ellipse of the ranges."""
    ranges = shift_angstrom.new_tensor(settings.shift_ranges).clamp_min(SMALLEST_RANGE)
    return (shift_angstrom / ranges).norm(dim=-1) > 1 + 1e-6


def _placed(cycle: _Cycle, rows: np.ndarray, assigned: Assigned, shift: Tensor, energy: Tensor) -> _Part:
    """Angles in degrees and shifts in Å, ``shift`` ``(n, 2)`` being that of the best pose."""
    angles = cycle.fine_grid.angles_deg
    step = 180 / len(angles)
    psi = angles[0] + (assigned.angle + assigned.turn.double()) * step
    moved = (shift + assigned.move.double()) * cycle.problem.extent
    finer = 1.0
    if cycle.fine is not None:
        finer = cycle.fine.within * (cycle.shift_step / cycle.fine.step) ** 2
    evidence = assigned.evidence - cycle.log_poses - float(np.log(finer))
    return _Part(
        rows=rows,
        assigned=replace(assigned, evidence=evidence),
        psi_deg=(psi % 360).cpu().numpy(),
        shift_angstrom=moved.cpu().numpy(),
        energy=energy,
    )


def _chunks(rows: np.ndarray, size: int) -> list[np.ndarray]:
    return [rows[first : first + size] for first in range(0, len(rows), size)]


def _tell(cycle: _Cycle, done: int) -> None:
    settings = cycle.problem.settings
    cycle.told[0] += done / max(len(cycle.problem.rows), 1)
    cycle.problem.observer.progress("classification", cycle.state.cycle + cycle.told[0], settings.cycles)
