"""The sums of a movie's moved frames: weighted by exposure and plain, all, even and odd frames.

Frames are moved in real space, whole-frame and local motion at once. Weights that depend on frame and
frequency are a short sum of products of both (``factors``): a few sums of moved frames, each with its share,
carry the exposure filter, and only these are transformed.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import scipy.fft

from parhelion.algorithms.motion.align import MovieMotion
from parhelion.algorithms.motion.exposure import Exposure
from parhelion.algorithms.motion.factors import add_weighted, factors, weight_frequencies
from parhelion.algorithms.motion.interpolation import add_moved, blocks, run_length, tap_weights
from parhelion.algorithms.motion.kept import KeptFrames
from parhelion.algorithms.motion.power_spectrum import SPECTRUM_BOX, GroupSpectra
from parhelion.contracts import Cancel, Executor, SerialExecutor
from parhelion.errors import ParameterError

WEIGHT_POINTS = 4096


@dataclass(frozen=True, kw_only=True)
class SumSettings:
    """Which sums are made. ``first`` and ``last`` count frames from 1, 0 for the last there is.

    ``exposure_filter`` weights frames by what signal they carry, ``restore_power`` then keeps the noise's
    power that of a plain sum. ``unweighted`` makes the plain sum too, ``halves`` sums of even and odd
    frames. ``spectrum_dose`` (e⁻/Å²) is what the frames of one power spectrum carry together, 0 for no
    spectrum.
    """

    first: int = 1
    last: int = 0
    exposure_filter: bool = True
    restore_power: bool = True
    unweighted: bool = False
    halves: bool = False
    spectrum_dose: float = 4.0
    spectrum_box: int = SPECTRUM_BOX

    def frames(self, count: int, dead: tuple[int, ...]) -> np.ndarray:
        """Numbers (from 0) of the frames to sum; ParameterError where none is left."""
        last = self.last or count
        if not 1 <= self.first <= last <= count:
            raise ParameterError(
                f"frames {self.first} to {last} are to be summed, the movie has frames 1 to {count}"
            )
        chosen = np.array([i for i in range(self.first - 1, last) if i not in dead], np.int64)
        if not len(chosen):
            raise ParameterError(f"frames {self.first} to {last} are all empty: nothing is left to sum")
        return chosen


@dataclass(frozen=True, kw_only=True)
class MovieSums:
    """Images ``(y, x)`` float32: the sum (weighted if asked for), and what else was asked for.

    ``even`` and ``odd`` hold the 2nd, 4th … and the 1st, 3rd … frame of the movie. ``spectrum`` is the
    amplitude spectrum ``(box, box)`` of groups of frames, zero frequency at ``box // 2``, for
    ``spectrum_pixel_angstrom``.
    """

    total: np.ndarray
    frames: int
    unweighted: np.ndarray | None = None
    even: np.ndarray | None = None
    odd: np.ndarray | None = None
    spectrum: np.ndarray | None = None
    spectrum_pixel_angstrom: float = field(default=0.0)


def sum_movie(
    movie: KeptFrames,
    motion: MovieMotion,
    settings: SumSettings,
    pixel_size_angstrom: float,
    *,
    exposure: Exposure | None = None,
    executor: Executor | None = None,
    cancel: Cancel | None = None,
) -> MovieSums:
    """Move, weight and add the frames, which are given back.

    Raises ParameterError where the exposure filter is wanted without an exposure, or no frame is.
    """
    chosen = settings.frames(movie.count, motion.dead)
    if settings.exposure_filter and exposure is None:
        raise ParameterError("the exposure filter needs the dose per frame and the voltage")
    plan = _plan(chosen, settings, exposure)
    group = _group_size(settings, exposure, len(chosen))
    groups = np.arange(len(chosen)) // group if group else np.full(len(chosen), -1)
    chunks = _chunks(groups, movie.keep)
    room = max(len(np.unique(groups[chunk])) for chunk in chunks) if group else 0
    executor = executor or SerialExecutor()
    work = _Work(movie, motion, chosen, plan, groups, room, settings.unweighted, executor, cancel)
    spectra = GroupSpectra(movie.shape, pixel_size_angstrom, settings.spectrum_box)
    for chunk in chunks:
        work.add(chunk)
        for power in work.closed_groups(chunk, spectra):
            spectra.add(power)
    return MovieSums(
        **work.images(),
        frames=len(chosen),
        spectrum=spectra.spectrum(),
        spectrum_pixel_angstrom=spectra.pixel_size_angstrom,
    )


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """What is added up: ``shares`` ``(n, k)`` of each frame in each of ``k`` sums, which make the images.

    An image is the sum of its ``sums``, each filtered by its curve ``(points,)``, None for none.
    """

    shares: np.ndarray
    sums: dict[str, list[tuple[int, np.ndarray | None]]]


def _plan(chosen: np.ndarray, settings: SumSettings, exposure: Exposure | None) -> _Plan:
    curves: list[np.ndarray | None] = [None]
    shares = np.ones((len(chosen), 1), np.float32)
    if settings.exposure_filter and exposure is not None:
        weights = exposure.weights(chosen, weight_frequencies(WEIGHT_POINTS), settings.restore_power)
        shares, found = factors(weights)
        curves = list(found)
    columns: list[np.ndarray] = []
    sums: dict[str, list[tuple[int, np.ndarray | None]]] = {}
    odd = chosen % 2 == 0
    for name, mask in (("odd", odd), ("even", ~odd)) if settings.halves else (("total", odd | ~odd),):
        if mask.any():
            sums[name] = [(len(columns) + k, curve) for k, curve in enumerate(curves)]
            columns += list((shares * mask[:, None]).T)
    if settings.unweighted and settings.exposure_filter:
        sums["unweighted"] = [(len(columns), None)]
        columns.append(np.ones(len(chosen), np.float32))
    return _Plan(shares=np.stack(columns, axis=1).astype(np.float32), sums=sums)


def _group_size(settings: SumSettings, exposure: Exposure | None, count: int) -> int:
    """Frames per power spectrum: those that carry the wanted dose together; a fifth without a dose."""
    if settings.spectrum_dose == 0:
        return 0
    wanted = settings.spectrum_dose / exposure.dose_per_frame if exposure else count / 5
    return int(np.clip(round(wanted), 1, count))


def _chunks(groups: np.ndarray, keep: bool) -> list[np.ndarray]:
    """Rows of frames that are worked on together: one by one where frames are not kept.

    Else all, but not so many that the sums of their groups need more than a quarter of the frames' memory.
    """
    rows = np.arange(len(groups))
    if not keep:
        return [rows[i : i + 1] for i in rows]
    most = max(1, len(groups) // 4)
    return [part for part in np.split(rows, np.flatnonzero(np.diff(groups // most)) + 1) if len(part)]


class _Work:
    """Sums ``(k, y, x)`` of moved frames, those of the plan first, then room for sums of groups."""

    def __init__(
        self,
        movie: KeptFrames,
        motion: MovieMotion,
        chosen: np.ndarray,
        plan: _Plan,
        groups: np.ndarray,
        room: int,
        unweighted: bool,
        executor: Executor,
        cancel: Cancel | None,
    ) -> None:
        self.movie, self.motion, self.chosen, self.plan = movie, motion, chosen, plan
        self.groups, self.room, self.executor, self.cancel = groups, room, executor, cancel
        self.unweighted, self.table = unweighted, tap_weights()
        self.sums = np.zeros((plan.shares.shape[1] + room, *movie.shape), np.float32)

    def add(self, chunk: np.ndarray) -> None:
        """Add frames: a block of all frames at a time, so that the sums stay in the processor's cache."""
        images = [self.movie(int(self.chosen[row])) for row in chunk]
        fields = [self._field(int(self.chosen[row])) for row in chunk]
        lengths = [run_length(field, self.movie.shape[1]) for field in fields]
        shares = np.zeros((len(chunk), len(self.sums)), np.float32)
        shares[:, : self.plan.shares.shape[1]] = self.plan.shares[chunk]
        if self.room:
            shares[np.arange(len(chunk)), self._place(self.groups[chunk])] = 1.0

        def work(block: tuple[int, int, int, int]) -> None:
            if self.cancel is not None:
                self.cancel.check()
            top, bottom, left, right = block
            # of its own: rows of images whose width is a power of 2 push each other out of the cache
            part = self.sums[:, top:bottom, left:right].copy()
            for image, shifts, length, share in zip(images, fields, lengths, shares, strict=True):
                add_moved(image, shifts, self.table, length, share, part, *block)
            self.sums[:, top:bottom, left:right] = part

        for _ in self.executor.map(work, blocks(self.movie.shape)):
            pass
        for row in chunk:
            self.movie.drop(int(self.chosen[row]))

    def _field(self, frame: int) -> np.ndarray:
        """All motion of a frame: coefficients ``(2, 6)`` of 1, x, x², y, y², xy."""
        local = self.motion.local
        field = np.zeros((2, 6)) if local is None else local.field(float(frame)).astype(np.float64)
        field[:, 0] += self.motion.shift_px[frame]
        return field

    def _place(self, groups: np.ndarray) -> np.ndarray:
        """Which sum a group has."""
        return np.asarray(self.plan.shares.shape[1] + groups % self.room)

    def closed_groups(self, chunk: np.ndarray, spectra: GroupSpectra) -> Iterator[np.ndarray]:
        """The powers of the groups whose last frame this chunk holds."""
        if not self.room:
            return
        last = [
            row for row in chunk if row + 1 == len(self.groups) or self.groups[row + 1] != self.groups[row]
        ]
        places = [int(p) for p in self._place(self.groups[last])]
        yield from self.executor.map(lambda place: spectra.power(self.sums[place]), places)
        self.sums[places] = 0

    def images(self) -> dict[str, np.ndarray]:
        """The images by name; what is not filtered is the sum itself."""
        found = {name: self._image(parts) for name, parts in self.plan.sums.items()}
        halves = [found[name] for name in ("odd", "even") if name in found]
        if halves:
            found["total"] = halves[0] + halves[1] if len(halves) > 1 else halves[0].copy()
        if self.unweighted and "unweighted" not in found:
            found["unweighted"] = found["total"]
        return found

    def _image(self, parts: list[tuple[int, np.ndarray | None]]) -> np.ndarray:
        shape = self.movie.shape
        if parts[0][1] is None:
            return self.sums[parts[0][0]].copy()
        total = np.zeros((shape[0], shape[1] // 2 + 1), np.complex64)
        transforms = self.executor.map(lambda part: scipy.fft.rfft2(self.sums[part[0]], workers=1), parts)
        for transform, (_, curve) in zip(transforms, parts, strict=True):
            add_weighted(total, transform, shape, curve)
        return np.asarray(scipy.fft.irfft2(total, s=shape, workers=1, overwrite_x=True))
