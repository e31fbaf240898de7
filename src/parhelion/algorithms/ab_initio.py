"""Structures from nothing: expectation-maximisation over all poses and classes, from several starts.

Each start begins with random poses and alternates the matrix products of ``engine.soft`` while the
resolution limit rises and the temperature follows what the posteriors know. What decided in experiments
on real and simulated stacks: the whole posterior instead of a few best poses, a grid no coarser than 15°,
a prior per shell from the map's own power (a constant one shrinks strong shells and drives the map to its
periphery), and the temperature rule. Starts are judged by particles that none of them has seen.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from parhelion.algorithms import preparation as prepare
from parhelion.algorithms.ab_initio_plan import cache_bytes, kept_shell, map_box, planned_bytes
from parhelion.algorithms.ab_initio_poses import assigned
from parhelion.algorithms.ab_initio_rounds import AbInitioProblem, RoundOutcome, evidence_of, soft_round
from parhelion.algorithms.ab_initio_schedule import RoundPlan, resets, round_plan, shell_limits, step_for
from parhelion.algorithms.ab_initio_settings import AbInitioResult, AbInitioSettings, Start
from parhelion.algorithms.ab_initio_start import check_references, given_maps, random_maps
from parhelion.algorithms.map_alignment import align_maps
from parhelion.algorithms.symmetry_search import find_symmetry
from parhelion.contracts import Cancel, Executor, Observer, ParticleSource
from parhelion.engine.annealing import Annealing
from parhelion.engine.loader import EDGE_PIXELS, ParticleLoader
from parhelion.engine.noise import background_noise, on_points
from parhelion.engine.points import FourierPoints
from parhelion.engine.solvent import Solvent
from parhelion.errors import InputError
from parhelion.fourier.resample import resample_volume
from parhelion.geometry.symmetry import SymmetryGroup, symmetry_group
from parhelion.images.masks import spherical_mask
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

LEAST_SHIFT_ANGSTROM = 10.0
# Particles set aside to judge the starts: a share of all, at most so many.
JUDGE_SHARE, MOST_JUDGES = 0.2, 400
NOISE_SAMPLE = 1000
SYMMETRY_ROUNDS = 8
INNER_EDGE_PIXELS = 5
# From so many operators on, every second start imposes the symmetry from its first round: particles of
# such groups are so nearly spherical that C1 may not find them. Smaller groups imposed early end in compact
# wrong maps, so there they are found later.
LARGE_GROUP = 12
# A random start with symmetry imposed costs little and often ends in a wrong packing of the subunits, which
# shows early: the best so many go on until this share of the rounds.
HEATS = ((0.2, 8), (0.4, 3), (1.0, 1))
AT_THE_END = Annealing(rounds=100, done=99)
# Below this correlation between the map and its turned copies the symmetry is in doubt.
DOUBTFUL_SYMMETRY = 0.5


@dataclass(kw_only=True)
class _Course:
    """Where a start is: its maps, the round that comes next, and what is past but not told yet."""

    volumes: Tensor
    annealing: Annealing
    passed: list[tuple[Annealing, RoundOutcome, Tensor]] = field(default_factory=list)


RoundDone = Callable[[int, int, tuple[Volume, ...]], None]
"""Hears the number of the start, the round (from 1) and the maps of all classes after it."""


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
) -> AbInitioResult:
    """First maps of ``particles``; see the module. ``references``, one per class, replace the random start.

    Raises InputError where no start finds anything, ParameterError where settings contradict each other.
    """
    check_references(references, settings.classes)
    group = symmetry_group(settings.symmetry)
    problem = _problem(particles, source, settings, executor, observer, cancel, device, available_bytes)
    imposed = [_imposes(settings, group, number, bool(references)) for number in range(settings.starts)]
    maps: list[Tensor] = []
    for number in range(settings.starts):
        rng = np.random.default_rng((settings.seed + number, 2))
        begin = maps[-1] if maps and settings.start_from == "previous" else None
        if begin is None and references:
            begin = given_maps(problem, references, rng)
        symmetry = group if imposed[number] else None
        maps.append(_one_start(problem, settings, number + 1, begin, rng, symmetry, round_done))
    step = _last_step(settings, problem)
    evidence = [evidence_of(problem, volumes, step) for volumes in maps]
    chosen = int(np.argmax(evidence))
    if not np.isfinite(evidence[chosen]):
        raise InputError("no start led to a map; check the particles' contrast, pixel size and CTF values")
    return _result(problem, source.box, settings, maps, evidence, chosen, imposed[chosen], group)


def _imposes(settings: AbInitioSettings, group: SymmetryGroup, number: int, given: bool) -> bool:
    """Whether start ``number`` (from 0) has the symmetry from its first round; given maps lie anyhow."""
    if settings.impose == "auto":
        return len(group) >= LARGE_GROUP and number % 2 == 0 and not given
    return settings.impose == "always" and len(group) > 1


def _problem(
    particles: ParticleSet,
    source: ParticleSource,
    settings: AbInitioSettings,
    executor: Executor,
    observer: Observer,
    cancel: Cancel,
    device: str,
    available_bytes: int | None,
) -> AbInitioProblem:
    """Everything that all starts share; maps live on a grid just fine enough for the last round."""
    prepare.check_count(particles)
    pixel, diameter = particles.optics[0].pixel_size_angstrom, settings.diameter_angstrom
    prepare.check_diameter(diameter, source.box, pixel)
    extent = source.box * pixel
    first, last = shell_limits(settings, extent, prepare.highest_shell(source.box, pixel, None))
    points = FourierPoints(source.box, kept_shell(source.box, pixel, last))
    particles = prepare.with_noise_groups(particles)
    loader = ParticleLoader(
        particles=particles,
        source=source,
        points=points,
        diameter_angstrom=prepare.mask_diameter(diameter, source.box, pixel, EDGE_PIXELS),
        cache_bytes=cache_bytes(available_bytes),
        device=torch.device(device),
    )
    rng = np.random.default_rng((settings.seed, 1))
    order = rng.permutation(len(particles))
    judges = min(int(JUDGE_SHARE * len(particles)), MOST_JUDGES)
    box = map_box(points.max_shell, source.box)
    return AbInitioProblem(
        loader=loader,
        noise=on_points(background_noise(loader, NOISE_SAMPLE, rng), points),
        judges=np.sort(order[:judges]),
        rows=np.sort(order[judges:]),
        box=box,
        extent_angstrom=extent,
        first_shell=first,
        last_shell=last,
        shift_angstrom=settings.shift_range_angstrom or max(0.1 * diameter, LEAST_SHIFT_ANGSTROM),
        solvent=_solvent(settings, box, extent / box),
        executor=executor,
        observer=observer,
        cancel=cancel,
    )


def _solvent(settings: AbInitioSettings, box: int, pixel_size_angstrom: float) -> Solvent:
    """Sphere, hollow or not, and whether a mask follows the map inside it."""
    diameter = settings.outer_radius_angstrom / 0.55
    solvent = Solvent.within(box, pixel_size_angstrom, diameter, automatic=settings.automatic_mask)
    if not settings.inner_radius_angstrom:
        return solvent
    edge = INNER_EDGE_PIXELS * pixel_size_angstrom
    start = max(settings.inner_radius_angstrom - edge, 0.5 * pixel_size_angstrom)
    hollow = 1 - spherical_mask(box, pixel_size_angstrom, start, settings.inner_radius_angstrom - start)
    return replace(solvent, sphere=solvent.sphere * hollow)


def _last_step(settings: AbInitioSettings, problem: AbInitioProblem) -> float:
    resolution = problem.extent_angstrom / problem.last_shell
    return settings.angular_step_deg or step_for(settings.diameter_angstrom, resolution)


def _one_start(
    problem: AbInitioProblem,
    settings: AbInitioSettings,
    number: int,
    begin: Tensor | None,
    rng: np.random.Generator,
    symmetry: SymmetryGroup | None,
    round_done: RoundDone | None,
) -> Tensor:
    """The maps ``(c, box, box, box)`` of one start, with ``symmetry`` imposed throughout if given.

    It goes on from ``begin`` or, without, from random maps: one, or where the symmetry is imposed several,
    of which those go on that explain unseen particles best.
    """
    heats = HEATS if begin is None and symmetry is not None else ((1.0, 1),)
    courses = [
        _Course(
            volumes=random_maps(problem, settings.classes, rng) if begin is None else begin,
            annealing=Annealing(rounds=settings.rounds),
        )
        for _ in range(heats[0][1])
    ]
    for until, count in heats:
        if len(courses) > count:
            courses = _best_courses(problem, settings, courses, symmetry)[:count]
        if len(courses) == 1:
            break
        end = min(max(round(until * settings.rounds), 1), settings.rounds)
        for course in courses:
            while course.annealing.done < end:
                course.passed.append(_next_round(problem, settings, course, rng, symmetry))
    course = courses[0]
    for before, outcome, volumes in course.passed:
        _tell(problem, settings, number, before, outcome, volumes, round_done)
    while course.annealing.done < settings.rounds:
        _tell(problem, settings, number, *_next_round(problem, settings, course, rng, symmetry), round_done)
    return course.volumes


def _best_courses(
    problem: AbInitioProblem,
    settings: AbInitioSettings,
    courses: list[_Course],
    symmetry: SymmetryGroup | None,
) -> list[_Course]:
    """The ``courses``, best first, by the held-out particles at the limit they have reached."""
    plan = _plan(problem, settings, courses[0].annealing, symmetry)
    told = [evidence_of(problem, c.volumes, plan.step_deg, plan.limit, symmetry) for c in courses]
    return [courses[i] for i in np.argsort(-np.array(told), kind="stable")]


def _plan(
    problem: AbInitioProblem,
    settings: AbInitioSettings,
    annealing: Annealing,
    symmetry: SymmetryGroup | None,
) -> RoundPlan:
    return round_plan(
        settings,
        annealing,
        limits=(problem.first_shell, problem.last_shell),
        extent_angstrom=problem.extent_angstrom,
        available=len(problem.rows),
        operators=1 if symmetry is None else len(symmetry),
    )


def _next_round(
    problem: AbInitioProblem,
    settings: AbInitioSettings,
    course: _Course,
    rng: np.random.Generator,
    symmetry: SymmetryGroup | None,
) -> tuple[Annealing, RoundOutcome, Tensor]:
    """``course`` a round further; the annealing of that round, its outcome and its maps."""
    problem.cancel.check()
    before = course.annealing
    plan = _plan(problem, settings, before, symmetry)
    course.volumes, outcome = soft_round(problem, course.volumes, plan, rng, symmetry)
    again = settings.schedule == "resets" and resets(before.done, before.rounds)
    # A round back at the first limit tells nothing about the temperature of those that follow.
    course.annealing = before.after(before.target_nats if again else outcome.information)
    return before, outcome, course.volumes


def _tell(
    problem: AbInitioProblem,
    settings: AbInitioSettings,
    number: int,
    before: Annealing,
    outcome: RoundOutcome,
    volumes: Tensor,
    round_done: RoundDone | None,
) -> None:
    _record(problem, number, before, outcome)
    if round_done is not None:
        round_done(number, before.done + 1, _volumes(problem, volumes))
    problem.observer.progress(
        f"start {number} of {settings.starts}", float(before.done + 1), float(settings.rounds)
    )


def _record(problem: AbInitioProblem, number: int, annealing: Annealing, outcome: RoundOutcome) -> None:
    shares = {f"share_{k}": share for k, share in enumerate(outcome.shares, 1)}
    problem.observer.record(
        "rounds",
        start=number,
        round=annealing.done + 1,
        limit_angstrom=outcome.limit_angstrom,
        particles=outcome.particles,
        temperature=annealing.temperature,
        information_nats=outcome.information,
        top_probability=outcome.top,
        evidence=outcome.evidence,
        sigma=outcome.sigma,
        **(shares if len(shares) > 1 else {}),
    )


def _result(
    problem: AbInitioProblem,
    box: int,
    settings: AbInitioSettings,
    maps: list[Tensor],
    evidence: list[float],
    chosen: int,
    imposed: bool,
    group: SymmetryGroup,
) -> AbInitioResult:
    """Symmetry found in the chosen maps, all particles assigned to them, classes by size, starts compared."""
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
    particles, shares = assigned(problem, volumes, _last_step(settings, problem), rng, group)
    order = np.argsort(-shares, kind="stable")
    maps[chosen] = maps[chosen][order]
    full = tuple(_on_images_grid(problem, one, box) for one in _volumes(problem, volumes[order]))
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


def _volumes(problem: AbInitioProblem, volumes: Tensor) -> tuple[Volume, ...]:
    return tuple(Volume(data=one.numpy(), pixel_size_angstrom=problem.pixel_size_angstrom) for one in volumes)


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
    targets = _volumes(problem, maps[chosen])
    starts = []
    for number, volumes in enumerate(maps):
        aligned, agreement = targets, 1.0
        if number != chosen:
            aligned, agreement = _matched(problem, _volumes(problem, volumes), targets, number)
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
        pairs = [[align_maps(volume, target) for target in targets] for volume in volumes]
    except InputError as error:
        problem.observer.notice(f"start {number + 1} cannot be compared: {error}")
        return volumes, 0.0
    agreement = np.array([[np.mean(moved.fsc[1:last]) for moved in row] for row in pairs])
    rows, columns = linear_sum_assignment(-agreement)
    order = rows[np.argsort(columns)]
    ordered = tuple(pairs[row][column].aligned for column, row in enumerate(order))
    return ordered, float(agreement[rows, columns].mean())


def _with_symmetry(
    problem: AbInitioProblem, settings: AbInitioSettings, volumes: Tensor, group: SymmetryGroup
) -> tuple[Tensor, float]:
    """Maps in the frame of the group, refined a few rounds with it, and the least of their correlations."""
    correlations, turned = [], []
    for number, volume in enumerate(_volumes(problem, volumes), 1):
        fit = find_symmetry(volume, group)
        which = "the map" if len(volumes) == 1 else f"map {number}"
        problem.observer.notice(
            f"{settings.symmetry} axes found: {which} agrees with its copies with a correlation of "
            f"{fit.correlation:.2f}"
        )
        correlations.append(fit.correlation)
        turned.append(torch.from_numpy(np.ascontiguousarray(fit.symmetrised.data, dtype=np.float32)))
    symmetric = torch.stack(turned)
    plan = _plan(problem, settings, AT_THE_END, group)
    rng = np.random.default_rng((settings.seed, 3))
    for number in range(SYMMETRY_ROUNDS):
        problem.cancel.check()
        symmetric, _ = soft_round(problem, symmetric, plan, rng, group)
        problem.observer.progress("symmetry imposed", float(number + 1), float(SYMMETRY_ROUNDS))
    return symmetric, min(correlations)
