"""A first track from nothing: correlations of all pairs of frames, and the track that they agree on.

Single frames are too weak to be aligned one by one, and their plain sum is blurred by the drift. All pairs
together know the drift long before any one of them shows a peak: first the straight line whose pairs agree
best is searched exhaustively, then each frame in turn is moved to where it agrees best with all others.
"""

from dataclasses import dataclass

import numba as nb
import numpy as np
import scipy.fft

from parhelion.algorithms.motion.likelihood import Frames

MOST_BLOCKS = 24
"""Frames are summed in pairs, triples … until at most this many remain: more pairs only add cost."""
LINE_POINTS = 61
"""Straight lines tried along each axis."""
SWEEPS = 12


@dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """All lengths in pixels: detail to search with, the largest and least shift, and the B-factor in px²."""

    detail_px: float
    max_shift_px: float
    min_shift_px: float
    bfactor_px2: float


def first_tracks(frames: Frames, noise: np.ndarray, settings: SearchSettings) -> list[np.ndarray]:
    """Candidate tracks ``(n, 2)`` in pixels, with and without the unaligned mean, which a pattern spoils.

    ``noise`` ``(shells,)`` whitens. The caller decides between the candidates, and the frame that never
    moves.
    """
    count = len(frames.data)
    blocks = _blocks(count)
    windows = _Windows(_coarse(frames, blocks, noise, settings), frames.band.shape, settings)
    plain = windows.track(settings.min_shift_px, settings.max_shift_px)
    windows.without_mean()
    less_mean = windows.track(0.0, settings.max_shift_px)
    return [np.zeros((count, 2)), _per_frame(plain, blocks), _per_frame(less_mean, blocks)]


def _blocks(count: int) -> np.ndarray:
    """Number of the block that each frame belongs to."""
    return np.arange(count) // -(-count // MOST_BLOCKS)


def _per_frame(track: np.ndarray, blocks: np.ndarray) -> np.ndarray:
    """A track of frames from one of blocks, in straight pieces between their middles."""
    if len(track) == len(blocks):
        return track
    frame = np.arange(len(blocks))
    middle = np.array([frame[blocks == b].mean() for b in range(len(track))])
    inside = [np.interp(frame, middle, track[:, axis]) for axis in (0, 1)]
    out = np.stack(inside, axis=1)
    # beyond the outer middles go on as straight as the last two blocks
    for beyond, near, far in ((frame < middle[0], 0, 1), (frame > middle[-1], -1, -2)):
        slope = (track[near] - track[far]) / (middle[near] - middle[far])
        out[beyond] = track[near] + (frame[beyond] - middle[near])[:, None] * slope
    return out


def _coarse(frames: Frames, blocks: np.ndarray, noise: np.ndarray, settings: SearchSettings) -> np.ndarray:
    """Whitened block sums ``(blocks, ny, nx)`` complex64 down to the searched detail.

    Each carries the root of the B-factor, so that correlations carry it once.
    """
    small = frames.up_to(1 / settings.detail_px)
    band, shell = small.band, small.band.shell
    square = band.frequency_y[:, None] ** 2 + band.frequency_x[None, :] ** 2
    weight = np.exp(-settings.bfactor_px2 * square / 8) / np.sqrt(noise)[shell]
    weight = np.where(shell >= 0, weight, 0.0).astype(np.float32)
    data = np.zeros((blocks[-1] + 1, *shell.shape), np.complex64)
    for block, (real, imaginary), left in zip(blocks, small.data, small.amplitude, strict=True):
        # a fixed pattern is not weakened by damage: without the amplitudes it cancels with the mean
        data[block].real += weight / left[shell] * real
        data[block].imag += weight / left[shell] * imaginary
    return data


class _Windows:
    """Correlations of all pairs of blocks for relative shifts on a grid around zero.

    ``pairs[i, j]`` ``(2 half_y + 1, 2 half_x + 1)`` is greatest at the shift of ``i`` less that of ``j``.
    """

    def __init__(self, data: np.ndarray, shape: tuple[int, int], settings: SearchSettings) -> None:
        self.count, ny, nx = data.shape
        # real-space grid just fine enough for the band; its step differs a little along y and x
        grid = (scipy.fft.next_fast_len(ny, real=True), scipy.fft.next_fast_len(2 * nx - 1, real=True))
        self.step = np.array(shape) / grid
        reach = np.ceil(2 * settings.max_shift_px / self.step).astype(int)
        self.half = np.clip(reach, 2, (np.array(grid) - 1) // 2)
        rows, columns = (np.arange(-h, h + 1) for h in self.half)
        self.pairs = np.empty((self.count, self.count, len(rows), len(columns)), np.float32)
        for i in range(self.count):
            # content lies at minus its shift: the conjugate of the first gives the correlation there
            products = data[i].conj() * data[i:]
            spectra = np.zeros((len(products), grid[0], nx), np.complex64)
            spectra[:, : (ny + 1) // 2] = products[:, : (ny + 1) // 2]
            spectra[:, grid[0] - ny // 2 :] = products[:, (ny + 1) // 2 :]
            # along y first, so that only rows of the window are transformed along x
            part = scipy.fft.ifft(spectra, axis=1, workers=1, overwrite_x=True)[:, rows]
            window = scipy.fft.irfft(part, n=grid[1], axis=2, workers=1)[:, :, columns]
            self.pairs[i, i:] = window
            self.pairs[i:, i] = window[:, ::-1, ::-1]

    def without_mean(self) -> None:
        """Make the pairs those of blocks less their mean: linear, hence done on the correlations."""
        over_i, over_j = self.pairs.mean(axis=0), self.pairs.mean(axis=1)
        both = over_i.mean(axis=0)
        for i in range(self.count):
            self.pairs[i] += both - over_i - over_j[i]

    def track(self, min_shift_px: float, max_shift_px: float) -> np.ndarray:
        """The best track ``(blocks, 2)`` in pixels x, y: a straight line first, then frame by frame.

        ``min_shift_px`` keeps neighbouring blocks of the first round from sitting on a fixed pattern; no
        sweep moves a block by more than ``max_shift_px``.
        """
        if self.count == 1:
            return np.zeros((1, 2))
        steps = self._line(min_shift_px)
        reach = int(np.ceil(max_shift_px / self.step.min()))
        for _ in range(SWEEPS):
            before = steps.copy()
            for i in range(self.count):
                steps[i] = self._best(i, steps, reach)
            if np.array_equal(before, steps):
                break
        fine = np.array([self._peak(i, steps) for i in range(self.count)])
        return (fine - fine.mean(axis=0))[:, ::-1] * self.step

    def _line(self, min_shift_px: float) -> np.ndarray:
        """Grid positions ``(blocks, 2)`` y, x along the straight line with the greatest total agreement."""
        time = np.arange(self.count) - (self.count - 1) / 2
        spans = [np.linspace(-half, half, LINE_POINTS) / (self.count - 1) for half in self.half]
        vy, vx = (v.ravel() for v in np.meshgrid(*spans, indexing="ij"))
        around = np.zeros((self.count, self.count), np.float32)
        if min_shift_px > 0:
            for i in range(self.count):
                for j in range(i + 1, self.count):
                    around[i, j] = self._around_zero(i, j, min_shift_px)
        score = np.zeros(len(vy))
        _line_scores(self.pairs, vy, vx, self.half, self.step, min_shift_px, around, score)
        best = int(np.argmax(score))
        return np.rint(np.outer(time, (vy[best], vx[best]))).astype(int)

    def _around_zero(self, i: int, j: int, min_shift_px: float) -> float:
        """Mean agreement just outside the least shift, in place of the peak of a fixed pattern."""
        y, x = (np.arange(-h, h + 1) * s for h, s in zip(self.half, self.step, strict=True))
        radius = np.hypot(y[:, None], x[None, :])
        ring = (radius >= min_shift_px) & (radius < min_shift_px + 1.5 * self.step.max())
        return float(self.pairs[i, j][ring].mean())

    def _agreement(self, i: int, steps: np.ndarray, around: np.ndarray, reach: int) -> np.ndarray:
        """Agreement of block ``i`` with all others at grid positions within ``reach`` of ``around``."""
        found = np.zeros((2 * reach + 1, 2 * reach + 1), np.float32)
        _add_agreement(self.pairs, i, around - reach + self.half - steps, found)
        return found

    def _best(self, i: int, steps: np.ndarray, reach: int) -> np.ndarray:
        found = self._agreement(i, steps, steps[i], reach)
        return np.asarray(steps[i] + np.array(np.unravel_index(np.argmax(found), found.shape)) - reach)

    def _peak(self, i: int, steps: np.ndarray) -> np.ndarray:
        """The position of block ``i`` between the grid's points, by parabolas through three."""
        found = self._agreement(i, steps, steps[i], 1)
        out = steps[i].astype(float)
        for axis, (a, b, c) in enumerate((found[:, 1], found[1, :])):
            bend = a - 2 * b + c
            if bend < 0:
                out[axis] += float(np.clip(0.5 * (a - c) / bend, -0.5, 0.5))
        return out


@nb.njit(nogil=True, cache=True, error_model="numpy")
def _line_scores(pairs, vy, vx, half, step, min_shift_px, around, score):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Total agreement of all pairs along straight lines of ``vy``, ``vx`` grid points per block."""
    for line in range(len(vy)):
        for i in range(len(pairs)):
            for j in range(i + 1, len(pairs)):
                y, x = int(np.rint(vy[line] * (i - j))), int(np.rint(vx[line] * (i - j)))
                if (y * step[0]) ** 2 + (x * step[1]) ** 2 < min_shift_px**2:
                    score[line] += around[i, j]
                else:
                    score[line] += pairs[i, j, y + half[0], x + half[1]]


@nb.njit(nogil=True, cache=True, error_model="numpy")
def _add_agreement(pairs, i, low, found):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Add to ``found`` the agreement of ``i`` with all others, each from position ``low`` ``(n, 2)`` on."""
    rows, columns = pairs.shape[2], pairs.shape[3]
    for j in range(len(pairs)):
        if j == i:
            continue
        low_y, low_x = low[j]
        for y in range(max(low_y, 0), min(low_y + found.shape[0], rows)):
            for x in range(max(low_x, 0), min(low_x + found.shape[1], columns)):
                found[y - low_y, x - low_x] += pairs[i, j, y, x]
