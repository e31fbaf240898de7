"""What a CTF refinement is asked for, and which parameters follow from it."""

import math
from dataclasses import dataclass
from typing import Literal

from parhelion.errors import ParameterError
from parhelion.model.particles import OpticsGroup
from parhelion.optics.wavelength import electron_wavelength_angstrom

Level = Literal["particle", "micrograph", "no"]
Shared = Literal["micrograph", "group", "no"]
Kind = Literal["amplitude", "even", "odd", "slice"]

LEAST_OF_GROUP = 20
"""Particles below which the parameters of an optics group stay as they are."""
LEAST_OF_MICROGRAPH = 3
"""The same for those of a micrograph."""
MOST_STEPS = 1000
"""Steps of the defocus search to each side; least squares finds what lies between them."""


@dataclass(frozen=True, kw_only=True)
class CtfRefineSettings:
    """What a user decides. Raises ParameterError where nothing is left to refine.

    ``defocus`` is refined per particle or per micrograph, ``astigmatism`` per micrograph or per optics
    group, all others per optics group.
    """

    defocus: Level = "particle"
    defocus_range_angstrom: float = 500.0
    defocus_step_angstrom: float = 50.0
    astigmatism: Shared = "no"
    beam_tilt: bool = True
    trefoil: bool = True
    tetrafoil: bool = False
    spherical_aberration: bool = False
    magnification: bool = False
    resolution_limit_angstrom: float | None = None
    seed: int = 1

    def __post_init__(self) -> None:
        wanted = (self.beam_tilt, self.trefoil, self.tetrafoil, self.spherical_aberration, self.magnification)
        if self.defocus == "no" and self.astigmatism == "no" and not any(wanted):
            raise ParameterError(
                "nothing is left to refine: ask for at least one of defocus, astigmatism, beam tilt, "
                "trefoil, tetrafoil, spherical aberration and magnification"
            )
        if not 0 < self.defocus_step_angstrom <= self.defocus_range_angstrom:
            raise ParameterError(
                f"the defocus step ({self.defocus_step_angstrom:g} Å) is not between 0 and the range "
                f"({self.defocus_range_angstrom:g} Å)"
            )
        if self.defocus_range_angstrom > MOST_STEPS * self.defocus_step_angstrom:
            raise ParameterError(
                f"a step of {self.defocus_step_angstrom:g} Å makes more than {MOST_STEPS} steps of the "
                f"range of {self.defocus_range_angstrom:g} Å; take a coarser one, least squares refine it"
            )


@dataclass(frozen=True, kw_only=True)
class Column:
    """One parameter: what it acts on and the standard deviation of its prior, in its physical unit.

    ``prior_radians`` says that the prior is a phase at the resolution limit instead.
    """

    name: str
    block: str
    kind: Kind
    prior: float
    prior_radians: bool = False


def _pair(block: str, kind: Kind, prior: float, radians: bool = False) -> tuple[Column, Column]:
    first, second = (
        Column(name=f"{block}_{end}", block=block, kind=kind, prior=prior, prior_radians=radians)
        for end in ("1", "2")
    )
    return first, second


ASTIGMATISM = _pair("astigmatism", "even", 200.0)
SHIFT = _pair("shift", "odd", 2.0)
BEAM_TILT = _pair("beam_tilt", "odd", 2.0)
TREFOIL = _pair("trefoil", "odd", 3.0, radians=True)
TETRAFOIL = _pair("tetrafoil", "even", 3.0, radians=True)
CS = Column(name="spherical_aberration", block="spherical_aberration", kind="even", prior=0.2)
MAGNIFICATION = tuple(
    Column(name=f"magnification_{axes}", block="magnification", kind="slice", prior=0.02)
    for axes in ("xx", "yy", "xy")
)
TURN = Column(name="turn", block="turn", kind="slice", prior=0.02)
AMPLITUDE = Column(name="amplitude", block="amplitude", kind="amplitude", prior=0.5)

NUISANCE = {"shift": ("beam_tilt", "trefoil"), "turn": ("magnification",)}
"""Blocks that only take up what poses could also express, and the blocks that they accompany."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The columns of the Jacobian: of each particle, of each micrograph, of each optics group."""

    particle: tuple[Column, ...]
    micrograph: tuple[Column, ...]
    group: tuple[Column, ...]

    @property
    def columns(self) -> tuple[Column, ...]:
        """All, in the order in which they stand."""
        return (*self.particle, *self.micrograph, *self.group)

    @property
    def sizes(self) -> tuple[int, int, int]:
        """How many columns each level has."""
        return len(self.particle), len(self.micrograph), len(self.group)

    @property
    def blocks(self) -> tuple[str, ...]:
        """The names of the groups' blocks."""
        return tuple(dict.fromkeys(column.block for column in self.group))


def layout_of(settings: CtfRefineSettings) -> Layout:
    """The columns that ``settings`` ask for; an amplitude of each particle always belongs to them."""
    focus = Column(name="defocus", block="defocus", kind="even", prior=settings.defocus_range_angstrom)
    group: list[Column] = []
    if settings.astigmatism == "group":
        group += ASTIGMATISM
    if settings.spherical_aberration:
        group.append(CS)
    if settings.tetrafoil:
        group += TETRAFOIL
    if settings.beam_tilt or settings.trefoil:
        group += SHIFT
    group += BEAM_TILT if settings.beam_tilt else ()
    group += TREFOIL if settings.trefoil else ()
    if settings.magnification:
        group += [*MAGNIFICATION, TURN]
    return Layout(
        particle=(AMPLITUDE, focus) if settings.defocus == "particle" else (AMPLITUDE,),
        micrograph=(
            *((focus,) if settings.defocus == "micrograph" else ()),
            *(ASTIGMATISM if settings.astigmatism == "micrograph" else ()),
        ),
        group=tuple(group),
    )


def units(columns: tuple[Column, ...], group: OpticsGroup, frequency: float) -> list[float]:
    """The physical value of each column that makes a phase of one radian at ``frequency`` (1/Å).

    Å for defocus, astigmatism and shift, mrad for beam tilt, mm for Cs, RELION's Zernike coefficients for
    trefoil and tetrafoil; amplitude, magnification and turn are pure numbers. 0 where the parameter has no
    effect (a beam tilt without spherical aberration).
    """
    wavelength = electron_wavelength_angstrom(group.voltage_kv)
    tilt = 2 * math.pi * 1e4 * group.spherical_aberration_mm * wavelength**2 * frequency**3
    defocus = 1 / (math.pi * wavelength * frequency**2)
    known = {
        "defocus": defocus,
        "astigmatism": defocus,
        "shift": 1 / (2 * math.pi * frequency),
        "beam_tilt": 1 / tilt if tilt else 0.0,
        "trefoil": 1 / frequency**3,
        "tetrafoil": 1 / frequency**4,
        "spherical_aberration": 1 / (0.5 * math.pi * 1e7 * wavelength**3 * frequency**4),
    }
    return [known.get(column.block, 1.0) for column in columns]
