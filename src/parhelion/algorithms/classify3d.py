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

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

from parhelion.algorithms import class_checkpoint
from parhelion.algorithms import preparation as prepare
from parhelion.algorithms.class_settings import Classification, ClassifySettings, ClassResult
from parhelion.algorithms.class_start import (
    bare_state,
    random_start,
    split,
    start_from_classes,
    start_from_maps,
)
from parhelion.contracts import Cancel, Executor, Observer, ParticleSource
from parhelion.engine.candidates import Candidates
from parhelion.engine.checkpoint import fingerprint
from parhelion.engine.classes import ClassProblem, ClassState, class_round, likeliest, maps_at_given_poses
from parhelion.engine.halves import HalfMaps
from parhelion.engine.loader import EDGE_PIXELS, ParticleLoader, undistorted_shifts
from parhelion.engine.memory import MemoryPlan, plan_memory
from parhelion.engine.points import FourierPoints
from parhelion.engine.schedule import SEARCH_CYCLES, Plan
from parhelion.engine.solvent import Solvent
from parhelion.errors import InputError, MetadataError, ParameterError
from parhelion.geometry.symmetry import symmetry_group
from parhelion.images.masks import spherical_mask
from parhelion.model.occupancy import with_occupancies
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

BETWEEN = 4
"""Rounds between two splits."""
SEARCHED_FIRST, SEARCHED_EVERY = 4, 3
"""With all classes there, the first rounds search everywhere, later every third."""
FEWEST_ROUNDS = 3
PATIENCE = 3
"""Rounds without telling classes apart better, after which the best one is the result."""
FIRST_NATS, LAST_SHARE = 0.02, 0.7
"""What posteriors know in the first round, and their share of ln(classes) when annealing ends."""
ANNEALED = 0.75
"""Share of the rounds after which the likelihood counts as it is."""
SETTLED = 0.01
"""The classification is over when fewer particles change class."""
JOINED_ANGSTROM = 60.0
CYCLES = 14.0
"""Cycles per particle diameter that classes are told apart by unless the user says otherwise."""
EDGE_OF_FOCUS_PIXELS = 4.0

History = list[dict[str, float | int]]


def resolution_limit(settings: ClassifySettings, pixel_size_angstrom: float) -> float:
    """The finest detail in Å that classes are told apart by."""
    wanted = settings.resolution_limit_angstrom or settings.diameter_angstrom / CYCLES
    return max(wanted, 2.1 * pixel_size_angstrom)


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

    def best_round(done: History) -> int:
        return len(done) if annealed else _best_round(done, problem.classes)

    saved = None
    if checkpoints is not None and resume:
        saved = class_checkpoint.load_last(checkpoints, mark, observer, best_round)
    if saved is not None:
        state, history = saved
    else:
        state, history = _start(problem, particles, settings, references, limit), []
    best = state
    reason = f"{settings.rounds} rounds, as many as asked for"
    while (since := _rounds_with(history, problem.classes)) < settings.rounds:
        cancel.check()
        if _settled(settings, history, since, annealed):
            reason = f"{100 * history[-1]['changed_share']:.1f} % of the particles changed class"
            break
        rounds_now = _rounds_with(history, len(state.share))
        now = _with_classes(problem, len(state.share))
        if len(state.share) < problem.classes and rounds_now >= _between(len(state.share)):
            rng = np.random.default_rng((settings.seed, 1, len(history)))
            _, state = split(now, state, problem.classes, limit, settings.diameter_angstrom, rng)
            observer.notice(f"{len(state.share)} classes from round {len(history) + 1}")
            now, rounds_now = _with_classes(problem, len(state.share)), 0
        elif len(history) - best_round(history) >= PATIENCE:
            reason = f"{PATIENCE} rounds told classes apart no better"
            break
        plan = _plan(now, settings, len(history), limit, rounds_now)
        before = state
        state = class_round(now, state, plan, _target_nats(settings, since) if annealed else None)
        row = _history_row(now, before, state, len(history))
        observer.record("rounds", **row)
        history.append(row)
        if best_round(history) == len(history):
            best = state
        if checkpoints is not None:
            class_checkpoint.save(checkpoints, state, history, mark)
    if (number := best_round(history)) < len(history):
        state, reason = best, f"{reason}; classes were told apart best in round {number}, which is kept"
    _tell_empty(state, observer)
    return _result(problem, settings, state, tuple(history), reason, limit)


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


def _best_round(history: History, classes: int) -> int:
    """The number of the round, with all classes there, whose posteriors knew most about the class.

    Particles are compared with maps of the other half: what they know is not what they put there, and less of
    it means that a class is losing what it stood for. Before all classes are there, the last round.
    """
    known = [row["information_nats"] if row["classes"] == classes else -math.inf for row in history]
    if not known or max(known) == -math.inf:
        return len(history)
    return len(known) - int(np.argmax(known[::-1]))


def _rounds_with(history: History, classes: int) -> int:
    """How many rounds were done with so many classes."""
    return sum(row["classes"] == classes for row in history)


def _between(classes: int) -> int:
    """Rounds before the next split: one class needs no more than its noise."""
    return 1 if classes == 1 else BETWEEN


def _with_classes(problem: ClassProblem, classes: int) -> ClassProblem:
    """The problem while there are so many classes.

    Classes are split at the poses that the particles came with, which agree with each other; a search gives
    the particles of another molecule poses that agree with nothing yet, and what these differ by looks like
    more structures than there are.
    """
    early = problem.align == "global" and classes < problem.classes
    return replace(problem, symmetries=problem.symmetries[:classes], align="none" if early else problem.align)


def _settled(settings: ClassifySettings, history: History, since: int, annealed: bool) -> bool:
    least = ANNEALED * settings.rounds + 2 if annealed else FEWEST_ROUNDS
    return since >= least and history[-1]["changed_share"] < SETTLED


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
    focus = None
    if settings.focus is not None:
        *centre, radius = settings.focus
        focus = spherical_mask(box, pixel, radius, EDGE_OF_FOCUS_PIXELS * pixel)
        shift = [round(c / pixel) for c in reversed(centre)]
        if any(abs(s) > box // 2 for s in shift):
            raise ParameterError(f"the centre of the focus {tuple(centre)} Å lies outside the box")
        focus = np.roll(focus, shift, axis=(0, 1, 2))
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


def _target_nats(settings: ClassifySettings, number: int) -> float | None:
    """What this round's posteriors should know more than the shares of the classes; None: all they can."""
    progress = number / max(settings.rounds - 1, 1)
    if progress >= ANNEALED:
        return None
    last = LAST_SHARE * math.log(settings.classes)
    return FIRST_NATS * (last / FIRST_NATS) ** (progress / ANNEALED)


def _plan(
    problem: ClassProblem, settings: ClassifySettings, number: int, limit_angstrom: float, since: int
) -> Plan:
    """Round ``number``; ``since`` rounds were done with as many classes."""
    extent = problem.loader.extent_angstrom
    shell = min(extent / limit_angstrom, problem.loader.points.max_shell)
    searched = min(SEARCH_CYCLES * extent / settings.diameter_angstrom, shell)
    return Plan(
        round=number,
        search=problem.align == "global" and _searches(settings, since),
        grid_order=2,
        search_shell=searched,
        refine_shell=shell,
        shift_radius_angstrom=problem.shift_angstrom,
        shift_step_angstrom=0.4 * extent / searched,
    )


def _searches(settings: ClassifySettings, since: int) -> bool:
    if settings.begins == "random" or since < SEARCHED_FIRST:
        return True
    return since % SEARCHED_EVERY == 0


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
    belongs = torch.zeros((len(state.half), problem.classes), dtype=torch.float64)
    if (reference := state.kept.reference) is None or (weight := state.kept.weight) is None:
        raise ValueError("a classification ends with weighted poses of known class")
    belongs.index_put_((state.kept.particle, reference), weight, accumulate=True)
    shares = belongs.numpy()[rows][:, order]
    columns = {"rlnMaxValueProbDistribution": shares.max(axis=1)}
    chosen = replace(chosen, half=state.half[rows].astype(np.int64), extra=chosen.extra.with_columns(columns))
    chosen = with_occupancies(chosen, 100.0 * shares / shares.sum(1, keepdims=True))
    classes = tuple(_class(loader, state.halves[k], float(state.share[k]), settings.groups[k]) for k in order)
    unusable = np.setdiff1d(np.arange(len(state.half)), rows)
    return Classification(
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
