"""RELION's model of local motion: third order in time, second order across the field (Zivanov et al. 2019).

The shift of frame ``z`` (0 is the first) at a place ``x``, ``y`` (from −½ to ½ across the field), beyond
the shift of the whole frame, is along each axis

    Σ_b Σ_p c[b, p] b(x, y) zᵖ,   b = 1, x, x², y, y², xy,   p = 1, 2, 3.

It is 0 in the first frame. RELION's tables hold the 18 coefficients of x, then those of y, in this order.
"""

from dataclasses import dataclass

import numpy as np

TERMS = 18
POWERS = 3


@dataclass(frozen=True, kw_only=True)
class LocalMotion:
    """Coefficients ``(2, 18)`` for x and y, in pixels of the frames that were aligned."""

    coefficients: np.ndarray

    def shift_px(self, frame: np.ndarray | float, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Local shift ``(..., 2)`` x, y at frames and places (−½ to ½ across the field) of one shape."""
        return np.asarray(basis(frame, x, y) @ self.coefficients.T)

    def field(self, frame: float) -> np.ndarray:
        """Coefficients ``(2, 6)`` of 1, x, x², y, y², xy for one frame."""
        powers = float(frame) ** np.arange(1, POWERS + 1)
        return np.asarray(self.coefficients.reshape(2, TERMS // POWERS, POWERS) @ powers)

    def scaled(self, factor: np.ndarray | float) -> "LocalMotion":
        """The same motion in pixels smaller by ``factor`` (one, or one for x and one for y)."""
        return LocalMotion(coefficients=self.coefficients * np.broadcast_to(factor, (2,))[:, None])


def basis(frame: np.ndarray | float, x: np.ndarray | float, y: np.ndarray | float) -> np.ndarray:
    """The 18 terms ``(..., 18)`` at frames and places."""
    z, x, y = np.broadcast_arrays(
        np.asarray(frame, np.float64), np.asarray(x, np.float64), np.asarray(y, np.float64)
    )
    place = np.stack([np.ones_like(x), x, x * x, y, y * y, x * y], axis=-1)
    time = np.stack([z, z**2, z**3], axis=-1)
    return (place[..., :, None] * time[..., None, :]).reshape(*x.shape, TERMS)
