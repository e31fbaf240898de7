"""Pictures of the phases by which an optics group's images differ from what was assumed: observed, fitted."""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from parhelion.algorithms.ctf_refine.model import Chunk, GroupModel, group_model
from parhelion.algorithms.ctf_refine.passes import Work, mapped
from parhelion.algorithms.ctf_refine.state import Changes
from parhelion.engine.predict import FourierVolume
from parhelion.errors import MetadataError

SMOOTHING_SHELLS = 2.0
MOST_PICTURES = 50
"""Optics groups that are pictured: thousands would fill memory and report, and nobody would look at them."""


@dataclass(frozen=True, kw_only=True)
class PhasePicture:
    """Phases ``(2 m + 1, 2 m + 1)`` in radians over the plane of frequencies, zero frequency in the middle.

    ``odd`` and ``even`` are each a pair: observed (smoothed) and fitted changes of the antisymmetric phase
    and of χ, relative to the input's optics; 0 beyond the resolution limit.
    """

    odd: tuple[np.ndarray, np.ndarray]
    even: tuple[np.ndarray, np.ndarray]


def phase_pictures(work: Work, changes: Changes, weights: np.ndarray, limit: int) -> dict[int, PhasePicture]:
    """By number of the optics group: what was fitted, and that plus what is left over in the data.

    Where there are more than MOST_PICTURES groups, those with most particles.
    """
    start = work.start
    sizes = np.bincount(start.group[work.used], minlength=len(start.particles.optics))
    shown = np.sort(np.argsort(-sizes, kind="stable")[:MOST_PICTURES]).tolist()
    count = work.points.count(limit)
    sums = {number: torch.zeros((4, count), dtype=torch.float64) for number in shown}
    some = replace(work, used=work.used & np.isin(start.group, shown))

    def one(chunk: Chunk, rows: np.ndarray, _model: GroupModel, _ref: FourierVolume) -> tuple[int, Tensor]:
        value, slope = chunk.prediction, chunk.turned
        parts = (
            (value.conj() * chunk.data).imag,
            value.abs().square(),
            (slope.conj() * (chunk.data - value)).real,
            slope.abs().square(),
        )
        return int(start.group[rows[0]]), torch.stack([p.double().sum(0) for p in parts]).cpu()

    for group, part in mapped(some, changes, limit, weights, one):
        sums[group] += part
    return {number: _picture(work, changes, number, sums[number], limit) for number in shown}


def _picture(work: Work, changes: Changes, number: int, sums: Tensor, limit: int) -> PhasePicture:
    fitted_odd, fitted_even = _fitted(work, changes, number, sums.shape[1])
    at = _Grid(work, limit, sums.shape[1])
    odd, even = (at.plane(values.numpy(), sign) for values, sign in ((fitted_odd, -1), (fitted_even, 1)))
    return PhasePicture(
        odd=(odd + at.ratio(sums[0].numpy(), sums[1].numpy(), -1), odd),
        even=(even + at.ratio(sums[2].numpy(), sums[3].numpy(), 1), even),
    )


def _fitted(work: Work, changes: Changes, number: int, count: int) -> tuple[Tensor, Tensor]:
    """Changes ``(count,)`` of φ and χ that all particles of the group share."""
    start, loader = work.start, work.loader
    old, new = start.particles.optics[number], start.optics(changes).groups[number]
    before, after = (group_model(g, (), loader, count, start.frequency) for g in (old, new))
    own = dict(zip((c.name for c in start.layout.group), changes.group[number]))
    kx, ky = (
        k[:count].double().to(loader.device) / loader.extent_angstrom
        for k in (loader.points.kx, loader.points.ky)
    )
    even = after.chi - before.chi
    for axis, basis in (("1", kx**2 - ky**2), ("2", 2 * kx * ky)):
        change = own.get(f"astigmatism_{axis}", 0.0)
        even = even + math.pi * after.wavelength_angstrom * change * basis
    odd = after.phi - before.phi
    for axis, k in (("1", kx), ("2", ky)):
        odd = odd + 2 * math.pi * own.get(f"shift_{axis}", 0.0) * k
    return odd.cpu(), even.cpu()


class _Grid:
    """Values on the points laid out as a picture of the whole plane."""

    def __init__(self, work: Work, limit: int, count: int) -> None:
        if limit < 1:
            raise MetadataError("a picture needs at least one shell")
        self.size = 2 * limit + 3
        middle = limit + 1
        x = work.points.kx[:count].numpy().astype(np.int64)
        y = work.points.ky[:count].numpy().astype(np.int64)
        self.here = (middle + y, middle + x)
        self.mate = (middle - y, middle - x)

    def plane(self, values: np.ndarray, sign: int) -> np.ndarray:
        """The picture; ``sign`` is that of the other half of the plane."""
        out = np.zeros((self.size, self.size))
        out[self.mate] = sign * values
        out[self.here] = values
        return out

    def ratio(self, numerator: np.ndarray, denominator: np.ndarray, sign: int) -> np.ndarray:
        """Smoothed ``numerator / denominator``, 0 where nothing was measured."""
        top = ndimage.gaussian_filter(self.plane(numerator, sign), SMOOTHING_SHELLS)
        bottom = ndimage.gaussian_filter(self.plane(denominator, 1), SMOOTHING_SHELLS)
        known = bottom > 1e-3 * bottom.max(initial=1e-20)
        inside = self.plane(np.ones(len(numerator)), 1) > 0
        return np.where(known & inside, top / np.where(known, bottom, 1.0), 0.0)
