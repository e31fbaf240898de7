"""How likely frames are, given their shifts: signal that moves, a pattern that does not, and noise.

At each frequency ``k`` frame ``i`` shows ``F_i = q_i ē_i S + P + noise``: the specimen ``S`` moved by minus
the frame's shift ``d_i`` (``ē_i = exp(2πi k·d_i)``) and weakened by damage (``q_i``), a fixed pattern ``P``
of the detector (an imperfect gain reference), and noise of power ``N``. With complex Gaussian ``S`` and
``P`` of power ``σ_s²`` and ``σ_p²`` per ring both can be integrated out, and what remains is the likelihood
of the shifts alone:

    L = Σ_k |G|² / (N D) − log D,   G = Σ_i q_i a_i (F_i − c U),   D = Σ q_i² − c |M|² + N / σ_s²

with ``a_i = conj(ē_i)``, ``U = Σ F_i``, ``M = Σ q_i a_i`` and ``c = σ_p² / (N + n σ_p²)``. Without a
pattern (``c = 0``) ``|G|²`` is the power of the aligned sum: all pairs of frames are correlated at once,
each weighted as its ring deserves, and a frame is never compared with itself, since its own ``|F_i|²`` does
not depend on the shift. With a pattern, ``c`` takes the unaligned mean away and the terms in ``|M|²`` take
back the repulsion from zero shift that plain subtraction causes.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import TypeVar

import numpy as np

from parhelion.algorithms.motion import kernels
from parhelion.algorithms.motion.band import Band
from parhelion.algorithms.motion.climb import climb
from parhelion.contracts import Executor, SerialExecutor

R = TypeVar("R")

PARTS = 8
"""Most ranges of rows that are summed one by one, whatever the number of threads: the bytes are the same."""
POINTS_PER_PART = 500_000
PATTERN_SIGMAS = 6.0
"""A fixed pattern is believed in when all rings together show it at this many standard deviations."""
UNRESOLVED = 0.9
"""Where |M|² is closer to its greatest value than this, moving and fixed cannot be told apart."""


ENOUGH = 0.99
"""Share of the information about shifts that the rings in use hold; the finest cost most and add least."""


@dataclass(frozen=True, kw_only=True)
class Powers:
    """Power per ring ``(shells,)`` of noise in a frame, of the moving signal, and of the fixed pattern."""

    noise: np.ndarray
    signal: np.ndarray
    pattern: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Frames:
    """Transforms of ``n`` frames in a band; made by ``frames_of``.

    ``data`` ``(n, 2, ny, nx)`` float32 are the transforms times ``amplitude`` ``(n, shells)``, what damage
    has left of the signal in each. ``plain`` ``(2, ny, nx)`` is their sum and ``each`` ``(shells,)`` the
    sum of their powers over each ring, both before that multiplication.
    """

    band: Band
    data: np.ndarray
    amplitude: np.ndarray
    plain: np.ndarray
    each: np.ndarray
    executor: Executor = field(default_factory=SerialExecutor)

    @cached_property
    def squares(self) -> np.ndarray:
        """Σ q² per ring."""
        return np.asarray((self.amplitude.astype(np.float64) ** 2).sum(axis=0))

    def up_to(self, cycles_per_pixel: float) -> "Frames":
        """The same frames in the band up to a frequency."""
        small, rows = self.band.taken(cycles_per_pixel)
        if small.shell.shape == self.band.shell.shape:
            return replace(self, band=small)
        width = len(small.frequency_x)
        data = np.ascontiguousarray(self.data[:, :, rows, :width])
        return replace(self, band=small, data=data, plain=np.ascontiguousarray(self.plain[:, rows, :width]))

    def sums(self, shift_px: np.ndarray) -> np.ndarray:
        """``Σ q a F`` ``(2, ny, nx)`` at these shifts ``(n, 2)``."""
        return self.sums_of(self.band.ramps(shift_px))

    def sums_of(self, ramps: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        """``sums`` from the ramps of the shifts."""
        total = np.zeros(self.data.shape[1:], np.float32)

        def work(rows: tuple[int, int]) -> None:
            kernels.aligned_sums(self.data, *ramps, self.band.runs, total, *rows)

        for _ in self.over_parts(work):
            pass
        return total

    def phases(self, ramps: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        """``Σ q a`` ``(2, ny, nx)`` from the ramps of the shifts."""
        phase = np.zeros(self.data.shape[1:], np.float32)
        band = self.band

        def work(rows: tuple[int, int]) -> None:
            kernels.phase_sums(*ramps, self.amplitude, band.shell, band.runs, phase, *rows)

        for _ in self.over_parts(work):
            pass
        return phase

    def over_parts(self, work: Callable[[tuple[int, int]], R]) -> Iterator[R]:
        """``work`` on each of the parts; what is small is not worth the way to another thread."""
        return self.executor.map(work, self.parts) if len(self.parts) > 1 else map(work, self.parts)

    @cached_property
    def parts(self) -> list[tuple[int, int]]:
        """Ranges of rows to work on one by one."""
        wanted = int(np.clip(self.data.size // (2 * POINTS_PER_PART), 1, PARTS))
        edges = np.linspace(0, len(self.band.frequency_y), wanted + 1).astype(int)
        return [(int(a), int(b)) for a, b in pairwise(edges)]

    def ring_powers(self, planes: np.ndarray) -> np.ndarray:
        """Σ |z|² of each ring ``(shells,)`` of real and imaginary ``planes`` ``(2, ny, nx)``."""
        out = np.zeros(len(self.band.shell_count))
        kernels.ring_powers(planes, self.band.shell, self.band.runs, out)
        return out


def frames_of(
    band: Band, data: np.ndarray, amplitude: np.ndarray, executor: Executor | None = None
) -> Frames:
    """Frames from transforms ``(n, 2, ny, nx)`` float32, which are weighted in place."""
    plain = np.zeros(data.shape[1:], np.float32)
    each = np.zeros(len(band.shell_count))
    kernels.weigh(data, amplitude, band.shell, band.runs, plain, each)
    return Frames(
        band=band,
        data=data,
        amplitude=amplitude,
        plain=plain,
        each=each,
        executor=executor or SerialExecutor(),
    )


def measure_powers(frames: Frames, shift_px: np.ndarray, allow_pattern: bool = True) -> Powers:
    """Powers per ring from the frames aligned by these shifts.

    The power of the aligned sum, of the plain sum and of single frames are three linear equations for
    signal, pattern and noise. Where the shifts are too small to tell moving from fixed, all is signal.
    """
    rings = np.zeros((len(frames.each), 4))
    rings[:, 0] = frames.each
    ramps = frames.band.ramps(shift_px)
    rings[:, 1] = frames.ring_powers(frames.sums_of(ramps))
    if allow_pattern:
        rings[:, 2] = frames.ring_powers(frames.plain)
        rings[:, 3] = frames.ring_powers(frames.phases(ramps))
    return powers_of_rings(rings, frames.band.shell_count, frames.amplitude, allow_pattern)


def powers_of_rings(
    rings: np.ndarray, points: np.ndarray, amplitude: np.ndarray, allow_pattern: bool = True
) -> Powers:
    """Powers from sums ``(shells, 4)`` of Σ_i |F_i|², |Σ q a F|², |Σ F|² and |Σ q a|² over ``points``.

    The last two are not looked at where no pattern is allowed.
    """
    n = len(amplitude)
    squares = (amplitude.astype(np.float64) ** 2).sum(axis=0)
    each, aligned, plain, phase = (rings / np.maximum(points, 1)[:, None]).T
    resolved = (phase < UNRESOLVED * n * squares) & (points > 0) & (n > 2)
    signal, noise = _two_powers(each, aligned, squares, n)
    pattern = np.zeros_like(signal)
    if allow_pattern and resolved.any():
        three = _three_powers(each, aligned, plain, phase, squares, n)
        error = three[0] * _leverage(phase, squares, n) / np.sqrt(np.maximum(points, 1))
        certainty = 1 / np.maximum(error[resolved], np.finfo(np.float32).tiny) ** 2
        strength = (three[2][resolved] * certainty).sum() / np.sqrt(certainty.sum())
        if strength > PATTERN_SIGMAS:
            noise = np.where(resolved, three[0], noise)
            signal = np.where(resolved, three[1], signal)
            pattern = np.where(resolved, np.maximum(_smooth(three[2], points * resolved), 0), 0)
    floor = np.max(each, initial=0.0) * 1e-7 + np.finfo(np.float32).tiny
    noise = np.maximum(noise, np.maximum(floor, 1e-3 * each))
    smooth = _smooth(signal, points)
    # a ring whose signal is less than what chance gives has nothing to say about shifts
    chance = noise / (np.maximum(squares, 1e-6) * np.sqrt(np.maximum(3 * points, 1)))
    return Powers(noise=noise, signal=np.where(smooth > 2 * chance, smooth, 0.0), pattern=pattern)


def _two_powers(
    each: np.ndarray, aligned: np.ndarray, squares: np.ndarray, n: int
) -> tuple[np.ndarray, np.ndarray]:
    """Signal and noise from E|ΣqaF|² = N Q + S Q² and E Σ|F|² = n N + S Q."""
    determinant = squares * (n * squares - squares)
    safe = np.maximum(determinant, 1e-12)
    signal = (n * aligned - squares * each) / safe
    noise = (each * squares - aligned) / np.maximum(n * squares - squares, 1e-12)
    if n == 1:
        return np.zeros_like(each), each
    return signal, noise


def _three_powers(
    each: np.ndarray, aligned: np.ndarray, plain: np.ndarray, phase: np.ndarray, squares: np.ndarray, n: int
) -> np.ndarray:
    """Noise, signal and pattern ``(3, shells)`` from the three mean powers."""
    matrix = np.empty((len(each), 3, 3))
    matrix[:, 0] = np.stack([np.full_like(squares, n), squares, np.full_like(squares, n)], axis=1)
    matrix[:, 1] = np.stack([squares, squares**2, phase], axis=1)
    matrix[:, 2] = np.stack([np.full_like(squares, n), phase, np.full_like(squares, n**2)], axis=1)
    right = np.stack([each, aligned, plain], axis=1)[..., None]
    return np.asarray((np.linalg.pinv(matrix) @ right)[..., 0].T)


def _leverage(phase: np.ndarray, squares: np.ndarray, n: int) -> np.ndarray:
    """Roughly the standard error of the pattern's power, per noise power and root of points."""
    coherence = np.clip(phase / np.maximum(n * squares, 1e-12), 0, UNRESOLVED)
    return 1.0 / (n * (1 - coherence))


def _smooth(values: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Running mean over five rings weighted by their numbers of points."""
    window = np.array([1.0, 2.0, 3.0, 2.0, 1.0])
    weight = np.convolve(points, window, mode="same")
    return np.asarray(np.convolve(values * points, window, mode="same") / np.maximum(weight, 1e-12))


def ring_information(frames: Frames, powers: Powers) -> np.ndarray:
    """What each ring ``(shells,)`` tells about shifts: the factor of ``Likelihood.information``."""
    ratio, band = powers.signal / powers.noise, frames.band
    per_point = (2 * np.pi * band.shell_frequency) ** 2 * ratio**2 / (ratio * frames.squares + 1)
    return np.asarray(band.shell_count * per_point)


def useful_limit(frames: Frames, powers: Powers) -> float | None:
    """The frequency up to which rings hold ENOUGH of the information; None where no ring holds any."""
    # early and late frames differ in amplitude: a ring counts by what the least damaged frames get from it
    told = ring_information(frames, powers) * (frames.amplitude.astype(np.float64) ** 2).max(axis=0)
    told *= frames.squares
    if not told.any():
        return None
    ring = int(np.searchsorted(np.cumsum(told), ENOUGH * told.sum()))
    return float(frames.band.shell_frequency[min(ring, len(told) - 1)])


@dataclass(frozen=True, kw_only=True)
class Likelihood:
    """The likelihood of shifts under given powers, its slope and its expected curvature."""

    frames: Frames
    powers: Powers

    @cached_property
    def table(self) -> np.ndarray:
        """What ``kernels.pattern_likelihood`` needs per ring: 1/N, c, Σq² + N/S, Σq² S/N + 1."""
        noise, signal, pattern = self.powers.noise, self.powers.signal, self.powers.pattern
        squares, ratio = self.frames.squares, signal / noise
        c = pattern / (noise + len(self.frames.data) * pattern)
        with np.errstate(divide="ignore"):
            depth = np.where(ratio > 0, squares + 1 / ratio, np.inf)
        return np.stack([1 / noise, c, depth, squares * ratio + 1], axis=1)

    def constant(self) -> float:
        """What does not depend on the shifts, so that different powers can be compared."""
        points = self.frames.band.shell_count
        noise, pattern, n = self.powers.noise, self.powers.pattern, len(self.frames.data)
        c = pattern / (noise + n * pattern)
        terms = -(self.frames.each - c * self.frames.ring_powers(self.frames.plain)) / noise
        terms -= points * (n * np.log(noise) + np.log1p(n * pattern / noise))
        return float(terms[points > 0].sum())

    def evaluate(self, shift_px: np.ndarray) -> tuple[float, np.ndarray]:
        """The likelihood (up to ``constant``) at shifts ``(n, 2)`` and its slope ``(n, 2)`` per pixel."""
        frames, band = self.frames, self.frames.band
        ramps = band.ramps(shift_px)
        steps = (band.frequency_y, band.frequency_x)
        table, rest = self.table, 0.0
        pattern = bool(self.powers.pattern.any())
        if not pattern:
            signal = table[:, 3] > 1
            rest = -float((band.shell_count * np.log(table[:, 3]))[signal].sum())
            table = np.where(signal, table[:, 0] / table[:, 2], 0.0).astype(np.float32)

        def work(rows: tuple[int, int]) -> tuple[float, np.ndarray]:
            out = np.zeros((len(frames.data), 2))
            if pattern:
                value = kernels.pattern_likelihood(
                    frames.data, frames.plain, frames.amplitude, *ramps, band.shell, band.runs, table, *steps,
                    out, *rows,
                )  # fmt: skip
            else:
                value = kernels.plain_likelihood(
                    frames.data, *ramps, band.shell, band.runs, table, *steps, out, *rows
                )
            return value, out

        value, slope = rest, np.zeros((len(frames.data), 2))
        for part, out in frames.over_parts(work):
            value += part
            slope += out
        return value, slope

    def information(self) -> np.ndarray:
        """Expected curvature ``(n, n)`` per axis in 1/px² of the likelihood, without a pattern.

        ``Σ_k ½ (2πk)² · 2 S/(N D) (δ_ij q_i² Σq² − q_i² q_j²)``; its null vector is a common shift.
        """
        q2 = self.frames.amplitude.astype(np.float64) ** 2
        weight = ring_information(self.frames, self.powers)
        cross = (q2 * weight) @ q2.T
        return np.asarray(np.diag((q2 * weight * q2.sum(axis=0)).sum(axis=1)) - cross)

    def climb(
        self,
        start: np.ndarray,
        prior: np.ndarray,
        *,
        threshold_px: float,
        iterations: int,
    ) -> tuple[np.ndarray, float, int]:
        """The shifts that maximise likelihood and prior, from ``start`` ``(n, 2)``: shifts, value, rounds.

        ``prior`` ``(n, n)`` is the curvature of a quadratic prior per axis; the rest as ``climb.climb``.
        """
        return climb(self.evaluate, self.information() + prior, prior, start, threshold_px, iterations)
