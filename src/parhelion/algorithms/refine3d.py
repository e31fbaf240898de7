"""Automatic refinement of one structure: from particles and a starting map to two half maps and poses.

Two independent half sets; exhaustive search with Gauss-Newton refinement while the search still finds better
poses, then local rounds; the schedule decides when to stop (``engine.schedule``).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from parhelion.algorithms import preparation as prepare
from parhelion.algorithms.postprocess.gold_standard import GoldStandard, gold_standard_fsc
from parhelion.algorithms.refine_settings import RefineSettings
from parhelion.algorithms.refine_start import (
    completed_settings,
    fingerprint_of,
    make_problem,
    memory_plan,
    start_state,
)
from parhelion.contracts import Cancel, Executor, Observer, ParticleSource
from parhelion.engine import checkpoint
from parhelion.engine.loader import undistorted_shifts
from parhelion.engine.loop import Problem, run_round
from parhelion.engine.state import RefineState, best_poses
from parhelion.errors import InputError
from parhelion.model.particles import ParticleSet
from parhelion.model.volume import Volume

__all__ = ["UNCERTAINTY_COLUMN", "RefineResult", "RefineSettings", "RoundMaps", "memory_plan", "refine3d"]

UNCERTAINTY_COLUMN = "parhelionAngularUncertaintyDegrees"


@dataclass(frozen=True, kw_only=True)
class RefineResult:
    """What a refinement found.

    ``half_maps`` are unfiltered, ``map`` is the Wiener-filtered map of all particles, not masked;
    ``curves`` and ``resolution_angstrom`` are the halves' FSC inside ``mask``, freed of what the mask adds,
    at 0.143. ``particles`` are those with usable images, with poses, half sets and scores; ``unusable`` are
    rows of the input. ``uncertainty_deg`` is the root mean square angle of each pose's posterior, ``noise``
    ``(groups, shells)`` the noise power of the normalised images. ``curves_of_rounds`` ``(rounds, shells)``
    is the FSC inside the mask after every round. ``scheme`` and ``symmetry`` are those of the settings.
    """

    half_maps: tuple[Volume, Volume]
    map: Volume
    mask: Volume
    curves: GoldStandard
    resolution_angstrom: float
    particles: ParticleSet
    unusable: np.ndarray
    uncertainty_deg: np.ndarray
    log_likelihood: np.ndarray
    noise: np.ndarray
    history: tuple[Mapping[str, float | int], ...]
    reason: str
    diameter_angstrom: float
    initial_resolution_angstrom: float
    curves_of_rounds: np.ndarray
    scheme: str
    symmetry: str


@dataclass(frozen=True, kw_only=True)
class RoundMaps:
    """What round ``number`` (from 1) made: unfiltered half maps, the filtered maps that the next round
    compares with, their mask and FSC ``(shells,)``."""

    number: int
    half_maps: tuple[Volume, Volume]
    references: tuple[Volume, Volume]
    mask: Volume
    fsc: np.ndarray


def refine3d(
    particles: ParticleSet,
    source: ParticleSource,
    reference: Volume,
    settings: RefineSettings,
    *,
    executor: Executor,
    observer: Observer,
    cancel: Cancel,
    mask: Volume | None = None,
    device: str = "cpu",
    checkpoints: Path | None = None,
    resume: bool = False,
    available_bytes: int | None = None,
    after_round: Callable[[RoundMaps], None] | None = None,
) -> RefineResult:
    """Refine ``particles`` against ``reference`` (any box and pixel size, any grey scale, protein white).

    ``mask`` (0 to 1) replaces the automatic one. After every round the state goes to the folder
    ``checkpoints``; ``resume`` goes on from there to the same result. ``after_round`` is told what every
    round made. Raises InputError where particles and reference cannot be refined together, and Cancelled
    between chunks.
    """
    prepare.check_count(particles)
    particles = prepare.with_noise_groups(particles)
    pixel = particles.optics[0].pixel_size_angstrom
    given = reference
    reference = prepare.on_grid_of(reference, source.box, pixel, observer, "reference")
    if mask is not None:
        mask = prepare.on_grid_of(mask, source.box, pixel, observer, "mask")
    settings = completed_settings(settings, reference, observer)
    problem = make_problem(
        particles, source, settings, mask, executor, observer, cancel, torch.device(device), available_bytes
    )
    mark = fingerprint_of(particles, given, mask, settings, problem)
    state = checkpoint.load_last(checkpoints, mark, observer) if checkpoints and resume else None
    state = state or start_state(problem, settings, reference)
    while not state.finished:
        cancel.check()
        state = run_round(problem, state)
        if after_round is not None:
            after_round(_round_maps(problem, state))
        if checkpoints is not None:
            checkpoint.save(checkpoints, state, mark)
        _check_poses(particles, state)
    return _result(problem, settings, state)


def _round_maps(problem: Problem, state: RefineState) -> RoundMaps:
    if state.unfiltered is None or state.mask is None:
        raise ValueError("maps are there after a round")
    pixel = problem.loader.pixel_size_angstrom
    a, b, c, d, mask = (_volume(t, pixel) for t in (*state.unfiltered, *state.maps, state.mask))
    return RoundMaps(number=len(state.history), half_maps=(a, b), references=(c, d), mask=mask, fsc=state.fsc)


def _volume(data: torch.Tensor, pixel_size_angstrom: float) -> Volume:
    return Volume(data=data.cpu().numpy().astype(np.float32), pixel_size_angstrom=pixel_size_angstrom)


def _check_poses(particles: ParticleSet, state: RefineState) -> None:
    usable = np.bincount(state.half[np.unique(state.kept.particle.numpy())], minlength=3)[1:]
    if usable.min() == 0:
        raise InputError(
            f"half sets of {usable[0]} and {usable[1]} usable particles are left: the other images are not "
            f"finite or constant ({prepare.name_images(particles, np.arange(len(particles)))})"
        )


def _result(problem: Problem, settings: RefineSettings, state: RefineState) -> RefineResult:
    if state.unfiltered is None or state.mask is None or state.combined is None:
        raise ValueError("a refinement has a result after its last round")
    loader = problem.loader
    pixel = loader.pixel_size_angstrom
    halves = (_volume(state.unfiltered[0], pixel), _volume(state.unfiltered[1], pixel))
    mask = _volume(state.mask, pixel)
    curves = gold_standard_fsc(*halves, mask, seed=settings.seed)
    finest = loader.extent_angstrom / loader.points.max_shell
    if settings.resolution_limit_angstrom is None and curves.resolution_angstrom < 1.02 * finest:
        problem.observer.notice(
            f"the resolution reaches the limit of the images ({finest:.2f} Å at {pixel:.4g} Å per pixel): "
            "particles extracted with smaller pixels may show more"
        )
    refined, unusable = _refined_particles(loader.particles, state, loader.extent_angstrom)
    if len(unusable):
        problem.observer.notice(
            f"{len(unusable)} of {len(loader.particles)} particles have images that are not finite or "
            f"constant and were left out: {prepare.name_images(loader.particles, unusable)}"
        )
    usable = np.setdiff1d(np.arange(len(loader.particles)), unusable)
    return RefineResult(
        half_maps=halves,
        map=_volume(state.combined, pixel),
        mask=mask,
        curves=curves,
        resolution_angstrom=curves.resolution_angstrom,
        particles=refined,
        unusable=unusable,
        uncertainty_deg=_rows(state.uncertainty_deg, usable),
        log_likelihood=_rows(state.log_likelihood, usable),
        noise=state.noise.cpu().numpy(),
        history=state.history,
        reason=state.finished,
        diameter_angstrom=problem.schedule.diameter_angstrom,
        initial_resolution_angstrom=problem.schedule.initial_resolution_angstrom,
        curves_of_rounds=state.curves,
        scheme=settings.scheme,
        symmetry=settings.symmetry,
    )


def _rows(values: np.ndarray | None, index: np.ndarray) -> np.ndarray:
    return np.zeros(len(index)) if values is None else values[index]


def _refined_particles(
    particles: ParticleSet, state: RefineState, extent: float
) -> tuple[ParticleSet, np.ndarray]:
    """The usable particles with all that was found about them, and the rows of the others."""
    rotation, shift, weight = best_poses(state.kept, len(particles))
    usable = np.flatnonzero(weight > 0)
    columns = {
        "rlnLogLikeliContribution": _rows(state.log_likelihood, usable),
        "rlnMaxValueProbDistribution": weight[usable],
        UNCERTAINTY_COLUMN: _rows(state.uncertainty_deg, usable),
    }
    posed = particles.with_poses(rotation, shift * extent)
    posed = replace(posed, shift_xyz_angstrom=undistorted_shifts(posed, back=True))
    found = replace(posed, half=state.half.astype(np.int64))
    found = found.take(usable)
    extra = found.extra.with_columns(columns)
    return replace(found, extra=extra), np.flatnonzero(weight == 0)
