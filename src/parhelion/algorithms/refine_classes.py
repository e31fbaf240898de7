"""Several structures refined from one set of particles and one starting map.

All particles are refined together first, as if they were alike: poses are what classes can be told apart by.
Then they are told apart while their poses are refined in each class (``classify3d``), coarse differences
before fine ones. At last every class is refined by itself on its own particles, in the half sets of the
beginning, and has a resolution of its own. The maps that classes start from come from the particles alone:
the reference has no say in what differs.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from parhelion.algorithms.class_settings import LEAST_CYCLES
from parhelion.algorithms.classify3d import Classification, ClassifySettings, ClassResult, classify3d
from parhelion.algorithms.refine3d import (
    UNCERTAINTY_COLUMN,
    RefineResult,
    RefineSettings,
    RoundMaps,
    refine3d,
)
from parhelion.contracts import Cancel, Executor, Observer, ParticleSource
from parhelion.errors import ParameterError
from parhelion.model.particles import ParticleSet
from parhelion.model.volume import Volume

FEWEST = 40
"""A class of fewer particles keeps the map of the classification and is not refined."""
FEWEST_OF_HALF = 10
CISTEM_LIMIT_ANGSTROM, CISTEM_ROUNDS = 10.0, 9
"""In cisTEM's scheme classes are told apart by no finer detail than this, in that many rounds at least, and
until occupancies change by less than one percent (as everywhere: ``class_schedule.SETTLED``)."""
FITS = ("rlnLogLikeliContribution", UNCERTAINTY_COLUMN)


@dataclass(frozen=True, kw_only=True)
class ClassesSettings:
    """``refine`` is how all particles, and each class, are refined; ``symmetry`` is that of every class, or
    one for each. ``align``, ``resolution_limit_angstrom`` and ``rounds`` are those of ClassifySettings."""

    refine: RefineSettings
    classes: int
    symmetry: tuple[str, ...] = ("C1",)
    align: str = "local"
    resolution_limit_angstrom: float | None = None
    rounds: int = 30

    def __post_init__(self) -> None:
        if len(self.symmetry) not in (1, self.classes):
            raise ParameterError(
                f"{len(self.symmetry)} symmetries for {self.classes} classes; one for all or one for each"
            )


@dataclass(frozen=True, kw_only=True)
class RefinedClass:
    """Class ``number`` (from 1): what the classification made, and its own refinement, None where its
    ``members`` were too few."""

    number: int
    classified: ClassResult
    members: int
    refined: RefineResult | None


@dataclass(frozen=True, kw_only=True)
class RefinedClasses:
    """The refinement of ``all`` particles together, the ``classification``, and the classes, largest first.

    ``particles`` have class numbers, occupancies (``model.occupancy``), and the pose found in their class.
    """

    together: RefineResult
    classification: Classification
    classes: tuple[RefinedClass, ...]
    particles: ParticleSet


class ImagesOf:
    """The images of some particles of a table: views are rows of ``particles.take(index)``."""

    def __init__(self, source: ParticleSource, particles: ParticleSet, index: np.ndarray) -> None:
        self.source, self.box = source, source.box
        rank = np.full(len(particles), -1)
        rank[index] = np.arange(len(index))
        owner = rank[particles.views.particle]
        order = np.argsort(owner, kind="stable")
        self.views = order[owner[order] >= 0]

    def images(self, views: np.ndarray) -> np.ndarray:
        """See ParticleSource."""
        return self.source.images(self.views[views])


class Tagged:
    """An Observer whose rows and stages say which part of the work they belong to."""

    def __init__(self, inner: Observer, part: str) -> None:
        self.inner, self.part = inner, part

    def notice(self, message: str) -> None:
        """See Observer."""
        self.inner.notice(f"{self.part}: {message}")

    def progress(self, stage: str, done: float, total: float) -> None:
        """See Observer."""
        self.inner.progress(f"{self.part}, {stage}", done, total)

    def record(self, table: str, **values: float | int | str) -> None:
        """See Observer."""
        self.inner.record(f"{table}, {self.part}", **values)


def refine_classes(
    particles: ParticleSet,
    source: ParticleSource,
    reference: Volume,
    settings: ClassesSettings,
    *,
    executor: Executor,
    observer: Observer,
    cancel: Cancel,
    mask: Volume | None = None,
    device: str = "cpu",
    checkpoints: Path | None = None,
    resume: bool = False,
    available_bytes: int | None = None,
    after_round: Callable[[str, RoundMaps], None] | None = None,
) -> RefinedClasses:
    """Arguments and errors as of ``refine3d``; ``mask`` holds for all classes. ``after_round`` is told what
    every round of a refinement made, and of which: ``together``, ``class_001`` ….

    The refinements and the classification keep their state in folders of ``checkpoints``.
    """
    common: dict[str, Any] = {
        "executor": executor,
        "cancel": cancel,
        "device": device,
        "available_bytes": available_bytes,
    }
    kept = {"mask": mask, "resume": resume, **common}
    together = refine3d(
        particles,
        source,
        reference,
        settings.refine,
        observer=Tagged(observer, "all together"),
        checkpoints=_folder(checkpoints, "together"),
        after_round=after_round and partial(after_round, "together"),
        **kept,
    )
    usable = np.setdiff1d(np.arange(len(particles)), together.unusable)
    source = ImagesOf(source, particles, usable)
    found = classify3d(
        together.particles,
        source,
        _classify_settings(settings, together),
        observer=Tagged(observer, "classes"),
        checkpoints=_folder(checkpoints, "classes"),
        resume=resume,
        **common,
    )
    told = np.setdiff1d(np.arange(len(together.particles)), found.unusable)
    source = ImagesOf(source, together.particles, told)
    classes = _each_refined(found, source, settings, together, observer, checkpoints, after_round, kept)
    return RefinedClasses(
        together=together,
        classification=found,
        classes=tuple(classes),
        particles=_with_refined_poses(found, classes),
    )


def _each_refined(
    found: Classification,
    source: ParticleSource,
    settings: ClassesSettings,
    together: RefineResult,
    observer: Observer,
    checkpoints: Path | None,
    after_round: Callable[[str, RoundMaps], None] | None,
    kept: dict[str, Any],
) -> list[RefinedClass]:
    """The refinement of every class, one after the other; ``kept`` is what ``refine3d`` takes besides."""
    classes = []
    for number, one in enumerate(found.classes, 1):
        name = f"class_{number:03d}"
        classes.append(
            _refined(
                found,
                one,
                number,
                source,
                settings,
                together,
                observer=Tagged(observer, f"class {number}"),
                checkpoints=_folder(checkpoints, name),
                after_round=after_round and partial(after_round, name),
                **kept,
            )
        )
    return classes


def _folder(checkpoints: Path | None, name: str) -> Path | None:
    if checkpoints is None:
        return None
    folder = checkpoints / name
    folder.mkdir(exist_ok=True)
    return folder


def _classify_settings(settings: ClassesSettings, together: RefineResult) -> ClassifySettings:
    diameter, limit = together.diameter_angstrom, settings.resolution_limit_angstrom
    cistem = settings.refine.scheme == "cistem"
    if cistem and limit is None:
        limit = min(CISTEM_LIMIT_ANGSTROM, diameter / LEAST_CYCLES)
    return ClassifySettings(
        diameter_angstrom=diameter,
        classes=settings.classes,
        symmetry=settings.symmetry,
        align=settings.align,
        resolution_limit_angstrom=limit,
        rounds=settings.rounds,
        least_rounds=CISTEM_ROUNDS if cistem else ClassifySettings.least_rounds,
        seed=settings.refine.seed,
    )


def _refined(
    found: Classification,
    one: ClassResult,
    number: int,
    source: ParticleSource,
    settings: ClassesSettings,
    together: RefineResult,
    **kept: Any,
) -> RefinedClass:
    rows = np.flatnonzero(found.particles.class_number == number)
    members = found.particles.take(rows)
    result = RefinedClass(number=number, classified=one, members=len(rows), refined=None)
    halves = np.bincount(np.asarray(members.half, np.int64), minlength=3)[1:3] if len(rows) else np.zeros(2)
    if len(rows) < FEWEST or halves.min() < FEWEST_OF_HALF:
        observer: Observer = kept["observer"]
        observer.notice(
            f"{len(rows)} particles are too few to be refined by themselves (at least {FEWEST}, "
            f"{FEWEST_OF_HALF} in each half); the map of the classification stands for them"
        )
        return result
    images = ImagesOf(source, found.particles, rows)
    own = replace(settings.refine, symmetry=one.symmetry, diameter_angstrom=together.diameter_angstrom)
    return replace(result, refined=refine3d(members, images, one.map, own, **kept))


def _with_refined_poses(found: Classification, classes: list[RefinedClass]) -> ParticleSet:
    """All particles in the order of the table, with the poses of their class's refinement."""
    particles = found.particles
    if particles.rotation is None or particles.shift_xyz_angstrom is None or particles.class_number is None:
        raise ValueError("classified particles have poses and classes")
    rotation, shift = particles.rotation.copy(), particles.shift_xyz_angstrom.copy()
    columns: dict[str, np.ndarray] = {}
    for one in classes:
        if one.refined is None:
            continue
        rows = np.delete(np.flatnonzero(particles.class_number == one.number), one.refined.unusable)
        rotation[rows] = one.refined.particles.rotation
        shift[rows] = one.refined.particles.shift_xyz_angstrom
        for name in FITS:
            values = columns.setdefault(name, np.array(particles.extra[name], np.float64))
            values[rows] = one.refined.particles.extra[name]
    return replace(
        particles,
        rotation=rotation,
        shift_xyz_angstrom=shift,
        extra=particles.extra.with_columns(columns),
    )
