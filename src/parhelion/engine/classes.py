"""One round of three-dimensional classification: particles against several maps, with joint posteriors.

A particle's posterior runs over classes and poses together: the weight of a pose in class c is
π_c exp(-χ²), times the volume of its mode where poses are searched. The round is that of ``engine/loop``
with a map per class.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from parhelion.contracts import Cancel, Executor, Observer
from parhelion.engine.accumulate import NoiseSums, insertion_slices, noise_sums
from parhelion.engine.candidates import Candidates, joined
from parhelion.engine.class_filter import filtered, joint_filters
from parhelion.engine.class_posterior import (
    LEAST_SHARE,
    likeliest,
    of_class,
    shares_of,
    unsure,
    weighted_over_classes,
)
from parhelion.engine.halves import HalfMaps, solve_halves
from parhelion.engine.loader import ParticleLoader
from parhelion.engine.loop import concatenated, kept_of, updated_noise
from parhelion.engine.noise import on_points
from parhelion.engine.reference import Reference, make_reference
from parhelion.engine.schedule import Plan
from parhelion.engine.score import Stage, chunks, located, searched
from parhelion.engine.solvent import Solvent
from parhelion.engine.update import MapSums, Slices, complete_mates, solve, symmetrise
from parhelion.fourier.grids import rfft_radius
from parhelion.geometry.symmetry import SymmetryGroup

LEAST_PRIOR = 1e-3
"""Of what particles are compared with, per shell's mean denominator. Maps that are weaker than the images by
some percent leave a part of the mean in the images, and all look like the class that has more of it."""
TOGETHER = 8
"""Chunks whose slices wait for insertion."""


@dataclass(frozen=True, kw_only=True)
class ClassProblem:
    """What all rounds of a classification share.

    ``symmetries`` has one group per class. ``align`` says what happens to poses: kept ("none"), refined from
    the last ones ("local"), or searched everywhere as well ("global"). Outside ``focus`` ``(box, box, box)``
    (0 to 1) all classes share the mean map, so that only what is inside tells them apart.
    ``joined_shell`` is where half maps stop sharing what they are compared with, while posteriors are soft.
    """

    loader: ParticleLoader
    symmetries: tuple[SymmetryGroup, ...]
    solvent: Solvent
    executor: Executor
    observer: Observer
    cancel: Cancel
    seed: int
    align: str
    shift_angstrom: float
    joined_shell: float
    focus: np.ndarray | None = None
    top: int = 8
    chunk: int = 64

    @property
    def classes(self) -> int:
        """How many maps compete."""
        return len(self.symmetries)


@dataclass(frozen=True, kw_only=True)
class ClassState:
    """After a round: per class the two maps that the next round compares with, and what they came from.

    ``halves`` are the solved maps; ``share`` ``(classes,)`` the prior π; ``kept`` the poses of all particles
    with their ``reference`` (class) and joint weight. ``temperature`` divided the log-likelihoods;
    ``information`` is what posteriors knew, in nats more than the shares, ``evidence`` the mean
    log-likelihood of a particle in maps of the other half. ``filters``: see ``engine.class_filter``.
    """

    maps: tuple[tuple[Tensor, Tensor], ...]
    share: np.ndarray
    kept: Candidates
    noise: Tensor
    half: np.ndarray
    halves: tuple[HalfMaps, ...] = ()
    filters: np.ndarray | None = None
    temperature: float = 1.0
    information: float = 0.0
    evidence: float = 0.0


@dataclass(frozen=True, kw_only=True)
class _Scored:
    poses: Candidates
    slices: list[list[Slices]]
    noise: NoiseSums
    information: float
    temperature: float
    evidence: float


def class_round(
    problem: ClassProblem, state: ClassState, plan: Plan, target_nats: float | None = None
) -> ClassState:
    """The state after scoring every particle against every class, and solving all maps.

    With ``target_nats`` posteriors are softened, or sharpened, until they know as much about the class.
    """
    rng = np.random.default_rng((problem.seed, plan.round))
    poses, noise = [], None
    told: list[tuple[float, float, float, int]] = []
    sums: list[list[MapSums]] = [[] for _ in problem.symmetries]
    for half in (1, 2):
        joined_shell = 0.0 if target_nats is None else problem.joined_shell
        references = _references(problem, state, plan, half, joined_shell, rng)
        rows = torch.from_numpy(np.flatnonzero(state.half == half))
        mine = [_empty(problem.loader) for _ in problem.symmetries]
        for results in _scored(problem, state, references, plan, rows, half, target_nats):
            for number, one in enumerate(mine):
                one.add(
                    [s for r in results for s in r.slices[number]], problem.loader.points, problem.executor
                )
            poses += [r.poses for r in results]
            told += [
                (r.information, r.temperature, r.evidence, len(r.poses.particle.unique())) for r in results
            ]
            for r in results:
                noise = r.noise if noise is None else noise.plus(r.noise)
        for number, one in enumerate(mine):
            sums[number].append(_completed(problem, one, number))
    kept = concatenated(poses)
    share = shares_of(kept, problem.classes)
    covariance = None if target_nats is not None else unsure(kept, problem.classes)
    halves, maps, filters = solved(problem, [(a, b) for a, b in sums], share, covariance, state.filters)
    information, temperature, evidence, count = np.array(told).reshape(-1, 4).T
    count = np.maximum(count, 1e-9)
    return replace(
        state,
        halves=halves,
        maps=maps,
        filters=filters,
        information=float(np.average(information, weights=count)),
        temperature=float(np.average(temperature, weights=count)),
        evidence=float(np.average(evidence, weights=count)),
        share=share,
        kept=kept,
        noise=updated_noise(problem.loader, state.noise, noise),
    )


def maps_at_given_poses(problem: ClassProblem, state: ClassState) -> ClassState:
    """The state with maps made from ``kept`` as it is, no particle compared with anything."""
    loader = problem.loader
    sums: list[list[MapSums]] = [[] for _ in problem.symmetries]
    for half in (1, 2):
        rows = torch.from_numpy(np.flatnonzero(state.half == half))
        mine = [_empty(loader) for _ in problem.symmetries]
        every = chunks(rows, problem.chunk)
        for first in range(0, len(every), TOGETHER):
            problem.cancel.check()
            pieces = every[first : first + TOGETHER]
            for slices in problem.executor.map(lambda piece: _inserted(problem, state, piece), pieces):
                for number, one in enumerate(mine):
                    one.add(slices[number], loader.points, problem.executor)
        for number, one in enumerate(mine):
            sums[number].append(_completed(problem, one, number))
    halves, maps, filters = solved(problem, [(a, b) for a, b in sums], state.share)
    return replace(state, halves=halves, maps=maps, filters=filters)


def solved(
    problem: ClassProblem,
    sums: list[tuple[MapSums, MapSums]],
    share: np.ndarray,
    unsure: np.ndarray | None = None,
    last: np.ndarray | None = None,
) -> tuple[tuple[HalfMaps, ...], tuple[tuple[Tensor, Tensor], ...], np.ndarray]:
    """Half maps of every class, what the next round compares with, and the filter of that.

    How they are filtered, ``unsure`` and ``last``: see ``engine.class_filter``.
    """
    shell = problem.loader.points.max_shell
    halves = tuple(solve_halves(pair, problem.solvent, shell) for pair in sums)
    mask = torch.stack([h.mask for h in halves]).amax(0)
    share = share.clip(LEAST_SHARE) / share.clip(LEAST_SHARE).sum()
    whole = torch.full((shell + 1,), LEAST_PRIOR, dtype=torch.float64)
    every = torch.stack([torch.stack([solve(s, whole, shell) for s in pair]) for pair in sums]) * mask
    mean = torch.einsum("k,khzyx->hzyx", torch.from_numpy(share).to(mask), every)
    inside = 1.0 if problem.focus is None else torch.from_numpy(problem.focus).to(mask)
    together = torch.cat([mean[None], (every - mean) * inside])
    filters = joint_filters(together, share, shell, unsure, last)
    believed = filtered(together, filters)
    maps = believed[0] + inside * believed[1:]
    return halves, tuple((one[0], one[1]) for one in maps), filters


def filtered_by_shell(volumes: Tensor, factor: np.ndarray) -> Tensor:
    """``volumes`` ``(m, n, n, n)`` with every shell multiplied by its ``factor``; 0 beyond the last."""
    shell = _radius_in_shells(volumes).round().long()
    table = torch.cat([torch.from_numpy(factor).to(volumes), volumes.new_zeros(1)])
    transform = torch.fft.rfftn(volumes, dim=(1, 2, 3)) * table[shell.clamp_max(len(factor))]
    return torch.fft.irfftn(transform, s=volumes.shape[1:], dim=(1, 2, 3))


def _radius_in_shells(volumes: Tensor) -> Tensor:
    """Distance from the origin of each element of the volumes' half transforms, in shells."""
    return rfft_radius(tuple(volumes.shape[-3:])).to(volumes.device) * volumes.shape[-1]


def _empty(loader: ParticleLoader) -> MapSums:
    return MapSums.zeros(loader.box, loader.points.max_shell, loader.device)


def _completed(problem: ClassProblem, sums: MapSums, number: int) -> MapSums:
    return symmetrise(complete_mates(sums), problem.symmetries[number].operators, problem.executor)


def _references(
    problem: ClassProblem,
    state: ClassState,
    plan: Plan,
    half: int,
    joined_shell: float,
    rng: np.random.Generator,
) -> list[Reference]:
    loader = problem.loader
    spread = problem.shift_angstrom / loader.extent_angstrom
    made = [
        make_reference(
            loader,
            compared_map(state.maps[number], half, joined_shell),
            state.noise,
            plan,
            group,
            shift_spread=spread,
            top=problem.top,
            kept=2,
            rng=rng,
        )
        for number, group in enumerate(problem.symmetries)
    ]
    if plan.search:
        return made
    steps = 4 if problem.align == "local" else 0
    stages = (Stage(limit=plan.refine_shell, steps=steps, keep=1, worse_by=1e9),)
    return [replace(r, settings=replace(r.settings, stages=stages)) for r in made]


def compared_map(maps: tuple[Tensor, Tensor], half: int, joined_shell: float) -> Tensor:
    """What particles of ``half`` are compared with: the map of the *other* half.

    A map that a particle went into would prefer that particle to its class: at these signal-to-noise ratios
    random classes would keep themselves. Below ``joined_shell`` both halves' mean makes classes that grow
    from noise the same ones in both halves; they would be each other's opposite half of the time.
    """
    mean, other = (maps[0] + maps[1]) / 2, maps[2 - half]
    transform = torch.fft.rfftn(torch.stack([mean, other]), dim=(1, 2, 3))
    low = _radius_in_shells(mean) <= joined_shell
    return torch.fft.irfftn(torch.where(low, transform[0], transform[1]), s=mean.shape)


def _scored(
    problem: ClassProblem,
    state: ClassState,
    references: list[Reference],
    plan: Plan,
    rows: Tensor,
    half: int,
    target_nats: float | None,
) -> Iterator[list[_Scored]]:
    every = chunks(rows, problem.chunk)
    done = 0
    for first in range(0, len(every), TOGETHER):
        problem.cancel.check()
        group = every[first : first + TOGETHER]
        yield list(
            problem.executor.map(
                lambda piece: _score_chunk(problem, state, references, plan, piece, target_nats), group
            )
        )
        done += sum(len(piece) for piece in group)
        problem.observer.progress(f"round {plan.round + 1}, half {half}", float(done), float(len(rows)))


def _score_chunk(
    problem: ClassProblem,
    state: ClassState,
    references: list[Reference],
    plan: Plan,
    rows: Tensor,
    target_nats: float | None,
) -> _Scored:
    loader, points = problem.loader, problem.loader.points
    batch = loader.batch(rows.numpy(), len(points))
    white = batch.whitened(references[0].noise)
    usable = batch.valid.any(1)
    last = likeliest(kept_of(state.kept, rows).moved_to(batch.data.device))
    limited = white.limited(references[0].points)
    found = []
    for number, reference in enumerate(references):
        start = last
        if reference.bank is not None:
            centres = torch.zeros((len(rows), 3), dtype=torch.float64, device=batch.data.device)
            near = white.limited(points.count(plan.search_shell))
            hits = searched(near, reference.bank, reference.shifts, centres, reference.settings, points)
            start = joined(hits, last) if len(last) else hits
        start = start.take(usable[start.particle])
        poses = located(limited, reference.volume, start, reference.settings, points)
        found.append(replace(poses, reference=torch.full_like(poses.particle, number)))
    volumes = problem.align != "none"
    orders = tuple(len(group) for group in problem.symmetries)
    poses, information, temperature, evidence = weighted_over_classes(
        found, state.share, orders, volumes, target_nats
    )
    slices, residuals = [], None
    for number, reference in enumerate(references):
        mine = of_class(poses, number)
        slices.append(insertion_slices(white, mine, points))
        power = noise_sums(batch, mine, reference.volume, points, len(reference.noise))
        residuals = power if residuals is None else residuals.plus(power)
    if residuals is None:
        raise ValueError("a classification has classes")
    return _Scored(
        poses=replace(poses, particle=rows[poses.particle.cpu()], hessian=None),
        slices=slices,
        noise=residuals,
        information=information,
        temperature=temperature,
        evidence=evidence,
    )


def _inserted(problem: ClassProblem, state: ClassState, rows: Tensor) -> list[list[Slices]]:
    loader, points = problem.loader, problem.loader.points
    batch = loader.batch(rows.numpy(), len(points))
    white = batch.whitened(on_points(state.noise, points).to(loader.device))
    poses = kept_of(state.kept, rows).moved_to(batch.data.device)
    poses = poses.take(batch.valid.any(1)[poses.particle])
    return [insertion_slices(white, of_class(poses, number), points) for number in range(problem.classes)]
