"""Climbing a likelihood of shifts: the expected curvature first, corrected by what the slopes show.

The expected curvature is too steep along some directions and too flat along others; Newton's steps with it
alone swing or creep. Limited-memory BFGS (Nocedal 1980, Math. Comp. 35, 773-782) starts from it and learns
the rest from the last few changes of the slope.
"""

from collections import deque
from collections.abc import Callable

import numpy as np

MEMORY = 8
"""Steps whose change of the slope is remembered."""
SETTLED = 0.3
"""Steps shorter than this share of the threshold end the climb: what is still to come is some such steps."""
TRIES = 6
"""Times that a step is shortened before it counts as impossible."""

Pairs = deque[tuple[np.ndarray, np.ndarray]]


def climb(
    evaluate: Callable[[np.ndarray], tuple[float, np.ndarray]],
    curvature: np.ndarray,
    prior: np.ndarray,
    start: np.ndarray,
    threshold_px: float,
    iterations: int,
    *,
    centred: bool = True,
    furthest: Callable[[np.ndarray], float] = lambda step: float(np.abs(step).max(initial=0.0)),
) -> tuple[np.ndarray, float, int]:
    """The shifts ``(n, 2)`` that maximise ``evaluate`` (value and slope) and a prior: shifts, value, rounds.

    ``curvature`` ``(n, n)`` is what is expected per axis, ``prior`` ``(n, n)`` the part of it that belongs to
    a quadratic prior. Steps are shortened until the value rises; they end where all frames are known to about
    ``threshold_px``. ``centred`` takes the mean of the start away, which the
    likelihood of frames does not know; ``furthest`` says how far a step moves a frame at most.
    """
    inverse = np.linalg.pinv(curvature, rcond=1e-9, hermitian=True)
    shift = start - start.mean(axis=0) if centred else start

    def both(at: np.ndarray) -> tuple[float, np.ndarray]:
        value, slope = evaluate(at)
        pull = prior @ at
        return value - 0.5 * float((at * pull).sum()), slope - pull

    value, slope = both(shift)
    pairs: Pairs = deque(maxlen=MEMORY)
    for iteration in range(1, iterations + 1):
        step = _direction(inverse, slope, pairs)
        longest = furthest(step)
        for _ in range(TRIES):
            found, found_slope = both(shift + step)
            change = slope - found_slope
            bend = float((step * change).sum())
            if bend > 0:
                pairs.append((step, change))
            if found >= value:
                shift, value, slope = shift + step, found, found_slope
                break
            # to where the slope along the step vanishes, were it straight
            step = step * np.clip(float((step * slope).sum()) / bend if bend > 0 else 0.5, 0.1, 0.5)
        else:
            return shift, value, iteration
        if longest < SETTLED * threshold_px:
            return shift, value, iteration
    return shift, value, iterations


def _direction(inverse: np.ndarray, slope: np.ndarray, pairs: Pairs) -> np.ndarray:
    """The inverse of the curvature as far as it is known, times the slope."""
    rest = slope
    shares = []
    for step, change in reversed(pairs):
        share = float((step * rest).sum() / (step * change).sum())
        shares.append(share)
        rest = rest - share * change
    found = inverse @ rest
    if pairs:
        step, change = pairs[-1]
        found = found * float((step * change).sum() / (change * (inverse @ change)).sum())
    for (step, change), share in zip(pairs, reversed(shares), strict=True):
        found = found + step * (share - float((change * found).sum() / (step * change).sum()))
    return np.asarray(found)
