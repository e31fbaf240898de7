"""New classes from the classes of an earlier classification: carried over, merged, dropped, started anew.

A recipe names the old classes that make up each new one: ``1+2,3,new`` makes new class 1 of the old classes
1 and 2, new class 2 of the old class 3, and a third that starts from particles drawn at random. Old classes
that no new one names are dropped. An old class may be named more than once: ``1,1,1`` splits one into three.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from parhelion.errors import MetadataError, ParameterError
from parhelion.model.occupancy import occupancies as carried_occupancies
from parhelion.model.occupancy import with_occupancies
from parhelion.model.particles import ParticleSet

__all__ = ["known_occupancies", "parse_recipe", "set_up_classes"]

NEW = "new"
CISTEM_OCCUPANCY = "cisTEMOccupancy"
Recipe = tuple[tuple[int, ...], ...]


def parse_recipe(text: str, old_classes: int) -> Recipe:
    """The old classes (from 1) of each new class; none for a class that starts anew.

    Raises ParameterError for what is neither a number of an old class, a sum of such, nor ``new``.
    """
    made: list[tuple[int, ...]] = []
    for part in text.split(","):
        words = [word.strip() for word in part.split("+")]
        if words == [NEW]:
            made.append(())
            continue
        if not all(word.isascii() and word.isdigit() and 1 <= int(word) <= old_classes for word in words):
            raise ParameterError(
                f"the recipe {text!r} has the class {part.strip()!r}; expected are numbers from 1 to "
                f"{old_classes} (the classes that the particles have), joined by + to merge them, or {NEW!r}"
            )
        numbers = tuple(int(word) for word in words)
        if len(set(numbers)) < len(numbers):
            raise ParameterError(f"the recipe {text!r} merges a class with itself in {part.strip()!r}")
        made.append(numbers)
    return tuple(made)


def known_occupancies(particles: ParticleSet) -> np.ndarray:
    """Percentages ``(n, classes)``: as carried, else 100 in the particle's class, else all in one class.

    A particle that has no class (a number below 1) or no occupancy anywhere has zeros.
    """
    carried = carried_occupancies(particles)
    if carried is not None:
        return carried
    if particles.class_number is None:
        return np.full((len(particles), 1), 100.0)
    number = particles.class_number
    classes = max(int(number.max(initial=1)), 1)
    return 100.0 * (number[:, None] == np.arange(1, classes + 1)[None])


def set_up_classes(
    particles: ParticleSet | Sequence[ParticleSet],
    recipe: str,
    *,
    poses: Literal["best", "random"] = "best",
    occupancies: Literal["keep", "random"] = "keep",
    carry_all: bool = False,
    seed: int = 0,
) -> ParticleSet:
    """The particles with the classes that ``recipe`` says, their occupancies, and class numbers after these.

    ``particles`` is one table, or one table per old class with the same particles in the same order, each
    with its own poses (as cisTEM keeps them; occupancies from their column ``cisTEMOccupancy``). ``poses``
    says which of several merged classes a particle's pose comes from: that of its highest occupancy, or a
    random one. ``occupancies`` are the sums of what was merged (and a share of 1/classes of the particles
    moves to each class that is new), or, at random, 100 in one class. Particles whose class was dropped are
    left out, or, with ``carry_all``, divided equally among the new classes.

    Raises ParameterError for a recipe or choice that cannot be, MetadataError for tables that do not fit.
    """
    for name, value, known in (
        ("poses", poses, ("best", "random")),
        ("occupancies", occupancies, ("keep", "random")),
    ):
        if value not in known:
            raise ParameterError(f"{name}: expected {' or '.join(known)}, found {value!r}")
    tables = [particles] if isinstance(particles, ParticleSet) else list(particles)
    old = known_occupancies(tables[0]) if len(tables) == 1 else _occupancies_of_tables(tables)
    classes = parse_recipe(recipe, old.shape[1])
    if len(tables) == 1 and poses == "random":
        raise ParameterError(
            "poses: a random one of the merged classes' poses is asked for, but the particles are one table "
            "with one pose each; give one table per class, or choose 'best'"
        )
    rng = np.random.default_rng((seed, 42))
    if not carry_all:
        kept = _of_named_classes(old, classes)
        if not len(kept):
            raise ParameterError(f"no particle belongs to any class of the recipe {recipe!r}")
        tables, old = [table.take(kept) for table in tables], old[kept]
    percent = _new_occupancies(old, classes, occupancies, rng)
    chosen = tables[0]
    if len(tables) > 1:
        chosen = _with_poses_of(tables, _sources(old, percent, classes, poses, rng))
    return with_occupancies(chosen, percent)


def _occupancies_of_tables(tables: list[ParticleSet]) -> np.ndarray:
    """Percentages ``(n, tables)`` from one table per class."""
    if not tables:
        raise MetadataError("no table of particles was given")
    first = tables[0]
    for k, table in enumerate(tables, 1):
        if len(table) != len(first) or not np.array_equal(table.views.image_index, first.views.image_index):
            raise MetadataError(
                f"the table of class {k} lists {len(table)} particles and that of class 1 {len(first)}, or "
                "in another order; all tables need the same particles in the same order"
            )
    for k, table in enumerate(tables, 1):
        if CISTEM_OCCUPANCY not in table.extra:
            raise MetadataError(f"the table of class {k} has no column {CISTEM_OCCUPANCY}")
    columns = [np.asarray(table.extra[CISTEM_OCCUPANCY], np.float64) for table in tables]
    return np.stack(columns, axis=1)


def _of_named_classes(old: np.ndarray, classes: Recipe) -> np.ndarray:
    """Particles whose class, the one of highest occupancy, goes on."""
    named = np.zeros(old.shape[1], bool)
    named[[number - 1 for numbers in classes for number in numbers]] = True
    if not named.any():
        return np.arange(len(old))
    return np.flatnonzero(named[old.argmax(1)] & (old.sum(1) > 0))


def _new_occupancies(
    old: np.ndarray, classes: Recipe, how: Literal["keep", "random"], rng: np.random.Generator
) -> np.ndarray:
    """Percentages ``(n, new classes)`` that add up to 100."""
    count, wanted = len(old), len(classes)
    # drawn from a shuffled deck, so that random classes are of equal size
    drawn = rng.permutation(np.arange(count) % wanted)
    at_random = 100.0 * (drawn[:, None] == np.arange(wanted)[None])
    if how == "random":
        return at_random
    named = np.bincount(
        [number - 1 for numbers in classes for number in numbers], minlength=old.shape[1]
    ).clip(1)
    percent = np.stack(
        [sum(((old / named)[:, n - 1] for n in numbers), np.zeros(count)) for numbers in classes], axis=1
    )
    total = percent.sum(1, keepdims=True)
    percent = np.where(total > 0, 100.0 * percent / np.where(total > 0, total, 1.0), 100.0 / wanted)
    new = np.array([not numbers for numbers in classes])
    return np.where(new[drawn][:, None], at_random, percent)


def _sources(
    old: np.ndarray,
    percent: np.ndarray,
    classes: Recipe,
    poses: Literal["best", "random"],
    rng: np.random.Generator,
) -> np.ndarray:
    """Of each particle the old class (from 0) whose pose it keeps: one of those its new class is made of."""
    every = tuple(range(1, old.shape[1] + 1))
    member = np.zeros((len(classes), old.shape[1]), bool)
    for k, numbers in enumerate(classes):
        member[k, [number - 1 for number in numbers or every]] = True
    allowed = member[percent.argmax(1)]
    value = old if poses == "best" else rng.random(old.shape)
    return np.where(allowed, value, -1.0).argmax(1)


def _with_poses_of(tables: list[ParticleSet], source: np.ndarray) -> ParticleSet:
    """The first table with every particle's pose from the table ``source`` says."""
    rotations, shifts = [], []
    for k, table in enumerate(tables, 1):
        if table.rotation is None or table.shift_xyz_angstrom is None:
            raise MetadataError(f"the table of class {k} has no poses")
        rotations.append(table.rotation)
        shifts.append(table.shift_xyz_angstrom)
    rows = np.arange(len(source))
    moved = tables[0].with_poses(np.stack(rotations)[source, rows], np.stack(shifts)[source, rows])
    return replace(moved, extra=moved.extra.without(CISTEM_OCCUPANCY))
