"""What a 3D classification starts from: one class to be split, random parts, given classes, given maps."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from parhelion.algorithms.class_setup import known_occupancies
from parhelion.engine.candidates import Candidates
from parhelion.engine.class_posterior import likeliest, of_class
from parhelion.engine.classes import ClassProblem, ClassState, maps_at_given_poses
from parhelion.engine.halves import split_halves
from parhelion.engine.loader import undistorted_shifts
from parhelion.engine.noise import background_noise
from parhelion.engine.scale import reference_scale
from parhelion.engine.variability import (
    CentredImages,
    Components,
    centred_images,
    components,
    told_of,
    two_of,
)
from parhelion.errors import InputError, MetadataError, ParameterError
from parhelion.fourier.filters import lowpass
from parhelion.model.particles import ParticleSet
from parhelion.model.volume import Volume

NOISE_SAMPLE, SCALE_SAMPLE = 1000, 200
SCALE_CYCLES = 7.0
"""Cycles per diameter up to which the scale of given maps is measured."""
SPLIT_CYCLES = 10.0
"""Cycles per diameter that a class is split by: coarse enough for few unknowns, fine enough for a domain."""
SPLIT_SAMPLE = 20_000
FEWEST = 8
"""Particles of a class that is analysed."""
BARELY = 1e-6
"""Weight of what a split has not looked at: it has a pose and no say yet."""


def bare_state(problem: ClassProblem, particles: ParticleSet, rng: np.random.Generator) -> ClassState:
    """Given poses, one class, no maps."""
    shift = undistorted_shifts(particles)
    if particles.rotation is None or shift is None:
        raise MetadataError("the particles have no poses")
    count = len(particles)
    kept = Candidates(
        particle=torch.arange(count),
        rotation=torch.from_numpy(np.ascontiguousarray(particles.rotation, dtype=np.float64)),
        shift=torch.from_numpy(shift.astype(np.float64) / problem.loader.extent_angstrom),
        weight=torch.ones(count, dtype=torch.float64),
        reference=torch.zeros(count, dtype=torch.long),
    )
    noise = background_noise(problem.loader, NOISE_SAMPLE, rng)
    half = split_halves(count, rng, particles.half)
    return ClassState(maps=(), share=np.ones(1), kept=kept, noise=noise, half=half)


def random_start(problem: ClassProblem, state: ClassState, rng: np.random.Generator) -> ClassState:
    """Every particle in a class at random."""
    drawn = torch.from_numpy(rng.integers(0, problem.classes, len(state.half)))
    share = np.full(problem.classes, 1 / problem.classes)
    kept = replace(state.kept, reference=drawn)
    return maps_at_given_poses(problem, replace(state, share=share, kept=kept))


def start_from_classes(problem: ClassProblem, state: ClassState, particles: ParticleSet) -> ClassState:
    """The classes that the particles carry; a particle that has none belongs to all of them alike."""
    percent = known_occupancies(particles)
    classes = problem.classes
    if percent.shape[1] != classes:
        raise ParameterError(
            f"the particles carry {percent.shape[1]} classes and {classes} are asked for; give --classes "
            f"{percent.shape[1]}, or set the classes up anew first (parhelion package)"
        )
    total = percent.sum(1, keepdims=True)
    weight = np.where(total > 0, percent / np.where(total > 0, total, 1.0), 1 / classes)
    if (empty := np.flatnonzero(weight.sum(0) == 0)).size:
        raise ParameterError(f"class {empty[0] + 1} of the input has no particle; drop it first")
    row, number = (torch.from_numpy(found) for found in np.nonzero(weight))
    kept = replace(state.kept.take(row), weight=torch.from_numpy(weight[weight > 0]), reference=number)
    share = weight.mean(0)
    return maps_at_given_poses(problem, replace(state, share=share, kept=kept))


def start_from_maps(
    problem: ClassProblem,
    state: ClassState,
    references: Sequence[Volume],
    limit_angstrom: float,
    diameter_angstrom: float,
    rng: np.random.Generator,
) -> ClassState:
    """Given maps, low-passed to ``limit_angstrom``, all brought to one power and to the particles' scale."""
    loader = problem.loader
    for k, one in enumerate(references, 1):
        pixel = one.pixel_size_angstrom
        if one.box != loader.box or abs(pixel / loader.pixel_size_angstrom - 1) > 1e-3:
            raise InputError(
                f"reference {k} has {one.box} voxels of {pixel:g} Å, the images {loader.box} of "
                f"{loader.pixel_size_angstrom:g} Å; bring it to their size first (parhelion resample)"
            )
        if not np.isfinite(one.data).all() or float(np.ptp(one.data)) == 0:
            raise InputError(f"reference {k} is constant or holds values that are not numbers")
    if len(references) != problem.classes:
        raise ParameterError(f"{len(references)} references for {problem.classes} classes; one for each")
    sphere = torch.from_numpy(problem.solvent.sphere)
    masked = [torch.from_numpy(lowpass(one, limit_angstrom).data).float() * sphere for one in references]
    maps = [one / one.square().mean().sqrt() for one in masked]
    scales = [
        reference_scale(
            loader,
            one,
            state.noise,
            group,
            min(SCALE_CYCLES * loader.extent_angstrom / diameter_angstrom, loader.points.max_shell),
            problem.shift_angstrom / loader.extent_angstrom,
            SCALE_SAMPLE,
            rng,
        )
        for one, group in zip(maps, problem.symmetries)
    ]
    if not max(scales) > 0:
        raise InputError(
            "the particles and the references have nothing in common; check the contrast (protein must be "
            "white in the references), diameter and pixel sizes"
        )
    share = np.full(problem.classes, 1 / problem.classes)
    scaled = tuple((one * max(scales), one * max(scales)) for one in maps)
    return replace(state, maps=scaled, share=share)


def split(
    problem: ClassProblem, state: ClassState, chosen: Sequence[int], shell: float, rng: np.random.Generator
) -> tuple[ClassProblem, ClassState]:
    """Every ``chosen`` class in two, by components up to ``shell``.

    ``problem`` has the classes of ``state``; the new classes come last and take over the symmetry.
    """
    classes = len(state.share)
    halves = {k: _two(problem, state, k, shell, rng) for k in chosen}
    parts = [of_class(state.kept, k) for k in range(classes) if k not in halves]
    symmetries = list(problem.symmetries)
    for new, (k, (poses, posterior)) in enumerate(halves.items(), classes):
        for number, column in ((k, 0), (new, 1)):
            if poses.weight is None:
                raise ValueError("poses of a classification have weights")
            mine = poses.weight * posterior[:, column].clamp_min(BARELY)
            parts.append(replace(poses, weight=mine, reference=torch.full_like(poses.particle, number)))
        symmetries.append(problem.symmetries[k])
    kept = _one_list(parts)
    share = torch.zeros(len(symmetries), dtype=torch.float64)
    if kept.weight is None or kept.reference is None:
        raise ValueError("poses of a classification have weights and classes")
    share.index_add_(0, kept.reference, kept.weight)
    problem = replace(problem, symmetries=tuple(symmetries))
    share = share / share.sum()
    return problem, maps_at_given_poses(problem, replace(state, kept=kept, share=share.numpy()))


def split_shell(problem: ClassProblem, limit_angstrom: float, diameter_angstrom: float) -> float:
    """Where components of a class end."""
    return problem.loader.extent_angstrom / max(limit_angstrom, diameter_angstrom / SPLIT_CYCLES)


def _one_list(parts: list[Candidates]) -> Candidates:
    names = ("particle", "rotation", "shift", "weight", "reference")
    every = Candidates(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names})
    return every.take(torch.argsort(every.particle, stable=True))


def split_gain(
    problem: ClassProblem, state: ClassState, number: int, shell: float, rng: np.random.Generator
) -> float:
    """What two structures explain better than one in a class, in nats, along components of the other half.

    Components fit the noise of the particles they were found from, those of a small class most: each half of
    the particles is therefore judged along those of the other. The gain counts with the share of the class:
    a small class of another molecule, whose poses agree with nothing yet, gains from any split.
    """
    poses = _sampled(_members(state, number), rng)
    half = torch.from_numpy(state.half)[poses.particle]
    parts = [poses.take(half == h) for h in (1, 2)]
    if min(len(part) for part in parts) < FEWEST:
        return -np.inf
    images = [centred_images(problem.loader, state.noise, part, shell) for part in parts]
    found = [_components(problem, state, number, one, rng) for one in images]
    gains = [two_of(told_of(found[1 - h], images[h]), images[h].weight, rng)[1] for h in (0, 1)]
    return float(state.share[number]) * sum(gains)


def _members(state: ClassState, number: int) -> Candidates:
    """The likeliest pose in a class of every particle that has one, weighted with how much of it is there."""
    mine = of_class(state.kept, number)
    if mine.weight is None:
        raise ValueError("poses of a classification have weights")
    total = torch.zeros(len(state.half), dtype=torch.float64).index_add_(0, mine.particle, mine.weight)
    poses = likeliest(mine)
    return replace(poses, weight=total[poses.particle], chi2=None, hessian=None)


def _sampled(poses: Candidates, rng: np.random.Generator) -> Candidates:
    if len(poses) <= SPLIT_SAMPLE:
        return poses
    return poses.take(torch.from_numpy(np.sort(rng.permutation(len(poses))[:SPLIT_SAMPLE])))


def _components(
    problem: ClassProblem, state: ClassState, number: int, images: CentredImages, rng: np.random.Generator
) -> Components:
    mask = state.halves[number].mask.cpu().numpy()
    return components(images, mask, problem.symmetries[number], problem.executor, rng, problem.focus)


def _two(
    problem: ClassProblem, state: ClassState, number: int, shell: float, rng: np.random.Generator
) -> tuple[Candidates, torch.Tensor]:
    """One pose per particle of a class with how much of it is there, and its split ``(m, 2)``."""
    poses = _members(state, number)
    if len(poses) < FEWEST:
        return poses, torch.full((len(poses), 2), 0.5, dtype=torch.float64)
    looked = _sampled(poses, rng)
    images = centred_images(problem.loader, state.noise, looked, shell)
    posterior, _ = two_of(_components(problem, state, number, images, rng), images.weight, rng)
    every = torch.full((len(poses), 2), BARELY, dtype=torch.float64)
    every[torch.searchsorted(poses.particle, looked.particle)] = posterior
    return poses, every
