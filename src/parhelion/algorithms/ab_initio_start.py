"""What a start begins with: maps from random poses, or maps that are given."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from parhelion.algorithms.ab_initio_plan import CHUNK
from parhelion.algorithms.ab_initio_rounds import AbInitioProblem, shifts_of
from parhelion.algorithms.ab_initio_schedule import FIRST_BATCH
from parhelion.algorithms.symmetry_search import find_symmetry, symmetry_as_it_lies
from parhelion.contracts import Observer
from parhelion.engine.scale import reference_scale
from parhelion.engine.score import chunks
from parhelion.engine.update import MapSums, complete_mates, solve
from parhelion.errors import InputError, ParameterError
from parhelion.fourier.filters import lowpass
from parhelion.fourier.resample import resample_volume
from parhelion.geometry.rotations import random_rotations
from parhelion.geometry.symmetry import SymmetryGroup, symmetry_group
from parhelion.model.volume import Volume

FIRST_PRIOR = 0.3
SCALE_SAMPLE = 200
# A map lies on its axes from this correlation with its copies on, or where turning it gains less than that.
LIES, GAINED = 0.95, 0.05
# Below this correlation between the map and its turned copies the symmetry is in doubt.
DOUBTFUL_SYMMETRY = 0.5


def random_maps(problem: AbInitioProblem, classes: int, rng: np.random.Generator) -> Tensor:
    """Maps ``(classes, box, box, box)``, each from other particles as far as there are any, at random poses.

    They are about spherical, with noise that breaks the symmetry and tells the classes apart.
    """
    order = rng.permutation(problem.rows)
    maps = []
    for number in range(classes):
        size = min(FIRST_BATCH, len(order))
        maps.append(_random_map(problem, np.take(order, number * size + np.arange(size), mode="wrap"), rng))
    return torch.stack(maps)


def _random_map(problem: AbInitioProblem, chosen: np.ndarray, rng: np.random.Generator) -> Tensor:
    loader, points = problem.loader, problem.loader.points
    rows = np.sort(chosen)
    count = points.count(problem.first_shell)
    turns = torch.from_numpy(random_rotations(len(rows), rng)).to(loader.device)
    tilts, noise = torch.from_numpy(loader.tilts).to(loader.device), problem.noise.to(loader.device)
    sums = MapSums.zeros(problem.box, points.max_shell, loader.device)
    for piece in chunks(torch.arange(len(rows)), CHUNK):
        batch = loader.batch(rows[piece.numpy()], count).whitened(noise)
        rotations = torch.einsum("vij,njk->vnik", tilts, turns[piece.to(loader.device)])
        for view in range(len(rotations)):
            values = (batch.data[:, view] * batch.ctf[:, view]).contiguous()
            slices = (rotations[view].contiguous(), values, batch.ctf[:, view].square().contiguous())
            sums.add([slices], points)
    prior = torch.full((points.max_shell + 1,), FIRST_PRIOR, dtype=torch.float64)
    return solve(complete_mates(sums), prior, problem.first_shell).cpu() * torch.from_numpy(
        problem.solvent.sphere
    )


def given_maps(problem: AbInitioProblem, references: Sequence[Volume], rng: np.random.Generator) -> Tensor:
    """The ``references`` filtered to the first limit, on the scale of the particles: ``(c, box, box, box)``.

    Raises InputError where a map and the particles have nothing in common.
    """
    limit = problem.extent_angstrom / problem.first_shell
    radius = float(shifts_of(problem, problem.first_shell).norm(dim=1).max())
    maps = []
    for number, reference in enumerate(references, 1):
        small = resample_volume(reference, problem.box, problem.pixel_size_angstrom)
        data = np.ascontiguousarray(lowpass(small, limit).data, dtype=np.float32) * problem.solvent.sphere
        volume = torch.from_numpy(data)
        if not bool(torch.isfinite(volume).all()) or not bool(volume.any()):
            raise InputError(f"reference {number} holds no finite density within the particle's diameter")
        scale = reference_scale(
            problem.loader,
            volume,
            problem.spectrum,
            symmetry_group("C1"),
            problem.first_shell,
            radius,
            min(SCALE_SAMPLE, len(problem.loader.particles)),
            rng,
        )
        if not scale > 0:
            raise InputError(
                f"reference {number} has nothing in common with the particles; check its contrast (protein "
                "is white in maps) and its pixel size"
            )
        maps.append(volume * scale)
    return torch.stack(maps)


def on_axes(volumes: Sequence[Volume], group: SymmetryGroup, observer: Observer) -> tuple[Volume, ...]:
    """Maps that ``group`` can be imposed on: those that do not lie on its axes are turned and moved there."""
    lying = []
    for number, volume in enumerate(volumes, 1):
        here = symmetry_as_it_lies(volume, group)
        fit = None if here > LIES else find_symmetry(volume, group)
        if fit is None or fit.correlation < here + GAINED:
            lying.append(volume)
        else:
            lying.append(fit.aligned)
            observer.notice(
                f"reference {number} does not lie on the axes of {group.name} (it agrees with its copies by "
                f"{here:.2f}); it was turned and moved there ({fit.correlation:.2f})"
            )
        best = here if fit is None else max(here, fit.correlation)
        if best < DOUBTFUL_SYMMETRY:
            observer.notice(
                f"reference {number} agrees with its copies under {group.name} with a correlation of only "
                f"{best:.2f}; the symmetry or the map may be wrong"
            )
    return tuple(lying)


def check_references(references: Sequence[Volume], classes: int) -> None:
    """ParameterError unless there is one map per class."""
    if references and len(references) != classes:
        raise ParameterError(
            f"{len(references)} references for {classes} classes; one map is needed for each class"
        )
