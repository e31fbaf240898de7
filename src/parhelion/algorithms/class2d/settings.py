"""What a user decides about a classification, and the plan of each cycle that follows from it."""

import math
from dataclasses import dataclass

import numpy as np

from parhelion.errors import ParameterError

PER_CLASS = 300
"""Particles per class in the first cycles (cisTEM's schedule)."""
LEAST_SHARE = 0.3
"""Of the particles, in the cycles between the first and the last."""
CLASS_STEPS = (50, 40, 30, 20, 10, 5)
MASK_RADIUS = 0.6
SHIFT_RANGE = 0.2
"""Of the diameter."""


@dataclass(frozen=True, kw_only=True)
class Class2dSettings:
    """Lengths in Å; None means from the diameter, or from the number of particles.

    ``percent`` of the particles in every cycle, None for the schedule of ``plan``. ``smoothing`` below 1
    makes the classes' likelihoods count less. ``start_average`` particles make a class of the start.
    ``own_sigma`` and ``own_scale`` give each particle its own noise amplitude and scale (``weights``).
    The schedule never takes less than ``least_percent``: what the classification used that the references
    come from. Only particles from ``first`` to ``last`` (counted from 1) take part. Particles lie within an
    ellipse of ``shift_range_angstrom`` along x and ``shift_range_y_angstrom`` (None: the same) along y.
    ``padding`` is how finely averages' transforms are sampled. ``normalise`` brings the images' backgrounds
    to one variance. ``local`` starts from classes, angles and centres of the particles' table.
    """

    diameter_angstrom: float
    classes: int | None = None
    cycles: int = 25
    mask_radius_angstrom: float | None = None
    low_resolution_angstrom: float = 300.0
    initial_resolution_angstrom: float = 40.0
    final_resolution_angstrom: float = 8.0
    angular_step_deg: float = 12.0
    shift_range_angstrom: float | None = None
    shift_range_y_angstrom: float | None = None
    smoothing: float = 1.0
    percent: float | None = None
    exclude_edges: bool = False
    automatic_mask: bool = False
    centre: bool = True
    start_average: int = 20
    own_sigma: bool = True
    own_scale: bool = True
    least_percent: float = 0.0
    first: int = 1
    last: int | None = None
    padding: float = 2.0
    normalise: bool = True
    local: bool = False
    seed: int = 0

    @property
    def mask_radius(self) -> float:
        """Of images and averages, in Å."""
        return self.mask_radius_angstrom or MASK_RADIUS * self.diameter_angstrom

    @property
    def shift_ranges(self) -> tuple[float, float]:
        """How far from its box's centre a particle may be along x and along y, in Å."""
        x, y = self.shift_range_angstrom, self.shift_range_y_angstrom
        x = SHIFT_RANGE * self.diameter_angstrom if x is None else x
        return x, x if y is None else y

    @property
    def shift_range(self) -> float:
        """The larger of ``shift_ranges``."""
        return max(self.shift_ranges)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One cycle: the resolution limit, and the share of particles it looks at."""

    limit_angstrom: float
    share: float


def classes_for(count: int) -> int:
    """How many classes fit ``count`` particles: about 300 in each, 50 at most (cisTEM's rule)."""
    return next((step for step in CLASS_STEPS if count / PER_CLASS >= step), CLASS_STEPS[-1])


def check_classes(count: int, classes: int) -> None:
    """ParameterError where there are too few particles for the classes."""
    if count < 2 * classes:
        raise ParameterError(
            f"{count} particles are too few for {classes} classes, which need at least two each; "
            f"ask for at most {max(count // 2, 1)} classes (--classes)"
        )


def arrival(cycles: int) -> int:
    """The cycle (from 0) in which the limit reaches the final resolution."""
    return cycles * 3 // 4 if cycles >= 4 else max(cycles - 1, 1)


def plan(settings: Class2dSettings, cycle: int, count: int, classes: int) -> Plan:
    """Of cycle ``cycle`` (from 0) with ``count`` particles.

    The limit falls linearly and arrives at three quarters of the cycles. Percentages: below 10 cycles all
    particles; else 300 per class in the first 5 (10 from 20 cycles, 15 from 30 cycles on), then 30 % but no
    less than that, and all in the last 5.
    """
    cycles = settings.cycles
    way = min(cycle / arrival(cycles), 1.0)
    first, last = settings.initial_resolution_angstrom, settings.final_resolution_angstrom
    limit = first + (last - first) * way
    if settings.percent is not None:
        return Plan(limit_angstrom=limit, share=settings.percent / 100)
    start = min(1.0, PER_CLASS * classes / count)
    opening = 5 if cycles < 20 else 10 if cycles < 30 else 15
    if cycles < 10 or cycle >= cycles - 5:
        share = 1.0
    elif cycle < opening:
        share = start
    else:
        share = max(LEAST_SHARE, start)
    return Plan(limit_angstrom=limit, share=min(max(share, settings.least_percent / 100), 1.0))


def chosen_rows(rows: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """A random ``share`` of ``rows``, in order."""
    wanted = min(len(rows), max(1, math.ceil(share * len(rows))))
    return rows if wanted == len(rows) else np.sort(rng.permutation(rows)[:wanted])
