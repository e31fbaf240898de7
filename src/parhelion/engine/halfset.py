"""One half of the particles in a round: compared with a map, posed, weighed, and inserted."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from parhelion.engine import noise as noise_model
from parhelion.engine.accumulate import NoiseSums, insertion_slices, noise_sums
from parhelion.engine.batch import ParticleBatch
from parhelion.engine.blurring import insertion_poses
from parhelion.engine.candidates import Candidates, joined
from parhelion.engine.fit import PoseFit, pose_fit
from parhelion.engine.loader import ParticleLoader
from parhelion.engine.problem import Problem
from parhelion.engine.reference import Reference, make_reference
from parhelion.engine.schedule import Plan
from parhelion.engine.score import chunks, refined, searched
from parhelion.engine.score_weights import score_bfactor, score_of, without_defocus
from parhelion.engine.search_view import without_low
from parhelion.engine.state import RefineState, best_poses
from parhelion.engine.update import MapSums, Slices

TOGETHER = 8
"""Chunks whose slices wait for insertion."""


@dataclass(frozen=True, kw_only=True)
class Compared:
    """What one half is compared with: the map, and in a search its slices as the search sees them."""

    reference: Reference
    bank: Reference | None
    searched: Tensor


@dataclass(frozen=True, kw_only=True)
class ChunkResult:
    poses: Candidates
    fit: PoseFit
    slices: list[Slices]
    noise: NoiseSums
    inserted: Candidates | None = None


def compared_with(
    problem: Problem, state: RefineState, half: int, rng: np.random.Generator, searched_rows: Tensor
) -> Compared:
    view = problem.view if state.plan.search else None
    if view is None:
        reference = _reference(
            problem, state, problem.loader, state.maps[half - 1], state.noise, state.plan, rng
        )
        return Compared(
            reference=reference, bank=reference if state.plan.search else None, searched=searched_rows
        )
    map_, noise = view.volume(state.maps[half - 1]), view.noise(state.noise)
    bank = _reference(problem, state, view.loader, map_, noise, view.plan(state.plan), rng)
    local = replace(state.plan, search=False)
    reference = _reference(problem, state, problem.loader, state.maps[half - 1], state.noise, local, rng)
    return Compared(reference=reference, bank=bank, searched=searched_rows)


def _reference(
    problem: Problem,
    state: RefineState,
    loader: ParticleLoader,
    map_: Tensor,
    noise: Tensor,
    plan: Plan,
    rng: np.random.Generator,
) -> Reference:
    extent = problem.loader.extent_angstrom
    spread = _shift_spread(state, len(loader.particles), problem.schedule.shift_angstrom / extent)
    made = make_reference(
        loader,
        map_,
        noise,
        plan,
        problem.symmetry,
        shift_spread=spread * extent / loader.extent_angstrom,
        top=problem.top,
        kept=problem.kept,
        rng=rng,
    )
    if problem.smoothing == 1.0:
        return made
    # a flatter posterior reaches further down
    stages = tuple(replace(s, worse_by=s.worse_by / problem.smoothing) for s in made.settings.stages)
    return replace(made, settings=replace(made.settings, stages=stages))


def _shift_spread(state: RefineState, count: int, start: float) -> float:
    """Standard deviation of in-plane shifts per axis, in units of the extent; ``start`` before any pose."""
    if not len(state.kept):
        return start
    shift = best_poses(state.kept, count)[1]
    return float(max(np.sqrt(np.mean(shift[:, :2] ** 2)), 0.1 * start))


def scored(
    problem: Problem, state: RefineState, compared: Compared, rows: Tensor, half: int
) -> Iterator[list[ChunkResult]]:
    """Results of a few chunks at a time, so that insertion alternates with scoring in bounded memory."""
    every = chunks(rows, problem.chunk)
    done = 0
    stage = f"round {state.plan.round + 1}, half {half}"
    problem.observer.progress(stage, 0.0, float(len(rows)))  # the clock starts before the first chunks
    for first in range(0, len(every), TOGETHER):
        problem.cancel.check()
        group = every[first : first + TOGETHER]
        yield list(problem.executor.map(lambda piece: _score_chunk(problem, state, compared, piece), group))
        done += sum(len(piece) for piece in group)
        problem.observer.progress(stage, float(done), float(len(rows)))


def _score_chunk(problem: Problem, state: RefineState, compared: Compared, rows: Tensor) -> ChunkResult:
    loader, points, reference = problem.loader, problem.loader.points, compared.reference
    batch = loader.batch(rows.numpy(), len(points))
    white = batch.whitened(reference.noise)
    previous = kept_of(state.kept, rows).moved_to(batch.data.device)
    start = previous
    if compared.bank is not None:
        found = _search(problem, state, compared.bank, white, rows, compared.searched[rows])
        start = joined(found, previous) if len(previous) else found
    usable = batch.valid.any(1)
    start = start.take(usable[start.particle])
    limited = without_low(white.limited(reference.points), points, problem.low_shell)
    poses = refined(limited, reference.volume, start, reference.settings, points)
    fit = pose_fit(limited, poses)
    inserted = insertion_poses(poses, problem.blurring, problem.smoothing)
    at_once = not state.plan.twice
    residuals = noise_sums(batch, inserted, reference.volume, points, len(reference.noise))
    return ChunkResult(
        # normal matrices of all candidates of all particles would be the largest table of a round
        poses=replace(poses, particle=rows[poses.particle.cpu()], hessian=None),
        fit=replace(fit, particle=rows[fit.particle]),
        slices=insertion_slices(white.limited(_map_points(problem, state.plan)), inserted, points)
        if at_once
        else [],
        noise=residuals,
        inserted=None if at_once else _of_table(inserted, rows),
    )


def _map_points(problem: Problem, plan: Plan) -> int:
    """How many of the points go into the maps of a round."""
    points = problem.loader.points
    return len(points) if plan.map_shell is None else points.count(plan.map_shell)


def _of_table(poses: Candidates, rows: Tensor) -> Candidates:
    """A chunk's poses on the CPU, without normal matrices, ``particle`` a row of the table."""
    return replace(poses.moved_to(torch.device("cpu")), particle=rows[poses.particle.cpu()], hessian=None)


def _search(
    problem: Problem, state: RefineState, bank: Reference, white: ParticleBatch, rows: Tensor, anew: Tensor
) -> Candidates:
    """The hits of the particles of a chunk that are searched for ``anew``, in units of the images' extent."""
    view, loader = problem.view, problem.loader
    if bank.bank is None:
        raise ValueError("a search has slices to compare with")
    ratio = 1.0 if view is None else view.ratio
    points = loader.points if view is None else view.loader.points
    if view is None:
        near = white.limited(points.count(state.plan.search_shell))
    else:
        count = points.count(view.plan(state.plan).search_shell)
        near = view.loader.batch(rows.numpy(), count).whitened(bank.noise)
    index = torch.nonzero(anew).squeeze(1)
    if len(index) < len(rows):
        near = near.rows(index)
    if not len(index):
        return kept_of(state.kept, rows).take(torch.zeros(0, dtype=torch.long)).moved_to(white.data.device)
    near = without_low(near, points, problem.low_shell / ratio)
    centres = torch.zeros((len(index), 3), dtype=torch.float64, device=near.data.device)
    hits = searched(near, bank.bank, bank.shifts, centres, bank.settings, points)
    if len(index) == len(rows) and view is None:
        return hits
    return replace(hits, particle=index.to(hits.particle.device)[hits.particle], shift=hits.shift / ratio)


def insert_chosen(
    problem: Problem, state: RefineState, results: list[ChunkResult], half_sums: MapSums
) -> None:
    """Insert the share of a half's particles that fit best, weighted by their scores where that is wanted."""
    loader, points = problem.loader, problem.loader.points
    particle = torch.cat([r.fit.particle for r in results])
    score = torch.cat([r.fit.log_likelihood for r in results])
    count = max(1, round(state.plan.best * len(score)))
    chosen = torch.zeros(len(loader.particles), dtype=torch.bool)
    chosen[particle[torch.argsort(score, descending=True, stable=True)[:count]]] = True
    bfactor = _bfactors(problem, state.plan, results, chosen)
    wanted = _map_points(problem, state.plan)
    frequency = torch.from_numpy(points.radius[:wanted] / loader.extent_angstrom).to(loader.device)
    noise = noise_model.on_points(state.noise, points).to(loader.device)

    def slices(result: ChunkResult) -> list[Slices]:
        if result.inserted is None or not chosen[result.inserted.particle].any():
            return []
        mine = result.inserted.take(chosen[result.inserted.particle])
        rows, number = mine.particle.unique(return_inverse=True)
        white = loader.batch(rows.numpy(), len(points)).whitened(noise).limited(wanted)
        envelope = torch.exp(bfactor[mine.particle].to(frequency)[:, None] * frequency**2).float()
        mine = replace(mine, particle=number).moved_to(white.data.device)
        made = insertion_slices(white, mine, points)
        if not state.plan.score_weight:
            return made
        return [(rotation, values * envelope, weights * envelope) for rotation, values, weights in made]

    for first in range(0, len(results), TOGETHER):
        problem.cancel.check()
        made = problem.executor.map(slices, results[first : first + TOGETHER])
        half_sums.add([s for part in made for s in part], points, problem.executor)


def _bfactors(problem: Problem, plan: Plan, results: list[ChunkResult], chosen: Tensor) -> Tensor:
    """B ``(n,)`` in Å² of every row of the table, from the scores of a half's ``chosen`` particles."""
    bfactor = torch.zeros(len(chosen), dtype=torch.float64)
    if not plan.score_weight:
        return bfactor
    fits = [r.fit for r in results]
    particle = torch.cat([f.particle for f in fits])
    power, gain = (
        torch.cat([getattr(f, name) for f in fits]).numpy() for name in ("power", "log_likelihood")
    )
    views = problem.loader.particles.views
    defocus = (views.defocus_u_angstrom + views.defocus_v_angstrom) / 2
    mean = np.bincount(views.particle, defocus) / np.bincount(views.particle)
    weight = chosen[particle].numpy().astype(np.float64)
    score = without_defocus(score_of(gain, power), mean[particle.numpy()], weight)
    bfactor[particle] = torch.from_numpy(score_bfactor(score, weight, plan.score_weight))
    return bfactor


def kept_of(kept: Candidates, rows: Tensor) -> Candidates:
    """Candidates of consecutive chunk ``rows``, ``particle`` renumbered to the chunk; ``kept`` is sorted."""
    first = torch.searchsorted(kept.particle, rows)
    last = torch.searchsorted(kept.particle, rows, right=True)
    count = last - first
    owner = torch.repeat_interleave(torch.arange(len(rows)), count)
    offset = torch.arange(len(owner)) - (torch.cumsum(count, 0) - count)[owner]
    return replace(kept.take(first[owner] + offset), particle=owner)
