"""One pass over the frames of a movie: their sum, and what is wrong with them."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numba as nb
import numpy as np

from parhelion.contracts import FrameSource

CEILINGS = (15, 127, 255, 1023, 4095, 16383, 32767, 65535)
"""The greatest values that detectors and integer types can hold."""
SATURATED_SHARE = 1e-4
PILED_UP, PILED_SHARE = 2.0, 1e-3
"""So many times more pixels at the greatest value than at the next below, and such a share of all, are no
tail of a distribution."""
SAMPLED_ROWS = 512
EMPTY_SHARE = 0.01
"""A frame with less than this share of the usual mean was not exposed."""


@dataclass
class FrameSurvey:
    """What the uncorrected frames of a movie are.

    ``total`` (y, x) is the sum of the ``live`` frames, ``dead`` are the numbers (from 0) of the frames that
    are empty, of one value, or without any finite value. ``mean`` and the other columns have one value per
    frame. ``kept`` holds frames that fit 8- or 16-bit integers, if they were to be kept.
    """

    total: np.ndarray
    count: int
    mean: np.ndarray
    not_finite: np.ndarray
    negative: np.ndarray
    saturated: np.ndarray
    dead: tuple[int, ...] = ()
    kept: dict[int, np.ndarray] = field(default_factory=dict)

    @property
    def live(self) -> int:
        """How many frames are in ``total``."""
        return self.count - len(self.dead)

    def findings(self) -> list[str]:
        """What a user should know, in words."""
        found = []
        if self.dead:
            names = ", ".join(str(i + 1) for i in self.dead[:10]) + (", …" if len(self.dead) > 10 else "")
            found.append(f"{len(self.dead)} of {self.count} frames are empty and left out: {names}")
        for values, what in (
            (self.not_finite, "values that are not finite (NaN or infinity)"),
            (self.negative, "negative values"),
        ):
            if values.any():
                found.append(f"{np.count_nonzero(values)} frames hold {what}, {int(values.sum()):,} in all")
        if self.saturated.any():
            found.append(
                f"the detector is saturated: up to {100 * self.saturated.max():.2g} % of the pixels of "
                f"{np.count_nonzero(self.saturated)} frames have the greatest value it can count"
            )
        return found


def survey_frames(source: FrameSource, *, keep_bytes: int = 0, workers: int = 1) -> FrameSurvey:
    """Read all frames once.

    Frames of small whole numbers are kept as such where that takes at most ``keep_bytes`` in all, so that a
    compressed movie is not unpacked twice. ``workers`` threads read. A source's ``stored(index)``, where it
    has one, is asked instead of ``frame`` and may give any type of numbers.
    """
    n = source.count
    survey = FrameSurvey(
        total=np.zeros(source.shape, np.float32),
        count=n,
        mean=np.zeros(n),
        not_finite=np.zeros(n),
        negative=np.zeros(n),
        saturated=np.zeros(n),
    )
    room = keep_bytes // max(n, 1)
    constant = np.zeros(n, bool)
    read = getattr(source, "stored", source.frame)
    with ThreadPoolExecutor(max(1, workers)) as pool:
        for start in range(0, n, max(1, workers)):
            numbers = range(start, min(start + max(1, workers), n))
            frames = map(read, numbers) if workers <= 1 else pool.map(read, numbers)
            for index, frame in zip(numbers, frames):
                constant[index] = _take(survey, index, frame, room)
    _drop_empty(source, survey, constant)
    return survey


def _take(survey: FrameSurvey, index: int, frame: np.ndarray, room: int) -> bool:
    """Count one frame in; whether it has one value everywhere."""
    if frame.dtype not in (np.uint8, np.uint16):
        with np.errstate(over="ignore", invalid="ignore"):
            frame = np.ascontiguousarray(frame, dtype=np.float32)
    stored = _as_integers(frame)
    if stored is None:
        return _take_any(survey, index, frame)
    least, greatest, counts = _count_in(stored, survey.total)
    if least < greatest:
        survey.saturated[index] = _saturated_share(stored, float(greatest))
    survey.mean[index] = counts / stored.size
    if stored.nbytes <= room:
        # rows may lie in opposite order
        survey.kept[index] = np.ascontiguousarray(stored)
    return bool(least == greatest)


def _take_any(survey: FrameSurvey, index: int, frame: np.ndarray) -> bool:
    """Count in a frame that is no small whole numbers."""
    least, greatest = float(frame.min()), float(frame.max())
    if not (np.isfinite(least) and np.isfinite(greatest)):
        finite = np.isfinite(frame)
        survey.not_finite[index] = frame.size - np.count_nonzero(finite)
        frame = np.where(finite, frame, 0)
        least, greatest = float(frame.min()), float(frame.max())
        if not finite.any():
            return True
    if least < 0:
        survey.negative[index] = np.count_nonzero(frame < 0)
    if least < greatest:
        survey.saturated[index] = _saturated_share(frame, greatest)
    survey.mean[index] = frame.mean(dtype=np.float64)
    survey.total += frame
    return least == greatest


@nb.njit(nogil=True, cache=True)
def _count_in(stored, total):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Add whole numbers to ``total``; their least, their greatest and their sum."""
    least, greatest, counts = np.uint16(65535), np.uint16(0), np.uint64(0)
    for y in range(stored.shape[0]):
        row, target, sums = stored[y], total[y], np.uint32(0)
        for x in range(len(row)):
            value = np.uint16(row[x])
            least, greatest = min(least, value), max(greatest, value)
            sums += value
        for x in range(len(row)):
            target[x] += np.float32(row[x])
        counts += np.uint64(sums)
    return least, greatest, counts


def _saturated_share(seen: np.ndarray, greatest: float) -> float:
    """Share of pixels that a detector could not count: at a value where detectors or types end, or where far
    more pixels have the greatest value than the one below it."""
    rows = seen[:: max(1, len(seen) // SAMPLED_ROWS)]
    share = np.count_nonzero(rows == greatest) / rows.size
    if share <= SATURATED_SHARE:
        return 0.0
    if greatest in CEILINGS:
        return share
    if share <= PILED_SHARE:
        return 0.0
    below = rows[rows < greatest]
    return share if share * rows.size > PILED_UP * np.count_nonzero(below == below.max()) else 0.0


def _as_integers(frame: np.ndarray) -> np.ndarray | None:
    """The frame as 8- or 16-bit whole numbers, None where it is something else."""
    if frame.dtype in (np.uint8, np.uint16):
        return np.ascontiguousarray(frame)
    for kind in (np.uint8, np.uint16):
        stored = np.empty(frame.shape, kind)
        # one row decides for most of what does not fit
        if _fits(frame[:1], stored[:1]) and _fits(frame, stored):
            return stored
    return None


@nb.njit(nogil=True, cache=True)
def _fits(frame, stored):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Copy a frame to whole numbers; whether they are the same."""
    for y in range(frame.shape[0]):
        row, whole, different = frame[y], stored[y], 0
        for x in range(len(row)):
            number = np.int32(row[x])
            whole[x] = number
            different += np.float32(whole[x]) != row[x]
        if different:
            return False
    return True


def _drop_empty(source: FrameSource, survey: FrameSurvey, constant: np.ndarray) -> None:
    """Find the frames that were not exposed, and take them out of the sum."""
    usual = float(np.median(survey.mean[~constant])) if not constant.all() else 0.0
    empty = constant | ((survey.mean < EMPTY_SHARE * usual) if usual > 0 else False)
    survey.dead = tuple(np.flatnonzero(empty).tolist())
    for index in survey.dead:
        if survey.mean[index]:
            frame = survey.kept[index] if index in survey.kept else source.frame(index)
            survey.total -= np.nan_to_num(frame, posinf=0, neginf=0)
