"""Manual refinement of one structure or several, with cisTEM's parameters: cycles of alignment and maps.

Every class keeps its own poses of all particles. After each cycle occupancies follow from the likelihoods of
the classes, and maps from particles weighted by occupancy and score.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from parhelion.algorithms import preparation as prepare
from parhelion.algorithms.manual import store
from parhelion.algorithms.manual.cropping import cropped, padded
from parhelion.algorithms.manual.cycle import run_cycle
from parhelion.algorithms.manual.problem import ManualProblem, ManualState, make_problem, with_defocus
from parhelion.algorithms.manual.projections import Projections, matching_projections
from parhelion.algorithms.manual.settings import ManualSettings
from parhelion.algorithms.manual.start import fingerprint_of, start_state
from parhelion.algorithms.postprocess.gold_standard import GoldStandard, gold_standard_fsc
from parhelion.contracts import Cancel, Executor, Observer, ParticleSource
from parhelion.engine.loader import undistorted_shifts
from parhelion.errors import InputError, ParameterError
from parhelion.model.occupancy import with_occupancies, without_occupancies
from parhelion.model.particles import ParticleSet
from parhelion.model.volume import Volume

__all__ = ["ManualClass", "ManualResult", "refine_manual"]

CHANGE_COLUMN = "parhelionDefocusChangeAngstrom"


@dataclass(frozen=True, kw_only=True)
class ManualClass:
    """One class: the Wiener-filtered map of its particles (not masked), half maps, mask, curves, mean
    occupancy from 0 to 1, and the particles with this class's poses and scores.

    ``curves_like`` has the box that the curves were taken in, which is smaller where images were cropped."""

    map: Volume
    half_maps: tuple[Volume, Volume]
    mask: Volume
    curves: GoldStandard
    curves_like: Volume
    resolution_angstrom: float
    share: float
    particles: ParticleSet


@dataclass(frozen=True, kw_only=True)
class ManualResult:
    """All classes and the particles with poses and scores of their best one, occupancies of all.

    ``left_out`` are rows of the input without a pose: images that cannot be used, or that no cycle drew.
    ``rows`` are the input's rows of ``particles``; ``references`` what another cycle would compare with, the
    mean of both halves.
    """

    classes: tuple[ManualClass, ...]
    particles: ParticleSet
    rows: np.ndarray
    left_out: np.ndarray
    history: tuple[Mapping[str, float | int], ...]
    noise: np.ndarray
    references: tuple[Volume, ...]


def refine_manual(
    particles: ParticleSet,
    source: ParticleSource,
    references: tuple[Volume, ...],
    settings: ManualSettings,
    *,
    executor: Executor,
    observer: Observer,
    cancel: Cancel,
    class_poses: tuple[ParticleSet, ...] = (),
    mask: Volume | None = None,
    box: int | None = None,
    projections: Projections | None = None,
    device: str = "cpu",
    checkpoints: Path | None = None,
    resume: bool = False,
    available_bytes: int | None = None,
) -> ManualResult:
    """Run the cycles that ``settings`` ask for.

    ``references`` has one map per class, or none: then maps are made from poses and occupancies first.
    ``class_poses`` are the particles with each class's own poses. ``mask`` (0 to 1) replaces the automatic
    one. ``source`` may have cropped images: ``box`` is then the edge that maps are padded to. ``projections``
    takes the images that the particles were found to be, in order (``projections.py``). Raises InputError,
    MetadataError or ParameterError where it cannot be done, and Cancelled between chunks.
    """
    prepare.check_count(particles)
    if references and len(references) != settings.classes:
        raise ParameterError(
            f"{len(references)} references for {settings.classes} classes; give one for each, or none"
        )
    particles = prepare.with_noise_groups(particles)
    whole = box or source.box
    references = tuple(_fitted(one, particles, source, whole, observer, "reference") for one in references)
    mask = None if mask is None else _fitted(mask, particles, source, whole, observer, "mask")
    problem = make_problem(
        particles,
        source,
        settings,
        mask,
        executor=executor,
        observer=observer,
        cancel=cancel,
        device=torch.device(device),
        available_bytes=available_bytes,
    )
    mark = fingerprint_of(problem, particles, references, class_poses, mask)
    saved = checkpoints if resume else None
    state = saved and store.load_last(saved, mark, settings.cycles, observer)
    state = state or start_state(problem, particles, references, class_poses)
    while state.cycle < settings.cycles:
        cancel.check()
        state = run_cycle(problem, state, particles)
        if checkpoints is not None:
            store.save(checkpoints, state, mark)
    if projections is not None:
        # a finished run that is resumed has not come to a cycle, which would have done so
        problem.use_defocus(particles, state.defocus_change_angstrom)
        matching_projections(problem, state, projections)
    return _result(problem, state, particles, whole)


def _fitted(
    volume: Volume, particles: ParticleSet, source: ParticleSource, whole: int, observer: Observer, what: str
) -> Volume:
    """A map on the grid of the particles, whose images were ``whole`` pixels before they were cropped."""
    pixel = particles.optics[0].pixel_size_angstrom
    return cropped(prepare.on_grid_of(volume, whole, pixel, observer, what), source.box)


def _result(problem: ManualProblem, state: ManualState, particles: ParticleSet, whole: int) -> ManualResult:
    rows = np.flatnonzero(state.posed)
    left_out = np.flatnonzero(~state.posed)
    if len(left_out):
        problem.observer.notice(
            f"{len(left_out)} of {len(particles)} particles have no pose (images that are not finite or "
            "constant, or that no cycle drew) and were left out: "
            f"{prepare.name_images(particles, left_out)}"
        )
    if not len(rows):
        raise InputError("none of the images can be used (not finite, or constant)")
    settings = problem.settings
    changed = with_defocus(particles, state.defocus_change_angstrom)
    changed = replace(changed, half=state.half.astype(np.int64))
    tables = [_table(problem, state, changed, number, rows) for number in range(settings.classes)]
    best = state.occupancy[rows].argmax(1)
    return ManualResult(
        classes=tuple(
            _class(problem, state, number, table, rows, whole) for number, table in enumerate(tables)
        ),
        particles=_best_of(tables, best, state.occupancy[rows]),
        rows=rows,
        left_out=left_out,
        history=state.history,
        noise=state.noise.cpu().numpy(),
        references=tuple(
            _volume(problem, (one.references[0] + one.references[1]) / 2) for one in state.solved
        ),
    )


def _table(
    problem: ManualProblem, state: ManualState, particles: ParticleSet, number: int, rows: np.ndarray
) -> ParticleSet:
    """Particles ``rows`` with the poses and scores of one class, in cisTEM's columns."""
    extent = problem.loader.extent_angstrom
    posed = particles.with_poses(state.rotation[number], state.shift[number] * extent)
    posed = replace(posed, shift_xyz_angstrom=undistorted_shifts(posed, back=True))
    scores = state.scores
    columns = {
        "cisTEMOccupancy": state.occupancy[:, number],
        "cisTEMLogP": scores.log_p[number],
        "cisTEMSigma": scores.sigma[number],
        "cisTEMScore": scores.score[number],
        "cisTEMScoreChange": scores.change[number],
    }
    if problem.settings.refine_defocus:
        columns[CHANGE_COLUMN] = state.defocus_change_angstrom
    posed = without_occupancies(posed).take(rows)
    extra = posed.extra.with_columns({name: values[rows] for name, values in columns.items()})
    return replace(posed, extra=extra, class_number=np.full(len(rows), number + 1, np.int64))


def _best_of(tables: list[ParticleSet], best: np.ndarray, occupancy: np.ndarray) -> ParticleSet:
    """Every particle as its best class has it, with the occupancies of all classes."""
    first = tables[0]
    at = np.arange(len(best))

    def chosen(values: list[np.ndarray | None]) -> np.ndarray:
        return np.asarray(np.stack([np.asarray(v) for v in values])[best, at])

    names = [name for name in first.extra if name.startswith("cisTEM")]
    extra = first.extra.with_columns(
        {name: chosen([t.extra[name] for t in tables]) for name in names if len(tables) > 1}
    )
    found = replace(
        first.with_poses(
            chosen([t.rotation for t in tables]), chosen([t.shift_xyz_angstrom for t in tables])
        ),
        extra=extra,
    )
    return with_occupancies(found, occupancy)


def _class(
    problem: ManualProblem,
    state: ManualState,
    number: int,
    table: ParticleSet,
    rows: np.ndarray,
    whole: int,
) -> ManualClass:
    one = state.solved[number]
    halves = (_volume(problem, one.unfiltered[0]), _volume(problem, one.unfiltered[1]))
    mask = _volume(problem, one.mask)
    curves = gold_standard_fsc(*halves, mask, seed=problem.settings.seed)
    return ManualClass(
        map=padded(_volume(problem, one.combined), whole),
        half_maps=(padded(halves[0], whole), padded(halves[1], whole)),
        mask=padded(mask, whole),
        curves=curves,
        curves_like=mask,
        resolution_angstrom=curves.resolution_angstrom,
        share=float(state.occupancy[rows, number].mean() / 100),
        particles=table,
    )


def _volume(problem: ManualProblem, data: torch.Tensor) -> Volume:
    return Volume(
        data=data.cpu().numpy().astype(np.float32), pixel_size_angstrom=problem.loader.pixel_size_angstrom
    )
