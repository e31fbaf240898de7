"""The start of a CTF refinement, what has changed since, and the optics that follow."""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from parhelion.algorithms.ctf_refine.settings import LEAST_OF_MICROGRAPH, Column, Layout, units
from parhelion.errors import MetadataError
from parhelion.model.particles import OpticsGroup, ParticleSet
from parhelion.optics.astigmatism import defoci, quadratic_form, seen_through

TREFOIL_AT = (5, 2)
"""Places of the cosine and sine terms of trefoil in RELION's list of odd terms."""
TETRAFOIL_AT = (8, 4)
"""The same of tetrafoil among the even terms."""


@dataclass(frozen=True, kw_only=True)
class Changes:
    """Sums of all steps, in physical units: ``particle (n, ·)``, ``micrograph (m, ·)``, ``group (g, ·)``."""

    particle: np.ndarray
    micrograph: np.ndarray
    group: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Optics:
    """What the model is evaluated with.

    ``form (n, 3)`` are defocus and astigmatism in the frame of the images (``optics.astigmatism``), whatever
    the magnification matrix of the group says: the rings of an image are seen there. ``rotation``, ``shift``
    are the poses, ``amplitude (n,)`` scales the reference.
    """

    groups: tuple[OpticsGroup, ...]
    form: np.ndarray
    rotation: np.ndarray
    shift_xyz_angstrom: np.ndarray
    amplitude: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Start:
    """Particles as they came, numbered micrographs, and the columns that are refined.

    ``micrograph (n,)`` is a number within all optics groups: one micrograph in two groups counts twice.
    ``frequency`` (1/Å) is the resolution limit, at which a phase of 1 radian is the unit of the solver.
    """

    particles: ParticleSet
    layout: Layout
    micrograph: np.ndarray
    frequency: float

    @property
    def group(self) -> np.ndarray:
        """Optics group of each particle ``(n,)``."""
        return self.particles.views.optics_group

    @cached_property
    def group_of_micrograph(self) -> np.ndarray:
        """Optics group of each micrograph ``(m,)``."""
        first = np.unique(self.micrograph, return_index=True)[1]
        return np.asarray(self.group[first])

    @cached_property
    def form(self) -> np.ndarray:
        """Defocus and astigmatism ``(n, 3)`` as the images show them."""
        views = self.particles.views
        form = quadratic_form(views.defocus_u_angstrom, views.defocus_v_angstrom, views.defocus_angle_deg)
        for number, group in enumerate(self.particles.optics):
            member = self.group == number
            form[member] = seen_through(form[member], group.magnification)
        return form

    @cached_property
    def unit(self) -> np.ndarray:
        """Physical value ``(groups, columns)`` of one unit of the solver."""
        return np.array(
            [units(self.layout.columns, group, self.frequency) for group in self.particles.optics]
        )

    @cached_property
    def prior(self) -> np.ndarray:
        """Standard deviations ``(groups, columns)`` of the priors in physical units."""
        given = np.array([column.prior for column in self.layout.columns])
        radians = np.array([column.prior_radians for column in self.layout.columns])
        return np.where(radians, given * self.unit, given)

    def large_micrographs(self, rows: np.ndarray) -> np.ndarray:
        """Which micrographs ``(m,)`` have enough of the particles ``rows`` for parameters of their own."""
        sizes = np.bincount(self.micrograph[rows], minlength=len(self.group_of_micrograph))
        return np.asarray(sizes >= LEAST_OF_MICROGRAPH)

    def unchanged(self) -> Changes:
        """No change at all."""
        sizes = self.layout.sizes
        rows = (len(self.particles), len(self.group_of_micrograph), len(self.particles.optics))
        particle, micrograph, group = (np.zeros(shape) for shape in zip(rows, sizes))
        return Changes(particle=particle, micrograph=micrograph, group=group)

    def total(self, changes: Changes) -> np.ndarray:
        """Changes of all levels ``(n, columns)`` for each particle."""
        return np.concatenate(
            [changes.particle, changes.micrograph[self.micrograph], changes.group[self.group]], axis=1
        )

    def optics(self, changes: Changes) -> Optics:
        """The optics after ``changes``."""
        rotation, shift = self.particles.rotation, self.particles.shift_xyz_angstrom
        if rotation is None or shift is None:
            raise MetadataError("the particles have no poses; refine them first")
        columns, total = self.layout.columns, self.total(changes)
        form, shift, rotation = self.form.copy(), shift.copy(), rotation.copy()
        form[:, 0] += _column(columns, total, "defocus")
        amplitude = 1 + _column(columns, total, "amplitude")
        for axis in (1, 2):
            form[:, axis] += _column(columns, total, f"astigmatism_{axis}")
            shift[:, axis - 1] += _column(columns, total, f"shift_{axis}")
        turn = _column(columns, total, "turn")
        if turn.any():
            rotation = _in_plane(turn) @ rotation
        groups = tuple(
            _changed(group, dict(zip((c.name for c in self.layout.group), row)))
            for group, row in zip(self.particles.optics, changes.group.tolist())
        )
        return Optics(
            groups=groups, form=form, rotation=rotation, shift_xyz_angstrom=shift, amplitude=amplitude
        )

    def result(self, changes: Changes) -> ParticleSet:
        """The particles with the optics and poses after ``changes``."""
        found = self.optics(changes)
        form = found.form.copy()
        old = self.particles.views
        for number, group in enumerate(found.groups):
            member = self.group == number
            inverse = np.linalg.inv(np.reshape(group.magnification, (2, 2))).ravel()
            form[member] = seen_through(form[member], inverse.tolist())
        u, v, angle = defoci(form)
        # where only the mean has changed, U, V and their angle keep the form in which they came
        given = quadratic_form(old.defocus_u_angstrom, old.defocus_v_angstrom, old.defocus_angle_deg)
        same = np.all(np.abs(form[:, 1:] - given[:, 1:]) < 1e-6, axis=1)
        moved = form[:, 0] - given[:, 0]
        views = replace(
            old,
            defocus_u_angstrom=np.where(same, old.defocus_u_angstrom + moved, u),
            defocus_v_angstrom=np.where(same, old.defocus_v_angstrom + moved, v),
            defocus_angle_deg=np.where(same, old.defocus_angle_deg, angle),
        )
        changed = replace(self.particles, optics=found.groups, views=views)
        return changed.with_poses(found.rotation, found.shift_xyz_angstrom)


def _column(columns: tuple[Column, ...], total: np.ndarray, name: str) -> np.ndarray:
    """What all columns of this name say together ``(n,)``."""
    chosen = [at for at, column in enumerate(columns) if column.name == name]
    return np.asarray(total[:, chosen].sum(axis=1))


def _in_plane(turn: np.ndarray) -> np.ndarray:
    """Rotations ``(n, 3, 3)`` about the beam that turn an image's frequencies by ``-turn`` radians."""
    cosine, sine = np.cos(turn), np.sin(turn)
    out = np.zeros((len(turn), 3, 3))
    out[:, 0, 0], out[:, 0, 1] = cosine, sine
    out[:, 1, 0], out[:, 1, 1] = -sine, cosine
    out[:, 2, 2] = 1
    return out


def corrected(group: OpticsGroup, block: str) -> bool:
    """Whether the table already corrects what ``block`` stands for; everything has a spherical aberration."""

    def any_of(terms: tuple[float, ...], places: tuple[int, int]) -> bool:
        return any(terms[place] for place in places if place < len(terms))

    return {
        "beam_tilt": any(group.beam_tilt_xy_mrad),
        "trefoil": any_of(group.odd_zernike, TREFOIL_AT),
        "tetrafoil": any_of(group.even_zernike, TETRAFOIL_AT),
        "magnification": tuple(group.magnification) != (1.0, 0.0, 0.0, 1.0),
    }.get(block, False)


def _changed(group: OpticsGroup, change: dict[str, float]) -> OpticsGroup:
    """The group after ``change``, by the names of its columns."""

    def pair(block: str) -> tuple[float, float]:
        return change.get(f"{block}_1", 0.0), change.get(f"{block}_2", 0.0)

    tilt = pair("beam_tilt")
    stretch = np.array(
        [
            [change.get("magnification_xx", 0.0), change.get("magnification_xy", 0.0)],
            [change.get("magnification_xy", 0.0), change.get("magnification_yy", 0.0)],
        ]
    )
    matrix = group.magnification
    if stretch.any():
        m = ((np.eye(2) + stretch) @ np.reshape(group.magnification, (2, 2))).ravel()
        matrix = (float(m[0]), float(m[1]), float(m[2]), float(m[3]))
    return replace(
        group,
        spherical_aberration_mm=group.spherical_aberration_mm + change.get("spherical_aberration", 0.0),
        beam_tilt_xy_mrad=(group.beam_tilt_xy_mrad[0] + tilt[0], group.beam_tilt_xy_mrad[1] + tilt[1]),
        odd_zernike=_with_terms(group.odd_zernike, TREFOIL_AT, pair("trefoil")),
        even_zernike=_with_terms(group.even_zernike, TETRAFOIL_AT, pair("tetrafoil")),
        magnification=matrix,
    )


def _with_terms(
    terms: tuple[float, ...], places: tuple[int, int], added: tuple[float, float]
) -> tuple[float, ...]:
    """Zernike coefficients with ``added`` at ``places``; RELION's whole list of that order."""
    if not any(added):
        return terms
    out = [*terms, *[0.0] * (max(places) + 1 - len(terms))]
    for place, value in zip(places, added):
        out[place] += float(value)
    return tuple(out)
