"""Turn an atomic model so that its symmetry axes lie where a point group's setting has them."""

from dataclasses import dataclass

import gemmi
import numpy as np
from scipy.optimize import minimize
from scipy.spatial import cKDTree

from parhelion.algorithms.map_comparison import MapComparison
from parhelion.algorithms.simulate.atomic_model import centre_of_mass
from parhelion.algorithms.simulate.splat import splat_points
from parhelion.errors import InputError
from parhelion.fourier.filters import apply_envelope, bfactor_envelope
from parhelion.fourier.grids import rfft_radius
from parhelion.geometry.rotations import exp_so3
from parhelion.geometry.so3 import so3_grid
from parhelion.geometry.symmetry import SymmetryGroup

GRID_BOX = 32
SEARCH_STEP_DEG = 15.0
SEARCH_SHELLS = 8
STARTS = 10
PAIR_ANGSTROM = 8.0  # atoms further apart are no pair while the frame is fitted
MATCH_ANGSTROM = 2.5  # and no match in the end
MATCHED_SHARE = 0.8
ITERATIONS = 30


@dataclass(frozen=True, kw_only=True)
class SymmetryFrame:
    """``rotation (3, 3)`` turns the model, about its centre, into the group's setting; ``deviation_angstrom``
    is the root mean square distance between symmetry-related backbone atoms afterwards,
    ``matched_share`` how many of them have a partner, ``turn_deg`` how far the model was turned."""

    rotation: np.ndarray
    deviation_angstrom: float
    matched_share: float
    turn_deg: float


def align_symmetry_axes(structure: gemmi.Structure, group: SymmetryGroup) -> SymmetryFrame:
    """The frame in which ``structure`` has the symmetry ``group``, near the deposited one if that is close.

    The density of the backbone at low resolution is compared with itself turned by the operators, first
    about the deposited frame, then on a grid over all frames; frames are refined on pairs of
    symmetry-related atoms. Raises InputError when the model does not have the symmetry.
    """
    if len(group) == 1:
        return SymmetryFrame(rotation=np.eye(3), deviation_angstrom=0.0, matched_share=1.0, turn_deg=0.0)
    points = _backbone(structure) - centre_of_mass(structure)
    operators = group.operators[1:]
    density = _DensityFrames(points, _generating(operators))
    best = _refined_frame(points, density.polished(np.eye(3)), operators, np.eye(3))
    if best.share < MATCHED_SHARE:
        for frame in density.best_of_grid():
            start = density.polished(frame)
            best = max(best, _refined_frame(points, start, operators, start), key=lambda one: one.share)
            if best.share >= MATCHED_SHARE:
                break
    if best.share < MATCHED_SHARE:
        raise InputError(
            f"the model does not have {group.name} symmetry: only {100 * best.share:.0f} % of its backbone "
            f"atoms meet another within {MATCH_ANGSTROM:g} Å after the group's operators; choose another "
            "symmetry or C1"
        )
    turn = np.degrees(np.arccos(np.clip((np.trace(best.frame) - 1) / 2, -1, 1)))
    return SymmetryFrame(
        rotation=best.frame,
        deviation_angstrom=best.deviation,
        matched_share=best.share,
        turn_deg=float(turn),
    )


def _backbone(structure: gemmi.Structure) -> np.ndarray:
    """Positions ``(n, 3)`` of Cα and P atoms, or of all atoms where there are few of those."""
    rows = [
        (a.atom.pos.x, a.atom.pos.y, a.atom.pos.z)
        for a in structure[0].all()
        if (a.atom.name == "CA" and a.atom.element.name == "C") or a.atom.name == "P"
    ]
    if len(rows) < 20:
        rows = [(a.atom.pos.x, a.atom.pos.y, a.atom.pos.z) for a in structure[0].all()]
    return np.array(rows, dtype=np.float64)


def _generating(operators: np.ndarray) -> np.ndarray:
    """First, middle and last of the operators: of every group enough to tell a wrong frame."""
    return operators[sorted({0, len(operators) // 2, len(operators) - 1})]


class _DensityFrames:
    """Scores frames ``Q`` by how much the backbone's density is like itself under the operators."""

    def __init__(self, points: np.ndarray, operators: np.ndarray) -> None:
        pixel = 2.4 * float(np.linalg.norm(points, axis=1).max()) / GRID_BOX
        at = np.concatenate([points + (GRID_BOX // 2) * pixel, np.ones((len(points), 1))], axis=1)
        spread = bfactor_envelope(rfft_radius((GRID_BOX,) * 3, pixel), 8 * np.pi**2 * pixel**2)
        density = apply_envelope(splat_points(at, GRID_BOX, pixel), spread).numpy()
        self.comparison = MapComparison(density, density, SEARCH_SHELLS)
        self.operators = operators

    def score(self, frames: np.ndarray) -> np.ndarray:
        """Mean likeness ``(f,)`` over the operators, in frames ``(f, 3, 3)``."""
        turned = np.einsum("fba,obc,fcd->foad", frames, self.operators, frames)
        return self.comparison.scores(turned.reshape(-1, 3, 3)).reshape(len(frames), -1).mean(axis=1)

    def polished(self, frame: np.ndarray) -> np.ndarray:
        """The frame of the best score near ``frame``."""
        result = minimize(
            lambda w: -float(self.score((exp_so3(w)[0] @ frame)[None])[0]),
            np.zeros(3),
            method="Nelder-Mead",
            options={"xatol": 2e-3, "fatol": 1e-4, "initial_simplex": 0.08 * np.eye(4, 3, k=-1)},
        )
        return np.asarray(exp_so3(result.x)[0] @ frame)

    def best_of_grid(self) -> np.ndarray:
        """The best frames ``(m, 3, 3)`` of a grid over all rotations."""
        grid = so3_grid(step_deg=SEARCH_STEP_DEG)
        return grid[np.argsort(-self.score(grid), kind="stable")[:STARTS]]


@dataclass(frozen=True)
class _Refined:
    frame: np.ndarray
    deviation: float
    share: float


def _refined_frame(
    points: np.ndarray, frame: np.ndarray, operators: np.ndarray, start: np.ndarray
) -> _Refined:
    """Frame, root mean square distance of matched atoms (Å) and their share, by pairing and fitting.

    Each operator, in the model's frame ``Qᵀ S Q``, is fitted to its pairs (Kabsch); the new frame is the
    orthogonal matrix nearest to the old one among those with ``Q R = S Q`` for all.
    """
    tree = cKDTree(points)
    for _ in range(ITERATIONS):
        system = np.zeros((9, 9))
        for operator in operators:
            turned = points @ (frame.T @ operator @ frame).T
            distance, partner = tree.query(turned, distance_upper_bound=PAIR_ANGSTROM)
            found = np.isfinite(distance)
            if found.sum() < 3:
                continue
            fitted = _kabsch(points[found], points[partner[found]])
            equation = np.kron(np.eye(3), fitted.T) - np.kron(operator, np.eye(3))
            system += equation.T @ equation
        values, vectors = np.linalg.eigh(system)
        null = vectors[:, values < values[0] + 1e-2 * len(operators)]
        # The start, not the last frame, is projected: a turn about an axis that stays free is not made.
        new = _nearest_rotation((null @ (null.T @ start.ravel())).reshape(3, 3))
        change, frame = np.abs(new - frame).max(), new
        if change < 1e-7:
            break
    turned = np.concatenate([points @ (frame.T @ operator @ frame).T for operator in operators])
    distance, _ = tree.query(turned, distance_upper_bound=MATCH_ANGSTROM)
    matched = distance[np.isfinite(distance)]
    deviation = float(np.sqrt(np.mean(matched**2))) if len(matched) else np.inf
    return _Refined(frame, deviation, len(matched) / len(turned))


def _kabsch(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The rotation that carries ``source (n, 3)`` onto ``target (n, 3)`` best, about the origin."""
    return _nearest_rotation(target.T @ source)


def _nearest_rotation(matrix: np.ndarray) -> np.ndarray:
    u, _, vt = np.linalg.svd(matrix)
    return np.asarray(u @ np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ vt))]) @ vt)
