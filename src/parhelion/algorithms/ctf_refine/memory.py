"""How much memory a CTF refinement takes: counted from the arrays of a chunk and the transforms of maps."""

from dataclasses import dataclass

from parhelion.algorithms import preparation as prepare
from parhelion.algorithms.ctf_refine.refine import chunk_size
from parhelion.algorithms.ctf_refine.settings import CtfRefineSettings, layout_of
from parhelion.engine.memory import CACHE_SHARE, COMPLEX, ENGINE_BYTES, FLOAT, MemoryPlan, transform_bytes
from parhelion.engine.predict import half_size, padded_box

TABLE_BYTES = 2000
ARRAYS_OF_A_CHUNK = 14
"""Complex arrays (particles, points) beside the Jacobian: data, phases in float64, slices, slopes."""


@dataclass(frozen=True, kw_only=True)
class CtfMemoryPlan(MemoryPlan):
    """A plan with ``caches`` caches of ``cache_bytes`` each."""

    caches: int

    @property
    def shared_bytes(self) -> int:
        """What does not depend on the number of workers."""
        return self.fixed_bytes + self.caches * self.cache_bytes


def memory_plan(
    count: int,
    box: int,
    pixel_size_angstrom: float,
    settings: CtfRefineSettings,
    maps: int,
    available_bytes: int | None,
) -> CtfMemoryPlan:
    """What ``count`` particles of ``box`` pixels take against ``maps`` maps; their transforms are cached."""
    shell = prepare.highest_shell(box, pixel_size_angstrom, settings.resolution_limit_angstrom)
    image = transform_bytes(box, shell)
    columns = len(layout_of(settings).columns)
    chunk = chunk_size(columns, image // COMPLEX)
    half = half_size(shell)
    kept = maps * COMPLEX * (2 * half + 1) ** 2 * (half + 1)
    # padded map, its centred copy and its transform; or the maps' FSC, with random phases
    solving = max(4 * FLOAT * padded_box(box) ** 3, 16 * FLOAT * box**3)
    normal = 8 * columns * (columns + 1) * count
    # as they come, in order, without what is eliminated, with its product, and covariances (``solve``)
    normal *= 5
    fixed = ENGINE_BYTES + kept + solving + 4 * FLOAT * box**3 + normal + TABLE_BYTES * count
    jacobian = 2 * COMPLEX * columns * (image // COMPLEX) * chunk
    per_thread = jacobian + chunk * (ARRAYS_OF_A_CHUNK * image + 6 * FLOAT * box**2)
    cache = count * image  # once for images, once for slices
    kinds = 1 if settings.magnification else 2
    if available_bytes is not None:
        cache = min(cache, max(0, int(CACHE_SHARE * (available_bytes - fixed - per_thread) / kinds)))
    return CtfMemoryPlan(
        chunk=chunk, cache_bytes=cache, fixed_bytes=fixed, per_thread_bytes=per_thread, caches=kinds
    )
