"""How noisy and how strong each particle's image is, beside what all images share.

Whitened, an image is X = s C S P + σ n with noise n of power 1. After each cycle σ and s follow from the
posterior's means of the residual and of the terms of the likelihood, as in Sigworth (1998) and in the scale
correction of Scheres (2012). Each leans on 1, as much as a few Fourier points or a spread of scales say.
"""

import numpy as np

PRIOR_POINTS = 50.0
"""Fourier points' worth of belief that an image is as noisy as all others."""
SCALE_SPREAD = 0.2
"""Standard deviation of scales that is expected."""
SIGMA_LIMITS, SCALE_LIMITS = (0.5, 2.0), (0.3, 3.0)


def new_sigma(
    sigma: np.ndarray, energy: np.ndarray, fit: np.ndarray, points: float, mask_energy: float
) -> np.ndarray:
    """Noise amplitudes ``(n,)`` relative to the shared noise, with a mean square of 1.

    ``energy`` is Σ|X|² over ``points`` whitened points, ``fit`` the mean of the log-likelihood ratio, both
    with the old ``sigma``; ``mask_energy`` is the share of the noise's power that a masked image keeps.
    """
    power = sigma**2 * (energy - fit) / (mask_energy * points)
    power = (points * power + PRIOR_POINTS) / (points + PRIOR_POINTS)
    return np.clip(np.sqrt(np.maximum(power, 0) / power.mean()), *SIGMA_LIMITS)


def new_scale(scale: np.ndarray, fit: np.ndarray, norm: np.ndarray) -> np.ndarray:
    """Amplitudes ``(n,)`` of the signal with a mean of 1.

    ``norm`` is the mean of C² |P|² with the old ``scale``, ``fit`` that of 2 Re[conj(X) S C P] - C² |P|².
    """
    cross, square = (fit + norm) / (2 * scale), norm / scale**2
    belief = 1 / SCALE_SPREAD**2
    wanted = (2 * cross + belief) / (2 * square + belief)
    return np.clip(wanted / wanted.mean(), *SCALE_LIMITS)
