"""What happens in which round of a 3D classification: when classes are split, searched and softened, and when
it is over. Pure rules on the rounds that were done."""

import itertools
import math
from dataclasses import replace

from parhelion.algorithms.class_settings import ClassifySettings
from parhelion.engine.classes import ClassProblem
from parhelion.engine.schedule import SEARCH_CYCLES, Plan

BETWEEN = 4
"""Rounds between two splits."""
SEARCHED_FIRST, SEARCHED_EVERY = 4, 3
"""With all classes there, the first rounds search everywhere, later every third."""
FIRST_NATS, LAST_SHARE = 0.02, 0.7
"""What posteriors know in the first round, and their share of ln(classes) when annealing ends."""
ANNEALED = 0.75
"""Share of the rounds after which the likelihood counts as it is."""
SETTLED = 0.01
"""The classification is over when fewer particles change class, and what posteriors know changes by less than
STEADY of itself, or STEADY_NATS."""
STEADY, STEADY_NATS = 0.02, 0.0005

FALLING = 3
"""Rounds in a row after each of which less is known than before, and the classification is over."""
REAL_SHARE = 0.5
"""Of what a split told at most, still known then: a split of one structure loses most of it within a few
rounds, and goes on until its parts are one again."""

History = list[dict[str, float | int]]


def rounds_with(history: History, classes: int) -> int:
    """How many rounds were done with so many classes."""
    return sum(row["classes"] == classes for row in history)


def between(classes: int) -> int:
    """Rounds before the next split: one class needs no more than its noise."""
    return 1 if classes == 1 else BETWEEN


def with_classes(problem: ClassProblem, classes: int) -> ClassProblem:
    """The problem while there are so many classes.

    Classes are split at the poses that the particles came with, which agree with each other; a search gives
    the particles of another molecule poses that agree with nothing yet, and what these differ by looks like
    more structures than there are.
    """
    early = problem.align == "global" and classes < problem.classes
    return replace(problem, symmetries=problem.symmetries[:classes], align="none" if early else problem.align)


def settled(settings: ClassifySettings, history: History, since: int, annealed: bool) -> bool:
    """Whether it is over after ``since`` rounds with all classes, since hardly a particle changes class.

    ``annealed`` classes come from posteriors that are kept soft at first.
    """
    least = ANNEALED * settings.rounds + 2 if annealed else 0
    if since < max(least, settings.least_rounds, 1) or history[-1]["changed_share"] >= SETTLED:
        return False
    if since < 2:
        return True
    last, known = (float(row["information_nats"]) for row in history[-2:])
    return abs(known - last) <= max(STEADY * known, STEADY_NATS)


def draining(settings: ClassifySettings, history: History) -> bool:
    """Whether a class that stands for something is slowly losing it.

    Particles are compared with maps of the other half: what is known of them is not what they put there.
    Where it falls round by round although most of it is left, the smaller of two structures that differ
    little is being drained by the larger, since maps hold part of what particles of the other one brought.
    """
    with_all = [float(row["information_nats"]) for row in history if row["classes"] == settings.classes]
    fewer = [float(row["information_nats"]) for row in history if row["classes"] < settings.classes]
    if len(with_all) <= max(FALLING, settings.least_rounds):
        return False
    last = with_all[-FALLING - 1 :]
    before = fewer[-1] if fewer else 0.0
    falls = all(after < known for known, after in itertools.pairwise(last))
    return falls and with_all[-1] - before > REAL_SHARE * (max(with_all) - before)


def target_nats(settings: ClassifySettings, number: int) -> float | None:
    """What this round's posteriors should know more than the shares of the classes; None: all they can."""
    progress = number / max(settings.rounds - 1, 1)
    if progress >= ANNEALED:
        return None
    last = LAST_SHARE * math.log(settings.classes)
    return FIRST_NATS * (last / FIRST_NATS) ** (progress / ANNEALED)


def round_plan(
    problem: ClassProblem,
    settings: ClassifySettings,
    number: int,
    limit_angstrom: float,
    since: int,
    annealed: bool,
) -> Plan:
    """Round ``number``; ``since`` rounds were done with as many classes."""
    extent = problem.loader.extent_angstrom
    shell = min(extent / limit_angstrom, problem.loader.points.max_shell)
    searched = min(SEARCH_CYCLES * extent / settings.diameter_angstrom, shell)
    return Plan(
        round=number,
        search=problem.align == "global" and _searches(since, annealed),
        grid_step_deg=15.0,
        search_shell=searched,
        refine_shell=shell,
        shift_radius_angstrom=problem.shift_angstrom,
        shift_step_angstrom=0.4 * extent / searched,
    )


def _searches(since: int, annealed: bool) -> bool:
    """Whether poses are looked for everywhere, where they are at all."""
    return annealed or since < SEARCHED_FIRST or since % SEARCHED_EVERY == 0
