"""How a start goes: its random beginnings, the choice among them, and the rounds that follow.

To second order in what deviates from a sphere, a map and the one with the deviation inverted explain images
equally well: the power of projections and their correlations know no sign, which is in third moments only.
A start that is still nearly spherical therefore often settles for the inverted packing, most of all where a
high symmetry is imposed (apoferritin: two of three starts, all with the same wrong map). So after a few
rounds every beginning gets its inverted mate, both go on, and held-out particles decide.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from parhelion.algorithms.ab_initio_rounds import AbInitioProblem, RoundOutcome, evidence_of, soft_round
from parhelion.algorithms.ab_initio_schedule import RoundPlan, resets, round_plan
from parhelion.algorithms.ab_initio_settings import AbInitioSettings
from parhelion.algorithms.ab_initio_start import random_maps
from parhelion.engine.annealing import Annealing
from parhelion.geometry.symmetry import SymmetryGroup
from parhelion.images.masks import radius_grid
from parhelion.model.volume import Volume

# Random beginnings, the share of the rounds after which each gets its inverted mate, and how many go on from
# which share. With symmetry imposed rounds cost little.
TRIES, IMPOSED_TRIES = 1, 4
INVERTED = 0.13
HEATS = ((0.27, 1),)
IMPOSED_HEATS = ((0.27, 3), (0.4, 1))
AT_THE_END = Annealing(rounds=100, done=99)

RoundDone = Callable[[int, int, tuple[Volume, ...]], None]
"""Hears the number of the start, the round (from 1) and the maps of all classes after it."""


@dataclass(kw_only=True)
class _Course:
    """Where a start is: its maps, the round that comes next, and what is past but not told yet."""

    volumes: Tensor
    annealing: Annealing
    passed: list[tuple[Annealing, RoundOutcome, Tensor]] = field(default_factory=list)


def volumes_of(problem: AbInitioProblem, volumes: Tensor) -> tuple[Volume, ...]:
    """The maps of a tensor with their pixel size."""
    return tuple(Volume(data=one.numpy(), pixel_size_angstrom=problem.pixel_size_angstrom) for one in volumes)


def one_start(
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
    if begin is not None:
        course = _Course(volumes=begin, annealing=Annealing(rounds=settings.rounds))
    else:
        course = _best_beginning(problem, settings, rng, symmetry)
    for before, outcome, volumes in course.passed:
        _tell(problem, settings, number, before, outcome, volumes, round_done)
    while course.annealing.done < settings.rounds:
        _tell(problem, settings, number, *_next_round(problem, settings, course, rng, symmetry), round_done)
    return course.volumes


def _best_beginning(
    problem: AbInitioProblem,
    settings: AbInitioSettings,
    rng: np.random.Generator,
    symmetry: SymmetryGroup | None,
) -> _Course:
    """Of random beginnings and their inverted mates the one that explains held-out particles best."""
    tries, heats = (TRIES, HEATS) if symmetry is None else (IMPOSED_TRIES, IMPOSED_HEATS)
    annealing = Annealing(rounds=settings.rounds)
    courses = [
        _Course(volumes=random_maps(problem, settings.classes, rng), annealing=annealing)
        for _ in range(tries)
    ]

    def run_until(share: float) -> None:
        end = min(max(round(share * settings.rounds), 1), settings.rounds)
        for course in courses:
            while course.annealing.done < end:
                course.passed.append(_next_round(problem, settings, course, rng, symmetry))

    run_until(INVERTED)
    courses += [
        _Course(volumes=inverted(one.volumes), annealing=one.annealing, passed=list(one.passed))
        for one in courses
    ]
    for until, count in heats:
        run_until(until)
        courses = _best_courses(problem, settings, courses, symmetry)[:count]
    return courses[0]


def inverted(volumes: Tensor) -> Tensor:
    """Maps ``(c, box, box, box)`` whose deviation from their spherical average has the other sign."""
    ring = torch.from_numpy(radius_grid(tuple(volumes.shape[1:]))).round().long().reshape(-1)
    count = torch.bincount(ring)
    flat = volumes.reshape(len(volumes), -1)
    mean = torch.zeros((len(volumes), len(count)), dtype=flat.dtype).index_add_(1, ring, flat) / count
    return (2 * mean[:, ring] - flat).reshape(volumes.shape)


def _best_courses(
    problem: AbInitioProblem,
    settings: AbInitioSettings,
    courses: list[_Course],
    symmetry: SymmetryGroup | None,
) -> list[_Course]:
    """The ``courses``, best first, by the held-out particles at the limit they have reached."""
    plan = plan_of(problem, settings, courses[0].annealing, symmetry)
    told = [
        evidence_of(problem, c.volumes, problem.pickers, plan.step_deg, plan.limit, symmetry) for c in courses
    ]
    return [courses[i] for i in np.argsort(-np.array(told), kind="stable")]


def plan_of(
    problem: AbInitioProblem,
    settings: AbInitioSettings,
    annealing: Annealing,
    symmetry: SymmetryGroup | None,
) -> RoundPlan:
    """What the round after ``annealing`` does."""
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
    plan = plan_of(problem, settings, before, symmetry)
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
        round_done(number, before.done + 1, volumes_of(problem, volumes))
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
