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

from dataclasses import dataclass, field

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


@dataclass(frozen=True, kw_only=True)
class PoseAlignment:
    """How one set of poses lies in the frame of another: ``A_est ≈ A_true S q``.

    ``rotation`` ``(3, 3)`` is the global rotation q. ``operator`` ``(n,)`` is the symmetry operator S of each
    particle, ``error_deg`` ``(n,)`` the angle that is left. ``rotation_true_frame`` ``(n, 3, 3)`` are the
    estimated poses in the frame of the true map, ``A_est qᵀ``, after the hand was changed where ``mirrored``.
    """

    rotation: np.ndarray
    operator: np.ndarray
    error_deg: np.ndarray
    mirrored: bool
    rotation_true_frame: np.ndarray = field(repr=False)


def align_poses(
    A_est: np.ndarray,
    A_true: np.ndarray,
    symmetry_ops: np.ndarray | None = None,
    *,
    allow_other_hand: bool = False,
) -> PoseAlignment:
    """The global rotation between estimated and true poses ``(n, 3, 3)``, and each particle's error.

    ``symmetry_ops`` ``(g, 3, 3)`` are the operators of the true map. Up to 200 particles, spread evenly, each
    propose a rotation; the proposal with the least sum of errors, each cut off at 30°, is refined by a mean
    that counts far-off particles little, so that a majority of them may be wrong. With ``allow_other_hand``
    poses of the mirrored map are tried too. Raises MetadataError where the two sets differ in number or are
    empty.
    """
    A_est, A_true = np.asarray(A_est, float), np.asarray(A_true, float)
    if A_est.shape != A_true.shape or A_est.ndim != 3 or len(A_est) == 0:
        raise MetadataError(
            f"two equal, non-empty sets of poses (n, 3, 3) needed, found {A_est.shape} and {A_true.shape}"
        )
    operators = np.eye(3)[None] if symmetry_ops is None else np.asarray(symmetry_ops, float)
    hands = [False, True] if allow_other_hand else [False]
    found = [_align_one_hand(A_est, A_true, operators, mirrored) for mirrored in hands]
    return min(found, key=lambda one: float(np.minimum(one.error_deg, FAR_OFF_DEG).sum()))


FAR_OFF_DEG = 30.0
PROPOSALS = 200


def _align_one_hand(
    A_est: np.ndarray, A_true: np.ndarray, operators: np.ndarray, mirrored: bool
) -> PoseAlignment:
    if mirrored:  # the projection of a map mirrored at z = 0 is that of the map itself at N A N
        hand = np.diag([1.0, 1.0, -1.0])
        A_est = hand @ A_est @ hand
    relative = np.swapaxes(A_true, 1, 2) @ A_est  # S q, up to the error
    some = np.unique(np.linspace(0, len(relative) - 1, PROPOSALS).astype(int))
    costs = [
        np.minimum(_nearest_operator(relative[some], operators, q)[1], FAR_OFF_DEG).sum()
        for q in relative[some]
    ]
    rotation = relative[some[int(np.argmin(costs))]]
    for _ in range(20):
        operator, error = _nearest_operator(relative, operators, rotation)
        spread = max(0.01, float(np.median(error[error <= max(FAR_OFF_DEG, error.min())])))
        weights = 1.0 / (1.0 + (error / (2.0 * spread)) ** 2) ** 2
        refined = mean_rotation(np.swapaxes(operators[operator], 1, 2) @ relative, weights)
        moved = float(angle_between(refined, rotation))
        rotation = refined
        if moved < 1e-7:
            break
    operator, error = _nearest_operator(relative, operators, rotation)
    return PoseAlignment(
        rotation=rotation,
        operator=operator,
        error_deg=error,
        mirrored=mirrored,
        rotation_true_frame=A_est @ rotation.T,
    )


def _nearest_operator(
    relative: np.ndarray, operators: np.ndarray, rotation: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """For each ``relative`` ≈ S q the index of S and the angle in degrees that is left."""
    turned = (relative @ rotation.T).reshape(-1, 9)
    operator = (turned @ operators.reshape(-1, 9).T).argmax(axis=1)
    return operator, angle_between(turned.reshape(-1, 3, 3), operators[operator])


def shift_error(
    shift_est_angstrom: np.ndarray, shift_true_angstrom: np.ndarray, alignment: PoseAlignment
) -> tuple[np.ndarray, np.ndarray]:
    """In-plane shift errors ``(n,)`` in Å, and the global translation ``(3,)`` in Å that was taken out.

    Shifts are ``(n, 2)`` or ``(n, 3)``, x and y first. A map displaced by ``d`` against the true one changes
    the shift of a particle by the x and y of ``A d``; ``d`` is the robust least-squares solution over the
    particles whose orientation is right. Raises MetadataError where the numbers of particles differ.
    """
    difference = np.asarray(shift_est_angstrom, float)[:, :2] - np.asarray(shift_true_angstrom, float)[:, :2]
    in_plane = alignment.rotation_true_frame[:, :2]
    if len(difference) != len(in_plane):
        raise MetadataError(f"shifts of {len(in_plane)} particles needed, found {len(difference)}")
    weights = 1.0 / (1.0 + (alignment.error_deg / 10.0) ** 2) ** 2
    robust = weights
    translation = np.zeros(3)
    for _ in range(20):
        normal = np.einsum("n,nij,nik->jk", robust, in_plane, in_plane)
        # the pseudo-inverse: planar poses say nothing about the translation along z
        translation = np.linalg.pinv(normal, rcond=1e-9) @ np.einsum(
            "n,nij,ni->j", robust, in_plane, difference
        )
        error = np.linalg.norm(difference - in_plane @ translation, axis=1)
        spread = max(1e-6, float(np.median(error)))
        robust = weights / (1.0 + (error / (2.0 * spread)) ** 2) ** 2
    return error, translation
