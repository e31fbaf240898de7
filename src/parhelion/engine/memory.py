"""How much memory a run of the engine will take, and how it is divided.

The parts are counted from the sizes of the arrays in ``engine``; the factors of whole volumes (how many
padded transforms and sums exist at once at the peak of a solve) were counted in the code and checked
against measured peaks: ``benchmarks/speed/memory.py``.
"""

from dataclasses import dataclass

from parhelion.engine.points import FourierPoints
from parhelion.engine.predict import half_size, padded_box
from parhelion.engine.score import SCORE_BLOCK

COMPLEX, FLOAT = 8, 4
MOST_CHUNK, LEAST_CHUNK = 64, 8
CHUNK_BYTES = 2**24
"""Transforms of one chunk of particles; a chunk is made smaller until they fit."""
TOGETHER = 8
"""Chunks whose slices wait for insertion (``loop``)."""
TABLE_BYTES = 1500
"""Per particle: its table rows, candidates and their copies while a round ends."""
ENGINE_BYTES = 120_000_000
"""Compiled kernels, the reader of tables, a sample of images and a report (measured)."""
CACHE_SHARE = 0.5
"""Of what is left of the available memory, for keeping transforms between rounds."""
ORIENTATIONS_15_DEG = 4608


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """How a run divides memory, in bytes.

    ``fixed_bytes`` are maps, sums, the solve and the particle table; ``cache_bytes`` hold transforms between
    rounds; ``per_thread_bytes`` come for each worker. ``chunk`` particles are processed at a time.
    """

    chunk: int
    cache_bytes: int
    fixed_bytes: int
    per_thread_bytes: int

    @property
    def shared_bytes(self) -> int:
        """What does not depend on the number of workers."""
        return self.fixed_bytes + self.cache_bytes


def transform_bytes(box: int, max_shell: int) -> int:
    """One image's transform on the engine's points."""
    return COMPLEX * len(FourierPoints(box, max_shell))


def volume_bytes(box: int, max_shell: int) -> tuple[int, int, int]:
    """A padded real volume, one half set's sums, and a map, in bytes."""
    size = padded_box(box)
    h = half_size(max_shell)
    return FLOAT * size**3, (COMPLEX + FLOAT) * (2 * h + 1) ** 2 * (h + 1), FLOAT * box**3


def plan_memory(
    *,
    particles: int,
    views: int = 1,
    box: int,
    max_shell: int,
    search_points: int,
    operators: int = 1,
    top: int = 12,
    poses: int = 3,
    refines: bool = True,
    available_bytes: int | None = None,
) -> MemoryPlan:
    """The plan for ``particles`` of ``views`` images each in ``box`` pixels up to ``max_shell``.

    ``search_points`` is how many Fourier points the search looks at (0: no search), ``operators`` the size
    of the symmetry group, ``poses`` how many poses per particle are inserted in the first rounds.
    Without ``refines`` images are read once and nothing is kept of them. ``available_bytes`` limits the
    cache; None for no limit.
    """
    image = transform_bytes(box, max_shell) * views
    chunk = max(LEAST_CHUNK, min(MOST_CHUNK, CHUNK_BYTES // max(image, 1)))
    fixed = ENGINE_BYTES + _volumes(box, max_shell) + TABLE_BYTES * particles
    fixed += min(particles, TOGETHER * chunk) * poses * image * 3 // 2
    if search_points:
        bank = ORIENTATIONS_15_DEG // operators * search_points * views
        fixed += bank * (COMPLEX + COMPLEX + FLOAT + FLOAT + FLOAT)
    per_thread = _chunk_buffers(chunk, image, box, views, poses, top)
    if search_points:
        # products, their reduction and the running best; float32 where bfloat16 is slow
        per_thread += SCORE_BLOCK * FLOAT * 2
    everything = particles * (image + 400 * views) if refines else 0
    cache = everything
    if available_bytes is not None:
        cache = min(everything, max(0, int(CACHE_SHARE * (available_bytes - fixed - per_thread))))
    return MemoryPlan(chunk=chunk, cache_bytes=cache, fixed_bytes=fixed, per_thread_bytes=per_thread)


def _volumes(box: int, max_shell: int) -> int:
    """Maps, and the most that sums and a solve hold at once."""
    padded, sums, small = volume_bytes(box, max_shell)
    # two maps, two unfiltered ones, those of the round before, sphere, mask, reference
    kept = 9 * small
    # both half sets' sums, completed and symmetrised copies of one, radius, shells and prior of the solve
    accumulated = 3 * sums + sums // 2
    return kept + accumulated + 4 * padded


def _chunk_buffers(chunk: int, image: int, box: int, views: int, poses: int, top: int) -> int:
    """Data, CTF, whitened copies, slices and residuals of one chunk of particles."""
    images = chunk * views * box * box * FLOAT * 4
    batch = chunk * image * 5
    residuals = chunk * poses * image * 6
    candidates = chunk * (top + 8) * 1000
    return images + batch + residuals + candidates
