"""Pixels of a detector that cannot be believed: found by their values, and replaced."""

import numpy as np

from parhelion.errors import ParameterError

ROUNDS = 3
BLOCK_ROWS = 32
SAMPLE = 4000
TRIES = 4
FIRST_REACH_PIXELS = 2
COUNT_MARGIN = 6.0
"""Counts of one electron that are added to the limit, so that the rare second electron in a sparse frame, far
beyond any number of standard deviations, is no outlier."""


def outlier_limits(mean: float, variance: float, sigmas: float) -> tuple[float, float]:
    """The values below and above which a pixel is an outlier, ``sigmas`` standard deviations off the mean.

    Above, counts are granted more: the signal of one electron is estimated as variance over mean, as in
    Poisson's law, and six of them are added.
    """
    sigma = float(np.sqrt(max(variance, 0.0)))
    electron = min(variance / mean, 10 * sigma) if mean > 0 else 0.0
    return mean - sigmas * sigma, mean + sigmas * sigma + COUNT_MARGIN * electron


def moments(image: np.ndarray, without: np.ndarray | None = None) -> tuple[float, float]:
    """Mean and variance of ``image`` (y, x); the pixels at the ascending flat indices ``without`` are left
    out."""
    flat = image.reshape(-1)
    # close to the mean, so that squares do not lose digits
    pivot = float(np.median(flat[:: max(1, flat.size // SAMPLE)]))
    first, second = 0.0, 0.0
    # blocks stay in the processor's cache
    block = BLOCK_ROWS * image.shape[1]
    hidden = np.zeros(0, np.int64) if without is None else without
    for start in range(0, flat.size, block):
        off = flat[start : start + block] - np.float32(pivot)
        if hidden.size:
            low, high = np.searchsorted(hidden, (start, start + off.size))
            off[hidden[low:high] - start] = 0
        first += float(off.sum(dtype=np.float64))
        second += float(np.dot(off, off))
    count = max(flat.size - hidden.size, 1)
    shift = first / count
    return pivot + shift, max(second / count - shift * shift, 0.0)


def hot_pixels(mean_frame: np.ndarray, bad: np.ndarray, sigmas: float) -> np.ndarray:
    """Pixels ``(y, x)`` bool of the mean frame that lie more than ``sigmas`` standard deviations above or
    below its mean; ``bad`` (bool) pixels are left out.

    The limits are found again without the outliers, so that one burning pixel does not hide the others.
    """
    hidden = np.flatnonzero(bad)
    found = np.zeros(0, np.int64)
    for _ in range(ROUNDS):
        low, high = outlier_limits(*moments(mean_frame, np.union1d(hidden, found)), sigmas)
        now = np.setdiff1d(np.flatnonzero((mean_frame > high) | (mean_frame < low)), hidden)
        if now.size <= found.size:
            break
        found = now
    hot = np.zeros(mean_frame.shape, bool)
    hot.reshape(-1)[found] = True
    return hot


def replace_pixels(image: np.ndarray, bad: np.ndarray, rng: np.random.Generator) -> None:
    """Overwrite the ``bad`` pixels (bool) of ``image`` (y, x), in place, each by a pixel drawn from the good
    ones around it.

    The drawn value has the mean and the noise of the neighbourhood. The neighbourhood is 5 x 5 pixels, and
    grows where it holds no good one. Raises ParameterError where no pixel is good.
    """
    height, width = image.shape
    target = np.flatnonzero(bad)
    source = np.empty_like(target)
    if target.size == bad.size:
        raise ParameterError("every pixel of the detector is bad; check gain and defects")
    pending = np.arange(target.size)
    reach = FIRST_REACH_PIXELS
    tries = 0
    while pending.size:
        y, x = np.divmod(target[pending], width)
        y = y + rng.integers(-reach, reach + 1, pending.size)
        x = x + rng.integers(-reach, reach + 1, pending.size)
        inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
        drawn = np.where(inside, y * width + x, target[pending])
        good = ~bad.ravel()[drawn]
        source[pending[good]] = drawn[good]
        pending = pending[~good]
        tries += 1
        if tries % TRIES == 0:
            reach *= 2
        if reach > max(height, width):
            source[pending] = rng.choice(np.flatnonzero(~bad), pending.size)
            break
    flat = image.reshape(-1)
    flat[target] = flat[source]
