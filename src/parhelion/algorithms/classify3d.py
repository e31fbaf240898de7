"""Classification in three dimensions: particles with poses, several maps, and who belongs to which.

No map is needed to begin with. The particles are one class at first; a class is split along the strongest
component of what its particles differ by (``engine.variability``), some rounds bring both parts, and their
poses where wanted, to rest, and the class whose split explains most is next. What differs grossly comes apart
first, and its poses with it, so that what differs in one domain is looked for among its like.

Classes may also start from random parts of the particles, whose maps differ by noise only. Then posteriors
are kept soft at first: while weights are nearly linear in what they are made from, every round amplifies the
strongest difference, as a power iteration does; hard assignments would freeze the first noise. How much a
posterior may know is prescribed in nats and rises; at the end the likelihood counts as it is. Or classes
start from given maps, or from those of an earlier classification.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

from parhelion.algorithms import class_checkpoint
from parhelion.algorithms import preparation as prepare
from parhelion.algorithms.class_alike import pairs_of, verdict
from parhelion.algorithms.class_schedule import (
    History,
    between,
    draining,
    round_plan,
    rounds_with,
    settled,
    target_nats,
    with_classes,
)
from parhelion.algorithms.class_settings import Classification, ClassifySettings, ClassResult
from parhelion.algorithms.class_start import (
    bare_state,
    random_start,
    start_from_classes,
    start_from_maps,
)
from parhelion.algorithms.class_trials import next_split
from parhelion.contracts import Cancel, Executor, Observer, ParticleSource
from parhelion.engine.candidates import Candidates
from parhelion.engine.checkpoint import fingerprint
from parhelion.engine.class_posterior import belongs_to, likeliest
from parhelion.engine.classes import ClassProblem, ClassState, class_round, maps_at_given_poses
from parhelion.engine.halves import HalfMaps
from parhelion.engine.loader import EDGE_PIXELS, ParticleLoader, undistorted_shifts
from parhelion.engine.memory import MemoryPlan, plan_memory
from parhelion.engine.points import FourierPoints
from parhelion.engine.schedule import SEARCH_CYCLES
from parhelion.engine.solvent import Solvent
from parhelion.errors import InputError, MetadataError, ParameterError
from parhelion.geometry.symmetry import symmetry_group
from parhelion.images.masks import spherical_mask
from parhelion.model.occupancy import occupancies, with_occupancies
from parhelion.model.particles import ParticleSet
from parhelion.model.volume import Volume

__all__ = [
    "ClassResult",
    "Classification",
    "ClassifySettings",
    "classify3d",
    "memory_plan",
    "resolution_limit",
]

JOINED_ANGSTROM = 60.0
CYCLES = 14.0
"""Cycles per particle diameter that classes are told apart by unless the user says otherwise."""
EDGE_OF_FOCUS_PIXELS = 4.0


def resolution_limit(settings: ClassifySettings, pixel_size_angstrom: float) -> float:
    """The finest detail in Å that classes are told apart by."""
    wanted = settings.resolution_limit_angstrom or settings.diameter_angstrom / CYCLES
    return max(wanted, 2.1 * pixel_size_angstrom)


def focus_of(settings: ClassifySettings, box: int, pixel_size_angstrom: float) -> np.ndarray | None:
    """The soft sphere ``(box, box, box)`` that tells classes apart, or None. Raises ParameterError."""
    if settings.focus is None:
        return None
    *centre, radius = settings.focus
    shift = [round(c / pixel_size_angstrom) for c in reversed(centre)]
    if any(abs(s) > box // 2 for s in shift):
        raise ParameterError(
            f"the centre of the focus {tuple(centre)} Å lies outside the box, which ends "
            f"{box * pixel_size_angstrom / 2:.0f} Å from its middle"
        )
    if radius > settings.diameter_angstrom:
        raise ParameterError(
            f"a focus of {radius:g} Å radius holds the whole particle of {settings.diameter_angstrom:g} Å "
            f"diameter wherever its centre lies; give a smaller one, or none"
        )
    sphere = spherical_mask(box, pixel_size_angstrom, radius, EDGE_OF_FOCUS_PIXELS * pixel_size_angstrom)
    return np.roll(sphere, shift, axis=(0, 1, 2))


def memory_plan(
    count: int, box: int, pixel_size_angstrom: float, settings: ClassifySettings, available_bytes: int | None
) -> MemoryPlan:
    """As for a refinement, with the maps and sums of every class."""
    shell = prepare.highest_shell(box, pixel_size_angstrom, None)
    extent = box * pixel_size_angstrom
    points = FourierPoints(box, shell)
    searched = min(SEARCH_CYCLES * extent / settings.diameter_angstrom, shell)
    plan = plan_memory(
        particles=count,
        box=box,
        max_shell=shell,
        search_points=points.count(searched) if settings.align == "global" else 0,
        operators=1,
        top=ClassProblem.top,
        available_bytes=available_bytes,
    )
    more = (settings.classes - 1) * (plan.fixed_bytes // 2)
    cache = max(plan.cache_bytes - more, plan.cache_bytes // 4)
    return replace(plan, fixed_bytes=plan.fixed_bytes + more, cache_bytes=cache)


def classify3d(
    particles: ParticleSet,
    source: ParticleSource,
    settings: ClassifySettings,
    *,
    executor: Executor,
    observer: Observer,
    cancel: Cancel,
    references: Sequence[Volume] | None = None,
    device: str = "cpu",
    checkpoints: Path | None = None,
    resume: bool = False,
    available_bytes: int | None = None,
) -> Classification:
    """Sort ``particles``, which have poses, into classes.

    ``references``, one per class, are what classes start from instead. The state of every round is kept in
    the folder ``checkpoints``; with ``resume`` the newest goes on, to the same result. Raises MetadataError
    where poses are missing, InputError where no image can be used, ParameterError where settings contradict
    each other or a checkpoint is of another run, and Cancelled between chunks.
    """
    prepare.check_count(particles)
    if particles.rotation is None:
        raise MetadataError(
            "a classification starts from poses and the particles have none (rlnAngleRot, rlnAngleTilt, "
            "rlnAnglePsi); refine them first"
        )
    particles = prepare.with_noise_groups(particles)
    problem = _problem(particles, source, settings, executor, observer, cancel, device, available_bytes)
    limit = resolution_limit(settings, problem.loader.pixel_size_angstrom)
    mark = _mark(particles, settings, references) if checkpoints is not None else ""
    annealed = settings.begins == "random" and references is None
    saved = None
    if checkpoints is not None and resume:
        saved = class_checkpoint.load_last(checkpoints, mark, observer)
    if saved is not None:
        state, history = saved
    else:
        state, history = _start(problem, particles, settings, references, limit), []

    def save(state: ClassState, history: History) -> None:
        if checkpoints is not None:
            class_checkpoint.save(checkpoints, state, history, mark)

    state, reason = _all_rounds(problem, settings, state, history, limit, annealed, save)
    _tell_empty(state, observer)
    return _result(problem, settings, state, tuple(history), reason, limit)


def _all_rounds(
    problem: ClassProblem,
    settings: ClassifySettings,
    state: ClassState,
    history: History,
    limit: float,
    annealed: bool,
    save: Callable[[ClassState, History], None],
) -> tuple[ClassState, str]:
    """The last state and why no more rounds were done; ``history`` grows by a row for each."""
    classes = problem.classes
    while (since := rounds_with(history, classes)) < settings.rounds:
        problem.cancel.check()
        if settled(settings, history, since, annealed):
            return state, f"{100 * history[-1]['changed_share']:.1f} % of the particles changed class"
        if not annealed and draining(settings, history):
            return state, "classes would be told apart ever less"
        rounds_now = rounds_with(history, len(state.share))
        now = with_classes(problem, len(state.share))
        if len(state.share) < classes and rounds_now >= between(len(state.share)):
            state = next_split(now, state, classes, settings, limit, len(history))
            problem.observer.notice(f"{len(state.share)} classes from round {len(history) + 1}")
            now, rounds_now = with_classes(problem, len(state.share)), 0
        plan = round_plan(now, settings, len(history), limit, rounds_now, annealed)
        before = state
        state = class_round(now, state, plan, target_nats(settings, since) if annealed else None)
        row = _history_row(now, before, state, len(history))
        problem.observer.record("rounds", **row)
        history.append(row)
        save(state, history)
    return state, f"{settings.rounds} rounds, as many as asked for"


def _mark(particles: ParticleSet, settings: ClassifySettings, references: Sequence[Volume] | None) -> str:
    """What a checkpoint must fit."""
    views = particles.views
    values = {f"setting {name}": value for name, value in asdict(settings).items()}
    values |= {f"reference {k}": one.data for k, one in enumerate(references or ())}
    values |= {
        "rotation": particles.rotation,
        "shift": particles.shift_xyz_angstrom,
        "defocus": views.defocus_u_angstrom,
        "image": views.image_index,
        "class": particles.class_number,
        "occupancies": occupancies(particles),
    }
    return fingerprint(values)


def _start(
    problem: ClassProblem,
    particles: ParticleSet,
    settings: ClassifySettings,
    references: Sequence[Volume] | None,
    limit: float,
) -> ClassState:
    rng = np.random.default_rng((settings.seed, 0))
    state = bare_state(problem, particles, rng)
    if references is not None:
        return start_from_maps(problem, state, references, limit, settings.diameter_angstrom, rng)
    if settings.begins == "input":
        return start_from_classes(problem, state, particles)
    if settings.begins == "random":
        return random_start(problem, state, rng)
    return maps_at_given_poses(replace(problem, symmetries=problem.symmetries[:1]), state)


def _tell_empty(state: ClassState, observer: Observer) -> None:
    for share in state.share:
        if share * len(state.half) < 1:
            observer.notice(f"a class has lost its particles ({share * len(state.half):.2f} are left in it)")


def _problem(
    particles: ParticleSet,
    source: ParticleSource,
    settings: ClassifySettings,
    executor: Executor,
    observer: Observer,
    cancel: Cancel,
    device: str,
    available_bytes: int | None,
) -> ClassProblem:
    box, pixel, diameter = source.box, particles.optics[0].pixel_size_angstrom, settings.diameter_angstrom
    prepare.check_diameter(diameter, box, pixel)
    memory = memory_plan(len(particles), box, pixel, settings, available_bytes)
    loader = ParticleLoader(
        particles=particles,
        source=source,
        points=FourierPoints(box, prepare.highest_shell(box, pixel, None)),
        diameter_angstrom=prepare.mask_diameter(diameter, box, pixel, EDGE_PIXELS),
        cache_bytes=memory.cache_bytes,
        device=torch.device(device),
    )
    focus = focus_of(settings, box, pixel)
    return ClassProblem(
        loader=loader,
        symmetries=tuple(symmetry_group(name) for name in settings.groups),
        solvent=Solvent.within(box, pixel, diameter),
        executor=executor,
        observer=observer,
        cancel=cancel,
        seed=settings.seed,
        align=settings.align,
        shift_angstrom=max(0.1 * diameter, 4 * pixel),
        joined_shell=loader.extent_angstrom / JOINED_ANGSTROM,
        focus=focus,
        chunk=memory.chunk,
    )


def _history_row(
    problem: ClassProblem, before: ClassState, after: ClassState, number: int
) -> dict[str, float | int]:
    first, second = (_class_of(state.kept, len(state.half)) for state in (before, after))
    both = (first >= 0) & (second >= 0)
    extent = problem.loader.extent_angstrom
    row: dict[str, float | int] = {
        "round": number + 1,
        "classes": len(after.share),
        "changed_share": float((first != second)[both].mean()) if both.any() else 1.0,
        "information_nats": after.information,
        "evidence_nats": after.evidence,
        "temperature": after.temperature,
    }
    for k, halves in enumerate(after.halves):
        row[f"share_{k + 1}"] = float(after.share[k])
        row[f"resolution_{k + 1}_angstrom"] = extent / halves.resolved_shell
    return row


def _class_of(kept: Candidates, count: int) -> np.ndarray:
    """Class of each particle's likeliest pose ``(count,)``, -1 where it has none."""
    best = likeliest(kept)
    found = np.full(count, -1)
    if best.reference is not None:
        found[best.particle.numpy()] = best.reference.numpy()
    return found


def _result(
    problem: ClassProblem,
    settings: ClassifySettings,
    state: ClassState,
    history: tuple[Mapping[str, float | int], ...],
    reason: str,
    limit: float,
) -> Classification:
    loader = problem.loader
    best = likeliest(state.kept)
    if not len(best) or best.weight is None or best.reference is None:
        raise InputError("none of the images can be used (not finite, or constant)")
    order = np.argsort(-state.share, kind="stable")
    rows = best.particle.numpy()
    chosen = loader.particles.take(rows).with_poses(
        best.rotation.numpy(), best.shift.numpy() * loader.extent_angstrom
    )
    chosen = replace(chosen, shift_xyz_angstrom=undistorted_shifts(chosen, back=True))
    belongs = belongs_to(state.kept, problem.classes, len(state.half))
    shares = belongs.numpy()[rows][:, order]
    columns = {"rlnMaxValueProbDistribution": shares.max(axis=1)}
    chosen = replace(chosen, half=state.half[rows].astype(np.int64), extra=chosen.extra.with_columns(columns))
    chosen = with_occupancies(chosen, 100.0 * shares / shares.sum(1, keepdims=True))
    classes = tuple(_class(loader, state.halves[k], float(state.share[k]), settings.groups[k]) for k in order)
    unusable = np.setdiff1d(np.arange(len(state.half)), rows)
    pairs = pairs_of(state, order, loader.extent_angstrom)
    if (told := verdict(pairs)) is not None:
        problem.observer.notice(told)
    return Classification(
        pairs=pairs,
        classes=classes,
        particles=chosen,
        unusable=unusable,
        history=history,
        reason=reason,
        limit_angstrom=limit,
    )


def _class(loader: ParticleLoader, halves: HalfMaps, share: float, symmetry: str) -> ClassResult:
    def volume(data: torch.Tensor) -> Volume:
        return Volume(
            data=data.cpu().numpy().astype(np.float32), pixel_size_angstrom=loader.pixel_size_angstrom
        )

    return ClassResult(
        map=volume((halves.maps[0] + halves.maps[1]) / 2),
        half_maps=(volume(halves.unfiltered[0]), volume(halves.unfiltered[1])),
        mask=volume(halves.mask),
        fsc=halves.fsc,
        resolution_angstrom=loader.extent_angstrom / halves.resolved_shell,
        share=share,
        symmetry=symmetry,
    )
