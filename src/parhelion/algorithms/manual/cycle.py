"""One cycle: every particle against every class, occupancies, then every class's map."""

from dataclasses import replace

import numpy as np

from parhelion.algorithms.manual.alignment import Aligned, align_classes, make_class_reference
from parhelion.algorithms.manual.maps import insertion_weights, reconstruct_class
from parhelion.algorithms.manual.problem import ClassMaps, ManualProblem, ManualState, Scores
from parhelion.algorithms.manual.weighting import mean_sigma, occupancies
from parhelion.engine.accumulate import NoiseSums
from parhelion.engine.loop import updated_noise
from parhelion.engine.score_weights import mean_defocus
from parhelion.errors import InputError
from parhelion.geometry.rotations import angle_between
from parhelion.model.particles import ParticleSet


def run_cycle(problem: ManualProblem, state: ManualState, particles: ParticleSet) -> ManualState:
    """The state after one more cycle. It depends on the state, the settings and the data only."""
    settings = problem.settings
    rng = np.random.default_rng((settings.seed, state.cycle + 1))
    rows = used_rows(state, settings.percent_used, rng)
    problem.use_defocus(particles, state.defocus_change_angstrom)
    every = compared(problem, state, rows, rng)
    after, used = _with_poses(state, rows, every)
    if not len(used):
        raise InputError("none of the images can be used (not finite, or constant)")
    after = _with_occupancies(problem, after, used)
    if settings.refine_defocus:
        after = _with_defocus(after, every, used)
        problem.use_defocus(particles, after.defocus_change_angstrom)
    solved = tuple(_solved(problem, after, number, used) for number in range(settings.classes))
    after = replace(
        after,
        solved=solved,
        references=tuple(one.references for one in solved),
        noise=updated_noise(problem.loader, state.noise, _noise(every)),
        cycle=state.cycle + 1,
    )
    row = _history_row(problem, state, after, used)
    problem.observer.record("cycles", **row)
    return replace(after, history=(*state.history, row))


def compared(
    problem: ManualProblem, state: ManualState, rows: np.ndarray, rng: np.random.Generator
) -> list[list[Aligned]]:
    """``rows`` against every class. All classes see a chunk of images while it is there; only in a search,
    whose references have large tables of slices, one class after the other."""
    numbers = range(problem.settings.classes)
    together = [[number] for number in numbers] if problem.settings.mode == "global" else [list(numbers)]
    every: list[list[Aligned]] = [[] for _ in numbers]
    for group in together:
        for half in (1, 2):
            references = {k: make_class_reference(problem, state, k, half, rng) for k in group}
            found = align_classes(problem, state, references, rows[state.half[rows] == half])
            del references
            for number, mine in found.items():
                every[number] += mine
    return every


def _solved(problem: ManualProblem, state: ManualState, number: int, rows: np.ndarray) -> ClassMaps:
    """The maps of a class; where it has lost its particles those it had, for it may win some back."""
    weights = insertion_weights(problem, state, number, rows, scored=True)
    filled = [bool((weights.factor[state.half == half] > 0).any()) for half in (1, 2)]
    if state.solved and not all(filled):
        problem.observer.notice(
            f"class {number + 1} has no particle left in cycle {state.cycle + 1} and keeps its maps"
        )
        return state.solved[number]
    return reconstruct_class(problem, state, number, weights)


def first_maps(problem: ManualProblem, state: ManualState) -> ManualState:
    """The state with references made from its poses and occupancies, nothing compared with anything."""
    rows = np.flatnonzero(state.posed)
    solved = []
    for number in range(problem.settings.classes):
        weights = insertion_weights(problem, state, number, rows, scored=False)
        solved.append(reconstruct_class(problem, state, number, weights))
    return replace(state, solved=tuple(solved), references=tuple(one.references for one in solved))


def used_rows(state: ManualState, percent: float, rng: np.random.Generator) -> np.ndarray:
    """A random part of the particles, the same share of both halves, in the table's order."""
    chosen = []
    for half in (1, 2):
        rows = np.flatnonzero(state.half == half)
        chosen.append(rng.permutation(rows)[: max(1, round(percent / 100 * len(rows)))])
    return np.sort(np.concatenate(chosen))


def _with_poses(
    state: ManualState, looked_at: np.ndarray, every: list[list[Aligned]]
) -> tuple[ManualState, np.ndarray]:
    """The state with what every class found, and the rows that were compared: others cannot be used."""
    rotation, shift = state.rotation.copy(), state.shift.copy()
    names = ("score", "log_p", "sigma")
    values = {name: getattr(state.scores, name).copy() for name in names}
    change = np.zeros_like(state.scores.change)
    found: list[np.ndarray] = []
    for number, mine in enumerate(every):
        for one in mine:
            rotation[number, one.rows], shift[number, one.rows] = one.rotation, one.shift
            for name in names:
                values[name][number, one.rows] = getattr(one.measured, name).cpu().numpy()
        found = [one.rows for one in mine]
    rows = np.sort(np.concatenate(found))
    # before the first cycle there is no score to have changed from
    if state.cycle or state.scores.score.any():
        change[:, rows] = values["score"][:, rows] - state.scores.score[:, rows]
    posed = state.posed.copy()
    posed[looked_at] = False
    posed[rows] = True
    scores = Scores(change=change, **values)
    return replace(state, rotation=rotation, shift=shift, posed=posed, scores=scores), rows


def _with_occupancies(problem: ManualProblem, state: ManualState, rows: np.ndarray) -> ManualState:
    """Occupancies of ``rows`` from their likelihoods, and one sigma per particle."""
    if problem.settings.classes == 1:
        return state
    percent, sigma = state.occupancy.copy(), state.scores.sigma.copy()
    percent[rows] = occupancies(state.scores.log_p[:, rows], state.occupancy)
    sigma[:, rows] = mean_sigma(sigma[:, rows], percent[rows])
    return replace(state, occupancy=percent, scores=replace(state.scores, sigma=sigma))


def _with_defocus(state: ManualState, every: list[list[Aligned]], rows: np.ndarray) -> ManualState:
    """The change that each particle's likeliest class found, added to what was changed before."""
    found = np.zeros((len(every), len(state.posed)))
    for number, mine in enumerate(every):
        for one in mine:
            found[number, one.rows] = one.defocus_angstrom
    best = state.occupancy.argmax(1)
    change = state.defocus_change_angstrom.copy()
    change[rows] += found[best[rows], rows]
    return replace(state, defocus_change_angstrom=change)


def _noise(every: list[list[Aligned]]) -> NoiseSums | None:
    total: NoiseSums | None = None
    for mine in every:
        for one in mine:
            total = one.noise if total is None else total.plus(one.noise)
    return total


def _history_row(
    problem: ManualProblem, before: ManualState, after: ManualState, rows: np.ndarray
) -> dict[str, float | int]:
    """What a cycle did, in figures."""
    extent = problem.loader.extent_angstrom
    best = after.occupancy[rows].argmax(1)
    scores = after.scores
    row: dict[str, float | int] = {
        "cycle": after.cycle,
        "particles": len(rows),
        "mean_score": float(scores.score[best, rows].mean()),
        "mean_log_p": float(scores.log_p[best, rows].mean()),
        "mean_sigma": float(scores.sigma[best, rows].mean()),
        "moved_deg": _moved(problem, before, after, rows),
        "occupancy_change_percent": float(np.abs(after.occupancy - before.occupancy)[rows].mean()),
    }
    if problem.settings.refine_defocus:
        row["mean_defocus_angstrom"] = float(mean_defocus(problem.loader.particles)[rows].mean())
    for k, one in enumerate(after.solved, 1):
        row[f"share_{k}"] = float(after.occupancy[after.posed, k - 1].mean() / 100)
        row[f"resolution_{k}_angstrom"] = extent / one.resolved_shell
    return row


def _moved(problem: ManualProblem, before: ManualState, after: ManualState, rows: np.ndarray) -> float:
    """Median angle in degrees by which the poses of particles turned that had one, in their best class."""
    rows = rows[before.posed[rows]]
    if not len(rows):
        return 180.0
    best = after.occupancy[rows].argmax(1)
    angles = np.zeros(len(rows))
    for number, group in enumerate(problem.symmetries):
        mine = best == number
        old, new = before.rotation[number, rows[mine]], after.rotation[number, rows[mine]]
        if mine.any():
            angles[mine] = np.min([angle_between(new, old @ g) for g in group.operators], axis=0)
    return float(np.median(angles))
