"""One refinement round, composed: score → accumulate → solve → noise → next plan. Nothing else."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from parhelion.engine import noise as noise_model
from parhelion.engine.accumulate import NoiseSums
from parhelion.engine.candidates import Candidates
from parhelion.engine.centre import centred
from parhelion.engine.cistem_searches import Searches, drawn
from parhelion.engine.fit import table_of_fits
from parhelion.engine.halfset import ChunkResult, compared_with, insert_chosen, kept_of, scored
from parhelion.engine.halves import HalfMaps, solve_combined, solve_halves
from parhelion.engine.loader import ParticleLoader
from parhelion.engine.problem import Problem
from parhelion.engine.schedule import Outcome, Plan, Stop
from parhelion.engine.state import RefineState, best_poses
from parhelion.engine.update import MapSums, complete_mates, symmetrise
from parhelion.geometry.rotations import angle_between

__all__ = ["Problem", "concatenated", "kept_of", "run_round", "updated_noise"]


def run_round(problem: Problem, state: RefineState) -> RefineState:
    """The state after the planned round. Depends on ``state``, the seed and the data only."""
    loader = problem.loader
    looked, anew, searches = _drawn(problem, state)
    if not (looked & anew).any():
        state = replace(state, plan=replace(state.plan, search=False))
    plan = state.plan
    rng = np.random.default_rng((problem.seed, plan.round))
    map_shell = loader.points.max_shell if plan.map_shell is None else int(plan.map_shell)
    sums, poses, fits, noise = [], [], [], None
    for h in (1, 2):
        compared = compared_with(problem, state, h, rng, torch.from_numpy(anew))
        rows = torch.from_numpy(np.flatnonzero((state.half == h) & looked))
        half_sums = MapSums.zeros(loader.box, loader.points.max_shell, loader.device)
        mine: list[ChunkResult] = []
        for results in scored(problem, state, compared, rows, h):
            half_sums.add([s for r in results for s in r.slices], loader.points, problem.executor)
            mine += [replace(r, slices=[]) for r in results]
        for r in mine:
            noise = r.noise if noise is None else noise.plus(r.noise)
        if plan.twice:
            insert_chosen(problem, state, mine, half_sums)
        poses += [r.poses for r in mine]
        fits += [r.fit for r in mine]
        sums.append(symmetrise(complete_mates(half_sums), problem.symmetry.operators, problem.executor))
        del half_sums, compared  # the solve is the peak: volumes that are no longer needed go first
    halves = solve_halves((sums[0], sums[1]), problem.solvent, map_shell)
    kept = concatenated([*poses, _others(state.kept, looked)])
    log_likelihood, angle_deg = table_of_fits(fits, len(loader.particles))
    outcome = _outcome(problem, state, kept, halves, looked)
    decision, progress = problem.rules.next_plan(problem.schedule, plan, outcome, state.progress)
    combined = None
    if problem.together or isinstance(decision, Stop):
        combined = solve_combined((sums[0], sums[1]), halves, map_shell)
    if problem.together and combined is not None:
        reference = problem.solvent.applied(combined, halves.mask)
        halves = replace(halves, maps=(reference, reference))
    row = _history_row(problem, plan, kept, outcome, float((looked & anew).sum() / looked.sum()))
    problem.observer.record("rounds", **row)
    advanced = replace(
        state,
        maps=halves.maps,
        unfiltered=halves.unfiltered,
        mask=halves.mask,
        kept=kept,
        noise=updated_noise(loader, state.noise, noise),
        plan=plan if isinstance(decision, Stop) else decision,
        finished=decision.reason if isinstance(decision, Stop) else "",
        progress=progress,
        fsc=halves.fsc,
        curves=np.concatenate([state.curves.reshape(-1, len(halves.fsc)), halves.fsc[None]]),
        history=(*state.history, row),
        log_likelihood=_filled(log_likelihood, state.log_likelihood),
        uncertainty_deg=_filled(angle_deg, state.uncertainty_deg),
        combined=combined,
        searches=searches,
    )
    return centred(advanced, loader, problem.symmetry.operators) if problem.centre else advanced


def _drawn(problem: Problem, state: RefineState) -> tuple[np.ndarray, np.ndarray, Searches]:
    """Which particles ``(n,)`` a round looks at, for which of these it searches everywhere, and what searches
    all will have had."""
    plan, count = state.plan, len(problem.loader.particles)
    looked, anew = np.ones(count, bool), np.full(count, plan.search)
    rng = np.random.default_rng((problem.seed, plan.round, 1))
    if plan.share < 1:
        looked[:] = False
        for h in (1, 2):
            rows = np.flatnonzero(state.half == h)
            looked[rng.permutation(rows)[: max(1, round(plan.share * len(rows)))]] = True
    before, limit = state.searches or Searches.none(count), problem.loader.extent_angstrom / plan.refine_shell
    if plan.search and plan.searched != "all":
        known = np.zeros(count, bool)
        known[np.unique(state.kept.particle.numpy())] = True
        chosen = (
            drawn(before, limit, state.history, rng.random(count)) if plan.searched == "chance" else False
        )
        anew = ~known | chosen
    return looked, anew, before.after(looked & anew, limit)


def _others(kept: Candidates, looked: np.ndarray) -> Candidates:
    """The poses of particles that a round does not look at."""
    return kept.take(torch.from_numpy(~looked)[kept.particle])


def _filled(new: np.ndarray, old: np.ndarray | None) -> np.ndarray:
    """What is new, and what was known of the others."""
    return new if old is None else np.where(np.isnan(new), old, new)


def concatenated(parts: list[Candidates]) -> Candidates:
    """All chunks' weighted candidates on the CPU, sorted by particle, without chi² and normal matrices."""
    every = [p.moved_to(torch.device("cpu")) for p in parts]
    names = ("particle", "rotation", "shift", "weight", "reference")
    known = [name for name in names if every and getattr(every[0], name) is not None]
    merged = Candidates(**{name: torch.cat([getattr(p, name) for p in every]) for name in known})
    return merged.take(torch.argsort(merged.particle, stable=True))


def _outcome(
    problem: Problem, state: RefineState, kept: Candidates, halves: HalfMaps, looked: np.ndarray
) -> Outcome:
    count = len(problem.loader.particles)
    shells = {"resolved_shell": halves.resolved_shell, "half_shell": halves.half_shell}
    after, _, weight = best_poses(kept, count)
    if not len(state.kept):
        return Outcome(**shells, moved_deg=180.0, jumped=1.0)
    before, _, earlier = best_poses(state.kept, count)
    both = (weight > 0) & (earlier > 0) & looked
    angles = np.min(
        [angle_between(after[both], before[both] @ g) for g in problem.symmetry.operators], axis=0
    )
    limit = 0.7 * state.plan.grid_step_deg
    return Outcome(
        **shells,
        moved_deg=float(np.median(angles)) if len(angles) else 0.0,
        jumped=float((angles > limit).mean()) if len(angles) else 0.0,
    )


def updated_noise(loader: ParticleLoader, before: Tensor, sums: NoiseSums | None) -> Tensor:
    """Residual power as the next round's noise; groups without particles keep theirs."""
    if sums is None:
        return before
    power = sums.power / sums.weight.clamp_min(1e-9).unsqueeze(1) / loader.mask_energy
    power = torch.stack([noise_model.smooth_floor(p) for p in power])
    return torch.where(sums.weight.unsqueeze(1) > 0, power, before)


def _history_row(
    problem: Problem, plan: Plan, kept: Candidates, outcome: Outcome, searched: float
) -> dict[str, float | int]:
    extent = problem.loader.extent_angstrom
    weight = best_poses(kept, len(problem.loader.particles))[2]
    return {
        "round": plan.round + 1,
        "search": int(plan.search),
        "search_limit_angstrom": extent / plan.search_shell,
        "refine_limit_angstrom": extent / plan.refine_shell,
        "resolution_angstrom": extent / outcome.resolved_shell,
        "half_resolution_angstrom": extent / max(outcome.half_shell, 1.0),
        "moved_deg": outcome.moved_deg,
        "jumped_share": outcome.jumped,
        "mean_top_probability": float(weight[weight > 0].mean()) if (weight > 0).any() else 0.0,
        "used_share": plan.share * plan.best,
        "searched_share": searched,
    }
