"""All particles of a cycle against the reference of one class: poses, defocus, scores."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from parhelion.algorithms.manual.defocus import best_changes, changes
from parhelion.algorithms.manual.freedom import Freedom, moved
from parhelion.algorithms.manual.problem import ManualProblem, ManualState
from parhelion.algorithms.manual.scores import Measured, measured
from parhelion.engine import candidates as cand
from parhelion.engine.accumulate import NoiseSums, noise_sums
from parhelion.engine.batch import ParticleBatch
from parhelion.engine.candidates import Candidates, joined
from parhelion.engine.noise import on_points
from parhelion.engine.predict import FourierVolume, fourier_volume
from parhelion.engine.score import ScoreSettings, Stage, chunks, searched, stages_between
from parhelion.engine.search import SliceBank, search_precision, slice_bank
from parhelion.engine.search_view import without_low
from parhelion.geometry.rotations import random_rotations
from parhelion.geometry.so3 import so3_grid

KEPT = 4
"""Poses that a search passes from one stage of resolution to the next."""
LOCAL_STEPS = 10
SAME_ANGLE_DEG = 1.0
LEAST_SPREAD = 0.1
"""The prior of shifts is never narrower than this share of the search range."""


@dataclass(frozen=True, kw_only=True)
class ClassReference:
    """One map in one cycle: its transform, the slices of a search, what may move and how finely."""

    volume: FourierVolume
    bank: SliceBank | None
    noise: Tensor
    freedom: Freedom
    stages: tuple[Stage, ...]
    shifts: Tensor
    search: ScoreSettings


@dataclass(frozen=True, kw_only=True)
class Aligned:
    """Particles ``rows`` ``(m,)`` of the table against one class: a pose each, its worth, the change of
    defocus, and what noise is left."""

    rows: np.ndarray
    rotation: np.ndarray
    shift: np.ndarray
    measured: Measured
    defocus_angstrom: np.ndarray
    noise: NoiseSums


def make_class_reference(
    problem: ManualProblem, state: ManualState, number: int, half: int, rng: np.random.Generator
) -> ClassReference:
    """The reference of class ``number`` for the particles of ``half``."""
    settings, loader = problem.settings, problem.loader
    points, device, extent = loader.points, loader.device, loader.extent_angstrom
    volume = fourier_volume(state.references[number][half - 1].to(device), points.max_shell, settings.padding)
    group = problem.symmetries[number]
    spread = _shift_spread(problem, state)
    precision = 0.5 / spread**2
    bank = None
    if settings.mode == "global":
        grid = so3_grid(step_deg=settings.angular_step, symmetry=group, turn=random_rotations(1, rng)[0])
        bank = slice_bank(
            volume,
            torch.from_numpy(grid).to(device),
            torch.from_numpy(loader.tilts).to(device),
            problem.wide.points,
            problem.wide.points.count(problem.search_shell),
            search_precision(device),
        )
    return ClassReference(
        volume=volume,
        bank=bank,
        noise=on_points(state.noise, points).to(device),
        freedom=Freedom(
            parameters=settings.parameters, shift_precision=precision, signed_shell=problem.signed_shell
        ),
        stages=_stages(problem),
        shifts=_shift_grid(problem).to(device),
        search=ScoreSettings(
            top=settings.top,
            stages=(),
            shift_precision=precision,
            same_angle_rad=float(np.radians(SAME_ANGLE_DEG)),
            same_shift=0.1 * extent / problem.refine_shell / extent,
            operators=torch.from_numpy(group.operators).to(device),
        ),
    )


def _shift_spread(problem: ManualProblem, state: ManualState) -> float:
    """Standard deviation of shifts per axis in units of the extent: that of the known poses.

    It is that of all classes together: where particles lie in their boxes is no matter of the class, and
    likelihoods of classes with priors of different width could not be compared.
    """
    extent = problem.loader.extent_angstrom
    widest = max(problem.settings.shift_range) / extent
    if not state.posed.any() or (problem.settings.random_poses and not state.cycle):
        return max(widest, LEAST_SPREAD / extent)
    known = state.shift[:, state.posed, :2]
    return float(max(np.sqrt(np.mean(known**2)), LEAST_SPREAD * widest, LEAST_SPREAD / extent))


def _stages(problem: ManualProblem) -> tuple[Stage, ...]:
    if problem.settings.mode == "local":
        return (Stage(limit=problem.refine_shell, steps=LOCAL_STEPS, keep=1, worse_by=1e9),)
    rising = stages_between(problem.search_shell, problem.refine_shell, KEPT)
    return (*rising[:-1], replace(rising[-1], keep=1))


def _shift_grid(problem: ManualProblem) -> Tensor:
    """Shifts ``(t, 3)`` in units of the extent on a square grid within the ranges; no range where held."""
    settings, extent = problem.settings, problem.loader.extent_angstrom
    step = 0.4 / problem.search_shell
    axes = []
    for name, reach in zip(("x", "y"), settings.shift_range):
        steps = int(reach / extent / step + 1e-6) if name in settings.parameters else 0
        axes.append(torch.arange(-steps, steps + 1, dtype=torch.float64) * step)
    y, x = torch.meshgrid(axes[1], axes[0], indexing="ij")
    return torch.stack((x, y, torch.zeros_like(x)), -1).reshape(-1, 3)


def align_classes(
    problem: ManualProblem, state: ManualState, references: dict[int, ClassReference], rows: np.ndarray
) -> dict[int, list[Aligned]]:
    """Particles ``rows`` against the ``references`` of classes, chunk by chunk: each chunk is read once."""
    every = chunks(torch.from_numpy(rows), problem.chunk)
    names = ", ".join(str(number + 1) for number in references)
    stage = f"cycle {state.cycle + 1}, class{'es' if len(references) > 1 else ''} {names}"
    found: dict[int, list[Aligned]] = {number: [] for number in references}
    done = 0
    problem.observer.progress(stage, 0.0, float(len(rows)))
    for results in problem.executor.map(
        lambda piece: _align_chunk(problem, state, references, piece.numpy()), every
    ):
        problem.cancel.check()
        for number, one in results.items():
            found[number].append(one)
        done += problem.chunk
        problem.observer.progress(stage, float(min(done, len(rows))), float(len(rows)))
    return found


def _align_chunk(
    problem: ManualProblem, state: ManualState, references: dict[int, ClassReference], rows: np.ndarray
) -> dict[int, Aligned]:
    loader, points = problem.loader, problem.loader.points
    batch = loader.batch(rows, len(points))
    noise = on_points(state.noise, points).to(loader.device)
    count = points.count(problem.refine_shell)
    limited = without_low(batch.whitened(noise).limited(count), points, problem.first_shell)
    return {
        number: _aligned(problem, state, reference, number, rows, batch, limited)
        for number, reference in references.items()
    }


def _aligned(
    problem: ManualProblem,
    state: ManualState,
    reference: ClassReference,
    number: int,
    rows: np.ndarray,
    batch: ParticleBatch,
    limited: ParticleBatch,
) -> Aligned:
    """Particles ``rows`` against one class: ``batch`` as it is, ``limited`` to what poses are found by."""
    loader, points, settings = problem.loader, problem.loader.points, problem.settings
    usable = batch.valid.any(1)
    start = state.candidates(number, rows).moved_to(limited.data.device)
    if reference.bank is not None:
        hits = _searched(problem, state, reference, number, rows)
        start = joined(hits, start) if settings.refine_input and len(start) else hits
    poses = _refined(problem, reference, limited, start.take(usable[start.particle]))
    defocus = np.zeros(len(poses))
    if settings.refine_defocus:
        every = changes(settings.defocus_range_angstrom, settings.defocus_step_angstrom)
        defocus, limited = best_changes(
            loader, limited, reference.noise, reference.volume, poses, every, problem.first_shell
        )
    worth = measured(
        limited,
        reference.volume,
        poses,
        reference.freedom,
        points,
        problem.class_shell,
        settings.focus,
        loader.extent_angstrom,
    )
    share = state.occupancy[rows[poses.particle.cpu().numpy()], number] / 100
    weighted = replace(poses, weight=torch.from_numpy(np.maximum(share, 1e-6)).to(poses.shift))
    residuals = noise_sums(batch, weighted, reference.volume, points, len(reference.noise))
    return Aligned(
        rows=rows[poses.particle.cpu().numpy()],
        rotation=poses.rotation.cpu().numpy(),
        shift=poses.shift.cpu().numpy(),
        measured=worth,
        defocus_angstrom=defocus,
        noise=residuals,
    )


def _searched(
    problem: ManualProblem, state: ManualState, reference: ClassReference, number: int, rows: np.ndarray
) -> Candidates:
    """The best hits of the grid, which is centred on the box except where a shift is held."""
    if reference.bank is None:
        raise ValueError("a search needs the slices of its reference")
    wide, points = problem.wide, problem.wide.points
    batch = wide.batch(rows, points.count(problem.search_shell))
    near = without_low(batch.whitened(reference.noise), points, problem.first_shell)
    centres = torch.zeros((len(rows), 3), dtype=torch.float64, device=near.data.device)
    for axis, name in enumerate(("x", "y")):
        if name not in problem.settings.parameters:
            centres[:, axis] = torch.from_numpy(state.shift[number, rows, axis]).to(centres)
    return searched(near, reference.bank, reference.shifts, centres, reference.search, points)


def _refined(
    problem: ManualProblem, reference: ClassReference, batch: ParticleBatch, start: Candidates
) -> Candidates:
    """The best pose of each particle after all stages."""
    points = problem.loader.points
    current = start
    for number, stage in enumerate(reference.stages):
        count = min(points.count(stage.limit), batch.data.shape[-1])
        part = batch if count == batch.data.shape[-1] else batch.limited(count)
        current = moved(part, reference.volume, current, reference.freedom, points, stage.steps)
        angle = reference.search.same_angle_rad * (3 if number == 0 else 1)
        current = cand.pruned(
            current,
            stage.keep,
            stage.worse_by,
            angle,
            reference.search.same_shift,
            reference.search.operators,
        )
    return current
