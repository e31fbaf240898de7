"""Grids on the sphere and on SO(3).

The sphere is sampled by the centres of HEALPix pixels (Górski et al. 2005, ApJ 622, 759), SO(3) by the
product of these directions with equal steps in the plane: uniform in measure. At order ``k`` there are 12·4ᵏ
directions and 6·2ᵏ in-plane angles, so that neighbours are about 60°/2ᵏ apart, as in RELION's
``--healpix_order``.
"""

import numpy as np

from parhelion.errors import ParameterError
from parhelion.geometry.rotations import exp_so3, from_relion
from parhelion.geometry.symmetry import SymmetryGroup, asymmetric_unit_mask

SPACING_AT_NSIDE_1_DEG = 60.0
MAX_ORDER = 8


def sphere_grid(order: int) -> np.ndarray:
    """Unit vectors ``(12·4ᵏ, 3)`` of the HEALPix pixel centres at ``order`` k, ring by ring from +z to -z.

    Raises ParameterError where the order is not between 0 and 8.
    """
    if not 0 <= order <= MAX_ORDER:
        raise ParameterError(f"HEALPix order {order} is not between 0 (60°) and {MAX_ORDER} (0.23°)")
    return _pixel_centres(2**order)


def _pixel_centres(nside: int) -> np.ndarray:
    """Unit vectors ``(12·nside², 3)``; ``nside`` is any positive integer. Górski et al. (2005), eqs. 2–9."""
    z_rings, phi_rings = [], []
    for ring in range(1, 4 * nside):
        cap = min(ring, 4 * nside - ring)
        if cap < nside:  # polar cap: the rings shrink
            z = 1.0 - cap**2 / (3.0 * nside**2)
            z = z if ring < 2 * nside else -z
            phi = np.pi / (2.0 * cap) * (np.arange(4 * cap) + 0.5)
        else:
            z = 4.0 / 3.0 - 2.0 * ring / (3.0 * nside)
            phi = np.pi / (2.0 * nside) * (np.arange(4 * nside) + (0.5 if (ring - nside) % 2 == 0 else 0.0))
        z_rings.append(np.full(len(phi), z))
        phi_rings.append(phi)
    z_all, phi_all = np.concatenate(z_rings), np.concatenate(phi_rings)
    radius = np.sqrt(1.0 - z_all**2)
    return np.stack([radius * np.cos(phi_all), radius * np.sin(phi_all), z_all], axis=-1)


def so3_grid(
    order: int | None = None,
    *,
    step_deg: float | None = None,
    symmetry: SymmetryGroup | None = None,
    turn: np.ndarray | None = None,
) -> np.ndarray:
    """Matrices ``(o, 3, 3)`` that sample SO(3), in-plane angle fastest.

    Give the HEALPix ``order`` (0: 60°, 1: 30°, 2: 15°, 3: 7.5° …) or the largest allowed ``step_deg``. With
    ``symmetry`` one representative of each orbit of view directions is kept (about 1/|G| of all). ``turn``
    ``(3, 3)`` first turns the whole grid, ``A → A turn``: a new turn each round keeps a search off the same
    grid points. Raises ParameterError.
    """
    nside, in_plane = _sampling(order, step_deg)
    directions = _pixel_centres(nside)
    if turn is not None:
        directions = directions @ turn
    if symmetry is not None:
        directions = directions[asymmetric_unit_mask(directions, symmetry)]
    rot = np.degrees(np.arctan2(directions[:, 1], directions[:, 0]))
    tilt = np.degrees(np.arctan2(np.hypot(directions[:, 0], directions[:, 1]), directions[:, 2]))
    psi = np.arange(in_plane) * 360.0 / in_plane
    return from_relion(np.repeat(rot, in_plane), np.repeat(tilt, in_plane), np.tile(psi, len(rot)))


def planar_grid(step_deg: float) -> np.ndarray:
    """Matrices ``(o, 3, 3)`` of the in-plane rotations alone, for two-dimensional references."""
    if not 0.0 < step_deg <= 180.0:
        raise ParameterError(f"an in-plane step of {step_deg}° is not between 0° and 180°")
    count = int(np.ceil(360.0 / step_deg - 1e-9))
    return from_relion(0.0, 0.0, np.arange(count) * 360.0 / count)


def local_grid(radius_deg: float, step_deg: float) -> np.ndarray:
    """Small rotations ``(m, 3, 3)`` within ``radius_deg``, about ``step_deg`` apart, the identity first.

    A body-centred cubic lattice in the tangent space: it covers a ball with the fewest points. Apply them
    on the left, ``D A``, to search around a pose ``A``. Raises ParameterError.
    """
    if not 0.0 < step_deg <= radius_deg <= 90.0:
        raise ParameterError(
            f"a local grid needs 0 < step <= radius <= 90 degrees; found step {step_deg}, radius {radius_deg}"
        )
    edge = (
        2.0 * step_deg / np.sqrt(3.0)
    )  # of the cube; nearest neighbours of this lattice are √3/2 edges apart
    reach = int(np.ceil(radius_deg / edge))
    corner = np.stack(np.meshgrid(*[np.arange(-reach, reach + 1)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    points = edge * np.concatenate([corner, corner + 0.5])
    distance = np.linalg.norm(points, axis=1)
    order = np.argsort(distance, kind="stable")
    inside = order[distance[order] <= radius_deg + 1e-9]
    return exp_so3(np.radians(points[inside]))


def grid_spacing_deg(order: int) -> float:
    """The nominal distance of neighbours, in degrees, at a HEALPix order."""
    return SPACING_AT_NSIDE_1_DEG / 2**order


def _sampling(order: int | None, step_deg: float | None) -> tuple[int, int]:
    """HEALPix nside and number of in-plane angles."""
    if (order is None) == (step_deg is None):
        raise ParameterError("a rotation grid needs either a HEALPix order or a step in degrees")
    if order is not None:
        if not 0 <= order <= MAX_ORDER:
            raise ParameterError(f"HEALPix order {order} is not between 0 (60°) and {MAX_ORDER} (0.23°)")
        return 2**order, 6 * 2**order
    step = float(step_deg or 0.0)
    if not grid_spacing_deg(MAX_ORDER) <= step <= 180.0:
        raise ParameterError(f"a rotation step of {step_deg}° is not between 0.24° and 180°")
    nside = max(1, int(np.ceil(SPACING_AT_NSIDE_1_DEG / step - 1e-9)))
    return nside, int(np.ceil(360.0 / step - 1e-9))
