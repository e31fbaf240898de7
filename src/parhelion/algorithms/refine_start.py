"""What a refinement starts from: settings filled in, the problem set up, noise, scale and half sets."""

from dataclasses import asdict, replace

import numpy as np
import torch

from parhelion.algorithms import preparation as prepare
from parhelion.algorithms.refine_settings import RefineSettings
from parhelion.contracts import Cancel, Executor, Observer, ParticleSource
from parhelion.engine import checkpoint
from parhelion.engine.candidates import Candidates
from parhelion.engine.centre import offset_voxels
from parhelion.engine.cistem_schedule import first_share
from parhelion.engine.halves import split_halves
from parhelion.engine.loader import EDGE_PIXELS, ParticleLoader, undistorted_shifts
from parhelion.engine.loop import Problem
from parhelion.engine.memory import CACHE_SHARE, MemoryPlan, plan_memory, transform_bytes
from parhelion.engine.noise import background_noise
from parhelion.engine.points import FourierPoints
from parhelion.engine.scale import reference_scale
from parhelion.engine.schedule import SEARCH_CYCLES, Progress, ScheduleSettings
from parhelion.engine.search_view import SearchView, search_points, search_view
from parhelion.engine.solvent import Solvent
from parhelion.engine.state import RefineState
from parhelion.errors import InputError, MetadataError, ParameterError
from parhelion.fourier.filters import lowpass
from parhelion.geometry.symmetry import symmetry_group
from parhelion.images.masks import soft_dilation
from parhelion.model.particles import ParticleSet
from parhelion.model.volume import Volume

LEAST_SHIFT_ANGSTROM = 20.0
SCALE_SAMPLE, NOISE_SAMPLE = 200, 1000
FEWEST_USED = 100
"""Particles per half that even the first rounds of a share look at."""


def memory_plan(
    count: int, box: int, pixel_size_angstrom: float, settings: RefineSettings, available_bytes: int | None
) -> MemoryPlan:
    """How much memory the refinement of ``count`` particles takes; an unknown diameter is 0.6 of the box."""
    extent = box * pixel_size_angstrom
    shell = prepare.highest_shell(box, pixel_size_angstrom, settings.resolution_limit_angstrom)
    diameter = settings.diameter_angstrom or 0.6 * extent
    search = min(SEARCH_CYCLES * extent / diameter, shell)
    operators = len(symmetry_group(settings.symmetry).operators)
    plan = plan_memory(
        particles=count,
        box=box,
        max_shell=shell,
        search_points=0 if settings.local else FourierPoints(box, shell).count(search),
        operators=operators,
        top=settings.top,
        available_bytes=available_bytes,
    )
    extra = count * _view_bytes(settings, box, pixel_size_angstrom, diameter)
    if not extra:
        return plan
    most = extra + count * (transform_bytes(box, shell) + 400)
    if available_bytes is not None:
        left = available_bytes - plan.fixed_bytes - plan.per_thread_bytes
        most = min(most, max(0, int(CACHE_SHARE * left)))
    return replace(plan, cache_bytes=most)


def _view_bytes(settings: RefineSettings, box: int, pixel_size_angstrom: float, diameter: float) -> int:
    """What is kept of an image for a search that sees it differently; 0 where it does not."""
    if settings.local or not (settings.autocrop or settings.search_radius_angstrom):
        return 0
    usual = prepare.mask_diameter(diameter, box, pixel_size_angstrom, EDGE_PIXELS)
    wanted = _search_diameter(settings, usual, (box - 2 * EDGE_PIXELS) * pixel_size_angstrom)
    points = search_points(box, pixel_size_angstrom, wanted, settings.autocrop, diameter / SEARCH_CYCLES)
    if points.box == box and wanted == usual:
        return 0
    return transform_bytes(points.box, points.max_shell)


def completed_settings(settings: RefineSettings, reference: Volume, observer: Observer) -> RefineSettings:
    """The settings with everything filled in that the reference tells."""
    box, pixel = reference.box, reference.pixel_size_angstrom
    diameter = settings.diameter_angstrom or prepare.diameter_of(reference, observer)
    prepare.check_diameter(diameter, box, pixel)
    limit = settings.resolution_limit_angstrom
    start = settings.initial_resolution_angstrom or prepare.start_resolution(diameter, pixel)
    shift = settings.shift_angstrom
    if shift is None:
        shift = min(max(LEAST_SHIFT_ANGSTROM, 0.1 * diameter), 0.25 * box * pixel)
    prepare.check_shift_range(shift, box, pixel)
    completed = replace(
        settings,
        diameter_angstrom=diameter,
        initial_resolution_angstrom=max(start, limit or 0.0),
        shift_angstrom=shift,
    )
    _check_radii(completed, diameter)
    return completed


def make_problem(
    particles: ParticleSet,
    source: ParticleSource,
    settings: RefineSettings,
    mask: Volume | None,
    executor: Executor,
    observer: Observer,
    cancel: Cancel,
    device: torch.device,
    available_bytes: int | None,
) -> Problem:
    """What does not change from round to round, from completed settings and a mask on the particles' grid."""
    box, pixel = source.box, particles.optics[0].pixel_size_angstrom
    memory = memory_plan(len(particles), box, pixel, settings, available_bytes)
    loader, view = _loaders(particles, source, settings, memory, device)
    solvent = Solvent.within(
        box,
        pixel,
        float(settings.diameter_angstrom or 0),
        automatic=settings.automatic_mask,
        given=None if mask is None else _given_mask(mask, settings.mask_edge_angstrom),
        outer_radius_angstrom=settings.outer_radius_angstrom,
        inner_radius_angstrom=settings.inner_radius_angstrom,
        edge_angstrom=settings.mask_edge_angstrom,
        outside_weight=settings.outside_weight,
        outside_lowpass_angstrom=settings.outside_lowpass_angstrom,
    )
    return Problem(
        loader=loader,
        schedule=_schedule(settings, loader),
        symmetry=symmetry_group(settings.symmetry),
        solvent=solvent,
        executor=executor,
        observer=observer,
        cancel=cancel,
        seed=settings.seed,
        top=settings.top,
        chunk=memory.chunk,
        view=view,
        low_shell=box * pixel / (settings.low_resolution_angstrom or np.inf),
        blurring=settings.blurring,
        smoothing=settings.smoothing,
        centre=settings.centre,
    )


def _loaders(
    particles: ParticleSet,
    source: ParticleSource,
    settings: RefineSettings,
    memory: MemoryPlan,
    device: torch.device,
) -> tuple[ParticleLoader, SearchView | None]:
    """The images as the refinement sees them, and as the search does where that differs."""
    box, pixel = source.box, particles.optics[0].pixel_size_angstrom
    diameter = float(settings.diameter_angstrom or 0)
    shell = prepare.highest_shell(box, pixel, settings.resolution_limit_angstrom)
    mask_diameter = prepare.mask_diameter(diameter, box, pixel, EDGE_PIXELS)
    more = _view_bytes(settings, box, pixel, diameter)
    for_search = int(memory.cache_bytes * more / (more + transform_bytes(box, shell) + 400))
    view = None
    if more:
        view = search_view(
            particles,
            source,
            usual_diameter_angstrom=mask_diameter,
            diameter_angstrom=_search_diameter(settings, mask_diameter, (box - 2 * EDGE_PIXELS) * pixel),
            crop=settings.autocrop,
            search_angstrom=diameter / SEARCH_CYCLES,
            cache_bytes=for_search,
            device=device,
        )
    loader = ParticleLoader(
        particles=particles,
        source=source,
        points=FourierPoints(box, shell),
        diameter_angstrom=mask_diameter,
        cache_bytes=memory.cache_bytes - for_search,
        device=device,
    )
    return loader, view


def _schedule(settings: RefineSettings, loader: ParticleLoader) -> ScheduleSettings:
    return ScheduleSettings(
        extent_angstrom=loader.extent_angstrom,
        diameter_angstrom=float(settings.diameter_angstrom or 0),
        initial_resolution_angstrom=float(settings.initial_resolution_angstrom or 0),
        max_shell=loader.points.max_shell,
        shift_angstrom=float(settings.shift_angstrom or 0),
        most_rounds=settings.most_rounds,
        search=not settings.local,
        share=_first_share(settings, len(loader.particles)),
        best=settings.best_percent / 100,
        score_weight=settings.score_weight,
        scheme=settings.scheme,
        box=loader.box,
    )


def _check_radii(settings: RefineSettings, diameter_angstrom: float) -> None:
    """ParameterError where radii or limits leave nothing."""
    outer = settings.outer_radius_angstrom or 0.55 * diameter_angstrom
    if not 0 <= settings.inner_radius_angstrom < outer:
        raise ParameterError(
            f"the inner radius ({settings.inner_radius_angstrom:g} Å) must be smaller than the outer one "
            f"({outer:g} Å)"
        )
    low, finest = settings.low_resolution_angstrom, float(settings.initial_resolution_angstrom or 0)
    if low is not None and low < 1.5 * finest:
        raise ParameterError(
            f"what is coarser than {low:g} Å is left out and what is finer than {finest:g} Å is not used in "
            "the first round: too little is left to compare; give a larger low-resolution limit"
        )


def _search_diameter(settings: RefineSettings, usual_angstrom: float, most_angstrom: float) -> float:
    if settings.search_radius_angstrom is None:
        return usual_angstrom
    return min(2 * settings.search_radius_angstrom, most_angstrom)


def _first_share(settings: RefineSettings, count: int) -> float:
    """The share of the particles of the first rounds, never fewer than a hundred per half."""
    least = min(1.0, 2 * FEWEST_USED / count)
    if settings.percent is not None:
        return max(settings.percent / 100, least)
    if settings.scheme == "gold":
        return 1.0
    operators = len(symmetry_group(settings.symmetry).operators)
    return max(first_share(float(settings.initial_resolution_angstrom or 0), count, operators), least)


def _given_mask(mask: Volume, edge_angstrom: float | None) -> np.ndarray:
    """A user's mask as it is, or its body with a new soft edge."""
    data = np.clip(mask.data, 0, 1).astype(np.float32)
    body = data > 0.5
    if edge_angstrom is None or not body.any():
        return data
    return soft_dilation(body, mask.pixel_size_angstrom, 0.0, edge_angstrom)


def fingerprint_of(
    particles: ParticleSet, reference: Volume, mask: Volume | None, settings: RefineSettings, problem: Problem
) -> str:
    """Everything that the result depends on: checkpoints of other inputs must not be gone on with."""
    views = particles.views
    columns = {
        f"views.{name}": getattr(views, name) for name in views.__dataclass_fields__ if name != "image_path"
    }
    sizes = [(p.name, p.stat().st_size if p.is_file() else -1) for p in views.image_path]
    return checkpoint.fingerprint(
        {
            **columns,
            "images": sizes,
            "optics": particles.optics,
            "rotation": particles.rotation if settings.local else None,
            "shift": particles.shift_xyz_angstrom if settings.local else None,
            "half": particles.half,
            "reference": reference.data,
            "reference_pixel": reference.pixel_size_angstrom,
            "mask": None if mask is None else mask.data,
            "settings": sorted(asdict(settings).items()),
            "chunk": problem.chunk,
        }
    )


def start_state(problem: Problem, settings: RefineSettings, reference: Volume) -> RefineState:
    """The state before the first round: noise from the background, the reference filtered and scaled."""
    loader, observer = problem.loader, problem.observer
    rng = np.random.default_rng((settings.seed, 0))
    observer.progress("noise and scale", 0, 2)
    _check_sample(loader, rng)
    noise = background_noise(loader, NOISE_SAMPLE, rng)
    observer.progress("noise and scale", 1, 2)
    filtered = lowpass(reference, problem.schedule.initial_resolution_angstrom)
    if settings.centre and not settings.local:
        offset = offset_voxels(filtered.data, loader.pixel_size_angstrom, problem.symmetry.operators)
        moved = np.roll(filtered.data, tuple(-offset[::-1]), axis=(0, 1, 2))
        filtered = Volume(data=moved, pixel_size_angstrom=filtered.pixel_size_angstrom)
    volume = torch.from_numpy(filtered.data.astype(np.float32) * problem.solvent.sphere)
    extent = loader.extent_angstrom
    scale = reference_scale(
        loader,
        volume,
        noise,
        problem.symmetry,
        min(extent / problem.schedule.initial_resolution_angstrom, loader.points.max_shell),
        problem.schedule.shift_angstrom / extent,
        SCALE_SAMPLE,
        rng,
    )
    observer.progress("noise and scale", 2, 2)
    if not scale > 0:
        raise InputError(
            "the particles and the reference have nothing in common at "
            f"{problem.schedule.initial_resolution_angstrom:.0f} Å; check the contrast (protein must be "
            "white in the reference, --contrast says how it is in the images), diameter and pixel sizes"
        )
    volume = volume * scale
    return RefineState(
        maps=(volume, volume.clone()),
        kept=_given_poses(loader.particles, extent) if settings.local else _no_poses(),
        noise=noise,
        half=_halves(problem, rng),
        plan=problem.rules.first_plan(problem.schedule),
        progress=Progress(),
        fsc=np.zeros(0),
    )


def _check_sample(loader: ParticleLoader, rng: np.random.Generator) -> None:
    rows = np.sort(rng.permutation(len(loader.particles))[:SCALE_SAMPLE])
    if not bool(loader.batch(rows, 1).valid.any()):
        raise InputError(
            f"none of {len(rows)} images looked at can be used (not finite, or constant): "
            f"{prepare.name_images(loader.particles, rows)}"
        )


def _halves(problem: Problem, rng: np.random.Generator) -> np.ndarray:
    particles = problem.loader.particles
    half = split_halves(len(particles), rng, particles.half)
    if particles.half is not None and not np.array_equal(half, particles.half):
        problem.observer.notice("the input assigns some particles to no half set: all were split anew")
    return half


def _no_poses() -> Candidates:
    empty = torch.zeros(0, dtype=torch.float64)
    return Candidates(
        particle=torch.zeros(0, dtype=torch.long),
        rotation=empty.reshape(0, 3, 3),
        shift=empty.reshape(0, 3),
        weight=empty,
    )


def _given_poses(particles: ParticleSet, extent: float) -> Candidates:
    shift = undistorted_shifts(particles)
    if particles.rotation is None or shift is None:
        raise MetadataError(
            "a local refinement starts from the particles' poses and the input has none (rlnAngleRot, "
            "rlnAngleTilt, rlnAnglePsi); refine without --local"
        )
    count = len(particles)
    return Candidates(
        particle=torch.arange(count),
        rotation=torch.from_numpy(np.ascontiguousarray(particles.rotation, dtype=np.float64)),
        shift=torch.from_numpy(shift.astype(np.float64) / extent),
        weight=torch.ones(count, dtype=torch.float64),
    )
