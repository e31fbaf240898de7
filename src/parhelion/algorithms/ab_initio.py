"""Structures from nothing: expectation-maximisation over all poses and classes, from several starts.

Each start begins with random poses and alternates the matrix products of ``engine.soft`` while the
resolution limit rises and the temperature follows what the posteriors know. What decided in experiments
on real and simulated stacks: the whole posterior instead of a few best poses, a grid no coarser than 15°,
a prior per shell from the map's own power (a constant one shrinks strong shells and drives the map to its
periphery), and the temperature rule. Starts are judged by particles that none of them has seen.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from parhelion.algorithms import ab_initio_checkpoint as kept
from parhelion.algorithms.ab_initio_averages import of_averages
from parhelion.algorithms.ab_initio_courses import AT_THE_END, RoundDone, one_start, plan_of, volumes_of
from parhelion.algorithms.ab_initio_plan import map_box, planned_bytes
from parhelion.algorithms.ab_initio_poses import assigned
from parhelion.algorithms.ab_initio_problem import make_problem
from parhelion.algorithms.ab_initio_rounds import AbInitioProblem, evidence_of, soft_round
from parhelion.algorithms.ab_initio_schedule import shell_limits, step_for
from parhelion.algorithms.ab_initio_settings import AbInitioResult, AbInitioSettings, Start
from parhelion.algorithms.ab_initio_start import DOUBTFUL_SYMMETRY, check_references, given_maps, on_axes
from parhelion.algorithms.map_alignment import Alignment, align_maps
from parhelion.algorithms.symmetry_search import find_symmetry
from parhelion.contracts import Cancel, Executor, Observer, ParticleSource
from parhelion.errors import InputError
from parhelion.fourier.resample import resample_volume
from parhelion.geometry.symmetry import SymmetryGroup, symmetry_group
from parhelion.model.occupancy import occupancies, with_occupancies
from parhelion.model.particles import ParticleSet
from parhelion.model.volume import Volume

__all__ = [
    "AbInitioResult",
    "AbInitioSettings",
    "Start",
    "ab_initio",
    "map_box",
    "planned_bytes",
    "shell_limits",
]

SYMMETRY_ROUNDS = 8
# From so many operators on, every second start imposes the symmetry from its first round: particles of
# such groups are so nearly spherical that C1 may not find them. Smaller groups imposed early end in compact
# wrong maps, so there they are found later.
LARGE_GROUP = 12


def ab_initio(
    particles: ParticleSet,
    source: ParticleSource,
    settings: AbInitioSettings,
    *,
    executor: Executor,
    observer: Observer,
    cancel: Cancel,
    device: str = "cpu",
    available_bytes: int | None = None,
    references: Sequence[Volume] = (),
    round_done: RoundDone | None = None,
    start_kept: Callable[[int], None] | None = None,
    checkpoints: Path | None = None,
    resume: bool = False,
) -> AbInitioResult:
    """First maps of ``particles``; see the module. ``references``, one per class, replace the random start.

    Finished starts are kept in the folder ``checkpoints``; with ``resume`` those that are there are not made
    again, and ``start_kept`` hears of each (its number, from 1) in place of ``round_done``.

    Raises InputError where no start finds anything, ParameterError where settings contradict each other.
    """
    check_references(references, settings.classes)
    group = symmetry_group(settings.symmetry)
    problem = make_problem(particles, source, settings, executor, observer, cancel, device, available_bytes)
    imposed = [_imposes(settings, group, number, bool(references)) for number in range(settings.starts)]
    mark = "" if checkpoints is None else kept.mark_of(particles, settings, references)
    posed, maps = problem, list[Tensor]()
    if settings.images_per_class is not None:
        rng = np.random.default_rng((settings.seed, 5))
        problem = of_averages(posed, settings.images_per_class, rng)
    if references and any(imposed):
        references = on_axes(references, group, observer)
    for number in range(settings.starts):
        before = kept.load(checkpoints, number + 1, mark, observer) if resume and checkpoints else None
        if before is not None:
            maps.append(before)
            observer.notice(f"start {number + 1} was finished before")
            if start_kept is not None:
                start_kept(number + 1)
            continue
        rng = np.random.default_rng((settings.seed + number, 2))
        begin = _beginning(problem, settings, references, maps, rng)
        symmetry = group if imposed[number] else None
        maps.append(one_start(problem, settings, number + 1, begin, rng, symmetry, round_done))
        if checkpoints is not None:
            kept.save(checkpoints, number + 1, maps[-1], mark)
    step = _last_step(settings, problem)
    evidence = [evidence_of(problem, one, problem.judges, step, problem.last_shell) for one in maps]
    chosen = int(np.argmax(evidence))
    if not np.isfinite(evidence[chosen]):
        raise InputError("no start led to a map; check the particles' contrast, pixel size and CTF values")
    return _result(problem, posed, settings, maps, evidence, chosen, imposed[chosen], group)


def _beginning(
    problem: AbInitioProblem,
    settings: AbInitioSettings,
    references: Sequence[Volume],
    maps: list[Tensor],
    rng: np.random.Generator,
) -> Tensor | None:
    """What the start after ``maps`` goes on from; None for random maps."""
    if maps and settings.start_from == "previous":
        return maps[-1]
    return given_maps(problem, references, rng) if references else None


def _imposes(settings: AbInitioSettings, group: SymmetryGroup, number: int, given: bool) -> bool:
    """Whether start ``number`` (from 0) has the symmetry from its first round.

    Left to itself not where maps are given, which may lack it, nor in some starts of a row: what a start
    without symmetry ends with lies anyhow.
    """
    if settings.impose == "auto":
        return (
            len(group) >= LARGE_GROUP and not given and (number % 2 == 0 or settings.start_from == "previous")
        )
    return settings.impose == "always" and len(group) > 1


def _last_step(settings: AbInitioSettings, problem: AbInitioProblem) -> float:
    resolution = problem.extent_angstrom / problem.last_shell
    return settings.angular_step_deg or step_for(settings.diameter_angstrom, resolution)


def _result(
    problem: AbInitioProblem,
    posed: AbInitioProblem,
    settings: AbInitioSettings,
    maps: list[Tensor],
    evidence: list[float],
    chosen: int,
    imposed: bool,
    group: SymmetryGroup,
) -> AbInitioResult:
    """Symmetry found in the chosen maps, all particles assigned to them, classes by size, starts compared.

    ``posed`` is the problem of the particles themselves.
    """
    volumes, correlation = maps[chosen], None
    notes: list[str] = []
    if len(group) > 1 and not imposed:
        volumes, correlation = _with_symmetry(problem, settings, volumes, group)
        if correlation < DOUBTFUL_SYMMETRY:
            notes.append(
                f"the map agrees with its copies under {settings.symmetry} with a correlation of only "
                f"{correlation:.2f}; the symmetry or the map may be wrong"
            )
    for note in notes:
        problem.observer.notice(note)
    rng = np.random.default_rng((settings.seed, 4))
    particles, shares = assigned(posed, volumes, _last_step(settings, problem), rng, group)
    order = np.argsort(-shares, kind="stable")
    maps[chosen] = maps[chosen][order]
    full = tuple(
        _on_images_grid(problem, one, posed.loader.box) for one in volumes_of(problem, volumes[order])
    )
    return AbInitioResult(
        volume=full[0],
        chosen=chosen,
        starts=_compared(problem, settings, evidence, maps, chosen),
        symmetry=settings.symmetry,
        symmetry_correlation=correlation,
        resolution_limit_angstrom=problem.extent_angstrom / problem.last_shell,
        notes=tuple(notes),
        volumes=full,
        shares=tuple(float(share) for share in shares[order]),
        particles=reordered(particles, order),
    )


def reordered(particles: ParticleSet, order: np.ndarray) -> ParticleSet:
    """The particles with their classes numbered in ``order``."""
    percent = occupancies(particles)
    return particles if percent is None else with_occupancies(particles, percent[:, order])


def _on_images_grid(problem: AbInitioProblem, volume: Volume, box: int) -> Volume:
    """The map on the particles' grid and grey scale."""
    full = resample_volume(volume, box, problem.loader.pixel_size_angstrom)
    # A slice is the transform over the box (engine.predict): one density on two grids differs by n²/N².
    scale = (problem.box / box) ** 2
    return replace(full, data=(full.data * scale).astype(np.float32))


def _compared(
    problem: AbInitioProblem,
    settings: AbInitioSettings,
    evidence: list[float],
    maps: list[Tensor],
    chosen: int,
) -> tuple[Start, ...]:
    """All starts, each aligned to the chosen one (either hand), class by class, and compared with it."""
    targets = volumes_of(problem, maps[chosen])
    starts = []
    for number, volumes in enumerate(maps):
        problem.cancel.check()
        problem.observer.progress("starts compared", float(number + 1), float(len(maps)))
        aligned, agreement = targets, 1.0
        if number != chosen:
            aligned, agreement = _matched(problem, volumes_of(problem, volumes), targets, number)
        starts.append(
            Start(
                seed=settings.seed + number,
                evidence=evidence[number],
                volume=aligned[0],
                agreement=agreement,
                volumes=aligned,
            )
        )
    return tuple(starts)


def _matched(
    problem: AbInitioProblem, volumes: tuple[Volume, ...], targets: tuple[Volume, ...], number: int
) -> tuple[tuple[Volume, ...], float]:
    """``volumes`` in the order and the frames of the ``targets`` they are most like, and the mean FSC."""
    last = int(problem.last_shell) + 1
    try:
        pairs = [[_pair(problem, volume, target) for target in targets] for volume in volumes]
    except InputError as error:
        problem.observer.notice(f"start {number + 1} cannot be compared: {error}")
        return volumes, 0.0
    agreement = np.array([[np.mean(moved.fsc[1:last]) for moved in row] for row in pairs])
    rows, columns = linear_sum_assignment(-agreement)
    order = rows[np.argsort(columns)]
    ordered = tuple(pairs[row][column].aligned for column, row in enumerate(order))
    return ordered, float(agreement[rows, columns].mean())


def _pair(problem: AbInitioProblem, volume: Volume, target: Volume) -> Alignment:
    problem.cancel.check()
    return align_maps(volume, target)


def _with_symmetry(
    problem: AbInitioProblem, settings: AbInitioSettings, volumes: Tensor, group: SymmetryGroup
) -> tuple[Tensor, float]:
    """Maps in the frame of the group, refined a few rounds with it, and the least of their correlations."""
    correlations, turned = [], []
    for number, volume in enumerate(volumes_of(problem, volumes), 1):
        fit = find_symmetry(volume, group)
        which = "the map" if len(volumes) == 1 else f"map {number}"
        problem.observer.notice(
            f"{settings.symmetry} axes found: {which} agrees with its copies with a correlation of "
            f"{fit.correlation:.2f}"
        )
        correlations.append(fit.correlation)
        turned.append(torch.from_numpy(np.ascontiguousarray(fit.symmetrised.data, dtype=np.float32)))
    symmetric = torch.stack(turned)
    plan = plan_of(problem, settings, AT_THE_END, group)
    rng = np.random.default_rng((settings.seed, 3))
    for number in range(SYMMETRY_ROUNDS):
        problem.cancel.check()
        symmetric, _ = soft_round(problem, symmetric, plan, rng, group)
        problem.observer.progress("symmetry imposed", float(number + 1), float(SYMMETRY_ROUNDS))
    return symmetric, min(correlations)
