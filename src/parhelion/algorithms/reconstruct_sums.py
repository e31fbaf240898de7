"""The sums of a reconstruction, which are additive: parts of a table summed apart give the same map.

What the parts must agree on (weights, half sets, the noise's power) is found from the whole table, whichever
of its particles are inserted.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from parhelion.algorithms.particle_weights import ParticleWeights
from parhelion.algorithms.pose_blurring import Blurring
from parhelion.contracts import Cancel, Executor, Observer
from parhelion.engine.accumulate import insertion_slices
from parhelion.engine.batch import ParticleBatch
from parhelion.engine.candidates import Candidates
from parhelion.engine.ewald import Curvature, curved_slices, insert_curved, quadrature
from parhelion.engine.loader import ParticleLoader
from parhelion.engine.memory import TOGETHER
from parhelion.engine.noise import on_points
from parhelion.engine.points import FourierPoints
from parhelion.engine.predict import half_size
from parhelion.engine.score import chunks
from parhelion.engine.update import MapSums
from parhelion.errors import InputError, MetadataError
from parhelion.optics.dose import signal_left

LEAST_SHARE = 1e-3
"""Of a particle, below which it does not go into a map."""


@dataclass(frozen=True, kw_only=True)
class PartialSums:
    """Sums before symmetry, of one or two halves ``maps[class][half]``.

    ``classes`` numbers the maps, None where there is one of all particles. ``weight`` ``(maps, halves)`` is
    how many particles went in, ``ranges`` which rows of the table (first, last; from 0) were looked at.
    ``half`` ``(n,)`` is the half set of every particle of the table, ``unusable`` are rows of bad images,
    ``inserted`` is how many particles are in at least one map.
    ``full_box`` is the box of the images before they were cropped. Sums with the same ``fingerprint`` are of
    the same table, reconstructed in the same way.
    """

    maps: tuple[tuple[MapSums, ...], ...]
    classes: tuple[int, ...] | None
    weight: np.ndarray
    ranges: tuple[tuple[int, int], ...]
    half: np.ndarray | None
    unusable: np.ndarray
    pixel_size_angstrom: float
    full_box: int
    diameter_angstrom: float
    symmetry: str
    count: int
    inserted: int
    fingerprint: str

    @property
    def missing(self) -> int:
        """How many particles of the table were not looked at."""
        return self.count - sum(last - first + 1 for first, last in self.ranges)


@dataclass(frozen=True, kw_only=True)
class Insertion:
    """How particles go into the sums."""

    loader: ParticleLoader
    noise: torch.Tensor
    weights: ParticleWeights
    half: np.ndarray | None
    rows: np.ndarray
    chunk: int
    padding: float
    blurring: Blurring | None
    curvature: Curvature | None
    executor: Executor
    observer: Observer
    cancel: Cancel


@dataclass(frozen=True, kw_only=True)
class _Chunk:
    """What a chunk of particles brings to each map, and which of its images were usable."""

    flat: list[list[Any]]
    good: np.ndarray


def insert_particles(work: Insertion) -> tuple[tuple[tuple[MapSums, ...], ...], np.ndarray, np.ndarray, int]:
    """Sums of ``work.rows`` per map and half, their weight ``(maps, halves)``, the unusable rows, and how
    many particles went in."""
    loader, share = work.loader, work.weights.share
    halves = (0,) if work.half is None else (1, 2)
    maps: list[list[MapSums]] = [
        [MapSums.zeros(loader.box, loader.points.max_shell, loader.device, work.padding) for _ in halves]
        for _ in share
    ]
    weight = np.zeros((len(share), len(halves)))
    bad, inserted = [], 0
    for number, half in enumerate(halves):
        member = np.ones(len(work.rows), bool) if work.half is None else work.half[work.rows] == half
        rows = work.rows[member & (share[:, work.rows].max(0) > LEAST_SHARE)]
        stage = "insert" if work.half is None else f"insert half {half}"
        for done, results in _inserted(work, rows, stage):
            for k, sums in enumerate(maps):
                _add(sums[number], [part for r in results for part in r.flat[k]], loader.points, work)
            good = np.concatenate([r.good for r in results])
            bad.append(done[~good])
            inserted += int(good.sum())
            weight[:, number] += share[:, done[good]].sum(1)
    unusable = np.sort(np.concatenate(bad)) if bad else np.zeros(0, np.int64)
    return tuple(tuple(sums) for sums in maps), weight, unusable, inserted


def _add(sums: MapSums, parts: list[Any], points: FourierPoints, work: Insertion) -> None:
    if not parts:
        return
    if work.curvature is None:
        sums.add(parts, points, work.executor)
    else:
        insert_curved(sums, parts, points, work.executor)


def _inserted(work: Insertion, rows: np.ndarray, stage: str) -> Iterator[tuple[np.ndarray, list[_Chunk]]]:
    """Slices of a few chunks at a time, in bounded memory, with the rows they are of."""
    every = chunks(torch.from_numpy(rows), work.chunk)
    together = max(1, TOGETHER // len(work.weights.share))
    done = 0
    for first in range(0, len(every), together):
        work.cancel.check()
        group = [piece.numpy() for piece in every[first : first + together]]
        yield np.concatenate(group), list(work.executor.map(lambda piece: _slices(work, piece), group))
        done += sum(len(piece) for piece in group)
        work.observer.progress(stage, float(done), float(len(rows)))


def _slices(work: Insertion, rows: np.ndarray) -> _Chunk:
    loader = work.loader
    noise = on_points(work.noise, loader.points).to(loader.device)
    raw = loader.batch(rows, len(loader.points))
    batch = _weighted(raw.whitened(noise), rows, work)
    cosine = None
    if work.curvature is not None:
        cosine = _weighted(raw.with_data(raw.data, quadrature(loader, rows)).whitened(noise), rows, work).ctf
    good = batch.valid.any(1).cpu()
    poses = _poses(work, batch, rows)
    owner = poses.particle
    if work.blurring is not None:
        batch, poses = work.blurring.blurred(batch, poses)
        owner = torch.searchsorted(torch.from_numpy(rows), batch.index.cpu())
        cosine = None if cosine is None else cosine[owner.to(cosine.device)]
    owner, weight = owner.cpu(), poses.weight
    if weight is None:
        raise ValueError("poses are inserted with weights")
    flat: list[list[Any]] = []
    for share in work.weights.share:
        part = torch.from_numpy(share[rows])[owner] * weight.cpu() * good[owner]
        kept = torch.nonzero(part > LEAST_SHARE * weight.cpu().clamp(max=1)).squeeze(1)
        chosen = replace(poses.take(kept.to(poses.particle.device)), weight=part[kept].to(batch.data.device))
        if not len(chosen):
            flat.append([])
        elif work.curvature is None or cosine is None:
            flat.append(list(insertion_slices(batch, chosen, loader.points)))
        else:
            flat.append(list(curved_slices(batch, cosine, chosen, loader, work.curvature)))
    return _Chunk(flat=flat, good=good.numpy())


def _poses(work: Insertion, batch: ParticleBatch, rows: np.ndarray) -> Candidates:
    """The table's pose of each particle with weight 1."""
    loader = work.loader
    rotation, shift = loader.particles.rotation, loader.shift_xyz_angstrom
    if rotation is None or shift is None:
        raise MetadataError("the particles have no poses")
    device = batch.data.device
    return Candidates(
        particle=torch.arange(len(rows), device=device),
        rotation=torch.from_numpy(np.ascontiguousarray(rotation[rows], dtype=np.float64)).to(device),
        shift=torch.from_numpy(shift[rows] / loader.extent_angstrom).to(device),
        weight=torch.ones(len(rows), dtype=torch.float64, device=device),
    )


def _weighted(batch: ParticleBatch, rows: np.ndarray, work: Insertion) -> ParticleBatch:
    """The batch with the weights of score and exposure on its frequencies.

    A weight ``W`` of both sums is its root on data and CTF; what an exposure leaves of the signal belongs to
    the CTF alone.
    """
    loader, bfactor = work.loader, work.weights.bfactor[rows]
    s = torch.from_numpy(loader.points.radius / loader.extent_angstrom)
    if np.any(bfactor != 0):
        root = torch.exp(0.5 * torch.outer(torch.from_numpy(bfactor), s**2)).float()[:, None]
        root = root.to(batch.data.device)
        batch = batch.with_data(batch.data * root, batch.ctf * root)
    if work.weights.exposure is not None:
        views = loader.particles.views
        groups = views.optics_group[np.unique(views.particle, return_index=True)[1][rows]]
        left = torch.empty((len(rows), 1, len(s)))
        for number in np.unique(groups):
            at = np.flatnonzero(groups == number)
            dose = torch.from_numpy(work.weights.exposure[rows[at]])
            left[torch.from_numpy(at), 0] = signal_left(s, dose, loader.particles.optics[number].voltage_kv)
        batch = batch.with_data(batch.data, batch.ctf * left.to(batch.ctf.device))
    return batch


def fingerprint(*values: object) -> str:
    """A name for everything that parts of one reconstruction share: numbers, texts, arrays, dataclasses."""
    digest = hashlib.sha256()
    for value in values:
        if isinstance(value, np.ndarray):
            digest.update(str((value.dtype.str, value.shape)).encode())
            digest.update(np.ascontiguousarray(value).tobytes())
        else:
            digest.update(repr(value).encode())
    return digest.hexdigest()


def merged(parts: Sequence[PartialSums], names: Sequence[str] | None = None) -> PartialSums:
    """The sum of parts of one table, called ``names`` in errors.

    Raises InputError for parts of different tables, and for particles that are there twice.
    """
    called = names or [f"part {number}" for number in range(1, len(parts) + 1)]
    total = parts[0]
    for name, other in zip(called[1:], parts[1:], strict=True):
        if other.fingerprint != total.fingerprint:
            raise InputError(
                f"{name} and {called[0]} are not of the same reconstruction: other particles, another box, "
                "symmetry or other options; parts differ in --first and --last only"
            )
        ranges = sorted((*total.ranges, *other.ranges))
        for before, after in pairwise(ranges):
            if after[0] <= before[1]:
                raise InputError(
                    f"particles {after[0] + 1} to {min(before[1], after[1]) + 1} are in {name} and in "
                    f"{called[0]}; each particle may be there once"
                )
        total = replace(
            total,
            maps=_summed(total.maps, other.maps),
            weight=total.weight + other.weight,
            inserted=total.inserted + other.inserted,
            ranges=tuple(ranges),
            unusable=np.sort(np.concatenate([total.unusable, other.unusable])),
        )
    return total


def _summed(
    a: tuple[tuple[MapSums, ...], ...], b: tuple[tuple[MapSums, ...], ...]
) -> tuple[tuple[MapSums, ...], ...]:
    return tuple(
        tuple(
            replace(x, numerator=x.numerator + y.numerator, denominator=x.denominator + y.denominator)
            for x, y in zip(first, second, strict=True)
        )
        for first, second in zip(a, b, strict=True)
    )


def as_arrays(sums: PartialSums) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Header and arrays of a file of partial sums."""
    one = sums.maps[0][0]
    header = {
        "classes": None if sums.classes is None else list(sums.classes),
        "ranges": [list(r) for r in sums.ranges],
        "pixel_size_angstrom": sums.pixel_size_angstrom,
        "full_box": sums.full_box,
        "diameter_angstrom": sums.diameter_angstrom,
        "symmetry": sums.symmetry,
        "count": sums.count,
        "inserted": sums.inserted,
        "fingerprint": sums.fingerprint,
        "box": one.box,
        "max_shell": one.max_shell,
        "padding": one.padding,
        "halves": len(sums.maps[0]),
    }
    arrays = {"weight": sums.weight, "unusable": sums.unusable}
    if sums.half is not None:
        arrays["half"] = sums.half
    for k, halves in enumerate(sums.maps):
        for h, part in enumerate(halves):
            arrays[f"numerator_{k}_{h}"] = part.numerator.cpu().numpy()
            arrays[f"denominator_{k}_{h}"] = part.denominator.cpu().numpy()
    return header, arrays


def _sums_of(header: dict[str, Any], numerator: np.ndarray, denominator: np.ndarray) -> MapSums:
    h = half_size(int(header["max_shell"]), float(header["padding"]))
    shape = (2 * h + 1, 2 * h + 1, h + 1)
    for array, kind in ((numerator, np.complex64), (denominator, np.float32)):
        if array.shape != shape or array.dtype != kind:
            raise ValueError(f"sums {array.dtype} {array.shape} where {np.dtype(kind)} {shape} are expected")
    return MapSums(
        numerator=torch.from_numpy(numerator),
        denominator=torch.from_numpy(denominator),
        box=int(header["box"]),
        max_shell=int(header["max_shell"]),
        padding=float(header["padding"]),
    )


def from_arrays(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> PartialSums:
    """The inverse of as_arrays. Raises KeyError, TypeError or ValueError where something is missing or of
    another size than the header says."""
    classes = header["classes"]
    number, halves = 1 if classes is None else len(classes), int(header["halves"])
    if arrays["weight"].shape != (number, halves):
        raise ValueError(f"weights {arrays['weight'].shape} for {number} maps of {halves} halves")
    maps = tuple(
        tuple(
            _sums_of(header, arrays[f"numerator_{k}_{h}"], arrays[f"denominator_{k}_{h}"])
            for h in range(halves)
        )
        for k in range(number)
    )
    return PartialSums(
        maps=maps,
        classes=None if classes is None else tuple(int(k) for k in classes),
        weight=arrays["weight"],
        ranges=tuple((int(first), int(last)) for first, last in header["ranges"]),
        half=arrays.get("half"),
        unusable=arrays["unusable"],
        pixel_size_angstrom=float(header["pixel_size_angstrom"]),
        full_box=int(header["full_box"]),
        diameter_angstrom=float(header["diameter_angstrom"]),
        symmetry=str(header["symmetry"]),
        count=int(header["count"]),
        inserted=int(header["inserted"]),
        fingerprint=str(header["fingerprint"]),
    )
