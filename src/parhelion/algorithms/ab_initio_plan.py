"""Sizes of an ab-initio search: the map's grid, the Fourier points that are kept, memory."""

import math

import numpy as np

from parhelion.algorithms import preparation as prepare
from parhelion.algorithms.ab_initio_schedule import shell_limits, step_for
from parhelion.algorithms.ab_initio_settings import AbInitioSettings
from parhelion.engine.memory import ENGINE_BYTES
from parhelion.engine.points import FourierPoints
from parhelion.engine.soft import BLOCK
from parhelion.geometry.so3 import SPACING_AT_NSIDE_1_DEG

MASK_MARGIN_SHELLS = 2
LEAST_SHIFT_ANGSTROM = 10.0
SHIFT_STEP = 0.4
"""Step of the grid of shifts, in units of the resolution limit."""
CHUNK = 64
# Comparing starts, seeking axes, and what the allocator keeps between rounds (measured).
COMPARISON_BYTES = 300_000_000
# Maps of earlier rounds, as a share of the rounds, that wait for the choice among a start's beginnings: of a
# random one and its mate, and of four with symmetry imposed (``ab_initio_courses``).
PASSED = (0.6, 2.6)

# Images held out: a share of all, at most so many. Half of them choose among the beginnings of each start,
# the others among the starts, so that no start is judged by what chose it.
HELD_OUT_SHARE, MOST_HELD_OUT = 0.2, 400


def held_out(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of ``count`` images to learn from, and held out ones that choose beginnings and judge starts."""
    order = rng.permutation(count)
    out = min(int(HELD_OUT_SHARE * count), MOST_HELD_OUT)
    return np.sort(order[out:]), np.sort(order[: out // 2]), np.sort(order[out // 2 : out])


def planned_bytes(
    count: int, box: int, pixel_size_angstrom: float, settings: AbInitioSettings, available_bytes: int | None
) -> tuple[int, int]:
    """Memory shared by all threads, and for each thread, counted from the arrays of a last round.

    Kept transforms, the slice banks, sums over orientations, maps; per thread a chunk's sums and the blocks
    of scores and weights.
    """
    prepare.check_diameter(settings.diameter_angstrom, box, pixel_size_angstrom)
    extent = box * pixel_size_angstrom
    _, last = shell_limits(settings, extent, prepare.highest_shell(box, pixel_size_angstrom, None))
    points = FourierPoints(box, kept_shell(box, pixel_size_angstrom, last))
    step = settings.angular_step_deg or step_for(settings.diameter_angstrom, extent / last)
    sums = 12 * settings.classes * orientations(step) * points.count(last)
    limit = cache_bytes(available_bytes, settings)
    cache = min(limit, 8 * len(points) * count)
    if settings.images_per_class is not None:
        cache += min(limit, 12 * len(points) * math.ceil(count / settings.images_per_class))
    maps = (8 + settings.starts) * settings.classes * 4 * (2 * map_box(points.max_shell, box)) ** 3
    maps += (
        math.ceil(PASSED[settings.symmetry.upper() != "C1"] * settings.rounds)
        * settings.classes
        * (4 * map_box(points.max_shell, box) ** 3)
    )
    shared = cache + 3 * sums + maps + 1500 * count + ENGINE_BYTES + COMPARISON_BYTES
    images = 5 * 4 * CHUNK * box**2
    # scores of one particle at least are in memory at once
    scores = settings.classes * orientations(step) * shift_count(shift_range(settings) * last / extent)
    return shared, 2 * sums + 5 * 4 * max(BLOCK, scores) + images


def shift_range(settings: AbInitioSettings) -> float:
    """How far from the centre of its box a particle is looked for, in Å."""
    return settings.shift_range_angstrom or max(0.1 * settings.diameter_angstrom, LEAST_SHIFT_ANGSTROM)


def shift_count(radius: float) -> int:
    """About how many shifts are looked at within ``radius``, in units of the resolution limit."""
    return math.ceil(math.pi * (radius / SHIFT_STEP + 1) ** 2)


def orientations(step_deg: float) -> int:
    """How many rotations ``geometry.so3.so3_grid`` has at this step, without symmetry."""
    nside = math.ceil(SPACING_AT_NSIDE_1_DEG / step_deg - 1e-9)
    return 12 * nside**2 * math.ceil(360 / step_deg - 1e-9)


def cache_bytes(available_bytes: int | None, settings: AbInitioSettings) -> int:
    """How much memory may keep transforms between rounds; averages share it with their particles."""
    whole = 2**31 if available_bytes is None else available_bytes // 3
    return whole if settings.images_per_class is None else whole // 2


def kept_shell(box: int, pixel_size_angstrom: float, last_shell: float) -> int:
    """The highest shell whose transforms are kept: a margin beyond the last limit, as far as images go.

    What cisTEM reaches by binning the stack beforehand: nothing finer is kept or looked at.
    """
    highest = prepare.highest_shell(box, pixel_size_angstrom, None)
    return min(int(np.ceil(last_shell)) + MASK_MARGIN_SHELLS, highest)


def map_box(max_shell: int, box: int) -> int:
    """Even box that holds ``max_shell`` with a third to spare for work in real space; at most the images'."""
    return min(box, max(32, 2 * ((3 * max_shell + 1) // 2)))
