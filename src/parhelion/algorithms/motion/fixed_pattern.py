"""The pattern that does not move with the specimen."""

import numpy as np

from parhelion.algorithms.motion.likelihood import Frames, Powers


def fixed_pattern(frames: Frames, shift_px: np.ndarray, powers: Powers) -> np.ndarray | None:
    """The most likely pattern ``(2, ny, nx)``, given shifts ``(n, 2)`` and powers, if there is one.

    Signal and pattern are estimated together, as the posterior mean of the model in likelihood.py.
    """
    if not powers.pattern.any():
        return None
    band = frames.band
    sums = (frames.sums(shift_px), frames.phases(frames.band.ramps(shift_px)), frames.plain)
    total, phase, plain = (part[0] + 1j * part[1] for part in sums)
    noise, signal, pattern = (p[band.shell] for p in (powers.noise, powers.signal, powers.pattern))
    # normal equations of S and P per point: [Q + N/S, M; M*, n + N/P] (S, P) = (T, U)
    with np.errstate(divide="ignore"):
        moving = frames.squares[band.shell] + noise / signal
        fixed = len(frames.data) + noise / pattern
    found = (plain - phase.conj() * total / moving) / (fixed - np.abs(phase) ** 2 / moving)
    found[(band.shell < 0) | (pattern == 0)] = 0
    return np.stack([found.real, found.imag]).astype(np.float32)
