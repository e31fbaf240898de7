"""How thick the specimen is, from where its Thon rings fade and return reversed.

Each layer of a thick specimen has its own defocus, and the powers of all add up: the rings are multiplied by
``sinc(λ t s²)`` and have nodes where that is zero (McMullan, Vinothkumar & Henderson 2015, Ultramicroscopy
158, 26; in CTFFIND5 Elferich et al. 2024, eLife 13, RP97227). How fast rings fall off otherwise is unknown;
the sign of their local correlation with the CTF is not, and it changes at every node.
"""

import numpy as np

from parhelion.algorithms.ctf_fit.phases import thickness_factor
from parhelion.algorithms.ctf_fit.settings import Curves, FitSettings, Optics

NODES_TO_ANGSTROM = 3.0
THINNEST_ANGSTROM, THICKEST_ANGSTROM, STEP_ANGSTROM = 200.0, 5000.0, 5.0
NOISE_SHARE = 0.1
"""Where nodes leave less than this share of the rings, noise begins to hide their sign."""
LEAST_GAIN = 4.0
"""Log-likelihood that nodes must bring over a correlation that only falls off to be believed."""


def sample_thickness(curves: Curves, optics: Optics, settings: FitSettings) -> float | None:
    """Thickness in Å whose nodes explain best where the local correlation changes sign; None for no nodes.

    ``curves`` are those of a fit without thickness.
    """
    s = curves.frequency_per_angstrom
    used = (s >= 1 / settings.min_resolution_angstrom) & (s <= 1 / NODES_TO_ANGSTROM)
    # the values in a window of 1/noise² bins count as one of the variance noise²: each has the weight 1
    s, quality = s[used], curves.quality[used]
    thicknesses = np.arange(THINNEST_ANGSTROM, THICKEST_ANGSTROM + 1, STEP_ANGSTROM)
    left = np.stack([thickness_factor(s, float(t), optics) for t in thicknesses])
    expected = left / np.hypot(left, NOISE_SHARE)
    misfit = ((quality - expected) ** 2).sum(axis=1)
    best = int(misfit.argmin())
    # what lies below zero cannot be explained without nodes, and only beyond them with
    below = np.minimum(quality, 0.0) ** 2
    beyond = expected[best] < 0
    gain = 0.5 * float(below[beyond].sum() - below[~beyond].sum())
    inside = 0 < best < len(thicknesses) - 1
    return float(thicknesses[best]) if inside and gain >= LEAST_GAIN else None
