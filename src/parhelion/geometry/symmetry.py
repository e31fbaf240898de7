"""Point groups and helical symmetry.

A volume ``V`` has the symmetry ``G`` where ``V(x) = V(R x)`` for every operator ``R`` of ``G``; then the
poses ``A`` and ``A R`` show the same image. Groups are set in RELION's frames; cisTEM and EMAN2 place some of
them otherwise, which here is a rotation of the frame: an operator ``R`` in the frame of RELION is ``F R Fᵀ``
in the other's.

======  ====================================================================================================
name    RELION's setting
======  ====================================================================================================
C<n>    n-fold along z
D<n>    n-fold along z, twofold along x
T       threefold along z, twofold along (0, √2, 1)
O       fourfolds along x, y and z
I1      twofolds along x, y and z, fivefold along (φ, 0, 1) with the golden ratio φ
I2, I   twofolds along x, y and z, fivefold along (1, 0, φ) (Crowther's 222 setting)
I3      fivefold along z, the next one along (-2, 0, 1), twofold along y
I4      fivefold along z, the next one along (2, 0, 1), twofold along y
======  ====================================================================================================
"""

import re
from dataclasses import dataclass, field

import numpy as np

from parhelion.errors import ParameterError
from parhelion.geometry.rotations import exp_so3, log_so3

GOLDEN = (1.0 + np.sqrt(5.0)) / 2.0
MAX_FOLD = 200

_SETTINGS: dict[str, dict[str, tuple[str, tuple[float, float, float]]]] = {
    # name in the setting -> group, rotation vector (degrees) that carries its frame to the setting's
    "relion": {
        "T": ("T", (0, 0, 0)),
        "O": ("O", (0, 0, 0)),
        "I": ("I2", (0, 0, 0)),
        "I1": ("I1", (0, 0, 0)),
        "I2": ("I2", (0, 0, 0)),
        "I3": ("I3", (0, 0, 0)),
        "I4": ("I4", (0, 0, 0)),
    },
    "cistem": {
        "T": ("T222", (0, 0, 0)),
        "T1": ("T222", (0, 0, 0)),
        "T2": ("T", (0, 0, 0)),
        "O": ("O", (0, 0, 0)),
        "I": ("I1", (0, 0, 0)),
        "I1": ("I1", (0, 0, 0)),
        "I2": ("I2", (0, 0, 0)),
    },
    "eman2": {
        "TET": ("T", (0, 0, 180)),
        "OCT": ("O", (0, 0, 0)),
        "ICOS": ("I4", (0, 0, 0)),
        "ICOS5": ("I4", (0, 0, 0)),
        "ICOS2": ("I1", (0, 0, 0)),
    },
}


@dataclass(frozen=True)
class SymmetryGroup:
    """A point group: its ``name`` and ``operators`` ``(g, 3, 3)`` float64, the identity first."""

    name: str
    operators: np.ndarray = field(repr=False)

    def __len__(self) -> int:
        return len(self.operators)

    def __eq__(self, other: object) -> bool:
        """The same set of operators; the name does not count."""
        if not isinstance(other, SymmetryGroup):
            return NotImplemented
        return len(self) == len(other) and all(_contains(other.operators, R) for R in self.operators)

    def __hash__(self) -> int:
        return hash(len(self))


@dataclass(frozen=True)
class SymmetryAxis:
    """A rotation axis: unit vector ``direction`` ``(3,)`` (one of the two senses) and its ``fold``."""

    direction: np.ndarray
    fold: int


def symmetry_group(name: str, setting: str = "relion") -> SymmetryGroup:
    """The group called ``name`` (upper or lower case) in the frame of ``setting``: relion, cistem or eman2.

    Raises ParameterError where the name or the setting is unknown. Helices: ``helical_symmetry``.
    """
    if setting not in _SETTINGS:
        raise ParameterError(f"unknown symmetry setting {setting!r}; known are {', '.join(_SETTINGS)}")
    label = name.strip().upper()
    cyclic = re.fullmatch(r"([CD])([0-9]+)", label)
    if cyclic and 1 <= int(cyclic[2]) <= MAX_FOLD:
        return SymmetryGroup(label, _cyclic_or_dihedral(cyclic[1], int(cyclic[2])))
    if label not in _SETTINGS[setting]:
        helical = " (helical symmetry is not a point group)" if label.startswith("H") else ""
        known = ", ".join(("C<n>", "D<n>", *_SETTINGS[setting]))
        raise ParameterError(
            f"unknown symmetry {name!r}{helical}; "
            f"known in the {setting} setting are {known}, with n from 1 to {MAX_FOLD}"
        )
    relion_name, vector_deg = _SETTINGS[setting][label]
    frame = exp_so3(np.radians(vector_deg))[0]
    return SymmetryGroup(label, _tidy(frame @ _platonic(relion_name) @ frame.T))


def conjugate(group: SymmetryGroup, frame: np.ndarray) -> SymmetryGroup:
    """The same group after the volume was turned by ``frame`` ``(3, 3)``: operators ``F R Fᵀ``."""
    return SymmetryGroup(group.name, _tidy(frame @ group.operators @ frame.T))


def axes(group: SymmetryGroup) -> list[SymmetryAxis]:
    """All rotation axes, highest fold first; the order of equals does not change from call to call."""
    found: list[SymmetryAxis] = []
    vectors = log_so3(group.operators)
    angles = np.linalg.norm(vectors, axis=1)
    for angle, vector in sorted(zip(angles[1:], vectors[1:]), key=lambda item: round(float(item[0]), 6)):
        direction = _one_sense(vector / angle)
        # the smallest angle about an axis comes first, and tells the fold
        if not any(abs(abs(direction @ axis.direction) - 1.0) < 1e-9 for axis in found):
            found.append(SymmetryAxis(direction, round(2.0 * np.pi / float(angle))))
    return found


def asymmetric_unit_mask(directions: np.ndarray, group: SymmetryGroup) -> np.ndarray:
    """Which of ``directions`` ``(n, 3)`` lie in the asymmetric unit: bool ``(n,)``.

    The unit is the set of directions that are closer to one fixed, generic direction than any of their images
    under the group is (a Dirichlet domain: convex, connected, 4π/|G| of solid angle). A direction on an axis
    is kept once. For a pose ``A`` the view direction is its third row, ``Aᵀ z``.
    """
    directions = np.asarray(directions, float)
    closeness = directions @ (group.operators @ GENERIC_DIRECTION).T
    return closeness[:, 0] >= closeness.max(axis=1) - 1e-9


GENERIC_DIRECTION = np.array([0.3574, 0.1236, 0.9257]) / np.linalg.norm([0.3574, 0.1236, 0.9257])
"""On no axis and no mirror plane of any setting: two images of a direction are never equally close."""


@dataclass(frozen=True, kw_only=True)
class HelicalSymmetry:
    """A helix along z: one subunit is carried to the next by a turn and a rise.

    ``V(x) = V(Rz(twist) x + rise z)``; a positive twist is right-handed, as in RELION. ``order`` is the
    rotational symmetry about the axis (the number of starts related by a pure rotation). ``units`` is how
    many asymmetric units one image shows, all starts together. ``tilt_range_deg`` is how far the axis may
    lean out of the image plane in a search; None where the name does not say.
    """

    twist_deg: float
    rise_angstrom: float
    order: int = 1
    units: int = 1
    tilt_range_deg: float | None = None

    def __post_init__(self) -> None:
        if not (np.isfinite(self.twist_deg) and np.isfinite(self.rise_angstrom)) or self.rise_angstrom <= 0:
            raise ParameterError(
                f"a helix needs a finite twist and a rise above 0 Å, found {self.twist_deg}° and "
                f"{self.rise_angstrom} Å; change the sign of the twist for the other hand"
            )
        if self.order < 1 or self.units < self.order or self.units % self.order:
            raise ParameterError(
                f"the number of helical units ({self.units}) must be a multiple of the rotational order "
                f"({self.order})"
            )

    def operators(self) -> tuple[np.ndarray, np.ndarray]:
        """Rotations ``(units, 3, 3)`` and translations ``(units, 3)`` in Å: ``x → R x + t``, identity first.

        The units lie as evenly as possible on both sides of the central one, as RELION's
        ``helical_nr_asu`` does: one more below where their number along the axis is even.
        """
        along = self.units // self.order
        step = np.arange(-(along // 2), along - along // 2)
        step = step[np.argsort(np.abs(step), kind="stable")]
        start = np.arange(self.order)
        angle = (step[:, None] * self.twist_deg + start[None] * 360.0 / self.order).ravel()
        z = np.zeros((len(angle), 3))
        z[:, 2] = np.repeat(step * self.rise_angstrom, self.order)
        return _tidy(exp_so3(np.radians(angle)[:, None] * np.array([0.0, 0.0, 1.0]))), z


def helical_symmetry(name: str) -> HelicalSymmetry:
    """The helix of EMAN2's ``h<units>,<starts>,<daz>,<rise>[,<tilt range>]`` (commas or colons; degrees, Å).

    EMAN2 turns by ``daz`` clockwise as seen from +z, so the twist is ``-daz``. Raises ParameterError.
    """
    parts = re.split(r"[,:]", name.strip().lower().removeprefix("h"))
    try:
        units, starts, daz, rise = int(parts[0]), int(parts[1]), float(parts[2]), float(parts[3])
        tilt_range = float(parts[4]) if len(parts) == 5 else None
    except (IndexError, ValueError) as error:
        raise ParameterError(
            f"helical symmetry {name!r} is not of the form h<units>,<starts>,<turn in degrees>,<rise in Å>"
            "[,<tilt range in degrees>], for example h12,1,65.3,21.8"
        ) from error
    if not name.strip().lower().startswith("h") or len(parts) > 5:
        raise ParameterError(f"helical symmetry {name!r} does not begin with h or has more than five numbers")
    return HelicalSymmetry(
        twist_deg=-daz, rise_angstrom=rise, order=starts, units=units, tilt_range_deg=tilt_range
    )


def _turn(axis: tuple[float, float, float], angle_deg: float) -> np.ndarray:
    """The rotation ``(3, 3)`` by ``angle_deg`` about ``axis``."""
    unit = np.asarray(axis, float) / np.linalg.norm(axis)
    return exp_so3(np.radians(angle_deg) * unit)[0]


def _cyclic_or_dihedral(kind: str, fold: int) -> np.ndarray:
    turns = exp_so3(2.0 * np.pi / fold * np.arange(fold)[:, None] * np.array([0.0, 0.0, 1.0]))
    if kind == "D":
        turns = np.concatenate([turns, turns @ np.diag([1.0, -1.0, -1.0])])
    return _tidy(turns)


def _platonic(name: str) -> np.ndarray:
    """The operators of T, T222, O and I1–I4 from two rotations that generate them."""
    z, y = (0.0, 0.0, 1.0), (0.0, 1.0, 0.0)
    tilt = np.degrees(np.arctan(1.0 / GOLDEN))  # between z and the fivefold of I2 in the plane y = 0
    generators = {
        "T": (_turn(z, 120.0), _turn((0.0, np.sqrt(2.0), 1.0), 180.0)),
        "T222": (_turn((1.0, 1.0, 1.0), 120.0), _turn(z, 180.0)),
        "O": (_turn((1.0, 1.0, 1.0), 120.0), _turn(z, 90.0)),
        "I1": (_turn((GOLDEN, 0.0, 1.0), 72.0), _turn(z, 180.0)),
        "I2": (_turn((1.0, 0.0, GOLDEN), 72.0), _turn(z, 180.0)),
    }
    if name == "I3":
        return _turn(y, -tilt) @ _platonic("I2") @ _turn(y, tilt)
    if name == "I4":
        return _turn(y, tilt) @ _platonic("I2") @ _turn(y, -tilt)
    return _closure(generators[name])


def _closure(generators: tuple[np.ndarray, ...]) -> np.ndarray:
    """All products of ``generators``, the identity first."""
    found = [np.eye(3)]
    for element in found:  # grows while it is walked through
        for generator in generators:
            product = generator @ element
            if not _contains(np.array(found), product):
                found.append(product)
    return np.array(found)


def _contains(operators: np.ndarray, R: np.ndarray) -> bool:
    return bool((np.abs(operators - R).max(axis=(1, 2)) < 1e-6).any())


def _tidy(operators: np.ndarray) -> np.ndarray:
    """Without the rounding noise that would turn an exact 0, ½ or 1 into a neighbour."""
    half = np.round(2.0 * operators) / 2.0
    return np.where(np.abs(operators - half) < 1e-12, half, operators) + 0.0


def _one_sense(direction: np.ndarray) -> np.ndarray:
    """``direction`` or its negative: the one whose last component that is not zero is positive."""
    direction = np.where(np.abs(direction) < 1e-12, 0.0, direction)
    return direction * np.sign(direction[np.flatnonzero(direction)[-1]])
