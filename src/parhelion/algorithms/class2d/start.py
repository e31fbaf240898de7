"""The first averages: of particles sampled at random, or references that were given."""

from dataclasses import replace

import numpy as np
import torch

from parhelion.algorithms.class2d.maximisation import maximise
from parhelion.algorithms.class2d.problem import CHUNK, Class2dProblem, ClassState
from parhelion.algorithms.class2d.weights import SCALE_LIMITS, SIGMA_LIMITS
from parhelion.engine.loader import transform
from parhelion.engine.noise import on_points
from parhelion.engine.planar import PlanarSums, planar_grid
from parhelion.engine.planar_soft import PlanarImages, shift_ramps
from parhelion.errors import InputError, MetadataError
from parhelion.geometry.rotations import to_relion

SCALE = "parhelionScale"
"""Column of tables that ``class2d`` wrote: beside it the column cisTEMSigma has our meaning."""


def random_averages(problem: Class2dProblem, noise: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Averages ``(c, box, box)`` of particles as they lie, drawn at random for each class.

    They look alike but for noise; what differs between them is what breaks the symmetry. The fewer particles
    the more they differ: on real particles the classes of the end agreed better with projections of the
    molecule (mean ring correlation of the best 1,000 of 2,374 particles 0.46, 0.48, 0.50 for 200, 50, 20).
    """
    settings, points = problem.settings, problem.points
    limit = settings.initial_resolution_angstrom
    count = points.count(problem.extent / limit)
    rows, c = problem.rows, problem.classes
    per_class = min(settings.start_average, max(1, len(rows) // 2))
    drawn = np.zeros((c, len(problem.half)), np.float32)
    for weights in drawn:
        weights[rng.permutation(rows)[:per_class]] = 1
    power = on_points(torch.from_numpy(noise), points).to(problem.loader.device)
    sums = PlanarSums.zeros(2 * c, problem.box, points.max_shell, problem.loader.device, settings.padding)
    grid = planar_grid(torch.zeros(1, dtype=torch.float64), points, count, problem.padding)
    for half in (0, 1):
        mine = rows[problem.half[rows] == half]
        for first in range(0, len(mine), CHUNK):
            piece = mine[first : first + CHUNK]
            batch = problem.loader.batch(piece, count).whitened(power)
            weight = torch.from_numpy(drawn[:, piece]).to(power.device)
            value = weight.to(torch.complex64) @ (batch.data[:, 0] * batch.ctf[:, 0])
            sums.insert(half * c, value[:, None], (weight @ batch.ctf[:, 0].square())[:, None], grid)
    return maximise(problem, sums, np.ones(c), limit).averages.numpy()


def table_averages(problem: Class2dProblem, state: ClassState) -> np.ndarray:
    """Averages of the particles of each class of ``state``, turned and moved as it says."""
    points, extent = problem.points, problem.extent
    limit = problem.settings.initial_resolution_angstrom
    count = points.count(extent / limit)
    power = on_points(torch.from_numpy(state.noise), points).to(problem.loader.device)
    sums = PlanarSums.zeros(
        2 * problem.classes,
        problem.box,
        points.max_shell,
        problem.loader.device,
        problem.settings.padding,
    )
    members = np.zeros(problem.classes)
    for number in range(2 * problem.classes):
        half, category = divmod(number, problem.classes)
        mine = problem.usable[state.category[problem.usable] == category]
        members[category] = len(mine)
        mine = mine[problem.half[mine] == half]
        for first in range(0, len(mine), CHUNK):
            piece = mine[first : first + CHUNK]
            batch = problem.loader.batch(piece, count).whitened(power)
            centres = torch.from_numpy(state.shift_angstrom[piece] / extent).to(power.device)
            images = PlanarImages.of(batch.data[:, 0], batch.ctf[:, 0], shift_ramps(points, centres, count))
            angles = torch.from_numpy(state.psi_deg[piece]).to(power.device)
            grid = planar_grid(angles, points, count, problem.padding)
            sums.insert(number, images.moved[None], images.ctf2[None], grid)
    return maximise(problem, sums, members, limit).averages.numpy()


def posed_state(problem: Class2dProblem, state: ClassState) -> ClassState:
    """``state`` with the table's class, angle and centre of each particle, sigma and scale where it has them.

    Raises MetadataError where the table has no poses.
    """
    particles = problem.loader.particles
    rotation, shift = particles.rotation, problem.loader.shift_xyz_angstrom
    if rotation is None or shift is None:
        raise MetadataError(
            "the table of particles has no angles and centres (rlnAnglePsi, rlnOriginXAngst) to start from; "
            "give the particles.star of an earlier class2d, or leave --local out"
        )
    state = replace(
        state, psi_deg=to_relion(rotation)[:, 2] % 360, shift_angstrom=shift[:, :2].astype(np.float64)
    )
    if particles.class_number is not None:
        numbers = particles.class_number.astype(np.int64)
        known = (numbers >= 1) & (numbers <= problem.classes)
        state = replace(state, category=np.where(known, numbers - 1, -1))
    if "cisTEMSigma" in particles.extra and SCALE in particles.extra:
        sigma, scale = (particles.extra[name].astype(np.float64) for name in ("cisTEMSigma", SCALE))
        state = replace(state, sigma=np.clip(sigma, *SIGMA_LIMITS), scale=np.clip(scale, *SCALE_LIMITS))
    return state


def given_averages(problem: Class2dProblem, noise: np.ndarray, references: np.ndarray) -> np.ndarray:
    """References ``(c, box, box)``, masked and brought to the images' scale.

    Scaled so that their power in the images equals the power that the images have above the noise, each to
    the same. A blank one, of a class that was empty, stays blank until the class is refilled. Raises
    InputError where all are blank.
    """
    points = problem.points
    images = torch.from_numpy(np.ascontiguousarray(references, dtype=np.float32)) * problem.mask
    count = points.count(problem.extent / problem.settings.initial_resolution_angstrom)
    power = on_points(torch.from_numpy(noise), points)[:, :count].to(problem.loader.device)
    excess = torch.zeros(count, dtype=torch.float64)
    waves = torch.zeros(count, dtype=torch.float64)
    sample = problem.usable[:: max(1, len(problem.usable) // 1000)]
    for first in range(0, len(sample), CHUNK):
        batch = problem.loader.batch(sample[first : first + CHUNK], count).whitened(power)
        energy = batch.data[:, 0].abs().square() - problem.loader.mask_energy
        excess += energy.double().sum(0).cpu()
        waves += batch.ctf[:, 0].square().double().sum(0).cpu()
    wanted = float(excess.sum().clamp_min(1e-6))
    found = (transform(images, points)[:, :count].abs().square().double() * waves).sum(1)
    blank = found <= 0
    if bool(blank.all()):
        raise InputError(
            f"all {len(found)} references are blank inside the mask; check the file and the radius"
        )
    scale = torch.where(blank, 0.0, (wanted / found.clamp_min(1e-30)).sqrt()).float()
    return (images * scale[:, None, None]).numpy()
