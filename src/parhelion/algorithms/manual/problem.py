"""What all cycles of a manual refinement share, and what a cycle passes on to the next."""

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from parhelion.algorithms import preparation as prepare
from parhelion.algorithms.manual.settings import ManualSettings
from parhelion.algorithms.pose_blurring import SHIFTS
from parhelion.contracts import Cancel, Executor, Observer, ParticleSource
from parhelion.engine.candidates import Candidates
from parhelion.engine.loader import EDGE_PIXELS, ParticleLoader
from parhelion.engine.memory import MemoryPlan, plan_memory, transform_bytes
from parhelion.engine.points import FourierPoints
from parhelion.engine.solvent import Solvent
from parhelion.errors import ParameterError
from parhelion.geometry.symmetry import SymmetryGroup, symmetry_group
from parhelion.model.particles import ParticleSet
from parhelion.model.volume import Volume

BANK_BYTES = 32
"""Per orientation and Fourier point of a search: slices, halves' parts, power (``engine.search``)."""
LEAST_SEARCH_SHELL = 3.0


@dataclass(frozen=True, kw_only=True)
class ManualProblem:
    """Two loaders with the same particles: ``loader`` masks images by the outer radius, ``wide`` by that of
    the global search. Shells count 1/extent; ``first_shell`` is that of the low-resolution limit.
    """

    settings: ManualSettings
    loader: ParticleLoader
    wide: ParticleLoader
    symmetries: tuple[SymmetryGroup, ...]
    solvent: Solvent
    executor: Executor
    observer: Observer
    cancel: Cancel
    chunk: int
    first_shell: float
    refine_shell: float
    search_shell: float
    class_shell: float

    @property
    def signed_shell(self) -> float:
        """Up to this shell the sign of a correlation counts."""
        limit = self.settings.signed_limit_angstrom
        return self.loader.extent_angstrom / limit if limit > 0 else float("inf")

    def use_defocus(self, particles: ParticleSet, change_angstrom: np.ndarray) -> None:
        """From now on the loaders' CTFs are those of ``particles`` with each defocus changed ``(n,)``."""
        changed = with_defocus(particles, change_angstrom)
        self.loader.particles = changed
        self.wide.particles = changed


@dataclass(frozen=True, kw_only=True)
class ClassMaps:
    """One class after a reconstruction: two unfiltered half maps, the filtered map of all its particles, the
    mask, the FSC of the halves inside it, where it first falls below 0.143, and what is compared next."""

    unfiltered: tuple[Tensor, Tensor]
    combined: Tensor
    mask: Tensor
    fsc: np.ndarray
    resolved_shell: int
    references: tuple[Tensor, Tensor]


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Of every class and particle ``(classes, n)``: score from -100 to 100, its change, logP and sigma."""

    score: np.ndarray
    change: np.ndarray
    log_p: np.ndarray
    sigma: np.ndarray

    @staticmethod
    def zeros(classes: int, count: int) -> "Scores":
        """Before anything was compared."""
        empty = np.zeros((classes, count))
        return Scores(score=empty, change=empty, log_p=empty, sigma=empty)


@dataclass(frozen=True, kw_only=True)
class ManualState:
    """Between two cycles. ``rotation`` ``(classes, n, 3, 3)`` and ``shift`` ``(classes, n, 3)`` (units of the
    extent) are each class's own poses, ``posed`` ``(n,)`` says who has any; ``occupancy`` ``(n, classes)`` in
    percent; ``references`` per class what each half is compared with. ``solved`` is empty before the first
    reconstruction."""

    rotation: np.ndarray
    shift: np.ndarray
    posed: np.ndarray
    occupancy: np.ndarray
    scores: Scores
    defocus_change_angstrom: np.ndarray
    half: np.ndarray
    noise: Tensor
    references: tuple[tuple[Tensor, Tensor], ...] = ()
    solved: tuple[ClassMaps, ...] = ()
    cycle: int = 0
    history: tuple[dict[str, float | int], ...] = field(default=())

    def candidates(self, number: int, rows: np.ndarray) -> Candidates:
        """Class ``number``'s poses of particles ``rows``, numbered within them; some may have none."""
        known = np.flatnonzero(self.posed[rows])
        at = rows[known]
        return Candidates(
            particle=torch.from_numpy(known),
            rotation=torch.from_numpy(self.rotation[number, at]),
            shift=torch.from_numpy(self.shift[number, at]),
        )


def with_defocus(particles: ParticleSet, change_angstrom: np.ndarray) -> ParticleSet:
    """The particles with ``change_angstrom`` ``(n,)`` added to both defoci: astigmatism stays."""
    views = particles.views
    added = change_angstrom[views.particle]
    return replace(
        particles,
        views=replace(
            views,
            defocus_u_angstrom=views.defocus_u_angstrom + added,
            defocus_v_angstrom=views.defocus_v_angstrom + added,
        ),
    )


def memory_plan(
    count: int, box: int, pixel_size_angstrom: float, settings: ManualSettings, available_bytes: int | None
) -> MemoryPlan:
    """As for a refinement, with every class's maps, sums, references and grid of slices."""
    extent = box * pixel_size_angstrom
    shell = prepare.highest_shell(box, pixel_size_angstrom, settings.map_limit_angstrom)
    points = FourierPoints(box, shell)
    search = settings.mode == "global"
    plan = plan_memory(
        particles=count,
        box=box,
        max_shell=shell,
        search_points=points.count(extent / settings.search_limit) if search else 0,
        top=settings.top,
        available_bytes=available_bytes,
    )
    more = (settings.classes - 1) * (plan.fixed_bytes // 2)
    more += int(4 * settings.classes * (settings.padding * 2 * shell + 3) ** 3 * 2)
    if settings.blurring:
        # phases of all shifts
        more += SHIFTS * transform_bytes(box, shell)
    if search:
        more += _bank_bytes(points.count(extent / settings.search_limit), settings)
    cache = max(plan.cache_bytes - more, plan.cache_bytes // 4)
    return replace(plan, fixed_bytes=plan.fixed_bytes + more, cache_bytes=cache)


def _bank_bytes(points: int, settings: ManualSettings) -> int:
    """The slices of one reference on the search grid; references are searched one after the other."""
    step = settings.angular_step
    directions, in_plane = 12 * np.ceil(60 / step) ** 2, np.ceil(360 / step)
    operators = min(len(symmetry_group(name).operators) for name in settings.symmetry)
    return int(directions * in_plane / operators * points * BANK_BYTES)


def make_problem(
    particles: ParticleSet,
    source: ParticleSource,
    settings: ManualSettings,
    mask: Volume | None,
    *,
    executor: Executor,
    observer: Observer,
    cancel: Cancel,
    device: torch.device,
    available_bytes: int | None,
) -> ManualProblem:
    """Everything that does not change, ``mask`` (0 to 1) on the particles' grid.

    Raises ParameterError where a limit does not fit the box.
    """
    box, pixel = source.box, particles.optics[0].pixel_size_angstrom
    extent = box * pixel
    prepare.check_diameter(min(2 * settings.outer_radius_angstrom, extent), box, pixel)
    if settings.blurring and len(np.unique(particles.views.particle)) < len(particles.views):
        raise ParameterError(
            "likelihood blurring is for single particles, found several images of a particle"
        )
    shell = prepare.highest_shell(box, pixel, settings.map_limit_angstrom)
    memory = memory_plan(len(particles), box, pixel, settings, available_bytes)
    refine_shell, search_shell = _limits(settings, extent, shell)
    near, wide = _loaders(particles, source, settings, (shell, search_shell), memory.cache_bytes, device)
    return ManualProblem(
        settings=settings,
        loader=near,
        wide=wide,
        symmetries=tuple(symmetry_group(name) for name in settings.symmetry),
        solvent=Solvent.within(
            box,
            pixel,
            2 * settings.outer_radius_angstrom,
            automatic=settings.automatic_mask,
            given=None if mask is None else np.clip(mask.data, 0, 1).astype(np.float32),
            outer_radius_angstrom=settings.outer_radius_angstrom,
            inner_radius_angstrom=settings.inner_radius_angstrom,
            outside_weight=settings.outside_weight,
            outside_lowpass_angstrom=settings.outside_lowpass_angstrom,
        ),
        executor=executor,
        observer=observer,
        cancel=cancel,
        chunk=memory.chunk,
        first_shell=extent / settings.low_limit_angstrom,
        refine_shell=refine_shell,
        search_shell=search_shell,
        class_shell=min(extent / settings.class_limit, refine_shell),
    )


def _limits(settings: ManualSettings, extent_angstrom: float, most: int) -> tuple[float, float]:
    """Shells up to which poses are refined and searched; ParameterError where these are too few."""
    refined = min(extent_angstrom / settings.high_limit_angstrom, float(most))
    if refined < LEAST_SEARCH_SHELL:
        raise ParameterError(
            f"a high-resolution limit of {settings.high_limit_angstrom:g} Å leaves {refined:.1f} shells "
            f"of the box's {extent_angstrom:.0f} Å; at least {LEAST_SEARCH_SHELL:.0f} are needed"
        )
    searched = min(extent_angstrom / settings.search_limit, refined)
    if settings.signed_limit_angstrom > 0:
        searched = min(searched, extent_angstrom / settings.signed_limit_angstrom)
    return refined, max(searched, LEAST_SEARCH_SHELL)


def _loaders(
    particles: ParticleSet,
    source: ParticleSource,
    settings: ManualSettings,
    shells: tuple[int, float],
    cache_bytes: int,
    device: torch.device,
) -> tuple[ParticleLoader, ParticleLoader]:
    """The images masked as the refinement sees them, and as the search does; ``shells`` of each."""
    box, pixel = source.box, particles.optics[0].pixel_size_angstrom

    def loader(radius: float, max_shell: int, share: float) -> ParticleLoader:
        return ParticleLoader(
            particles=particles,
            source=source,
            points=FourierPoints(box, max_shell),
            diameter_angstrom=min(2 * radius, (box - 2 * EDGE_PIXELS) * pixel),
            scale_images=settings.normalise_images,
            cache_bytes=int(share * cache_bytes),
            device=device,
        )

    two = settings.mode == "global" and settings.global_radius != settings.outer_radius_angstrom
    near = loader(settings.outer_radius_angstrom, shells[0], 0.7 if two else 1.0)
    return near, loader(settings.global_radius, int(np.ceil(shells[1])), 0.3) if two else near
