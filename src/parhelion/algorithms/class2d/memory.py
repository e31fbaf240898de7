"""How much memory a classification takes, counted from its arrays."""

import numpy as np

from parhelion.algorithms.class2d.expectation import CHUNK, GROUP_BYTES, MOST_WITHIN, TURNED_BYTES
from parhelion.algorithms.class2d.problem import MARGIN_SHELLS, highest_shell
from parhelion.algorithms.class2d.settings import Class2dSettings
from parhelion.engine.memory import ENGINE_BYTES, TABLE_BYTES
from parhelion.engine.planar_local import ENTRIES
from parhelion.engine.planar_soft import BLOCK
from parhelion.engine.points import FourierPoints
from parhelion.engine.predict import half_size

COMPLEX, FLOAT = 8, 4


def cache_bytes(available_bytes: int | None) -> int:
    """How much memory may keep transforms between cycles."""
    return 2**31 if available_bytes is None else available_bytes // 3


def planned_bytes(
    count: int,
    classes: int,
    box: int,
    pixel_size_angstrom: float,
    settings: Class2dSettings,
    available_bytes: int | None,
) -> tuple[int, int]:
    """Memory shared by all threads, and for each thread.

    Kept transforms, the images of a group, the coarse references, sums and averages; per thread the scores of
    a chunk, and what belongs to one class.
    """
    shell = min(highest_shell(settings, box, pixel_size_angstrom) + MARGIN_SHELLS, box // 2 - 1)
    k = len(FourierPoints(box, shell))
    angles = max(1, round(180 / settings.angular_step_deg))
    cache = min(cache_bytes(available_bytes), COMPLEX * k * count)
    h = half_size(shell, settings.padding)
    sums = 2 * classes * (2 * h + 1) * (h + 1) * 3 * FLOAT
    averages = classes * box**2 * FLOAT * 12
    bank = classes * angles * k * (2 * COMPLEX + FLOAT)
    group = min(count, GROUP_BYTES // (12 * k)) * 12 * k * 2
    table = (TABLE_BYTES + 8 * int(np.ceil(settings.start_average / max(count, 1))) * classes) * count
    per_class = (angles * MOST_WITHIN + ENTRIES * MOST_WITHIN * 4) * k * COMPLEX
    chunk = CHUNK * (box**2 * FLOAT * 4 + k * COMPLEX * 6)
    turned = min(TURNED_BYTES, classes * angles * MOST_WITHIN * k * COMPLEX)
    shared = ENGINE_BYTES + cache + turned + 5 * sums + averages + bank + group + table
    return shared, per_class + chunk + 5 * FLOAT * BLOCK + bank // 2
