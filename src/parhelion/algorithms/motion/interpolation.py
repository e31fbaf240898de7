"""Frames moved in real space by any smooth field of shifts, and added up on the way.

A row of a frame is looked at in runs so short that the shift hardly changes within one: a run is moved by
one set of weights along x and one along y. The weights are those of twelve pixels that reproduce waves up to
``FINEST`` cycles per pixel best in the sense of least squares (error below 1 % up to 0.4, where cubic splines
lose 17 %). A block of the sums stays in the processor's cache while all frames are added to it.
"""

from functools import cache

import numba as nb
import numpy as np

TAPS = 12
PHASES = 128
"""Parts of a pixel for which weights are tabulated."""
FINEST = 0.42
"""Finest waves in cycles per pixel for which weights are made."""
SLACK_PX = 0.25
"""The most that the shift may change along a run of pixels where the field is steepest: the error there,
0.07 px, weakens waves of 0.4 cycles per pixel by less than 2 %."""
SHORTEST, LONGEST = 8, 128
"""Pixels of a run."""
BLOCK = (64, 1024)
"""Rows and columns that are done for all frames before the next."""

_jit = nb.njit(nogil=True, fastmath=True, cache=True, error_model="numpy")


@cache
def tap_weights() -> np.ndarray:
    """Weights ``(PHASES, TAPS)`` float32 of pixels −5 to 6 for the value ``phase / PHASES`` beyond pixel 0.

    They minimise ∫ |Σ h_k exp(2πifk) − exp(2πift)|² over −FINEST < f < FINEST with Σ h_k = 1.
    """
    taps = np.arange(TAPS) - (TAPS // 2 - 1)
    phase = np.arange(PHASES) / PHASES
    overlap = np.sinc(2 * FINEST * (taps[:, None] - taps[None, :]))
    wanted = np.sinc(2 * FINEST * (taps[:, None] - phase[None, :]))
    system = np.ones((TAPS + 1, TAPS + 1))
    system[:TAPS, :TAPS], system[TAPS, TAPS] = overlap, 0.0
    right = np.vstack([wanted, np.ones((1, PHASES))])
    return np.ascontiguousarray(np.linalg.solve(system, right)[:TAPS].T, np.float32)


def run_length(field: np.ndarray, width: int) -> int:
    """Pixels along x in which a ``field`` ``(2, 6)`` of shifts changes by at most SLACK_PX.

    The field holds coefficients of 1, x, x², y, y², xy (x and y from −½ to ½) as ``LocalMotion.field`` does.
    """
    slope = np.abs(field[:, 1]) + np.abs(field[:, 2]) + 0.5 * np.abs(field[:, 5])
    length = LONGEST
    while length > SHORTEST and length * float(slope.max()) / width > SLACK_PX:
        length //= 2
    return length


def blocks(shape: tuple[int, int]) -> list[tuple[int, int, int, int]]:
    """First and last rows and columns (the last not included) of parts that are worked on one by one."""
    rows, columns = BLOCK
    return [
        (top, min(top + rows, shape[0]), left, min(left + columns, shape[1]))
        for top in range(0, shape[0], rows)
        for left in range(0, shape[1], columns)
    ]


@_jit
def add_moved(frame, field, table, length, shares, sums, top, bottom, left, right):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Add rows ``top`` to ``bottom`` and columns ``left`` to ``right`` of a moved ``frame`` ``(y, x)`` to
    ``sums`` ``(k, bottom - top, right - left)`` by ``shares``.

    ``field`` ``(2, 6)`` float64 gives the shift along x and y that is to be added to the frame's content, as
    for ``run_length``, which gives ``length``; ``table`` is ``tap_weights()``, ``shares`` ``(k,)`` float32.
    Beyond an edge comes the opposite one, as in Fourier space.
    """
    height, width = frame.shape
    reach, more = table.shape[1] // 2 - 1, table.shape[1] - 1
    rows, runs = bottom - top, -(-(right - left) // length)
    # each row of a run has its own place along y in the source
    source_y, part_y = np.empty((runs, rows), np.int32), np.empty((runs, rows), np.int32)
    tall = 0
    for run in range(runs):
        x = 0.5 * (left + run * length + min(left + (run + 1) * length, right)) / width - 0.5
        _places(
            field[1], x, (top + 0.5) / height - 0.5, 1.0 / height, table.shape[0], source_y[run], part_y[run]
        )
        for row in range(rows):
            source_y[run, row] += top + row - reach
        tall = max(tall, source_y[run].max() - source_y[run].min() + more + 1)
    source_x, part_x = np.empty((runs, tall), np.int32), np.empty((runs, tall), np.int32)
    first = np.empty(runs, np.int32)
    for run in range(runs):
        x = 0.5 * (left + run * length + min(left + (run + 1) * length, right)) / width - 0.5
        middle = (top + 0.5 - reach) / height - 0.5
        _places(field[0], x, middle, 1.0 / height, table.shape[0], source_x[run], part_x[run])
        first[run] = source_y[run].min()
    across = np.empty((runs, tall * length), np.float32)
    padded, line = np.empty(length + more, np.float32), np.empty(right - left, np.float32)
    # row by row, so that memory is read in its order
    for row in range(tall):
        for run in range(runs):
            begin, end = left + run * length, min(left + (run + 1) * length, right)
            number = first[run] + row
            if number < 0 or number >= height:
                number = number % height
            columns, source = end - begin, frame[number]
            start = begin + source_x[run, row] - reach
            if start >= 0 and start + columns + more <= width:
                base = source[start : start + columns + more]
            else:
                base = padded[: columns + more]
                for k in range(columns + more):
                    base[k] = source[(start + k) % width]
            _along(base, table[part_x[run, row]], across[run, row * length : row * length + columns])
    for row in range(rows):
        for run in range(runs):
            offset, begin = (source_y[run, row] - first[run]) * length, run * length
            out = line[begin : min(begin + length, right - left)]
            _across(across[run, offset:], length, table[part_y[run, row]], out)
        for k in range(len(shares)):
            if shares[k] != 0:
                _add(line, shares[k], sums[k, row])


@_jit
def _places(terms, x, y, step, phases, whole, part):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Whole pixels to where values come from, and the phase between them; ``y`` grows by ``step``."""
    constant = terms[0] + terms[1] * x + terms[2] * x * x
    slope = terms[3] + terms[5] * x
    for row in range(len(whole)):
        at = y + row * step
        steps = int(np.floor(-(constant + slope * at + terms[4] * at * at) * phases + 0.5))
        # phases is a power of two
        part[row] = steps & (phases - 1)
        whole[row] = (steps - (steps & (phases - 1))) // phases


@_jit
def _add(line, share, target):  # type: ignore[no-untyped-def]  # pragma: no cover
    for x in range(len(target)):
        target[x] += share * line[x]


@_jit
def _along(base, weights, out):  # type: ignore[no-untyped-def]  # pragma: no cover
    """out(x) = Σ weights(k) base(x + k)."""
    w0, w1, w2, w3, w4, w5 = weights[0], weights[1], weights[2], weights[3], weights[4], weights[5]
    w6, w7, w8, w9, wa, wb = weights[6], weights[7], weights[8], weights[9], weights[10], weights[11]
    for x in range(len(out)):
        out[x] = (
            (w0 * base[x] + w1 * base[x + 1] + w2 * base[x + 2] + w3 * base[x + 3])
            + (w4 * base[x + 4] + w5 * base[x + 5] + w6 * base[x + 6] + w7 * base[x + 7])
            + (w8 * base[x + 8] + w9 * base[x + 9] + wa * base[x + 10] + wb * base[x + 11])
        )


@_jit
def _across(rows, step, weights, out):  # type: ignore[no-untyped-def]  # pragma: no cover
    """out(x) = Σ weights(k) rows(k step + x)."""
    w0, w1, w2, w3, w4, w5 = weights[0], weights[1], weights[2], weights[3], weights[4], weights[5]
    w6, w7, w8, w9, wa, wb = weights[6], weights[7], weights[8], weights[9], weights[10], weights[11]
    r0, r1, r2, r3 = rows, rows[step:], rows[2 * step :], rows[3 * step :]
    r4, r5, r6, r7 = rows[4 * step :], rows[5 * step :], rows[6 * step :], rows[7 * step :]
    r8, r9, ra, rb = rows[8 * step :], rows[9 * step :], rows[10 * step :], rows[11 * step :]
    for x in range(len(out)):
        out[x] = (
            (w0 * r0[x] + w1 * r1[x] + w2 * r2[x] + w3 * r3[x])
            + (w4 * r4[x] + w5 * r5[x] + w6 * r6[x] + w7 * r7[x])
            + (w8 * r8[x] + w9 * r9[x] + wa * ra[x] + wb * rb[x])
        )
