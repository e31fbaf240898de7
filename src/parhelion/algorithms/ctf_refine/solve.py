"""Normal equations of three nested levels: particle, micrograph, optics group.

What belongs to one particle is eliminated at once (Schur complement), then what belongs to one micrograph;
what remains is one small system per optics group. Solving goes the same way back. With ``log p = -χ²`` the
covariance of the parameters is half the inverse of the normal matrix.
"""

from dataclasses import dataclass

import numpy as np

from parhelion.algorithms.ctf_refine.state import Changes, Start

FROZEN = 1e12
"""Precision, in units of the solver, of a parameter that must not move."""
LONGEST_STEP = 1.0
"""Radians at the resolution limit that one step may change a phase by."""
LONGEST_STRETCH = 0.01
LONGEST_AMPLITUDE = 0.5


@dataclass(frozen=True, kw_only=True)
class Normal:
    """Gradients and normal matrices of particles ``rows (n,)``: ``g (n, d)``, ``h (n, d, d)`` in float64."""

    rows: np.ndarray
    g: np.ndarray
    h: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Solution:
    """Steps in physical units, and standard errors of the parameters at every level.

    ``covariance (groups, ·, ·)`` is that of each group's own columns; ``step`` is the largest step of the
    groups' and micrographs' parameters in standard errors.
    """

    changes: Changes
    errors: Changes
    covariance: np.ndarray
    step: float
    particle_step: float


def solve(start: Start, changes: Changes, parts: list[Normal], frozen: np.ndarray) -> Solution:
    """One Gauss–Newton step from ``changes``; ``frozen (groups, columns)`` says what must stay.

    Parameters of a micrograph with fewer than three particles stay as well.
    """
    rows = np.concatenate([part.rows for part in parts])
    order = np.argsort(rows)
    g = np.concatenate([part.g for part in parts])[order]
    h = np.concatenate([part.h for part in parts])[order]
    rows = rows[order]
    group = start.group[rows]
    unit = start.unit
    total = start.total(changes)[rows]
    local, middle, shared = start.layout.sizes
    stay = _precision(start, frozen)
    levels = _Levels(start=start, rows=rows, unit=unit, stay=stay, local=local, middle=middle, shared=shared)
    # the prior of each level acts once on each of its own members
    diagonal = np.arange(local)
    h[:, diagonal, diagonal] += stay[group][:, :local]
    g[:, :local] -= stay[group][:, :local] * total[:, :local] / _safe(unit[group][:, :local])
    return levels.solved(changes, g, h)


def _safe(unit: np.ndarray) -> np.ndarray:
    return np.where(unit > 0, unit, 1.0)


def _precision(start: Start, frozen: np.ndarray) -> np.ndarray:
    """Precisions ``(groups, columns)`` of the priors in units of the solver, halved as ``-χ²`` asks."""
    precision = 0.5 * (start.unit / start.prior) ** 2
    return np.where(frozen | (start.unit == 0), FROZEN, precision)


@dataclass(frozen=True, kw_only=True)
class _Levels:
    """Elimination and back-substitution.

    ``local``, ``middle`` and ``shared`` are how many columns a particle, a micrograph and a group have, in
    this order; ``unit`` and ``stay (groups, columns)`` are units of the solver and precisions of the priors.
    """

    start: Start
    rows: np.ndarray
    unit: np.ndarray
    stay: np.ndarray
    local: int
    middle: int
    shared: int

    def solved(self, changes: Changes, g: np.ndarray, h: np.ndarray) -> Solution:
        start, own = self.start, self.local
        group = start.group[self.rows]
        inverse = np.linalg.inv(h[:, :own, :own])
        back = inverse @ h[:, :own, own:]
        reduced = h[:, own:, own:] - h[:, own:, :own] @ back
        right = g[:, own:] - np.einsum("nij,nj->ni", h[:, own:, :own] @ inverse, g[:, :own])
        steps, covariance = self._upper(changes, right, reduced)
        upper = steps[start.micrograph[self.rows]]
        local = np.einsum("nij,nj->ni", inverse, g[:, :own]) - np.einsum("nij,nj->ni", back, upper)
        spread = covariance[start.micrograph[self.rows]]
        variance = 0.5 * np.einsum("nii->ni", inverse) + np.einsum("nij,njk,nik->ni", back, spread, back)
        return self._assembled(changes, group, local, variance, steps, covariance)

    def _upper(
        self, changes: Changes, right: np.ndarray, reduced: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Steps ``(micrographs, middle + shared)`` and their covariances, in units of the solver."""
        start, own = self.start, self.middle
        micrographs, groups = len(start.group_of_micrograph), len(start.particles.optics)
        size = own + self.shared
        g, h = np.zeros((micrographs, size)), np.zeros((micrographs, size, size))
        np.add.at(g, start.micrograph[self.rows], right)
        np.add.at(h, start.micrograph[self.rows], reduced)
        owner = start.group_of_micrograph
        stay, unit = self.stay[owner][:, self.local :], _safe(self.unit[owner][:, self.local :])
        at = np.arange(own)
        h[:, at, at] += np.where(start.large_micrographs(self.rows)[:, None], stay[:, :own], FROZEN)
        g[:, :own] -= stay[:, :own] * changes.micrograph / unit[:, :own]
        g[~start.large_micrographs(self.rows), :own] = 0.0
        inverse = np.linalg.inv(h[:, :own, :own])
        back = inverse @ h[:, :own, own:]
        top, side = np.zeros((groups, self.shared, self.shared)), np.zeros((groups, self.shared))
        np.add.at(top, owner, h[:, own:, own:] - h[:, own:, :own] @ back)
        np.add.at(side, owner, g[:, own:] - np.einsum("nij,nj->ni", h[:, own:, :own] @ inverse, g[:, :own]))
        step, spread = self._groups(changes, side, top)
        middle = np.einsum("nij,nj->ni", inverse, g[:, :own]) - np.einsum("nij,nj->ni", back, step[owner])
        covariance = np.zeros((micrographs, size, size))
        covariance[:, own:, own:] = spread[owner]
        covariance[:, :own, own:] = -back @ spread[owner]
        covariance[:, own:, :own] = np.swapaxes(covariance[:, :own, own:], 1, 2)
        covariance[:, :own, :own] = 0.5 * inverse + back @ spread[owner] @ np.swapaxes(back, 1, 2)
        return np.concatenate([middle, step[owner]], axis=1), covariance

    def _groups(self, changes: Changes, g: np.ndarray, h: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        first = self.local + self.middle
        stay, unit = self.stay[:, first:], _safe(self.unit[:, first:])
        at = np.arange(self.shared)
        h[:, at, at] += stay
        g = g - np.where(stay < FROZEN, stay * changes.group / unit, 0.0)
        inverse = np.linalg.inv(h)
        step = np.einsum("nij,nj->ni", inverse, g)
        longest = [LONGEST_STRETCH if c.kind == "slice" else LONGEST_STEP for c in self.start.layout.group]
        step = np.where(stay < FROZEN, np.clip(step, -np.array(longest), np.array(longest)), 0.0)
        return step, 0.5 * inverse

    def _assembled(
        self,
        changes: Changes,
        group: np.ndarray,
        local: np.ndarray,
        variance: np.ndarray,
        steps: np.ndarray,
        covariance: np.ndarray,
    ) -> Solution:
        start, of_particle, of_micrograph = self.start, self.local, self.middle
        owner = start.group_of_micrograph
        longest = [
            LONGEST_AMPLITUDE if c.kind == "amplitude" else LONGEST_STEP for c in start.layout.particle
        ]
        local = np.clip(local, -np.array(longest), np.array(longest))
        particle, particle_error = changes.particle.copy(), np.zeros_like(changes.particle)
        particle[self.rows] += local * self.unit[group][:, :of_particle]
        particle_error[self.rows] = np.sqrt(variance) * self.unit[group][:, :of_particle]
        deviation = np.sqrt(np.maximum(np.einsum("nii->ni", covariance), 0))
        middle = np.clip(steps[:, :of_micrograph], -LONGEST_STEP, LONGEST_STEP)
        unit = self.unit[owner][:, of_particle:]
        shared, shared_error = changes.group.copy(), np.zeros_like(changes.group)
        spread = np.zeros((len(start.particles.optics), self.shared, self.shared))
        scale = self.unit[:, of_particle + of_micrograph :]
        for number, micrograph in zip(*np.unique(owner, return_index=True)):
            shared[number] += steps[micrograph, of_micrograph:] * scale[number]
            shared_error[number] = deviation[micrograph, of_micrograph:] * scale[number]
            spread[number] = covariance[micrograph, of_micrograph:, of_micrograph:] * np.outer(
                scale[number], scale[number]
            )
        relative = np.abs(steps) / np.maximum(deviation, 1e-3)
        return Solution(
            changes=Changes(
                particle=particle,
                micrograph=changes.micrograph + middle * unit[:, :of_micrograph],
                group=shared,
            ),
            errors=Changes(
                particle=particle_error,
                micrograph=deviation[:, :of_micrograph] * unit[:, :of_micrograph],
                group=shared_error,
            ),
            covariance=spread,
            step=float(relative.max(initial=0.0)),
            particle_step=float(np.median(np.abs(local) / np.maximum(np.sqrt(variance), 1e-3), axis=0).max()),
        )
