"""Rotations of SO(3) and the Euler conventions of the field's packages.

Everywhere in parhelion an orientation is a matrix ``A`` ``(3, 3)`` float64 with ``x_image = A x_volume``
and components in the order x, y, z. ``A`` acts on a volume from the left, a symmetry operator ``R`` of the
volume acts on ``A`` from the right: the poses ``A`` and ``A R`` show the same image.

Triples of angles exist only where a file is read or written:

=============  ==========================================================================================
convention     matrix
=============  ==========================================================================================
RELION         ``A = (Rz(rot) Ry(tilt) Rz(psi))ᵀ`` (Euler_angles2matrix of RELION)
FREALIGN,      the same matrix, called phi, theta, psi
cisTEM
SPIDER         the same matrix, called phi, theta, psi
EMAN2          ``A = (Rz(az) Rx(alt) Rz(phi))ᵀ``, that is az = rot + 90°, alt = tilt, phi = psi - 90°
cryoSPARC      a rotation vector in radians, ``A = exp([v]×)ᵀ``
=============  ==========================================================================================
"""

import numpy as np
import numpy.typing as npt
from scipy.spatial.transform import Rotation

from parhelion.errors import MetadataError

AT_POLE = 1e-10
"""Below this sine of the tilt the first and last Euler angle turn about the same axis."""


def _columns(**named_angles_deg: npt.ArrayLike) -> tuple[np.ndarray, ...]:
    """Angles broadcast to one length, in float64; refused where one is not finite."""
    columns = np.broadcast_arrays(*(np.atleast_1d(np.asarray(a, float)) for a in named_angles_deg.values()))
    for name, column in zip(named_angles_deg, columns):
        broken = np.flatnonzero(~np.isfinite(column))
        if len(broken):
            raise MetadataError(
                f"the angle {name} of {len(broken)} of {len(column)} particles is not a number, first in row "
                f"{broken[0] + 1}; correct or remove these rows"
            )
    return tuple(columns)


def from_relion(rot_deg: npt.ArrayLike, tilt_deg: npt.ArrayLike, psi_deg: npt.ArrayLike) -> np.ndarray:
    """Matrices ``(n, 3, 3)`` of RELION's angles ``(n,)`` in degrees.

    Raises MetadataError where an angle is not finite. Reference: Heymann et al. (2005), J. Struct. Biol. 151,
    196-207, and RELION's Euler_angles2matrix.
    """
    angles = np.stack(_columns(rot=rot_deg, tilt=tilt_deg, psi=psi_deg), axis=-1)
    return np.swapaxes(Rotation.from_euler("ZYZ", angles, degrees=True).as_matrix(), -1, -2)


def to_relion(A: np.ndarray) -> np.ndarray:
    """RELION's angles ``(n, 3)``, rot, tilt, psi in degrees, of matrices ``(n, 3, 3)``.

    The tilt lies in [0, 180], the others in (-180, 180]; at the poles rot is 0, as in RELION.
    """
    A = np.asarray(A, float).reshape(-1, 3, 3)
    sine = np.hypot(A[:, 2, 0], A[:, 2, 1])
    rot = np.where(sine > AT_POLE, np.arctan2(A[:, 2, 1], A[:, 2, 0]), 0.0)
    tilt = np.arctan2(sine, A[:, 2, 2])
    # psi from what is left after rot and tilt, so that the triple returns A even close to a pole
    left = A[:, :, 1] * np.cos(rot)[:, None] - A[:, :, 0] * np.sin(rot)[:, None]
    return np.degrees(np.stack([rot, tilt, np.arctan2(left[:, 0], left[:, 1])], axis=-1))


def from_frealign(phi_deg: npt.ArrayLike, theta_deg: npt.ArrayLike, psi_deg: npt.ArrayLike) -> np.ndarray:
    """Matrices ``(n, 3, 3)`` of FREALIGN's and cisTEM's angles ``(n,)`` in degrees."""
    return from_relion(*_columns(phi=phi_deg, theta=theta_deg, psi=psi_deg))


def to_frealign(A: np.ndarray) -> np.ndarray:
    """FREALIGN's and cisTEM's angles ``(n, 3)``, phi, theta, psi in [0, 360) degrees."""
    return np.mod(to_relion(A), 360.0)


def from_spider(phi_deg: npt.ArrayLike, theta_deg: npt.ArrayLike, psi_deg: npt.ArrayLike) -> np.ndarray:
    """Matrices ``(n, 3, 3)`` of SPIDER's angles ``(n,)`` in degrees."""
    return from_relion(*_columns(phi=phi_deg, theta=theta_deg, psi=psi_deg))


def to_spider(A: np.ndarray) -> np.ndarray:
    """SPIDER's angles ``(n, 3)``, phi, theta, psi in [0, 360) degrees."""
    return np.mod(to_relion(A), 360.0)


def from_eman2(az_deg: npt.ArrayLike, alt_deg: npt.ArrayLike, phi_deg: npt.ArrayLike) -> np.ndarray:
    """Matrices ``(n, 3, 3)`` of EMAN2's angles ``(n,)`` in degrees."""
    az, alt, phi = _columns(az=az_deg, alt=alt_deg, phi=phi_deg)
    return from_relion(az - 90.0, alt, phi + 90.0)


def to_eman2(A: np.ndarray) -> np.ndarray:
    """EMAN2's angles ``(n, 3)``, az, alt, phi in [0, 360) degrees."""
    return np.mod(to_relion(A) + np.array([90.0, 0.0, -90.0]), 360.0)


def from_cryosparc(vector_rad: npt.ArrayLike) -> np.ndarray:
    """Matrices ``(n, 3, 3)`` of cryoSPARC's rotation vectors ``(n, 3)`` in radians, ``alignments3D/pose``."""
    vector = np.asarray(vector_rad, float).reshape(-1, 3)
    _columns(**{"alignments3D/pose": vector.sum(axis=1)})
    return exp_so3(-vector)


def to_cryosparc(A: np.ndarray) -> np.ndarray:
    """CryoSPARC's rotation vectors ``(n, 3)`` in radians, of length at most π."""
    return -log_so3(A)


def exp_so3(w: np.ndarray) -> np.ndarray:
    """Matrices ``(n, 3, 3)`` that turn by ``|w|`` radians about ``w`` ``(n, 3)``, right-handed."""
    return Rotation.from_rotvec(np.asarray(w, float).reshape(-1, 3)).as_matrix()


def log_so3(A: np.ndarray) -> np.ndarray:
    """Rotation vectors ``(n, 3)`` in radians of matrices ``(n, 3, 3)``; inverse of ``exp_so3``."""
    return Rotation.from_matrix(np.asarray(A, float).reshape(-1, 3, 3)).as_rotvec()


def angle_between(A: np.ndarray, B: np.ndarray) -> np.ndarray:
    """Angles in degrees ``(...)`` of the rotations that carry ``A`` ``(..., 3, 3)`` to ``B`` ``(..., 3, 3)``.

    From the chord ``|A - B|`` (Frobenius) ``= 2 √2 sin(θ/2)``, which stays accurate near 0° where the arc
    cosine of the trace does not.
    """
    chord = np.linalg.norm(np.asarray(A, float) - np.asarray(B, float), axis=(-2, -1))
    return np.degrees(2.0 * np.arcsin(np.clip(chord / np.sqrt(8.0), 0.0, 1.0)))


def random_rotations(n: int, rng: np.random.Generator) -> np.ndarray:
    """``n`` matrices ``(n, 3, 3)``, uniform over SO(3) (normalised Gaussian quaternions)."""
    quaternion = rng.standard_normal((n, 4))
    return Rotation.from_quat(quaternion).as_matrix()


def nearest_rotation(M: np.ndarray) -> np.ndarray:
    """The rotations ``(..., 3, 3)`` nearest to the matrices ``M`` ``(..., 3, 3)`` in the Frobenius norm."""
    u, _, vt = np.linalg.svd(np.asarray(M, float))
    sign = np.ones((*u.shape[:-2], 3))
    sign[..., 2] = np.linalg.det(u @ vt)
    return (u * sign[..., None, :]) @ vt


def mean_rotation(A: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """The rotation ``(3, 3)`` with the least (weighted) sum of squared chords to ``A`` ``(n, 3, 3)``."""
    A = np.asarray(A, float).reshape(-1, 3, 3)
    return nearest_rotation(np.average(A, axis=0, weights=weights))
