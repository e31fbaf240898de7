"""What a user decides about a 3D classification, and what comes out of it."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from parhelion.algorithms.class_alike import Pair
from parhelion.errors import ParameterError
from parhelion.model.particles import ParticleSet
from parhelion.model.volume import Volume

LEAST_CYCLES = 3.0
"""Cycles per diameter that classes are told apart by at least."""
ALIGNMENTS = ("none", "local", "global")
STARTS = ("split", "random", "input")


@dataclass(frozen=True, kw_only=True)
class ClassifySettings:
    """What a user decides.

    ``symmetry`` has one group for all classes or one per class. ``focus`` is the centre (x, y, z) from the
    box's centre and the radius of a sphere in Å, outside which all classes are the same. ``start`` says where
    classes come from: one class that is split, random parts of the particles, or the classes that the
    particles carry; None is "split", with one symmetry per class "random". ``rounds`` are those with all
    classes there, ``least_rounds`` of them at least.
    """

    diameter_angstrom: float
    classes: int = 3
    symmetry: tuple[str, ...] = ("C1",)
    align: str = "none"
    resolution_limit_angstrom: float | None = None
    rounds: int = 30
    least_rounds: int = 3
    focus: tuple[float, float, float, float] | None = None
    start: str | None = None
    seed: int = 1

    def __post_init__(self) -> None:
        if self.classes < 2:
            raise ParameterError(f"{self.classes} classes are nothing to choose from; at least 2 are needed")
        if len(self.symmetry) not in (1, self.classes):
            raise ParameterError(
                f"{len(self.symmetry)} symmetries for {self.classes} classes; one for all or one for each"
            )
        limit, coarsest = self.resolution_limit_angstrom, self.diameter_angstrom / LEAST_CYCLES
        if limit is not None and limit > coarsest:
            raise ParameterError(
                f"a resolution limit of {limit:g} Å leaves nothing that classes of a particle of "
                f"{self.diameter_angstrom:g} Å could differ by; give {coarsest:.0f} Å or finer"
            )
        if self.align not in ALIGNMENTS:
            raise ParameterError(f"alignment {self.align!r} is none of {', '.join(ALIGNMENTS)}")
        if self.start is not None and self.start not in STARTS:
            raise ParameterError(f"start {self.start!r} is none of {', '.join(STARTS)}")
        if self.start == "split" and len(set(self.groups)) > 1:
            raise ParameterError(
                "classes of different symmetry cannot come from splitting one class, which has one symmetry; "
                "start them at random, from the input's classes, or from references"
            )

    @property
    def groups(self) -> tuple[str, ...]:
        """One symmetry per class."""
        return self.symmetry * self.classes if len(self.symmetry) == 1 else self.symmetry

    @property
    def begins(self) -> str:
        """Where classes come from."""
        return self.start or ("split" if len(set(self.groups)) == 1 else "random")


@dataclass(frozen=True, kw_only=True)
class ClassResult:
    """One class: filtered, masked map, unfiltered half maps, FSC inside the mask, share of the particles.

    The half maps come from the two halves of the class's particles. Each half was compared with the map of
    the other, which are therefore not as independent as those of a gold-standard refinement.
    """

    map: Volume
    half_maps: tuple[Volume, Volume]
    mask: Volume
    fsc: np.ndarray
    resolution_angstrom: float
    share: float
    symmetry: str = "C1"


@dataclass(frozen=True, kw_only=True)
class Classification:
    """All classes, largest first, what tells each two of them apart, and the particles with class numbers
    (1 is the first) and probabilities."""

    classes: tuple[ClassResult, ...]
    pairs: tuple[Pair, ...]
    particles: ParticleSet
    unusable: np.ndarray
    history: tuple[Mapping[str, float | int], ...]
    reason: str
    limit_angstrom: float
