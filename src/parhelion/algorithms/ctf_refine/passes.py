"""Passes over all particles: how far the reference explains them, defocus searches, normal equations."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from parhelion.algorithms.ctf_refine.model import (
    Chunk,
    GroupModel,
    central_slices,
    chunk_of,
    group_model,
    jacobian,
    slice_frequencies,
    slopes,
)
from parhelion.algorithms.ctf_refine.settings import AMPLITUDE
from parhelion.algorithms.ctf_refine.solve import Normal
from parhelion.algorithms.ctf_refine.state import Changes, Optics, Start
from parhelion.contracts import Cancel, Executor
from parhelion.engine.loader import ParticleLoader
from parhelion.engine.points import FourierPoints
from parhelion.engine.predict import FourierVolume
from parhelion.errors import InputError

T = TypeVar("T")
KEPT_MODELS = 8
"""Optics groups whose models are kept at a time: chunks come group by group; there may be thousands."""
LEAST_SIGNIFICANCE = 2.0
"""Standard errors from which on a shell's agreement with the reference counts as signal."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """What every pass needs.

    ``references`` and ``reference (n,)``: which map each particle is compared with. ``whitening (noise
    groups, k)`` is 1/σ, 0 below the lowest frequency used. ``used (n,)``: particles with usable images.
    """

    start: Start
    loader: ParticleLoader
    references: tuple[FourierVolume, ...]
    reference: np.ndarray
    whitening: Tensor
    used: np.ndarray
    chunk: int
    executor: Executor
    cancel: Cancel
    slice_cache: "SliceCache | None" = None

    @property
    def points(self) -> FourierPoints:
        """The Fourier points."""
        return self.loader.points


@dataclass(kw_only=True)
class SliceCache:
    """Keeps slices from pass to pass within ``left`` bytes; only for slices that stay where they are."""

    left: int
    kept: dict[int, Tensor] = field(default_factory=dict)

    def clear(self) -> None:
        """Forget all."""
        self.left += sum(slices.numel() * slices.element_size() for slices in self.kept.values())
        self.kept.clear()

    def get(self, key: int, make: Callable[[], Tensor]) -> Tensor:
        """The slices called ``key``, made where they are not there."""
        found = self.kept.get(key)
        if found is None:
            found = make()
            size = found.numel() * found.element_size()
            if size <= self.left:
                self.left -= size
                self.kept[key] = found
        return found


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Data and prediction per shell: ``cross`` = Σ Re X*CP/σ², ``norm`` = Σ|CP|²/σ², ``power`` = Σ|X|²/σ².

    With the weights of the reference left out, ``cross / norm`` is what its amplitudes should be multiplied
    by, and its error is ``(2 norm)^-½``.
    """

    cross: np.ndarray
    norm: np.ndarray
    power: np.ndarray

    def weights(self, limit: int) -> np.ndarray:
        """Factor per shell, 0 beyond ``limit`` and where there is no significant signal."""
        norm = np.maximum(_smooth(self.norm), 1e-20)
        cross = _smooth(self.cross)
        # three shells are averaged: the error of their mean is that much smaller
        significance = cross / np.sqrt(norm / 2) * np.sqrt(3)
        weight = np.where(significance > LEAST_SIGNIFICANCE, cross / norm, 0.0)
        weight[limit + 1 :] = 0.0
        return np.asarray(np.clip(weight, 0, None))

    def significance(self) -> float:
        """How many standard errors data and prediction agree by, all shells together."""
        return float(self.cross.sum() / np.sqrt(max(self.norm.sum() / 2, 1e-20)))

    def correlation(self) -> np.ndarray:
        """Correlation of data and prediction per shell."""
        return np.asarray(self.cross / np.sqrt(np.maximum(self.norm * self.power, 1e-20)))


def _smooth(values: np.ndarray) -> np.ndarray:
    """Mean over three neighbouring shells."""
    padded = np.pad(values, 1, mode="edge")
    return np.asarray((padded[:-2] + padded[1:-1] + padded[2:]) / 3)


def measure(work: Work, changes: Changes, limit: float) -> Agreement:
    """How the reference, without weights, agrees with the data up to ``limit`` shells."""
    ones = np.ones(work.points.max_shell + 1)
    return _agreement(work, mapped(work, changes, limit, ones, lambda chunk, *_: _sums(chunk)))


def _sums(chunk: Chunk) -> Tensor:
    """Sums over particles ``(3, k)`` float64: cross, norm, power."""
    value = chunk.slices * chunk.sine
    cross = (chunk.data.real * value.real + chunk.data.imag * value.imag).sum(0)
    power = (part.real.square().sum(0) + part.imag.square().sum(0) for part in (value, chunk.data))
    return torch.stack([cross, *power]).double().cpu()


def _agreement(work: Work, parts: Iterable[Tensor]) -> Agreement:
    """What the chunks' sums, taken one by one, say per shell."""
    total: Tensor | None = None
    for part in parts:
        total = part if total is None else total.add_(part)
    if total is None:
        raise InputError("none of the particles has a usable image (all are constant or not finite)")
    count = np.bincount(work.points.shell.numpy(), minlength=work.points.max_shell + 1)
    cross, norm, power = work.points.shell_mean(total).numpy() * count
    return Agreement(cross=cross, norm=norm, power=power)


def log_likelihood(work: Work, changes: Changes, limit: float, weights: np.ndarray) -> np.ndarray:
    """Log-likelihood of each particle ``(n,)`` relative to no signal at all; 0 where it was not used.

    The amplitude of each particle is that which fits best, so that before and after are compared alike.
    """
    out = np.zeros(len(work.reference))

    def one(
        chunk: Chunk, rows: np.ndarray, _model: GroupModel, _ref: FourierVolume
    ) -> tuple[np.ndarray, np.ndarray]:
        value = chunk.slices * (chunk.weight * chunk.sine)
        prior = 0.5 / AMPLITUDE.prior**2
        cross = (chunk.data.conj() * value).real.double().sum(1) + prior
        gain = cross.clamp_min(0).square() / (value.abs().square().double().sum(1) + prior)
        return rows, gain.cpu().numpy()

    for rows, gain in mapped(work, changes, limit, weights, one):
        out[rows] = gain
    return out


def normal_equations(
    work: Work, changes: Changes, limit: float, weights: np.ndarray
) -> tuple[list[Normal], Agreement]:
    """Gradient and normal matrix of every particle, in units of the solver, and how the data agree."""
    columns = work.start.layout.columns
    sloped = any(column.kind == "slice" for column in columns)
    optics = work.start.optics(changes)

    def one(
        chunk: Chunk, rows: np.ndarray, model: GroupModel, reference: FourierVolume
    ) -> tuple[Normal, Tensor]:
        count = chunk.data.shape[1]
        slope = None
        if sloped:
            noise = torch.from_numpy(work.loader.particles.views.noise_group[rows].astype(np.int64))
            white = work.whitening[noise.to(work.whitening.device)][:, :count]
            slope = slopes(reference, optics.rotation[rows], model, white)
        columns_of = torch.view_as_real(jacobian(chunk, columns, model, slope)).flatten(2)
        residual = torch.view_as_real(chunk.data - chunk.prediction).flatten(1)
        h = columns_of @ columns_of.mT
        g = (columns_of @ residual.unsqueeze(-1)).squeeze(-1)
        normal = Normal(rows=rows, g=g.double().cpu().numpy(), h=h.double().cpu().numpy())
        return normal, _sums(chunk)

    parts: list[Normal] = []

    def sums() -> Iterator[Tensor]:
        for normal, part in mapped(work, changes, limit, weights, one):
            parts.append(normal)
            yield part

    agreement = _agreement(work, sums())
    return parts, agreement


def _on_points(work: Work, weights: np.ndarray) -> Tensor:
    values = torch.from_numpy(weights).float()[work.points.shell]
    return values.to(work.loader.device)


def mapped(
    work: Work,
    changes: Changes,
    limit: float,
    weights: np.ndarray,
    function: Callable[[Chunk, np.ndarray, GroupModel, FourierVolume], T],
) -> Iterator[T]:
    """``function`` of every chunk of usable particles of one optics group and one reference, in order.

    It gets the chunk with the optics after ``changes`` and ``weights (shells,)`` up to ``limit`` shells, the
    particles' rows, the group's model and the reference.
    """
    optics = work.start.optics(changes)
    count = work.points.count(limit)
    columns, frequency = work.start.layout.columns, work.start.frequency
    on_points = _on_points(work, weights)[:count]

    @lru_cache(KEPT_MODELS)
    def model(group: int) -> GroupModel:
        return group_model(optics.groups[group], columns, work.loader, count, frequency)

    def one(piece: tuple[int, int, np.ndarray]) -> T:
        group, reference, rows = piece
        volume = work.references[reference]
        slices = _slices(work, optics, group, volume, rows, count)
        shared = model(group)
        chunk = chunk_of(work.loader, rows, shared, optics, slices, work.whitening[:, :count], on_points)
        return function(chunk, rows, shared, volume)

    for result in work.executor.map(one, list(_pieces(work))):
        work.cancel.check()
        yield result


def _slices(
    work: Work, optics: Optics, group: int, volume: FourierVolume, rows: np.ndarray, count: int
) -> Tensor:
    """Central slices on at least the first ``count`` points, kept from pass to pass where they stay."""

    def made(points: int) -> Tensor:
        kx, ky = slice_frequencies(optics.groups[group], work.loader, points)
        return central_slices(volume, optics.rotation[rows], kx.float(), ky.float())

    if work.slice_cache is None:
        return made(count)
    limit = round(work.start.frequency * work.loader.extent_angstrom)
    return work.slice_cache.get(int(rows[0]), lambda: made(work.points.count(limit)))


def _pieces(work: Work) -> Iterator[tuple[int, int, np.ndarray]]:
    for group in range(len(work.start.particles.optics)):
        for reference in range(len(work.references)):
            rows = np.flatnonzero((work.start.group == group) & (work.reference == reference) & work.used)
            for first in range(0, len(rows), work.chunk):
                yield group, reference, rows[first : first + work.chunk]
