"""A map, or two half maps, from particles whose poses are known."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from parhelion.algorithms import preparation as prepare
from parhelion.algorithms.postprocess.gold_standard import GoldStandard, gold_standard_fsc
from parhelion.contracts import Cancel, Executor, Observer, ParticleSource
from parhelion.engine.accumulate import insertion_slices
from parhelion.engine.candidates import Candidates
from parhelion.engine.halves import LIGHT_PRIOR, solve_combined, solve_halves, split_halves
from parhelion.engine.loader import EDGE_PIXELS, ParticleLoader
from parhelion.engine.memory import TOGETHER, MemoryPlan, plan_memory
from parhelion.engine.noise import background_noise, on_points
from parhelion.engine.points import FourierPoints
from parhelion.engine.score import chunks
from parhelion.engine.solvent import Solvent
from parhelion.engine.update import MapSums, Slices, complete_mates, solve, symmetrise
from parhelion.errors import InputError, MetadataError
from parhelion.geometry.symmetry import SymmetryGroup, symmetry_group
from parhelion.model.particles import ParticleSet
from parhelion.model.volume import Volume

NOISE_SAMPLE = 1000


@dataclass(frozen=True, kw_only=True)
class ReconstructSettings:
    """What a user decides. Without ``halves`` all particles go into one map, which has no FSC.

    ``diameter_angstrom`` None keeps whatever the box's inscribed circle holds.
    """

    symmetry: str = "C1"
    diameter_angstrom: float | None = None
    resolution_limit_angstrom: float | None = None
    halves: bool = True
    automatic_mask: bool = True
    seed: int = 1


@dataclass(frozen=True, kw_only=True)
class ReconstructResult:
    """The map of all particles, not masked; half maps (unfiltered), mask and curves unless ``halves`` is off.

    ``unusable`` are rows of particles whose images are not finite or constant.
    """

    map: Volume
    half_maps: tuple[Volume, Volume] | None
    mask: Volume | None
    curves: GoldStandard | None
    half: np.ndarray | None
    unusable: np.ndarray


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
    """Insert every particle at its pose and solve, with the noise power taken from the images' background.

    The half maps are solved with a prior that only keeps empty voxels finite; the map of all particles is
    Wiener-filtered by their FSC. Raises MetadataError where particles have no poses.
    """
    if settings.halves:
        prepare.check_count(particles)
    if particles.rotation is None or particles.shift_xyz_angstrom is None:
        raise MetadataError("the particles have no poses; a map cannot be reconstructed from them")
    particles = prepare.with_noise_groups(particles)
    pixel, box = particles.optics[0].pixel_size_angstrom, source.box
    diameter = settings.diameter_angstrom or box * pixel
    prepare.check_diameter(diameter, box, pixel)
    shell = prepare.highest_shell(box, pixel, settings.resolution_limit_angstrom)
    memory = memory_plan(len(particles), box, pixel, settings, available_bytes)
    loader = ParticleLoader(
        particles=particles,
        source=source,
        points=FourierPoints(box, shell),
        diameter_angstrom=prepare.mask_diameter(diameter, box, pixel, EDGE_PIXELS),
        cache_bytes=0,
        device=torch.device(device),
    )
    work = _Work(
        loader=loader,
        symmetry=symmetry_group(settings.symmetry),
        noise=background_noise(loader, NOISE_SAMPLE, np.random.default_rng((settings.seed, 0))),
        executor=executor,
        observer=observer,
        cancel=cancel,
        chunk=memory.chunk,
    )
    if mask is not None:
        mask = prepare.on_grid_of(mask, box, pixel, observer, "mask")
    return _both_halves(work, settings, mask, diameter) if settings.halves else _one_map(work)


def memory_plan(
    count: int,
    box: int,
    pixel_size_angstrom: float,
    settings: ReconstructSettings,
    available_bytes: int | None,
) -> MemoryPlan:
    """How much memory the reconstruction takes; it reads every image once and keeps none."""
    shell = prepare.highest_shell(box, pixel_size_angstrom, settings.resolution_limit_angstrom)
    return plan_memory(
        particles=count,
        box=box,
        max_shell=shell,
        search_points=0,
        poses=1,
        refines=False,
        available_bytes=available_bytes,
    )


@dataclass(frozen=True, kw_only=True)
class _Work:
    loader: ParticleLoader
    symmetry: SymmetryGroup
    noise: torch.Tensor
    executor: Executor
    observer: Observer
    cancel: Cancel
    chunk: int


def _one_map(work: _Work) -> ReconstructResult:
    rows = np.arange(len(work.loader.particles))
    sums, used = _sums(work, rows, "insert")
    shell = work.loader.points.max_shell
    data = solve(sums, torch.full((shell + 1,), LIGHT_PRIOR, dtype=torch.float64), shell)
    return ReconstructResult(
        map=_volume(work, data),
        half_maps=None,
        mask=None,
        curves=None,
        half=None,
        unusable=_unusable(work, rows, used),
    )


def _both_halves(
    work: _Work, settings: ReconstructSettings, mask: Volume | None, diameter: float
) -> ReconstructResult:
    loader = work.loader
    given = loader.particles.half
    half = split_halves(len(loader.particles), np.random.default_rng((settings.seed, 1)), given)
    if given is not None and not np.array_equal(half, given):
        work.observer.notice("the input assigns some particles to no half set: all were split anew")
    found = [_sums(work, np.flatnonzero(half == h), f"insert half {h}") for h in (1, 2)]
    if not all(used.any() for _, used in found):
        raise InputError(
            "a half set has no usable particle: images are not finite or constant, or all particles belong "
            "to one half set"
        )
    sums = (found[0][0], found[1][0])
    solvent = Solvent.within(
        loader.box,
        loader.pixel_size_angstrom,
        diameter,
        automatic=settings.automatic_mask,
        given=None if mask is None else np.clip(mask.data, 0, 1).astype(np.float32),
    )
    halves = solve_halves(sums, solvent, loader.points.max_shell)
    maps = (_volume(work, halves.unfiltered[0]), _volume(work, halves.unfiltered[1]))
    inside = _volume(work, halves.mask)
    used = np.zeros(len(half), bool)
    for h in (1, 2):
        used[np.flatnonzero(half == h)] = found[h - 1][1]
    return ReconstructResult(
        map=_volume(work, solve_combined(sums, halves, loader.points.max_shell)),
        half_maps=maps,
        mask=inside,
        curves=gold_standard_fsc(*maps, inside, seed=settings.seed),
        half=half,
        unusable=_unusable(work, np.arange(len(half)), used),
    )


def _sums(work: _Work, rows: np.ndarray, stage: str) -> tuple[MapSums, np.ndarray]:
    """Completed, symmetrised sums over particles ``rows``, and which of them had usable images."""
    loader = work.loader
    sums = MapSums.zeros(loader.box, loader.points.max_shell, loader.device)
    used = []
    for results in _inserted(work, rows, stage):
        sums.add([s for slices, _ in results for s in slices], loader.points, work.executor)
        used += [good for _, good in results]
    averaged = symmetrise(complete_mates(sums), work.symmetry.operators, work.executor)
    return averaged, np.concatenate(used) if used else np.zeros(0, bool)


def _inserted(work: _Work, rows: np.ndarray, stage: str) -> Iterator[list[tuple[list[Slices], np.ndarray]]]:
    """Slices of a few chunks at a time, in bounded memory."""
    every = chunks(torch.from_numpy(rows), work.chunk)
    noise = on_points(work.noise, work.loader.points).to(work.loader.device)
    done = 0
    for first in range(0, len(every), TOGETHER):
        work.cancel.check()
        group = every[first : first + TOGETHER]
        yield list(work.executor.map(lambda piece: _slices(work.loader, noise, piece.numpy()), group))
        done += sum(len(piece) for piece in group)
        work.observer.progress(stage, float(done), float(len(rows)))


def _slices(loader: ParticleLoader, noise: torch.Tensor, rows: np.ndarray) -> tuple[list[Slices], np.ndarray]:
    rotation, shift = loader.particles.rotation, loader.shift_xyz_angstrom
    if rotation is None or shift is None:
        raise MetadataError("the particles have no poses")
    batch = loader.batch(rows, len(loader.points)).whitened(noise)
    good = batch.valid.any(1)
    device = batch.data.device
    poses = Candidates(
        particle=torch.arange(len(rows), device=device),
        rotation=torch.from_numpy(np.ascontiguousarray(rotation[rows], dtype=np.float64)).to(device),
        shift=torch.from_numpy(shift[rows] / loader.extent_angstrom).to(device),
        weight=good.double(),
    )
    return insertion_slices(batch, poses, loader.points), good.cpu().numpy()


def _unusable(work: _Work, rows: np.ndarray, used: np.ndarray) -> np.ndarray:
    bad = rows[~used]
    if len(bad) == len(rows):
        raise InputError(
            f"none of the {len(rows)} images can be used (not finite, or constant): "
            f"{prepare.name_images(work.loader.particles, bad)}"
        )
    if len(bad):
        work.observer.notice(
            f"{len(bad)} of {len(rows)} particles have images that are not finite or constant and were left "
            f"out: {prepare.name_images(work.loader.particles, bad)}"
        )
    return bad


def _volume(work: _Work, data: torch.Tensor) -> Volume:
    return Volume(
        data=data.cpu().numpy().astype(np.float32), pixel_size_angstrom=work.loader.pixel_size_angstrom
    )
