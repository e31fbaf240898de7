"""Does a gain reference belong to these frames? Their mean shows the reciprocal of its pattern.

The comparison uses what differs from pixel to pixel only, so that ice and specimen do not matter.
"""

from dataclasses import dataclass

import numpy as np

BLOCK_PIXELS = 512
CLIP_SIGMAS = 5.0
SIGNIFICANT = 15.0
"""Correlations beyond this many standard deviations of chance are believed."""


@dataclass(frozen=True)
class GainFit:
    """How well a gain fits frames in each of its orientations.

    ``correlation`` maps (clockwise quarter turns, then flip: 0 none, 1 upside down) to the correlation of the
    frames' pattern with that of 1/gain; ``expected`` is what a perfect gain would reach, ``chance`` the
    standard deviation of the correlation of strangers.
    """

    correlation: dict[tuple[int, int], float]
    expected: float
    chance: float

    def finding(self) -> str | None:
        """What is wrong with the gain, in words, or None."""
        given = self.correlation[0, 0]
        best = max(self.correlation, key=lambda key: self.correlation[key])
        least = SIGNIFICANT * self.chance
        if best != (0, 0) and self.correlation[best] > max(least, 2 * given):
            rotation, flip = best
            turned = f"turned by {90 * rotation}° more, clockwise," if rotation else "as it is"
            flipped = "and turned upside down" if flip else "and not flipped"
            return (
                f"the gain reference does not lie as the frames do: {turned} {flipped} its pattern agrees "
                f"with theirs (correlation {self.correlation[best]:.2f}, as given {given:.2f}); see "
                "--gain-rotation and --gain-flip"
            )
        if self.expected < 2 * least:
            return None
        if given < -least and given < -0.2 * self.expected:
            return (
                "the frames are brighter where the gain reference is larger: it is the reciprocal of what "
                "must be multiplied, or was applied twice"
            )
        if given < min(least, 0.1 * self.expected):
            return (
                f"the frames show nothing of the gain reference's pattern (correlation {given:.3f}, expected "
                f"{self.expected:.2f}): they are gain-corrected already, or it belongs to another detector"
            )
        return None


def fit_gain(mean_frame: np.ndarray, gain: np.ndarray, bad: np.ndarray) -> GainFit:
    """Compare the mean of the uncorrected frames ``(y, x)`` with the ``gain`` of the same shape, ``bad``
    pixels (bool) left out, in the middle of the detector."""
    block = _middle(mean_frame.shape)
    seen, hidden = _pattern(mean_frame[block]), bad[block]
    level = float(np.mean(mean_frame[block])) or 1.0
    correlation = {}
    expected = chance = 0.0
    for rotation in range(4):
        for flip in (0, 1):
            turned = np.rot90(gain, -rotation)
            turned = turned[::-1] if flip else turned
            if turned.shape != mean_frame.shape:
                continue
            part = turned[block]
            usable = ~hidden & (part > 0)
            inverse = np.divide(1.0, part, out=np.ones_like(part), where=part > 0)
            wanted = _pattern(inverse / inverse[usable].mean() if usable.any() else inverse)
            inner = usable[1:-1, 1:-1]
            a, b = _clipped(seen[inner]), _clipped(wanted[inner])
            spread = float(a.std() * b.std())
            correlation[rotation, flip] = float(np.mean(a * b)) / spread if spread > 0 else 0.0
            if (rotation, flip) == (0, 0):
                expected = min(float(b.std()) * abs(level) / float(a.std()), 1.0) if a.std() > 0 else 0.0
                chance = 1 / np.sqrt(max(int(inner.sum()), 1))
    return GainFit(correlation, expected, float(chance))


def _middle(shape: tuple[int, int]) -> tuple[slice, slice]:
    """The square in the middle of the detector, which every orientation has."""
    size = min(BLOCK_PIXELS, *shape)
    y, x = ((n - size) // 2 for n in shape)
    return slice(y, y + size), slice(x, x + size)


def _pattern(image: np.ndarray) -> np.ndarray:
    """Each inner pixel less the mean of its four neighbours."""
    around = image[:-2, 1:-1] + image[2:, 1:-1] + image[1:-1, :-2] + image[1:-1, 2:]
    return (image[1:-1, 1:-1] - 0.25 * around).astype(np.float32)


def _clipped(values: np.ndarray) -> np.ndarray:
    """Deviations from the mean, outliers cut."""
    values = values - values.mean()
    limit = CLIP_SIGMAS * float(values.std())
    return np.clip(values, -limit, limit)
