"""Every defocus in a range at once, astigmatism kept.

A change δ of the defocus turns χ by ``α = π λ δ s²``, the same all around a ring:

    Σ 2a Re(X* P) sin(χ+α) − a² |P|² sin²(χ+α)

is a sum over rings of five numbers (data times sine and cosine, power, power times cosine and sine of 2χ)
times sines and cosines of α. The numbers are summed once, and any number of changes costs next to nothing.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from parhelion.algorithms.ctf_refine.model import Chunk, GroupModel
from parhelion.algorithms.ctf_refine.passes import Work, mapped
from parhelion.algorithms.ctf_refine.settings import AMPLITUDE, CtfRefineSettings
from parhelion.algorithms.ctf_refine.state import Changes
from parhelion.engine.predict import FourierVolume

RINGS = 192
"""Rings of equal width in s²: α differs by less than 0.1 radians within one, for 1000 Å at 2.5 Å."""

AT_A_TIME = 64
"""Changes of the defocus that are looked at together."""


@dataclass(frozen=True, kw_only=True)
class _Rings:
    """Ring sums of particles ``rows (n,)``: ``sums (n, 5, rings)``, π λ s² of the rings ``(rings,)``."""

    rows: np.ndarray
    sums: np.ndarray
    turn: np.ndarray


def search_defocus(
    work: Work, changes: Changes, settings: CtfRefineSettings, limit: float, weights: np.ndarray
) -> Changes:
    """``changes`` with the best defocus of each particle, or micrograph, within the range about the input's.

    The amplitude of each particle is that which fits each defocus best.
    """
    found = _ring_sums(work, changes, limit, weights)
    reach, step = settings.defocus_range_angstrom, settings.defocus_step_angstrom
    grid = np.arange(-np.floor(reach / step), np.floor(reach / step) + 0.5) * step
    columns = [column.name for column in work.start.layout.columns]
    at = columns.index("defocus")
    current = work.start.total(changes)[:, at]
    if settings.defocus == "particle":
        moved = changes.particle.copy()
        for rings in found:
            scores = _scores(rings, grid[None, :] - current[rings.rows, None])
            moved[rings.rows, at] = _best(grid, scores - 0.5 * (grid / reach) ** 2)
        return Changes(particle=moved, micrograph=changes.micrograph, group=changes.group)
    middle = changes.micrograph.copy()
    totals = np.zeros((len(middle), len(grid)))
    for rings in found:
        scores = _scores(rings, grid[None, :] - current[rings.rows, None])
        np.add.at(totals, work.start.micrograph[rings.rows], scores)
    seen = np.flatnonzero(work.start.large_micrographs(np.flatnonzero(work.used)))
    column = at - work.start.layout.sizes[0]
    middle[seen, column] = _best(grid, totals[seen] - 0.5 * (grid / reach) ** 2)
    return Changes(particle=changes.particle, micrograph=middle, group=changes.group)


def _ring_sums(work: Work, changes: Changes, limit: float, weights: np.ndarray) -> Iterator[_Rings]:
    """Ring sums chunk by chunk: those of all particles together would take eight kilobytes each."""
    count = work.points.count(limit)
    s2 = (work.points.radius[:count] / work.loader.extent_angstrom) ** 2
    ring = np.minimum((s2 / s2[-1] * RINGS).astype(np.int64), RINGS - 1)
    inside = np.bincount(ring, minlength=RINGS)
    centre = np.bincount(ring, weights=s2, minlength=RINGS) / np.maximum(inside, 1)
    index = torch.from_numpy(ring).to(work.loader.device)

    def one(chunk: Chunk, rows: np.ndarray, model: GroupModel, _ref: FourierVolume) -> _Rings:
        weighted = chunk.slices * chunk.weight
        data = chunk.data.real * weighted.real + chunk.data.imag * weighted.imag
        power = weighted.real.square() + weighted.imag.square()
        sine2, cosine2 = chunk.sine.square(), chunk.cosine.square()
        values = (
            data * chunk.sine,
            data * chunk.cosine,
            power * (sine2 + cosine2),
            power * (cosine2 - sine2),
            power * (2 * chunk.sine * chunk.cosine),
        )
        return _Rings(
            rows=rows,
            sums=torch.stack([_summed(v, index) for v in values], dim=1).cpu().numpy(),
            turn=math.pi * model.wavelength_angstrom * centre,
        )

    return mapped(work, changes, limit, weights, one)


def _summed(values: Tensor, index: Tensor) -> Tensor:
    sums = torch.zeros((len(values), RINGS), dtype=torch.float64, device=values.device)
    return sums.index_add_(1, index, values.double())


def _scores(rings: _Rings, changes: np.ndarray) -> np.ndarray:
    """Log-likelihood ``(n, changes)`` at ``changes (n, c)`` of the defocus in Å, with the best amplitudes."""
    if changes.shape[1] > AT_A_TIME:
        pieces = range(0, changes.shape[1], AT_A_TIME)
        return np.concatenate([_scores(rings, changes[:, i : i + AT_A_TIME]) for i in pieces], axis=1)
    angle = changes[:, :, None] * rings.turn
    sine, cosine = np.sin(angle), np.cos(angle)
    data_sine, data_cosine, power, cosine2, sine2 = (rings.sums[:, None, i] for i in range(5))
    cross = (data_sine * cosine + data_cosine * sine).sum(-1)
    norm = (power - cosine2 * (cosine**2 - sine**2) + sine2 * 2 * sine * cosine).sum(-1) / 2
    # the amplitude's prior: 1, with its deviation
    prior = 0.5 / AMPLITUDE.prior**2
    return np.asarray(np.clip(cross + prior, 0, None) ** 2 / (norm + prior))


def _best(grid: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """The grid's best change in each row of ``scores``, refined by a parabola through its neighbours."""
    at = scores.argmax(axis=1)
    inner = np.clip(at, 1, len(grid) - 2) if len(grid) > 2 else at
    rows = np.arange(len(scores))
    if len(grid) < 3:
        return np.asarray(grid[at])
    left, middle, right = (scores[rows, inner + d] for d in (-1, 0, 1))
    curvature = left - 2 * middle + right
    offset = np.where(curvature < 0, 0.5 * (left - right) / np.where(curvature < 0, curvature, 1.0), 0.0)
    fine = grid[inner] + np.clip(offset, -1, 1) * (grid[1] - grid[0])
    return np.asarray(np.where(at == inner, fine, grid[at]))
