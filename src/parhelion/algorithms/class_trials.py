"""Which class is split next: tried, and judged by the other half's maps.

Particles are compared with maps that they have not gone into, so that what posteriors know is not what they
put there.
"""

from dataclasses import replace

import numpy as np

from parhelion.algorithms.class_schedule import round_plan
from parhelion.algorithms.class_settings import ClassifySettings
from parhelion.algorithms.class_start import split, split_gain, split_shell
from parhelion.engine.classes import ClassProblem, ClassState, class_round

MOST_TRIED, TRIAL_ROUNDS = 3, 3
"""Classes whose split is tried, the most promising ones, and rounds that a trial lasts."""


def next_split(
    problem: ClassProblem,
    state: ClassState,
    wanted: int,
    settings: ClassifySettings,
    limit_angstrom: float,
    number: int,
) -> ClassState:
    """Up to twice as many classes, ``wanted`` at most; ``number`` rounds were done.

    Where not all classes are split, the last one is that after whose split posteriors know most, some
    rounds later, with poses as they are. Components alone promise too much of a class of another molecule,
    whose poses agree with nothing yet: it gains a little from any split.
    """
    classes = len(state.share)
    room = wanted - classes
    shell = split_shell(problem, limit_angstrom, settings.diameter_angstrom)
    rng = np.random.default_rng((settings.seed, 1, number))
    if room >= classes:
        return split(problem, state, range(classes), shell, rng)[1]
    gains = [split_gain(problem, state, k, shell, rng) for k in range(classes)]
    order = [int(k) for k in np.argsort([-gain for gain in gains], kind="stable")]
    if room > 1:
        return split(problem, state, sorted(order[:room]), shell, rng)[1]
    best: ClassState | None = None
    for k in order[:MOST_TRIED]:
        if best is not None and not np.isfinite(gains[k]):
            continue
        rng = np.random.default_rng((settings.seed, 3, number, k))
        parts, tried = split(replace(problem, align="none"), state, [k], shell, rng)
        for done in range(TRIAL_ROUNDS):
            plan = round_plan(parts, settings, number + done, limit_angstrom, done, False)
            # what is known compares under one noise only
            tried = class_round(parts, replace(tried, noise=state.noise), plan)
        if best is None or tried.information > best.information:
            best = tried
    if best is None:
        raise ValueError("there is a class to split")
    return best
