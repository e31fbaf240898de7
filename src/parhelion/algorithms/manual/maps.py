"""From aligned particles to a class's maps, and from those to what the next cycle compares with."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from parhelion.algorithms.manual.problem import ClassMaps, ManualProblem, ManualState
from parhelion.algorithms.pose_blurring import ANGLE_STEP, SHIFT_STEP, TURNS, Blurring, blurring_around
from parhelion.algorithms.postprocess.statistics import particle_fsc, particle_volume_angstrom3
from parhelion.engine.accumulate import insertion_slices
from parhelion.engine.classes import filtered_by_shell
from parhelion.engine.halves import LIGHT_PRIOR
from parhelion.engine.memory import TOGETHER
from parhelion.engine.noise import on_points
from parhelion.engine.predict import fourier_volume
from parhelion.engine.score import chunks
from parhelion.engine.score_weights import best_scores, mean_defocus, score_bfactor, without_defocus
from parhelion.engine.update import MapSums, Slices, complete_mates, solve, symmetrise
from parhelion.errors import InputError
from parhelion.fourier.grids import rfft_radius
from parhelion.fourier.shells import fsc

JOINED_ANGSTROM = 40.0
"""Coarser detail than this the half sets share with several classes, or from random orientations: or else the
classes of both need not be the same, nor the frames."""


@dataclass(frozen=True, kw_only=True)
class Insertion:
    """How much each of all particles ``(n,)`` counts in one class: a factor from 0 to 1, and B in Å²."""

    factor: np.ndarray
    bfactor_angstrom2: np.ndarray


def insertion_weights(
    problem: ManualProblem, state: ManualState, number: int, rows: np.ndarray, scored: bool
) -> Insertion:
    """Weights of class ``number`` in a cycle that used ``rows``; without ``scored`` occupancies alone."""
    settings, count = problem.settings, len(state.posed)
    factor, bfactor = np.zeros(count), np.zeros(count)
    factor[rows] = state.occupancy[rows, number] / 100
    if scored:
        score = state.scores.score[number, rows]
        if settings.adjust_for_defocus:
            score = without_defocus(score, mean_defocus(problem.loader.particles)[rows], factor[rows])
        factor[rows] *= best_scores(score, factor[rows], settings.score_threshold)
        if settings.score_constant_angstrom2 > 0 and factor.any():
            bfactor[rows] = score_bfactor(score, factor[rows], settings.score_constant_angstrom2)
    return Insertion(factor=factor, bfactor_angstrom2=bfactor)


def reconstruct_class(
    problem: ManualProblem, state: ManualState, number: int, weights: Insertion
) -> ClassMaps:
    """The maps of class ``number`` from its poses, blurred against the references that they were found with.

    Raises InputError where nothing is left to insert into a half.
    """
    sums = []
    for half in (1, 2):
        rows = np.flatnonzero((state.half == half) & (weights.factor > 0))
        if not len(rows):
            raise InputError(
                f"no particle of half set {half} is left for class {number + 1}: the score threshold or the "
                "percentage leaves none, or the class has lost its particles; use more, or fewer classes"
            )
        sums.append(_half_sums(problem, state, number, weights, rows, half))
    return solved_class(problem, (sums[0], sums[1]))


def _half_sums(
    problem: ManualProblem,
    state: ManualState,
    number: int,
    weights: Insertion,
    rows: np.ndarray,
    half: int,
) -> MapSums:
    loader = problem.loader
    sums = MapSums.zeros(loader.box, loader.points.max_shell, loader.device)
    blurring = blurring_of(problem, state, number, half)
    # a blurred particle is one image per angle
    every = chunks(torch.from_numpy(rows), max(1, problem.chunk // TURNS) if blurring else problem.chunk)
    stage = f"map {number + 1}, half {half}"
    for first in range(0, len(every), TOGETHER):
        problem.cancel.check()
        group = every[first : first + TOGETHER]
        for slices in problem.executor.map(
            lambda piece: _slices(problem, state, number, weights, blurring, piece), group
        ):
            sums.add(slices, loader.points, problem.executor)
        problem.observer.progress(stage, float(min(first + TOGETHER, len(every))), float(len(every)))
    return symmetrise(complete_mates(sums), problem.symmetries[number].operators, problem.executor)


def _slices(
    problem: ManualProblem,
    state: ManualState,
    number: int,
    weights: Insertion,
    blurring: Blurring | None,
    rows: Tensor,
) -> list[Slices]:
    """Slices of particles ``rows``, weighted by their occupancy and score."""
    loader, points = problem.loader, problem.loader.points
    batch = loader.batch(rows.numpy(), len(points))
    white = batch.whitened(on_points(state.noise, points).to(loader.device))
    poses = state.candidates(number, rows.numpy()).moved_to(white.data.device)
    poses = poses.take(batch.valid.any(1)[poses.particle])
    if not len(poses):
        return []
    weight = torch.ones(len(poses)).to(poses.shift)
    if blurring is not None:
        white, poses = blurring.blurred(white, poses)
        weight = weight if poses.weight is None else poses.weight
    at = white.index[poses.particle.cpu()].numpy()
    poses = replace(poses, weight=weight * torch.from_numpy(weights.factor[at]).to(weight))
    bfactor = weights.bfactor_angstrom2[at]
    slices = insertion_slices(white, poses, points)
    if not bfactor.any():
        return slices
    square = torch.from_numpy((points.radius / loader.extent_angstrom) ** 2)
    fall = torch.exp(torch.from_numpy(bfactor)[:, None] * square).float().to(white.data.device)
    return [(rotation, values * fall, weight * fall) for rotation, values, weight in slices]


def blurring_of(problem: ManualProblem, state: ManualState, number: int, half: int) -> Blurring | None:
    """Blurring of a half's particles against what they were aligned to, by the detail that they were aligned
    with; None where none is asked for, or nothing was aligned yet."""
    settings, loader, shell = problem.settings, problem.loader, problem.refine_shell
    if not settings.blurring or not state.references:
        return None
    seen = np.arange(loader.points.max_shell + 1) >= problem.first_shell
    reference = state.references[number][half - 1].to(loader.device)
    volume = fourier_volume(
        filtered_by_shell(reference[None], seen.astype(np.float32))[0],
        loader.points.max_shell,
        settings.padding,
    )
    radius = settings.outer_radius_angstrom / loader.extent_angstrom
    count = loader.points.count(shell)
    return blurring_around(
        volume, loader, count, ANGLE_STEP / (shell * radius), SHIFT_STEP / shell, settings.smoothing
    )


def solved_class(problem: ManualProblem, sums: tuple[MapSums, MapSums]) -> ClassMaps:
    """Half maps, their FSC inside the mask, and maps filtered by it.

    SNR of a half map = FSC / (1 - FSC), of both together twice that (Scheres, J. Mol. Biol. 415, 406, 2012,
    eq. 10); the filter's noise-to-signal ratio is multiplied by the filter constant. With a known mass the
    filter is that of the particle without the solvent in its mask (Sindelar and Grigorieff, J. Struct. Biol.
    180, 26, 2012).
    """
    settings, shell = problem.settings, problem.loader.points.max_shell
    light = torch.full((shell + 1,), LIGHT_PRIOR, dtype=torch.float64)
    first, second = (solve(s, light, shell) for s in sums)
    mask = problem.solvent.mask(first, second).to(first.device)
    curve = fsc(first * mask, second * mask)
    usable = curve[: shell + 1].clip(0.001, 0.999)
    below = np.flatnonzero(usable[2:] < 0.143)
    resolved = int(below[0]) + 2 if len(below) else shell
    if settings.mass_kda is not None:
        pixel = problem.loader.pixel_size_angstrom
        inside = float(mask.sum(dtype=torch.float64)) * pixel**3
        usable = particle_fsc(usable, min(particle_volume_angstrom3(settings.mass_kda) / inside, 1.0))
        usable = usable.clip(0.001, 0.999)
    ratio = torch.from_numpy(settings.filter_constant * (1 - usable) / usable)
    limit = min(resolved + 4, shell)
    both = replace(
        sums[0],
        numerator=sums[0].numerator + sums[1].numerator,
        denominator=sums[0].denominator + sums[1].denominator,
    )
    combined = solve(both, 0.5 * ratio, limit)
    if settings.half_sets == "gold":
        compared = [problem.solvent.applied(solve(s, ratio, limit), mask) for s in sums]
        if settings.classes > 1 or settings.random_poses:
            compared = joined_low(compared, problem.loader.extent_angstrom / JOINED_ANGSTROM)
    else:
        compared = [problem.solvent.applied(combined, mask)] * 2
    return ClassMaps(
        unfiltered=(first, second),
        combined=combined,
        mask=mask,
        fsc=curve,
        resolved_shell=resolved,
        references=(compared[0], compared[1]),
    )


def joined_low(halves: list[Tensor], shell: float) -> list[Tensor]:
    """Two maps with their mean instead of themselves up to ``shell``."""
    transform = torch.fft.rfftn(torch.stack(halves), dim=(1, 2, 3))
    shape = tuple(halves[0].shape)
    low = rfft_radius(shape).to(transform.device) * shape[0] <= shell
    both = torch.where(low, transform.mean(0), transform)
    return list(torch.fft.irfftn(both, s=shape, dim=(1, 2, 3)))
