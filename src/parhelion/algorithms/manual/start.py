"""What a manual refinement starts from: poses, occupancies and references, given or made."""

from dataclasses import asdict, replace

import numpy as np
import torch

from parhelion.algorithms import preparation as prepare
from parhelion.algorithms.manual.agreement import check_references
from parhelion.algorithms.manual.cycle import first_maps
from parhelion.algorithms.manual.problem import ManualProblem, ManualState, Scores
from parhelion.engine.checkpoint import fingerprint
from parhelion.engine.classes import filtered_by_shell
from parhelion.engine.halves import split_halves
from parhelion.engine.loader import undistorted_shifts
from parhelion.engine.noise import background_noise
from parhelion.engine.scale import reference_scale
from parhelion.errors import InputError, MetadataError, ParameterError
from parhelion.fourier.filters import lowpass
from parhelion.geometry.rotations import random_rotations
from parhelion.geometry.symmetry import SymmetryGroup
from parhelion.model.occupancy import occupancies as stored_occupancies
from parhelion.model.particles import ParticleSet
from parhelion.model.volume import Volume

NOISE_SAMPLE, SCALE_SAMPLE = 1000, 200
SCALE_LIMIT_ANGSTROM = 30.0
"""A reference's grey scale is measured on detail no finer than this."""
SCORE_COLUMN = "cisTEMScore"
LOWEST_DENSITY = 0.3
"""Of the highest density: a reference that is thresholded has none below minus this, as in cisTEM."""


def start_state(
    problem: ManualProblem,
    particles: ParticleSet,
    references: tuple[Volume, ...],
    class_poses: tuple[ParticleSet, ...],
) -> ManualState:
    """The state before the first cycle.

    ``references`` are on the particles' grid, one per class, or none: then they are made from poses and
    occupancies. ``class_poses`` are the same particles with each class's own poses, or none. Raises
    MetadataError where poses are needed and missing.
    """
    settings, loader = problem.settings, problem.loader
    rng = np.random.default_rng((settings.seed, 0))
    count, classes = len(particles), settings.classes
    rotation, shift, posed = _poses(problem, particles, class_poses, rng)
    if not posed.any() and (settings.mode == "local" or not references):
        what = "a local refinement starts" if references else "references are made"
        raise MetadataError(
            f"{what} from the particles' poses and the input has none (rlnAngleRot, rlnAngleTilt, "
            "rlnAnglePsi); search globally with a reference, or start from random angles"
        )
    problem.observer.progress("noise and scale", 0, 2)
    noise = background_noise(loader, NOISE_SAMPLE, rng)
    problem.observer.progress("noise and scale", 1, 2)
    state = ManualState(
        rotation=rotation,
        shift=shift,
        posed=posed,
        occupancy=_occupancies(particles, class_poses, classes, rng),
        scores=_scores(particles, class_poses, classes),
        defocus_change_angstrom=np.zeros(count),
        half=split_halves(count, rng, particles.half),
        noise=noise,
    )
    if settings.mode == "global":
        prepare.check_shift_range(max(settings.shift_range), loader.box, loader.pixel_size_angstrom)
    check_sample(problem, rng)
    if references:
        state = replace(state, references=_scaled(problem, references, noise, rng))
        if posed.any() and settings.mode == "local" and not settings.random_poses:
            check_references(problem, state, np.random.default_rng((settings.seed, 0, 1)))
    else:
        problem.use_defocus(particles, state.defocus_change_angstrom)
        state = first_maps(problem, state)
    problem.observer.progress("noise and scale", 2, 2)
    return state


def check_sample(problem: ManualProblem, rng: np.random.Generator) -> None:
    """InputError where none of a sample of images can be used."""
    loader = problem.loader
    rows = np.sort(rng.permutation(len(loader.particles))[:SCALE_SAMPLE])
    if not bool(loader.batch(rows, 1).valid.any()):
        raise InputError(
            f"none of {len(rows)} images looked at can be used (not finite, or constant): "
            f"{prepare.name_images(loader.particles, rows)}"
        )


def _poses(
    problem: ManualProblem,
    particles: ParticleSet,
    class_poses: tuple[ParticleSet, ...],
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rotations ``(classes, n, 3, 3)``, shifts ``(classes, n, 3)`` and who has any ``(n,)``."""
    settings, count = problem.settings, len(particles)
    if settings.random_poses:
        rotation = np.tile(random_rotations(count, rng), (settings.classes, 1, 1, 1))
        return rotation, np.zeros((settings.classes, count, 3)), np.ones(count, bool)
    given = class_poses or (particles,) * settings.classes
    if len(given) != settings.classes:
        raise ParameterError(f"{len(given)} tables of poses for {settings.classes} classes; one for each")
    shifts = [undistorted_shifts(one) for one in given]
    if any(one.rotation is None for one in given) or any(shift is None for shift in shifts):
        rotation = np.tile(np.eye(3), (settings.classes, count, 1, 1))
        return rotation, np.zeros((settings.classes, count, 3)), np.zeros(count, bool)
    rotation = np.stack([np.asarray(one.rotation, np.float64) for one in given])
    shift = np.stack([np.asarray(shift, np.float64) for shift in shifts]) / problem.loader.extent_angstrom
    return rotation, shift, np.ones(count, bool)


def _occupancies(
    particles: ParticleSet, class_poses: tuple[ParticleSet, ...], classes: int, rng: np.random.Generator
) -> np.ndarray:
    """Percentages ``(n, classes)``: from the tables, from class numbers, or at random as cisTEM starts."""
    count = len(particles)
    if classes == 1:
        return np.full((count, 1), 100.0)
    stored = stored_occupancies(particles)
    if stored is not None and stored.shape[1] == classes:
        return _percent(stored)
    column = "cisTEMOccupancy"
    if class_poses and all(column in one.extra for one in class_poses):
        given = np.stack([np.asarray(one.extra[column], np.float64) for one in class_poses], axis=1)
        bad = np.flatnonzero(~(np.isfinite(given) & (given >= 0)).all(1))
        if len(bad):
            raise MetadataError(
                f"{column} of {len(bad)} particles is negative or no number, the first in row {bad[0] + 1}; "
                "percentages from 0 to 100 are expected"
            )
        return _percent(given)
    number = particles.class_number
    if number is not None and set(np.unique(number)) == set(range(1, classes + 1)):
        return np.asarray(100.0 * (number[:, None] == np.arange(1, classes + 1)))
    return _percent(rng.uniform(0, 200 / classes, (count, classes)))


def _percent(values: np.ndarray) -> np.ndarray:
    """Rows that add up to 100; a row of zeros is shared equally."""
    total = values.sum(1, keepdims=True)
    return np.asarray(
        np.where(total > 0, 100 * values / np.where(total > 0, total, 1), 100 / values.shape[1])
    )


def _scores(particles: ParticleSet, class_poses: tuple[ParticleSet, ...], classes: int) -> Scores:
    """Scores that earlier cycles wrote, so that their change is known."""
    given = class_poses or (particles,) * classes
    empty = Scores.zeros(classes, len(particles))
    if not all(SCORE_COLUMN in one.extra for one in given):
        return empty
    return replace(empty, score=np.stack([np.asarray(one.extra[SCORE_COLUMN], np.float64) for one in given]))


def _scaled(
    problem: ManualProblem, references: tuple[Volume, ...], noise: torch.Tensor, rng: np.random.Generator
) -> tuple[tuple[torch.Tensor, torch.Tensor], ...]:
    """Each reference in the particles' grey scale, inside the mask, for both halves."""
    settings = problem.settings
    made: list[tuple[torch.Tensor, torch.Tensor]] = []
    for reference, group in zip(references, problem.symmetries):
        data = np.array(reference.data, np.float32)
        if settings.threshold_reference:
            data = np.maximum(data, -LOWEST_DENSITY * data.max())
        if settings.fom is not None:
            data = _weighted(problem, data, settings.fom)
        volume = torch.from_numpy(data)
        given = problem.solvent.given is not None
        mask = problem.solvent.mask(volume, volume) if given else torch.from_numpy(problem.solvent.sphere)
        volume = problem.solvent.applied(volume, mask)
        scale = _scale(problem, replace(reference, data=volume.numpy()), noise, group, rng)
        if not scale > 0:
            raise InputError(
                f"the particles and the reference of class {len(made) + 1} have nothing in common; check the "
                "contrast (protein must be white in the reference, --contrast says how it is in the "
                "images), radii and pixel sizes"
            )
        made.append((volume * scale, volume * scale))
    return tuple(made)


def _scale(
    problem: ManualProblem,
    reference: Volume,
    noise: torch.Tensor,
    group: SymmetryGroup,
    rng: np.random.Generator,
) -> float:
    """The factor that brings a reference to the particles' grey scale; 1 where it is taken as it is."""
    settings, loader = problem.settings, problem.loader
    if not settings.normalise_reference:
        return 1.0
    limit = max(SCALE_LIMIT_ANGSTROM, settings.high_limit_angstrom)
    coarse = lowpass(reference, limit).data.astype(np.float32)
    return reference_scale(
        loader,
        torch.from_numpy(coarse),
        noise,
        group,
        min(loader.extent_angstrom / limit, loader.points.max_shell),
        max(settings.shift_range) / loader.extent_angstrom,
        SCALE_SAMPLE,
        rng,
    )


def _weighted(
    problem: ManualProblem, data: np.ndarray, fom: tuple[tuple[float, ...], tuple[float, ...]]
) -> np.ndarray:
    """The map with each shell multiplied by the figure of merit of its resolution; 0 beyond the last."""
    resolution, merit = np.array(fom[0]), np.array(fom[1])
    shells = problem.loader.points.max_shell + 1
    frequency = np.arange(shells) / problem.loader.extent_angstrom
    order = np.argsort(1 / resolution)
    factor = np.interp(frequency, (1 / resolution)[order], merit[order], right=0.0)
    return np.asarray(filtered_by_shell(torch.from_numpy(data)[None], factor)[0].numpy())


def fingerprint_of(
    problem: ManualProblem,
    particles: ParticleSet,
    references: tuple[Volume, ...],
    class_poses: tuple[ParticleSet, ...],
    mask: Volume | None,
) -> str:
    """Everything that the result depends on, but for the number of cycles: more may be added to a run."""
    settings = asdict(problem.settings)
    del settings["cycles"]
    views = particles.views
    columns = {
        f"views.{name}": getattr(views, name) for name in views.__dataclass_fields__ if name != "image_path"
    }
    sizes = [(p.name, p.stat().st_size if p.is_file() else -1) for p in views.image_path]
    given = {}
    for number, one in enumerate((particles, *class_poses)):
        given[f"rotation{number}"], given[f"shift{number}"] = one.rotation, one.shift_xyz_angstrom
        given[f"occupancy{number}"] = stored_occupancies(one)
    return fingerprint(
        {
            **columns,
            **given,
            **{f"reference{number}": one.data for number, one in enumerate(references)},
            "images": sizes,
            "optics": particles.optics,
            "half": particles.half,
            "class": particles.class_number,
            "mask": None if mask is None else mask.data,
            "settings": sorted(settings.items()),
            "chunk": problem.chunk,
        }
    )
