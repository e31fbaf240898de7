"""Bring one map onto another: rotation, shift and, where allowed, the other hand."""

from dataclasses import dataclass

import numpy as np

from parhelion.algorithms.map_comparison import MapComparison, Pose, moved_volume
from parhelion.errors import InputError, ParameterError
from parhelion.fourier.fft import fft_threads
from parhelion.fourier.resample import resample_volume
from parhelion.fourier.shells import fsc, resolution_at
from parhelion.geometry.so3 import so3_grid
from parhelion.geometry.symmetry import SymmetryGroup
from parhelion.model.volume import Volume

SEARCH_ANGSTROM = 20.0
SEARCH_STEP_DEG = 15.0
SEARCH_SHELLS = 8  # at most: the peaks of finer shells are narrower than the grid of 15 degrees
CANDIDATES = 24
FINALISTS = 6
REFINED_SHELLS = 64  # at most; beyond, nothing is gained for rotation and shift
SAME_MAP = 0.98
AGREEING_FSC = 0.3


@dataclass(frozen=True, kw_only=True)
class Alignment:
    """How ``moving`` was laid onto ``target``, and how well they agree then.

    A point ``x`` (Å from the centre voxel, x, y, z) of the moving map, mirrored in z first if
    ``hand_flipped``, goes to ``rotation @ x + shift_xyz_angstrom``. ``aligned`` is the moving map on
    the target's grid; ``fsc`` ``(shells,)`` compares it with the target, ``mean_fsc`` is its mean over
    the shells 1 to ``refined_shells`` of the last refinement and ``fsc_half_angstrom`` where it first
    crosses 0.5.
    """

    rotation: np.ndarray
    shift_xyz_angstrom: np.ndarray
    hand_flipped: bool
    aligned: Volume
    fsc: np.ndarray
    mean_fsc: float
    refined_shells: int
    fsc_half_angstrom: float


def align_maps(
    moving: Volume,
    target: Volume,
    *,
    symmetry: SymmetryGroup | None = None,
    allow_other_hand: bool = True,
    search_angstrom: float = SEARCH_ANGSTROM,
    refine_angstrom: float | None = None,
) -> Alignment:
    """Lay ``moving`` onto ``target`` by a search over all rotations, shifts and both hands.

    Whitened maps are compared to ``search_angstrom`` (at most 8 shells) on a grid of 15 degrees with
    all shifts by Fourier transform; the best poses are refined by Gauss–Newton, the finalists at
    growing resolution up to ``refine_angstrom`` (default: as far as the maps agree). ``symmetry``, that
    of the target in its frame, only shortens the search. Box and pixel size may differ: the moving map
    is resampled onto the target's grid. Nothing depends on chance. Raises InputError for maps that are
    not finite or constant, ParameterError for resolutions that are not positive.
    """
    for name, value in (("search_angstrom", search_angstrom), ("refine_angstrom", refine_angstrom)):
        if value is not None and not value > 0:
            raise ParameterError(f"{name}: a positive resolution in Å is needed, found {value}")
    for name, volume in (("moving", moving), ("target", target)):
        if not np.isfinite(volume.data).all() or float(np.ptp(volume.data)) == 0:
            raise InputError(f"the {name} map is constant or holds values that are not numbers")
    box, pixel = target.box, target.pixel_size_angstrom
    if box < 16:
        raise InputError(f"maps of at least 16 voxels are needed for an alignment, found {box}")
    laid = resample_volume(moving, box, pixel).data
    data = np.asarray(target.data, np.float32)
    first = int(np.clip(box * pixel / search_angstrom, 4, min(SEARCH_SHELLS, box // 2 - 1)))
    # Thousands of small transforms: more than one thread costs more than it gives.
    with fft_threads(1):
        comparison = MapComparison(data, laid, first)
        candidates = _search(comparison, (False, True) if allow_other_hand else (False,), symmetry)
        finalists = _distinct(comparison, [comparison.refined(pose) for pose in candidates])
        best, shells = _finish(finalists, data, laid, first, _last_shell(box, pixel, refine_angstrom))
    aligned = moved_volume(laid, best)
    curve = fsc(aligned, data)
    return Alignment(
        rotation=best.rotation,
        shift_xyz_angstrom=best.shift * box * pixel,
        hand_flipped=best.flipped,
        aligned=Volume(data=aligned, pixel_size_angstrom=pixel),
        fsc=curve,
        mean_fsc=float(curve[1 : shells + 1].mean()),
        refined_shells=shells,
        fsc_half_angstrom=resolution_at(curve, 0.5, box, pixel),
    )


def _last_shell(box: int, pixel: float, refine_angstrom: float | None) -> int:
    most = box // 2 - 1
    if refine_angstrom is None:
        return min(most, REFINED_SHELLS)
    return int(np.clip(box * pixel / refine_angstrom, 4, most))


def _search(comparison: MapComparison, hands: tuple[bool, ...], symmetry: SymmetryGroup | None) -> list[Pose]:
    """The best poses of a grid over rotations and hands, each with its best shift."""
    # so3_grid thins out A against A S; the symmetry of the target acts on the rotation from the left.
    rotations = so3_grid(step_deg=SEARCH_STEP_DEG, symmetry=symmetry).transpose(0, 2, 1)
    found: list[Pose] = []
    for flipped in hands:
        poses = [Pose(rotation=r, flipped=flipped, shift=np.zeros(3), score=0.0) for r in rotations]
        scores, shifts = comparison.best_shifts(np.stack([pose.linear for pose in poses]))
        best = np.argsort(-scores, kind="stable")[:CANDIDATES]
        found += [
            Pose(rotation=rotations[i], flipped=flipped, shift=shifts[i], score=float(scores[i]))
            for i in best
        ]
    return found


def _distinct(comparison: MapComparison, poses: list[Pose]) -> list[Pose]:
    """Best first, without those that show the moving map as a better one does (repeats, symmetry mates)."""
    kept: list[Pose] = []
    for pose in sorted(poses, key=lambda p: -p.score):
        if all(comparison.likeness(pose, other) < SAME_MAP for other in kept):
            kept.append(pose)
        if len(kept) == FINALISTS:
            break
    return kept


def _finish(
    poses: list[Pose], target: np.ndarray, moving: np.ndarray, first: int, last: int
) -> tuple[Pose, int]:
    """The best of the finalists after refinement at growing resolution, and the last shell used."""
    shells = min(first, last)
    while True:
        comparison = MapComparison(target, moving, shells)
        poses = _distinct(comparison, [comparison.refined(pose) for pose in poses])
        # Rivals far behind at this resolution do not catch up at the next.
        least = poses[0].score - 0.2 * abs(poses[0].score)
        poses = poses[:1] + [pose for pose in poses[1:] if pose.score >= least]
        if shells >= last or _last_shell_fsc(comparison, poses[0]) < AGREEING_FSC:
            return poses[0], shells
        shells = min(last, max(shells + 2, int(1.3 * shells)))


def _last_shell_fsc(comparison: MapComparison, pose: Pose) -> float:
    """Agreement in the outermost fifth of the shells."""
    radius = np.linalg.norm(comparison.points, axis=1) * comparison.box
    outer = np.rint(radius) > 0.8 * comparison.shells
    used = len(np.unique(np.rint(radius[outer])))
    return float((comparison.weighted * comparison.moved(pose)).real[outer].sum()) * comparison.shells / used
