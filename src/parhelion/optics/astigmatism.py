"""Defocus and astigmatism as a quadratic form, and what a magnification matrix does to it.

The defocus phase is ``π λ kᵀ Q k`` with the symmetric ``Q = [[q0 + q1, q2], [q2, q0 - q1]]`` in Å: ``q0`` is
the mean defocus, ``q1 = (U-V)/2 cos 2α``, ``q2 = (U-V)/2 sin 2α``. Forms are linear in what is refined, where
an angle is not.
"""

from collections.abc import Sequence

import numpy as np


def quadratic_form(
    defocus_u_angstrom: np.ndarray, defocus_v_angstrom: np.ndarray, defocus_angle_deg: np.ndarray
) -> np.ndarray:
    """``(q0, q1, q2)`` ``(n, 3)`` in Å of defoci U and V and the angle of U."""
    u, v = np.asarray(defocus_u_angstrom, np.float64), np.asarray(defocus_v_angstrom, np.float64)
    angle = 2 * np.radians(np.asarray(defocus_angle_deg, np.float64))
    half = (u - v) / 2
    return np.stack([(u + v) / 2, half * np.cos(angle), half * np.sin(angle)], axis=-1)


def defoci(form: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """U, V in Å, U the larger, and the angle of U in degrees, 0 to 180, of forms ``(n, 3)``."""
    half = np.hypot(form[..., 1], form[..., 2])
    angle = np.degrees(np.arctan2(form[..., 2], form[..., 1])) / 2 % 180.0
    return form[..., 0] + half, form[..., 0] - half, angle


def seen_through(form: np.ndarray, magnification: Sequence[float]) -> np.ndarray:
    """The form ``Mᵀ Q M`` ``(n, 3)`` that images with magnification ``M`` show at their own frequencies.

    ``form`` holds at the undistorted frequencies ``M k``. With the inverse of ``M`` it goes back. RELION
    states defoci at ``M k`` where a group has a matrix (``rlnMagMat00`` …), a CTF fit to the micrograph's
    power spectrum finds them at ``k``.
    """
    m = np.reshape(np.asarray(magnification, np.float64), (2, 2))
    q = np.empty((*form.shape[:-1], 2, 2))
    q[..., 0, 0], q[..., 1, 1] = form[..., 0] + form[..., 1], form[..., 0] - form[..., 1]
    q[..., 0, 1] = q[..., 1, 0] = form[..., 2]
    seen = m.T @ q @ m
    xx, yy, xy = seen[..., 0, 0], seen[..., 1, 1], seen[..., 0, 1]
    return np.stack([(xx + yy) / 2, (xx - yy) / 2, xy], axis=-1)
