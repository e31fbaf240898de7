"""A structure from nothing: expectation-maximisation over all poses, from several independent starts.

Each start begins with random poses and alternates the two matrix products of ``engine.soft`` while the
resolution limit rises and the temperature follows what the posteriors know. What decided in experiments
on real and simulated stacks: the whole posterior instead of a few best poses, a grid no coarser than 15°,
a prior per shell from the map's own power (a constant one shrinks strong shells and drives the map to its
periphery), and the temperature rule. Starts are judged by particles that none of them has seen.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from parhelion.algorithms import preparation as prepare
from parhelion.algorithms.ab_initio_rounds import (
    CHUNK,
    AbInitioProblem,
    evidence_of,
    random_map,
    soft_round,
)
from parhelion.algorithms.map_alignment import align_maps
from parhelion.algorithms.symmetry_search import find_symmetry
from parhelion.contracts import Cancel, Executor, Observer, ParticleSource
from parhelion.engine.annealing import Annealing
from parhelion.engine.loader import EDGE_PIXELS, ParticleLoader
from parhelion.engine.memory import ENGINE_BYTES
from parhelion.engine.memory import ORIENTATIONS_15_DEG as ORIENTATIONS
from parhelion.engine.noise import background_noise, on_points
from parhelion.engine.points import FourierPoints
from parhelion.engine.soft import BLOCK
from parhelion.engine.solvent import Solvent
from parhelion.errors import InputError, ParameterError
from parhelion.fourier.resample import resample_volume
from parhelion.geometry.symmetry import SymmetryGroup, symmetry_group
from parhelion.model.particles import ParticleSet
from parhelion.model.volume import Volume

FIRST_CYCLES, LAST_CYCLES = 4.5, 9.0
MASK_MARGIN_SHELLS = 2
LEAST_SHIFT_ANGSTROM = 10.0
# Particles set aside to judge the starts: a share of all, at most so many.
JUDGE_SHARE, MOST_JUDGES = 0.2, 400
NOISE_SAMPLE = 1000
SYMMETRY_ROUNDS = 8
# From so many operators on, every second start imposes the symmetry from its first round: particles of
# such groups are so nearly spherical that C1 may not find them. Smaller groups imposed early end in compact
# wrong maps, so there they are found later.
LARGE_GROUP = 12
# Comparing starts, seeking axes, and what the allocator keeps between rounds (measured).
COMPARISON_BYTES = 300_000_000
# Below this correlation between the map and its turned copies the symmetry is in doubt.
DOUBTFUL_SYMMETRY = 0.5


@dataclass(frozen=True, kw_only=True)
class AbInitioSettings:
    """What a user decides. Resolutions in Å; None means from the diameter.

    ``starts`` independent starts of ``rounds`` rounds; a round uses up to ``batch`` particles.
    """

    diameter_angstrom: float
    symmetry: str = "C1"
    starts: int = 3
    rounds: int = 30
    initial_resolution_angstrom: float | None = None
    final_resolution_angstrom: float | None = None
    batch: int = 1000
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Start:
    """One start's map, its evidence (nats per held-out particle) and its mean FSC with the chosen one."""

    seed: int
    evidence: float
    volume: Volume
    agreement: float


@dataclass(frozen=True, kw_only=True)
class AbInitioResult:
    """The chosen map on the particles' grid, in the symmetry's frame, and all starts."""

    volume: Volume
    chosen: int
    starts: tuple[Start, ...]
    symmetry: str
    symmetry_correlation: float | None
    resolution_limit_angstrom: float
    notes: tuple[str, ...]


def ab_initio(
    particles: ParticleSet,
    source: ParticleSource,
    settings: AbInitioSettings,
    *,
    executor: Executor,
    observer: Observer,
    cancel: Cancel,
    device: str = "cpu",
    available_bytes: int | None = None,
) -> AbInitioResult:
    """A first map of ``particles``; see the module. Raises InputError where no start finds anything."""
    group = symmetry_group(settings.symmetry)
    problem = _problem(particles, source, settings, executor, observer, cancel, device, available_bytes)
    seeds = [settings.seed + number for number in range(settings.starts)]
    imposed = [len(group) >= LARGE_GROUP and number % 2 == 0 for number in range(settings.starts)]
    maps = [
        _one_start(problem, settings, number, seed, group if imposed[number - 1] else None)
        for number, seed in enumerate(seeds, 1)
    ]
    evidence = [evidence_of(problem, volume) for volume in maps]
    chosen = int(np.argmax(evidence))
    if not np.isfinite(evidence[chosen]):
        raise InputError("no start led to a map; check the particles' contrast, pixel size and CTF values")
    starts = _compared(problem, seeds, evidence, maps, chosen)
    volume, correlation = maps[chosen], None
    notes: list[str] = []
    if len(group) > 1 and not imposed[chosen]:
        volume, correlation = _with_symmetry(problem, settings, volume, group)
        if correlation < DOUBTFUL_SYMMETRY:
            notes.append(
                f"the map agrees with its copies under {settings.symmetry} with a correlation of only "
                f"{correlation:.2f}; the symmetry or the map may be wrong"
            )
    for note in notes:
        observer.notice(note)
    box = source.box
    full = resample_volume(
        Volume(data=volume.numpy(), pixel_size_angstrom=problem.pixel_size_angstrom),
        box,
        particles.optics[0].pixel_size_angstrom,
    )
    # A slice is the transform over the box (engine.predict): one density on two grids differs by n²/N².
    scale = (problem.box / box) ** 2
    return AbInitioResult(
        volume=replace(full, data=(full.data * scale).astype(np.float32)),
        chosen=chosen,
        starts=starts,
        symmetry=settings.symmetry,
        symmetry_correlation=correlation,
        resolution_limit_angstrom=problem.extent_angstrom / problem.last_shell,
        notes=tuple(notes),
    )


def _problem(
    particles: ParticleSet,
    source: ParticleSource,
    settings: AbInitioSettings,
    executor: Executor,
    observer: Observer,
    cancel: Cancel,
    device: str,
    available_bytes: int | None,
) -> AbInitioProblem:
    """Everything that all starts share; maps live on a grid just fine enough for the last round."""
    prepare.check_count(particles)
    pixel, diameter = particles.optics[0].pixel_size_angstrom, settings.diameter_angstrom
    prepare.check_diameter(diameter, source.box, pixel)
    extent = source.box * pixel
    first, last = shell_limits(settings, extent, prepare.highest_shell(source.box, pixel, None))
    points = FourierPoints(source.box, kept_shell(source.box, pixel, last))
    particles = prepare.with_noise_groups(particles)
    loader = ParticleLoader(
        particles=particles,
        source=source,
        points=points,
        diameter_angstrom=prepare.mask_diameter(diameter, source.box, pixel, EDGE_PIXELS),
        cache_bytes=_cache_bytes(available_bytes),
        device=torch.device(device),
    )
    rng = np.random.default_rng((settings.seed, 1))
    order = rng.permutation(len(particles))
    judges = min(int(JUDGE_SHARE * len(particles)), MOST_JUDGES)
    box = map_box(points.max_shell, source.box)
    solvent = Solvent.within(box, extent / box, diameter)
    return AbInitioProblem(
        loader=loader,
        noise=on_points(background_noise(loader, NOISE_SAMPLE, rng), points),
        judges=np.sort(order[:judges]),
        rows=np.sort(order[judges:]),
        box=box,
        extent_angstrom=extent,
        first_shell=first,
        last_shell=last,
        shift_angstrom=max(0.1 * diameter, LEAST_SHIFT_ANGSTROM),
        batch=settings.batch,
        solvent=solvent,
        executor=executor,
        observer=observer,
        cancel=cancel,
    )


def planned_bytes(
    count: int, box: int, pixel_size_angstrom: float, settings: AbInitioSettings, available_bytes: int | None
) -> tuple[int, int]:
    """Memory shared by all threads, and for each thread, counted from the arrays of a last round.

    Kept transforms, the slice bank, sums over orientations, maps; per thread a chunk's sums and the blocks
    of scores and weights.
    """
    prepare.check_diameter(settings.diameter_angstrom, box, pixel_size_angstrom)
    extent = box * pixel_size_angstrom
    _, last = shell_limits(settings, extent, prepare.highest_shell(box, pixel_size_angstrom, None))
    points = FourierPoints(box, kept_shell(box, pixel_size_angstrom, last))
    sums = 12 * ORIENTATIONS * points.count(last)
    cache = min(_cache_bytes(available_bytes), 8 * len(points) * count)
    maps = (8 + settings.starts) * 4 * (2 * map_box(points.max_shell, box)) ** 3
    shared = cache + 3 * sums + maps + 1500 * count + ENGINE_BYTES + COMPARISON_BYTES
    images = 5 * 4 * CHUNK * box**2
    return shared, 2 * sums + 5 * 4 * BLOCK + images


def _cache_bytes(available_bytes: int | None) -> int:
    """How much memory may keep transforms between rounds."""
    return 2**31 if available_bytes is None else available_bytes // 3


def shell_limits(settings: AbInitioSettings, extent_angstrom: float, highest: int) -> tuple[float, float]:
    """First and last resolution limit in shells; ParameterError where they make no sense."""
    diameter = settings.diameter_angstrom
    first = extent_angstrom / (settings.initial_resolution_angstrom or diameter / FIRST_CYCLES)
    last = extent_angstrom / (settings.final_resolution_angstrom or diameter / LAST_CYCLES)
    first, last = min(first, highest), min(last, highest)
    if first < 2 or last < first:
        raise ParameterError(
            f"the resolution limits go from {extent_angstrom / first:.0f} Å to "
            f"{extent_angstrom / last:.0f} Å; the last must be finer than "
            "the first, and the first finer than half of the box"
        )
    return first, last


def kept_shell(box: int, pixel_size_angstrom: float, last_shell: float) -> int:
    """The highest shell whose transforms are kept: a margin beyond the last limit, as far as images go."""
    highest = prepare.highest_shell(box, pixel_size_angstrom, None)
    return min(int(np.ceil(last_shell)) + MASK_MARGIN_SHELLS, highest)


def map_box(max_shell: int, box: int) -> int:
    """Even box that holds ``max_shell`` with a third to spare for work in real space; at most the images'."""
    return min(box, max(32, 2 * ((3 * max_shell + 1) // 2)))


def _one_start(
    problem: AbInitioProblem,
    settings: AbInitioSettings,
    number: int,
    seed: int,
    symmetry: SymmetryGroup | None,
) -> Tensor:
    """The map ``(box, box, box)`` of one start, with ``symmetry`` imposed throughout if given."""
    rng = np.random.default_rng((seed, 2))
    annealing = Annealing(rounds=settings.rounds)
    volume = random_map(problem, rng)
    while annealing.done < settings.rounds:
        problem.cancel.check()
        volume, outcome = soft_round(
            problem, volume, annealing.progress, annealing.temperature, rng, symmetry
        )
        problem.observer.record(
            "rounds",
            start=number,
            round=annealing.done + 1,
            limit_angstrom=outcome.limit_angstrom,
            temperature=annealing.temperature,
            information_nats=outcome.information,
            top_probability=outcome.top,
            evidence=outcome.evidence,
        )
        annealing = annealing.after(outcome.information)
        problem.observer.progress(
            f"start {number} of {settings.starts}", float(annealing.done), float(settings.rounds)
        )
    return volume


def _compared(
    problem: AbInitioProblem, seeds: list[int], evidence: list[float], maps: list[Tensor], chosen: int
) -> tuple[Start, ...]:
    """All starts, each aligned to the chosen one (either hand) and compared with it."""
    pixel = problem.pixel_size_angstrom
    target = Volume(data=maps[chosen].numpy(), pixel_size_angstrom=pixel)
    starts = []
    for number, seed in enumerate(seeds):
        volume, agreement = target, 1.0
        if number != chosen:
            try:
                moved = align_maps(Volume(data=maps[number].numpy(), pixel_size_angstrom=pixel), target)
            except InputError as error:
                problem.observer.notice(f"start {number + 1} cannot be compared: {error}")
                agreement = 0.0
            else:
                volume = moved.aligned
                agreement = float(np.mean(moved.fsc[1 : int(problem.last_shell) + 1]))
        starts.append(Start(seed=seed, evidence=evidence[number], volume=volume, agreement=agreement))
    return tuple(starts)


def _with_symmetry(
    problem: AbInitioProblem, settings: AbInitioSettings, volume: Tensor, group: SymmetryGroup
) -> tuple[Tensor, float]:
    """The map turned into the group's frame and refined a few rounds with its symmetry imposed."""
    fit = find_symmetry(Volume(data=volume.numpy(), pixel_size_angstrom=problem.pixel_size_angstrom), group)
    problem.observer.notice(
        f"{settings.symmetry} axes found: the map agrees with its copies with a correlation of "
        f"{fit.correlation:.2f}"
    )
    symmetric = torch.from_numpy(np.ascontiguousarray(fit.symmetrised.data, dtype=np.float32))
    rng = np.random.default_rng((settings.seed, 3))
    for number in range(SYMMETRY_ROUNDS):
        problem.cancel.check()
        symmetric, _ = soft_round(problem, symmetric, 1.0, 1.0, rng, group)
        problem.observer.progress("symmetry imposed", float(number + 1), float(SYMMETRY_ROUNDS))
    return symmetric, fit.correlation
