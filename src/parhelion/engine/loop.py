"""One refinement round, composed: score → accumulate → solve → noise → next plan. Nothing else."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from parhelion.contracts import Cancel, Executor, Observer
from parhelion.engine import noise as noise_model
from parhelion.engine.accumulate import NoiseSums, insertion_slices, noise_sums
from parhelion.engine.candidates import Candidates, joined
from parhelion.engine.fit import PoseFit, pose_fit, table_of_fits
from parhelion.engine.halves import HalfMaps, solve_combined, solve_halves
from parhelion.engine.loader import ParticleLoader
from parhelion.engine.reference import Reference, make_reference
from parhelion.engine.schedule import Outcome, Plan, ScheduleSettings, Stop, next_plan
from parhelion.engine.score import chunks, refined, searched
from parhelion.engine.solvent import Solvent
from parhelion.engine.state import RefineState, best_poses
from parhelion.engine.update import MapSums, Slices, complete_mates, symmetrise
from parhelion.geometry.rotations import angle_between
from parhelion.geometry.so3 import grid_spacing_deg
from parhelion.geometry.symmetry import SymmetryGroup


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What does not change during a refinement.

    ``top`` hits of the search are refined, at most
    ``kept`` poses per particle survive; ``chunk`` particles are processed at a time.
    """

    loader: ParticleLoader
    schedule: ScheduleSettings
    symmetry: SymmetryGroup
    solvent: Solvent
    executor: Executor
    observer: Observer
    cancel: Cancel
    seed: int
    top: int = 12
    kept: int = 4
    chunk: int = 64


@dataclass(frozen=True, kw_only=True)
class _ChunkResult:
    poses: Candidates
    fit: PoseFit
    slices: list[Slices]
    noise: NoiseSums


def run_round(problem: Problem, state: RefineState) -> RefineState:
    """The state after the planned round. Depends on ``state``, the seed and the data only."""
    plan, loader = state.plan, problem.loader
    rng = np.random.default_rng((problem.seed, plan.round))
    sums, poses, fits, noise = [], [], [], None
    for h in (1, 2):
        reference = _reference(problem, state, h, rng)
        rows = torch.from_numpy(np.flatnonzero(state.half == h))
        half_sums = MapSums.zeros(loader.box, loader.points.max_shell, loader.device)
        for results in _scored(problem, state, reference, rows, h):
            half_sums.add([s for r in results for s in r.slices], loader.points, problem.executor)
            poses += [r.poses for r in results]
            fits += [r.fit for r in results]
            for r in results:
                noise = r.noise if noise is None else noise.plus(r.noise)
        sums.append(symmetrise(complete_mates(half_sums), problem.symmetry.operators, problem.executor))
        del half_sums, reference  # the solve is the peak: volumes that are no longer needed go first
    halves = solve_halves((sums[0], sums[1]), problem.solvent, loader.points.max_shell)
    kept = concatenated(poses)
    log_likelihood, angle_deg = table_of_fits(fits, len(loader.particles))
    outcome = _outcome(problem, state, kept, halves.resolved_shell)
    advanced = _advanced(problem, state, kept, halves, outcome, noise)
    return replace(
        advanced,
        log_likelihood=log_likelihood,
        uncertainty_deg=angle_deg,
        combined=solve_combined((sums[0], sums[1]), halves, loader.points.max_shell)
        if advanced.finished
        else None,
    )


def _reference(problem: Problem, state: RefineState, half: int, rng: np.random.Generator) -> Reference:
    loader = problem.loader
    start = problem.schedule.shift_angstrom / loader.extent_angstrom
    return make_reference(
        loader,
        state.maps[half - 1],
        state.noise,
        state.plan,
        problem.symmetry,
        shift_spread=_shift_spread(state, len(loader.particles), start),
        top=problem.top,
        kept=problem.kept,
        rng=rng,
    )


def _shift_spread(state: RefineState, count: int, start: float) -> float:
    """Standard deviation of in-plane shifts per axis, in units of the extent; ``start`` before any pose."""
    if not len(state.kept):
        return start
    shift = best_poses(state.kept, count)[1]
    return float(max(np.sqrt(np.mean(shift[:, :2] ** 2)), 0.1 * start))


def _scored(
    problem: Problem, state: RefineState, reference: Reference, rows: Tensor, half: int
) -> Iterator[list[_ChunkResult]]:
    """Results of a few chunks at a time, so that insertion alternates with scoring in bounded memory."""
    every = chunks(rows, problem.chunk)
    together = 8
    done = 0
    stage = f"round {state.plan.round + 1}, half {half}"
    problem.observer.progress(stage, 0.0, float(len(rows)))  # the clock starts before the first chunks
    for first in range(0, len(every), together):
        problem.cancel.check()
        group = every[first : first + together]
        yield list(problem.executor.map(lambda piece: _score_chunk(problem, state, reference, piece), group))
        done += sum(len(piece) for piece in group)
        problem.observer.progress(stage, float(done), float(len(rows)))


def _score_chunk(problem: Problem, state: RefineState, reference: Reference, rows: Tensor) -> _ChunkResult:
    loader, points = problem.loader, problem.loader.points
    batch = loader.batch(rows.numpy(), len(points))
    white = batch.whitened(reference.noise)
    previous = kept_of(state.kept, rows).moved_to(batch.data.device)
    start = previous
    if reference.bank is not None:
        k = points.count(state.plan.search_shell)
        centres = torch.zeros((len(rows), 3), dtype=torch.float64, device=batch.data.device)
        found = searched(
            white.limited(k), reference.bank, reference.shifts, centres, reference.settings, points
        )
        start = joined(found, previous) if len(previous) else found
    usable = batch.valid.any(1)
    start = start.take(usable[start.particle])
    limited = white.limited(reference.points)
    poses = refined(limited, reference.volume, start, reference.settings, points)
    fit = pose_fit(limited, poses)
    slices = insertion_slices(white, poses, points)
    residuals = noise_sums(batch, poses, reference.volume, points, len(reference.noise))
    return _ChunkResult(
        # normal matrices of all candidates of all particles would be the largest table of a round
        poses=replace(poses, particle=rows[poses.particle.cpu()], hessian=None),
        fit=replace(fit, particle=rows[fit.particle]),
        slices=slices,
        noise=residuals,
    )


def kept_of(kept: Candidates, rows: Tensor) -> Candidates:
    """Candidates of consecutive chunk ``rows``, ``particle`` renumbered to the chunk; ``kept`` is sorted."""
    first = torch.searchsorted(kept.particle, rows)
    last = torch.searchsorted(kept.particle, rows, right=True)
    count = last - first
    owner = torch.repeat_interleave(torch.arange(len(rows)), count)
    offset = torch.arange(len(owner)) - (torch.cumsum(count, 0) - count)[owner]
    return replace(kept.take(first[owner] + offset), particle=owner)


def concatenated(parts: list[Candidates]) -> Candidates:
    """All chunks' weighted candidates on the CPU, sorted by particle, without chi² and normal matrices."""
    every = [p.moved_to(torch.device("cpu")) for p in parts]
    names = ("particle", "rotation", "shift", "weight", "reference")
    known = [name for name in names if every and getattr(every[0], name) is not None]
    merged = Candidates(**{name: torch.cat([getattr(p, name) for p in every]) for name in known})
    return merged.take(torch.argsort(merged.particle, stable=True))


def _outcome(problem: Problem, state: RefineState, kept: Candidates, resolved: int) -> Outcome:
    count = len(problem.loader.particles)
    after, _, weight = best_poses(kept, count)
    if not len(state.kept):
        return Outcome(resolved_shell=resolved, moved_deg=180.0, jumped=1.0)
    before, _, earlier = best_poses(state.kept, count)
    both = (weight > 0) & (earlier > 0)
    angles = np.min(
        [angle_between(after[both], before[both] @ g) for g in problem.symmetry.operators], axis=0
    )
    limit = 0.7 * grid_spacing_deg(state.plan.grid_order)
    return Outcome(
        resolved_shell=resolved,
        moved_deg=float(np.median(angles)) if len(angles) else 0.0,
        jumped=float((angles > limit).mean()) if len(angles) else 0.0,
    )


def _advanced(
    problem: Problem,
    state: RefineState,
    kept: Candidates,
    halves: HalfMaps,
    outcome: Outcome,
    noise: NoiseSums | None,
) -> RefineState:
    decision, progress = next_plan(problem.schedule, state.plan, outcome, state.progress)
    row = _history_row(problem, state.plan, kept, outcome)
    problem.observer.record("rounds", **row)
    return replace(
        state,
        maps=halves.maps,
        unfiltered=halves.unfiltered,
        mask=halves.mask,
        kept=kept,
        noise=updated_noise(problem.loader, state.noise, noise),
        plan=state.plan if isinstance(decision, Stop) else decision,
        finished=decision.reason if isinstance(decision, Stop) else "",
        progress=progress,
        fsc=halves.fsc,
        history=(*state.history, row),
    )


def updated_noise(loader: ParticleLoader, before: Tensor, sums: NoiseSums | None) -> Tensor:
    """Residual power as the next round's noise; groups without particles keep theirs."""
    if sums is None:
        return before
    power = sums.power / sums.weight.clamp_min(1e-9).unsqueeze(1) / loader.mask_energy
    power = torch.stack([noise_model.smooth_floor(p) for p in power])
    return torch.where(sums.weight.unsqueeze(1) > 0, power, before)


def _history_row(problem: Problem, plan: Plan, kept: Candidates, outcome: Outcome) -> dict[str, float | int]:
    extent = problem.loader.extent_angstrom
    weight = best_poses(kept, len(problem.loader.particles))[2]
    return {
        "round": plan.round + 1,
        "search": int(plan.search),
        "search_limit_angstrom": extent / plan.search_shell,
        "refine_limit_angstrom": extent / plan.refine_shell,
        "resolution_angstrom": extent / outcome.resolved_shell,
        "moved_deg": outcome.moved_deg,
        "jumped_share": outcome.jumped,
        "mean_top_probability": float(weight[weight > 0].mean()) if (weight > 0).any() else 0.0,
    }
