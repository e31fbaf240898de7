"""A map, or two half maps, from particles whose poses are known; or such maps of each class."""

from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch

from parhelion.algorithms import preparation as prepare
from parhelion.algorithms.particle_images import PreparedImages, cropped_to
from parhelion.algorithms.particle_weights import ParticleWeights, WeightSettings, particle_weights
from parhelion.algorithms.pose_blurring import SHIFTS, TURNS, Blurring, make_blurring
from parhelion.algorithms.reconstruct_solve import ReconstructResult, SolveSettings, solve_maps
from parhelion.algorithms.reconstruct_sums import Insertion, PartialSums, fingerprint, insert_particles
from parhelion.contracts import Cancel, Executor, Observer, ParticleSource
from parhelion.engine.ewald import Curvature, check_curvature
from parhelion.engine.halves import split_halves
from parhelion.engine.loader import EDGE_PIXELS, ParticleLoader
from parhelion.engine.memory import MemoryPlan, plan_memory, transform_bytes, volume_bytes
from parhelion.engine.noise import background_noise
from parhelion.engine.points import FourierPoints
from parhelion.engine.predict import PADDING
from parhelion.errors import InputError, MetadataError, ParameterError
from parhelion.model.particles import ParticleSet
from parhelion.model.volume import Volume

__all__ = [
    "ReconstructResult",
    "ReconstructSettings",
    "memory_plan",
    "reconstruct",
    "reconstruct_maps",
    "sum_particles",
]

NOISE_SAMPLE = 1000
Split = Literal["auto", "random", "even-odd"]
Ewald = Literal["off", "positive", "negative"]


@dataclass(frozen=True, kw_only=True)
class ReconstructSettings:
    """What a user decides. Without ``halves`` all particles go into one map, which has no FSC.

    ``diameter_angstrom`` None keeps whatever the box's inscribed circle holds. ``split`` says how half sets
    come about: the table's own where it has them, at random, or even and odd rows. ``first`` and ``last``
    (from 1) choose the particles that are inserted; what depends on the whole table does not change with
    them. ``blur_resolution_angstrom`` and ``smoothing`` are for likelihood blurring, ``ewald`` is the sign of
    the sphere's curvature.
    """

    symmetry: str = "C1"
    diameter_angstrom: float | None = None
    resolution_limit_angstrom: float | None = None
    halves: bool = True
    split: Split = "auto"
    weights: WeightSettings = field(default_factory=WeightSettings)
    normalise: bool = True
    exclude_edges: bool = False
    crop: bool = False
    padding: float = PADDING
    ewald: Ewald = "off"
    blur_resolution_angstrom: float | None = None
    smoothing: float = 1.0
    first: int = 1
    last: int | None = None
    automatic_mask: bool = True
    outer_radius_angstrom: float | None = None
    inner_radius_angstrom: float = 0.0
    centre: bool = False
    seed: int = 1

    @property
    def solving(self) -> SolveSettings:
        """What concerns the maps that are made of the sums."""
        return SolveSettings(
            automatic_mask=self.automatic_mask,
            outer_radius_angstrom=self.outer_radius_angstrom,
            inner_radius_angstrom=self.inner_radius_angstrom,
            centre=self.centre,
            seed=self.seed,
        )


def reconstruct(
    particles: ParticleSet,
    source: ParticleSource,
    settings: ReconstructSettings,
    *,
    executor: Executor,
    observer: Observer,
    cancel: Cancel,
    mask: Volume | None = None,
    device: str = "cpu",
    available_bytes: int | None = None,
) -> ReconstructResult:
    """The one map of ``reconstruct_maps``; ParameterError where ``settings`` ask for several."""
    found = reconstruct_maps(
        particles,
        source,
        settings,
        executor=executor,
        observer=observer,
        cancel=cancel,
        mask=mask,
        device=device,
        available_bytes=available_bytes,
    )
    if len(found) != 1:
        raise ParameterError(f"one map is expected here, {len(found)} classes were asked for")
    return found[0]


def reconstruct_maps(
    particles: ParticleSet,
    source: ParticleSource,
    settings: ReconstructSettings,
    *,
    executor: Executor,
    observer: Observer,
    cancel: Cancel,
    mask: Volume | None = None,
    reference: Volume | None = None,
    device: str = "cpu",
    available_bytes: int | None = None,
) -> list[ReconstructResult]:
    """Insert every particle at its pose and solve, with the noise power taken from the images' background.

    The half maps are solved with a prior that only keeps empty voxels finite; the map of all particles is
    Wiener-filtered by their FSC. With ``reference`` particles are blurred by their likelihood. Raises
    MetadataError where particles have no poses.
    """
    sums = sum_particles(
        particles,
        source,
        settings,
        executor=executor,
        observer=observer,
        cancel=cancel,
        reference=reference,
        device=device,
        available_bytes=available_bytes,
    )
    if mask is not None:
        mask = prepare.on_grid_of(mask, sums.full_box, sums.pixel_size_angstrom, observer, "mask")
    return solve_maps(sums, settings.solving, executor=executor, observer=observer, mask=mask)


def sum_particles(
    particles: ParticleSet,
    source: ParticleSource,
    settings: ReconstructSettings,
    *,
    executor: Executor,
    observer: Observer,
    cancel: Cancel,
    reference: Volume | None = None,
    device: str = "cpu",
    available_bytes: int | None = None,
) -> PartialSums:
    """The sums that maps are solved from, of the particles ``settings.first`` to ``settings.last``."""
    rows = _rows(len(particles), settings)
    if settings.halves:
        prepare.check_count(particles)
    if particles.rotation is None or particles.shift_xyz_angstrom is None:
        raise MetadataError("the particles have no poses; a map cannot be reconstructed from them")
    if settings.ewald != "off":
        check_curvature(particles)
    weights = particle_weights(particles, settings.weights)
    _tell_weights(weights, observer)
    half = _halves(particles, settings, observer)
    particles = prepare.with_noise_groups(particles)
    pixel, full = particles.optics[0].pixel_size_angstrom, source.box
    diameter = settings.diameter_angstrom or full * pixel
    loader, images = _loader(particles, source, settings, diameter, device)
    noise = background_noise(loader, NOISE_SAMPLE, np.random.default_rng((settings.seed, 0)))
    plan = memory_plan(len(particles), full, pixel, settings, available_bytes, reference is not None)
    work = Insertion(
        loader=loader,
        noise=noise,
        weights=weights,
        half=half,
        rows=rows,
        chunk=plan.chunk,
        padding=settings.padding,
        blurring=_blurring(reference, loader, noise, settings, diameter, observer),
        curvature=_curvature(settings, diameter),
        executor=executor,
        observer=observer,
        cancel=cancel,
    )
    maps, weight, unusable, inserted = insert_particles(work)
    _tell_unusable(particles, images, rows, unusable, observer)
    return PartialSums(
        maps=maps,
        classes=settings.weights.classes,
        weight=weight,
        ranges=((int(rows[0]), int(rows[-1])),),
        half=half,
        unusable=unusable,
        pixel_size_angstrom=pixel,
        full_box=full,
        diameter_angstrom=diameter,
        symmetry=settings.symmetry,
        count=len(particles),
        inserted=inserted,
        fingerprint=_fingerprint(particles, settings, half, weights, loader, (source, reference)),
    )


def _loader(
    particles: ParticleSet,
    source: ParticleSource,
    settings: ReconstructSettings,
    diameter: float,
    device: str,
) -> tuple[ParticleLoader, PreparedImages]:
    """Batches of the images, masked to the diameter, cropped and left out as the settings say."""
    pixel, full = particles.optics[0].pixel_size_angstrom, source.box
    prepare.check_diameter(diameter, full, pixel)
    box = cropped_to(full, pixel, diameter) if settings.crop else full
    images = PreparedImages(source, box, exclude_edges=settings.exclude_edges)
    shell = prepare.highest_shell(box, pixel, settings.resolution_limit_angstrom)
    loader = ParticleLoader(
        particles=particles,
        source=images,
        points=FourierPoints(box, shell),
        diameter_angstrom=prepare.mask_diameter(diameter, box, pixel, EDGE_PIXELS),
        scale_images=settings.normalise,
        cache_bytes=0,
        device=torch.device(device),
    )
    return loader, images


def memory_plan(
    count: int,
    box: int,
    pixel_size_angstrom: float,
    settings: ReconstructSettings,
    available_bytes: int | None,
    blurs: bool = False,
) -> MemoryPlan:
    """How much memory the reconstruction takes; it reads every image once and keeps none. ``blurs`` says
    whether it blurs particles by their likelihood."""
    shell = prepare.highest_shell(box, pixel_size_angstrom, settings.resolution_limit_angstrom)
    plan = plan_memory(
        particles=count,
        box=box,
        max_shell=shell,
        search_points=0,
        poses=1,
        refines=False,
        available_bytes=available_bytes,
    )
    padded, sums, _ = volume_bytes(box, shell)
    finer = (settings.padding / PADDING) ** 3
    more = 2 * (len(settings.weights.classes or (1,)) - 1) * finer * sums
    more += max(finer - 1, 0) * (4 * sums + 4 * padded)
    if blurs:
        # the reference, and phases of all shifts; every particle becomes one image per angle
        more += sums + SHIFTS * transform_bytes(box, shell)
        plan = replace(plan, chunk=max(1, plan.chunk // TURNS))
    return replace(plan, fixed_bytes=plan.fixed_bytes + int(more))


def _rows(count: int, settings: ReconstructSettings) -> np.ndarray:
    last = settings.last or count
    if settings.first > count:
        raise ParameterError(f"--first {settings.first} is beyond the last of {count} particles")
    if not 1 <= settings.first <= last:
        raise ParameterError(f"--last {last} comes before --first {settings.first}")
    if last > count:
        raise ParameterError(f"--last {last} is beyond the last of {count} particles")
    return np.arange(settings.first - 1, last)


def _halves(particles: ParticleSet, settings: ReconstructSettings, observer: Observer) -> np.ndarray | None:
    """Half set of every particle of the table, 1 or 2."""
    if not settings.halves:
        return None
    count = len(particles)
    if settings.split == "even-odd":
        # the first particle is odd and belongs to the first half
        return (np.arange(count) % 2 + 1).astype(np.int8)
    given = particles.half if settings.split == "auto" else None
    half = split_halves(count, np.random.default_rng((settings.seed, 1)), given)
    if given is not None and not np.array_equal(half, given):
        observer.notice("the input assigns some particles to no half set: all were split anew")
    return half


def _tell_weights(weights: ParticleWeights, observer: Observer) -> None:
    """What makes particles count differently."""
    total, b = weights.share.sum(0), weights.bfactor
    if b.any():
        s2 = np.log(2) / max(float(np.abs(b).max()), 1e-9)
        observer.notice(
            f"particles are weighted by their scores, B from {b.min():.1f} to {b.max():.1f} Å² (at "
            f"{1 / np.sqrt(s2):.1f} Å by up to a factor of 2); --score-weight 0 does not"
        )
    if len(weights.share) == 1 and not np.all(total == 1):
        observer.notice(
            f"particles are weighted by occupancy or chosen by score: {np.count_nonzero(total)} of "
            f"{len(total)} count, as {total.sum():.1f} whole ones"
        )


def _curvature(settings: ReconstructSettings, diameter: float) -> Curvature | None:
    if settings.ewald == "off":
        return None
    return Curvature(sign=1 if settings.ewald == "positive" else -1, diameter_angstrom=diameter)


def _blurring(
    reference: Volume | None,
    loader: ParticleLoader,
    noise: torch.Tensor,
    settings: ReconstructSettings,
    diameter: float,
    observer: Observer,
) -> Blurring | None:
    if reference is None:
        return None
    box = loader.box
    on_grid = prepare.on_grid_of(reference, box, loader.pixel_size_angstrom, observer, "reference")
    return make_blurring(
        on_grid,
        loader,
        noise,
        diameter_angstrom=diameter,
        resolution_angstrom=settings.blur_resolution_angstrom,
        smoothing=settings.smoothing,
        rows=np.arange(len(loader.particles)),
        observer=observer,
    )


def _tell_unusable(
    particles: ParticleSet, images: PreparedImages, rows: np.ndarray, bad: np.ndarray, observer: Observer
) -> None:
    why = "not finite or constant"
    if len(images.blank):
        why += f" or have a blank edge ({len(images.blank)} of them)"
    if len(bad) == len(rows):
        raise InputError(
            f"none of the {len(rows)} images can be used ({why}): {prepare.name_images(particles, bad)}"
        )
    if len(bad):
        observer.notice(
            f"{len(bad)} of {len(rows)} particles have images that are {why} and were left "
            f"out: {prepare.name_images(particles, bad)}"
        )


def _fingerprint(
    particles: ParticleSet,
    settings: ReconstructSettings,
    half: np.ndarray | None,
    weights: ParticleWeights,
    loader: ParticleLoader,
    images: tuple[ParticleSource, Volume | None],
) -> str:
    """Of all that decides how a particle goes into the sums; how they are solved is decided afterwards."""
    of_one_part = {"first": 1, "last": None}
    solving = {"automatic_mask": True, "outer_radius_angstrom": None, "inner_radius_angstrom": 0.0}
    shared = replace(settings, **of_one_part, **solving, centre=False)  # type: ignore[arg-type]
    views, (source, reference) = particles.views, images
    return fingerprint(
        shared,
        getattr(source, "contrast", "white"),
        np.zeros(0) if reference is None else reference.data,
        particles.optics,
        loader.box,
        np.zeros(0) if half is None else half,
        weights.share,
        weights.bfactor,
        np.zeros(0) if weights.exposure is None else weights.exposure,
        *(a for a in (particles.rotation, particles.shift_xyz_angstrom) if a is not None),
        views.image_index,
        views.defocus_u_angstrom,
        views.defocus_v_angstrom,
        views.defocus_angle_deg,
    )
