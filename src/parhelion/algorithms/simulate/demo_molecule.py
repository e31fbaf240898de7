"""A made-up molecule for demonstrations: packed rods with the pitch of α-helices, in any point group.

No file of an atomic model is needed, and its true density is known at every resolution.
"""

import numpy as np

from parhelion.algorithms.simulate.splat import splat_points
from parhelion.errors import ParameterError
from parhelion.fourier.fft import irfft3, rfft3
from parhelion.fourier.filters import gaussian_envelope
from parhelion.fourier.grids import rfft_radius
from parhelion.fourier.resample import resize_rfft
from parhelion.geometry.rotations import random_rotations
from parhelion.geometry.symmetry import SymmetryGroup
from parhelion.model.volume import Volume

RODS = 120
"""Rods of the whole molecule, divided among its asymmetric units."""
SPACING_ANGSTROM = 9.5  # between the axes of packed helices
RISE_ANGSTROM = 1.5  # of an α-helix per residue
RADIUS_ANGSTROM = 2.3
TURN_DEG = 100.0
RESIDUES = (10, 24)
WIDTH_ANGSTROM = 2.2  # of a residue's Gaussian: with side chains, about what a B-factor of 380 Å² gives
POINTS_OF_AXIS = 6
DRAWS = 20_000


def demo_molecule(
    box: int, pixel_size_angstrom: float, *, symmetry: SymmetryGroup, diameter_angstrom: float, seed: int = 0
) -> Volume:
    """The density ``(box, box, box)`` of a molecule that fits into a sphere of ``diameter_angstrom``.

    The box's centre is its centre, the axes are those of ``symmetry``; the sum over voxels is the number
    of residues. ``seed`` chooses one of many molecules. Raises ParameterError where the sphere does not
    fit into the box or is too small for a few rods.
    """
    extent = box * pixel_size_angstrom
    if not 60 <= diameter_angstrom <= extent:
        raise ParameterError(
            f"a diameter from 60 Å to the box's {extent:.0f} Å is needed, found {diameter_angstrom:g} Å"
        )
    residues = _residues(np.random.default_rng(seed), symmetry, 0.5 * diameter_angstrom)
    points = np.concatenate([residues @ operator.T for operator in symmetry.operators])
    weighted = np.column_stack([points + (box // 2) * pixel_size_angstrom, np.ones(len(points))])
    # Drawn on a finer grid, so that what lies beyond Nyquist does not fold back.
    grid = splat_points(weighted, 2 * box, pixel_size_angstrom / 2)
    transform = resize_rfft(rfft3(grid), (2 * box,) * 3, box)
    transform = transform * gaussian_envelope(rfft_radius((box,) * 3, pixel_size_angstrom), WIDTH_ANGSTROM)
    data = irfft3(transform, (box,) * 3).numpy().astype(np.float32) * 8
    return Volume(data=data, pixel_size_angstrom=pixel_size_angstrom)


def _residues(rng: np.random.Generator, symmetry: SymmetryGroup, radius: float) -> np.ndarray:
    """Positions ``(n, 3)`` (x, y, z in Å) of the residues of one asymmetric unit.

    Rods are drawn in a flat ellipsoid and kept where their axis keeps its distance from all rods before
    them and from all symmetry mates, their own included. Two of the ellipsoid's octants hold less than the
    others, so that no rotation but those of the group brings the molecule near itself.
    """
    axes = radius - 0.5 * RISE_ANGSTROM * RESIDUES[1] - np.array([0.0, 0.2, 0.4]) * radius
    wanted = max(3, RODS // len(symmetry))
    kept: list[np.ndarray] = []
    taken = np.empty((0, 3))
    for _ in range(DRAWS):
        if len(kept) == wanted:
            break
        centre = rng.uniform(-1, 1, 3)
        if np.sum(centre**2) > 1 or (np.prod(centre) < 0 and rng.random() < 0.7):
            continue
        count = int(rng.integers(*RESIDUES, endpoint=True))
        turn = random_rotations(1, rng)[0]
        reach = 0.5 * RISE_ANGSTROM * (count - 1)
        axis = np.linspace(-reach, reach, POINTS_OF_AXIS)[:, None] * turn[:, 2] + centre * axes
        mates = np.einsum("gij,nj->gni", symmetry.operators, axis)
        others = np.concatenate([taken, *mates[1:]])
        if len(others) and _nearest(axis, others) < SPACING_ANGSTROM:
            continue
        kept.append(_helix(count) @ turn.T + centre * axes)
        taken = np.concatenate([taken, *mates])
    if len(kept) < 3:
        raise ParameterError(
            f"a molecule of diameter {2 * radius:.0f} Å is too small for symmetry {symmetry.name}; "
            "make it larger"
        )
    return np.concatenate(kept)


def _helix(count: int) -> np.ndarray:
    """Residues ``(count, 3)`` of a helix about z, its middle at the origin."""
    angle = np.radians(TURN_DEG) * np.arange(count)
    along = RISE_ANGSTROM * (np.arange(count) - 0.5 * (count - 1))
    return np.column_stack([RADIUS_ANGSTROM * np.cos(angle), RADIUS_ANGSTROM * np.sin(angle), along])


def _nearest(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.sqrt(((a[:, None] - b[None]) ** 2).sum(axis=2).min()))
