"""Find the axes of a point group in a map that was made without it, and impose the group on a map.

The coarse search is a self-rotation function (Rossmann & Blow 1962, Acta Cryst. 15, 24): for each kind of
turn in the group the map is laid onto itself, with its best shift, about axes all over the hemisphere. A
frame is then worth the sum of these tables over its axes, a look-up, so that all frames can be tried with
all their axes. The shifts of the operators of a frame agree on one point, the centre of symmetry. The best
frames are refined by gradient ascent of the correlation of the map with its copies.
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import map_coordinates, spline_filter
from scipy.optimize import minimize
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from parhelion.algorithms.map_comparison import MapComparison, Pose, moved_volume
from parhelion.errors import InputError, ParameterError
from parhelion.fourier.fft import fft_threads, irfft3, rfft3
from parhelion.fourier.resample import fourier_resize_volumes
from parhelion.fourier.shells import shell_index, shell_mean
from parhelion.geometry.rotations import exp_so3, log_so3
from parhelion.geometry.so3 import so3_grid, sphere_grid
from parhelion.geometry.symmetry import SymmetryGroup, axes
from parhelion.model.volume import Volume

DEFAULT_ANGSTROM = 20.0
SEARCH_BOX = 32
SEARCH_SHELLS = 8  # at most: the peaks of finer shells are narrower than the grid of axes
REFINED_SHELLS = 11  # at most: linear interpolation on 32 voxels is still faithful there
AXIS_ORDER = 4  # HEALPix: axes 3.7 degrees apart
FRAME_STEP_DEG = 5.0
MOST_FRAMES = 200_000
TURNS_PER_FOLD = 3
FINALISTS = 5
DISTINCT_DEG = 12.0


@dataclass(frozen=True, kw_only=True)
class SymmetryFit:
    """Where the axes of a group lie in a map, and how well the map obeys them.

    A point ``x`` (Å from voxel ``n // 2``; x, y, z) of the given map goes to
    ``rotation @ x + shift_xyz_angstrom`` in ``aligned``: there the axes pass through voxel ``n // 2`` in the
    group's own frame, ``aligned(x) ≈ aligned(g x)``. ``rotation`` is ``(3, 3)`` and one of the equivalent
    ones. ``correlation`` is that of the map with its copies under the operators other than the identity:
    the FSC averaged over the shells from the first to the resolution of the fit, then over the operators;
    1 for an exact symmetry. ``symmetrised`` is ``aligned`` averaged over the group.
    """

    rotation: np.ndarray
    shift_xyz_angstrom: np.ndarray
    correlation: float
    aligned: Volume
    symmetrised: Volume


def find_symmetry(
    volume: Volume,
    group: SymmetryGroup,
    *,
    resolution_angstrom: float | None = None,
    within_deg: float | None = None,
    frames: np.ndarray | None = None,
) -> SymmetryFit:
    """Search the axes of ``group`` anywhere in a cubic map, with an unknown centre.

    The map is used to ``resolution_angstrom`` (default 20 Å), at most to 11 shells. With ``within_deg`` the
    search begins only at frames turned by up to that from the map's own; ``frames`` ``(f, 3, 3)`` are tried
    instead of a grid over all (``euler_frames``). For a cyclic group the
    turn about the axis is free (the smallest rotation that brings the axis to z is taken) and the centre of
    mass is kept at the height of the centre voxel. C1 leaves the map as it is. Nothing depends on chance.
    Raises InputError for a map that is constant, not finite or smaller than 16 voxels, ParameterError for a
    resolution that is not positive, MetadataError for a map that is not cubic.
    """
    _check(volume, resolution_angstrom, within_deg)
    if len(group) == 1:
        return SymmetryFit(
            rotation=np.eye(3),
            shift_xyz_angstrom=np.zeros(3),
            correlation=1.0,
            aligned=volume,
            symmetrised=volume,
        )
    extent = volume.box * volume.pixel_size_angstrom
    small = _masked_small(volume)
    shells = _shells(volume, small, resolution_angstrom)
    middle = _centre_of_mass(small, shells)
    # Thousands of small transforms: more than one thread costs more than it gives.
    with fft_threads(1):
        found = _coarse_frames(small, group, min(shells, SEARCH_SHELLS), middle, within_deg, frames)
        refinement = _Refinement(small, shells, group)
        rotation, centre = max((refinement.refined(*frame) for frame in found), key=lambda f: f[2])[:2]
        if _is_cyclic(group):
            rotation, centre = _upright(rotation, centre, middle)
        correlation = _mean_fsc(MapComparison(small, small, shells), group, rotation, centre)
    shift = -rotation @ centre
    pose = Pose(rotation=rotation, flipped=False, shift=shift, score=correlation)
    moved = moved_volume(volume.data, pose)
    aligned = Volume(data=moved, pixel_size_angstrom=volume.pixel_size_angstrom)
    return SymmetryFit(
        rotation=rotation,
        shift_xyz_angstrom=shift * extent,
        correlation=correlation,
        aligned=aligned,
        symmetrised=impose_symmetry(aligned, group),
    )


def symmetry_as_it_lies(volume: Volume, group: SymmetryGroup) -> float:
    """``SymmetryFit.correlation`` of a map in the frame it has; raises as ``find_symmetry``."""
    _check(volume, None, None)
    if len(group) == 1:
        return 1.0
    small = _masked_small(volume)
    shells = _shells(volume, small, None)
    with fft_threads(1):
        return _mean_fsc(MapComparison(small, small, shells), group, np.eye(3), np.zeros(3))


def impose_symmetry(volume: Volume, group: SymmetryGroup) -> Volume:
    """The average of a cubic map over the group, float32: ``mean over g of V(g x)`` about voxel ``n // 2``.

    Cubic splines in real space. Where an operator reaches outside the box, the mean of the faces is taken.
    Raises MetadataError for a map that is not cubic.
    """
    box = volume.box
    data = np.asarray(volume.data, np.float32)
    if len(group) == 1:
        return Volume(data=data.copy(), pixel_size_angstrom=volume.pixel_size_angstrom)
    fill = _face_mean(data)
    coefficients = spline_filter(data - fill, order=3, output=np.float32)
    axis = np.arange(box, dtype=np.float64) - box // 2
    out = data - fill
    y, x = np.meshgrid(axis, axis, indexing="ij")
    for plane, z in enumerate(axis):  # plane by plane: coordinates of a whole large map would not fit
        points = np.stack([x, y, np.full_like(x, z)])
        for operator in group.operators[1:]:
            at = np.tensordot(operator, points, axes=1)[::-1] + box // 2
            out[plane] += map_coordinates(coefficients, at, order=3, prefilter=False, cval=0.0)
    return Volume(data=out / len(group) + fill, pixel_size_angstrom=volume.pixel_size_angstrom)


def euler_frames(start_deg: float, end_deg: float, step_deg: float) -> np.ndarray:
    """Frames ``(f, 3, 3)`` turned about x, then y, then z, by every angle from ``start_deg`` to ``end_deg``.

    Raises ParameterError where there are none, or more than can be tried.
    """
    if not (step_deg > 0 and end_deg >= start_deg):
        raise ParameterError(
            f"angles from {start_deg:g} to {end_deg:g} degrees in steps of {step_deg:g}: the end comes after "
            "the start, and the step is above 0"
        )
    angles = np.arange(start_deg, end_deg + 1e-6 * step_deg, step_deg)
    if len(angles) ** 3 > MOST_FRAMES:
        raise ParameterError(
            f"{len(angles)} angles about each of three axes are {len(angles) ** 3:,} frames, more than "
            f"{MOST_FRAMES:,}; choose a coarser step or a smaller range"
        )
    x, y, z = (a.ravel() for a in np.meshgrid(angles, angles, angles, indexing="ij"))
    return Rotation.from_euler("xyz", np.stack([x, y, z], axis=1), degrees=True).as_matrix()


def _check(volume: Volume, resolution_angstrom: float | None, within_deg: float | None) -> None:
    if within_deg is not None and not within_deg > 0:
        raise ParameterError(f"within_deg: a positive angle is needed, found {within_deg}")
    if resolution_angstrom is not None and not resolution_angstrom > 0:
        raise ParameterError(
            f"resolution_angstrom: a positive resolution in Å is needed, found {resolution_angstrom}"
        )
    if volume.box < 16:
        raise InputError(f"a map of at least 16 voxels is needed to find its symmetry, found {volume.box}")
    if not np.isfinite(volume.data).all() or float(np.ptp(volume.data)) == 0:
        raise InputError("the map is constant or holds values that are not numbers; it has no axes to find")


def _shells(volume: Volume, small: np.ndarray, resolution_angstrom: float | None) -> int:
    extent = volume.box * volume.pixel_size_angstrom
    most = min(REFINED_SHELLS, small.shape[0] // 2 - 1)
    return int(np.clip(extent / (resolution_angstrom or DEFAULT_ANGSTROM), 4, most))


def _face_mean(data: np.ndarray) -> np.float32:
    faces = [np.take(data, end, axis=axis).mean() for axis in range(3) for end in (0, -1)]
    return np.float32(np.mean(faces))


def _centred_axis(box: int) -> np.ndarray:
    return np.arange(box) - box // 2


def _radius(box: int) -> np.ndarray:
    axis = _centred_axis(box).astype(np.float32)
    return np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2)


def _masked_small(volume: Volume) -> np.ndarray:
    """The map in the sphere that fits the box, on at most 32³ voxels: corners would not turn with it."""
    box = volume.box
    data = np.asarray(volume.data, np.float32)
    edge = np.clip((0.5 * box - _radius(box)) / (0.06 * box), 0, 1)
    data = (data - _face_mean(data)) * (0.5 - 0.5 * np.cos(np.pi * edge)).astype(np.float32)
    return fourier_resize_volumes(data, SEARCH_BOX) if box > SEARCH_BOX else data


def _filtered(small: np.ndarray, shells: int, *, equal_power: bool) -> np.ndarray:
    """The map up to a shell; with ``equal_power`` each shell holds the same power, so that the correlation
    of two such maps is the mean of their FSC."""
    transform = rfft3(torch.from_numpy(small))
    index = shell_index(small.shape)
    keep = (index >= (1 if equal_power else 0)) & (index <= shells)
    weight = keep.to(torch.float32)
    if equal_power:
        power = shell_mean(transform.abs() ** 2, small.shape).clamp_min(1e-30)
        shell = torch.arange(len(power)).clamp_min(1)
        scale = (1 / (power.sqrt() * shell)).to(torch.float32)
        weight = weight * scale[index.clamp_max(len(power) - 1)]
    z, y, x = small.shape
    return irfft3(transform * weight, (z, y, x)).numpy()


def _centre_of_mass(small: np.ndarray, shells: int) -> np.ndarray:
    """Of what stands out of the low-passed map; x, y, z from the centre voxel in units of the extent."""
    smooth = _filtered(small, shells, equal_power=False)
    weight = np.maximum(smooth - smooth.mean() - 1.5 * smooth.std(), 0).astype(np.float64)
    axis = _centred_axis(small.shape[0]) / small.shape[0]
    sums = [weight.sum(axis=others) @ axis for others in ((0, 1), (0, 2), (1, 2))]
    return np.array(sums) / weight.sum()


def _is_cyclic(group: SymmetryGroup) -> bool:
    return len(axes(group)) == 1


def _coarse_frames(
    small: np.ndarray,
    group: SymmetryGroup,
    shells: int,
    middle: np.ndarray,
    within_deg: float | None,
    tried: np.ndarray | None = None,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """The best frames that differ: rotation into the group's frame and centre (in units of the extent)."""
    directions = sphere_grid(AXIS_ORDER)
    directions = directions[directions[:, 2] >= 0]
    nearest = cKDTree(np.concatenate([directions, -directions]))
    comparison = MapComparison(small, small, shells)
    tables = {}
    for fold in {axis.fold for axis in axes(group)}:
        turns = np.unique(np.rint(np.linspace(1, fold // 2, TURNS_PER_FOLD)).astype(int))
        tables[fold] = [_self_rotation(comparison, directions, 2 * np.pi * k / fold) for k in turns]
    frames = _frames(group, directions) if tried is None else tried
    if within_deg is not None:
        turned = np.array([_distance_deg(frame, np.eye(3), group) for frame in frames])
        frames = frames[turned <= max(within_deg, turned.min())]
    # The direction that each axis of the group takes in the map, for every frame: Fᵀ a.
    at = [nearest.query(frames.transpose(0, 2, 1) @ axis.direction)[1] for axis in axes(group)]
    at = [index % len(directions) for index in at]
    total = np.zeros(len(frames))
    for axis, index in zip(axes(group), at):
        values = np.mean([scores for _, scores, _ in tables[axis.fold]], axis=0)
        total += (axis.fold - 1) * values[index]
    chosen = _distinct(frames, np.argsort(-total, kind="stable"), group)
    found = []
    for i in chosen:
        rows = [
            (rotations[index[i]], shifts[index[i]])
            for axis, index in zip(axes(group), at)
            for rotations, _, shifts in tables[axis.fold]
        ]
        found.append((frames[i], _common_centre(rows, middle)))
    return found


def _self_rotation(
    comparison: MapComparison, directions: np.ndarray, angle: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Turns ``(a, 3, 3)`` by ``angle`` (rad) about each direction, the scores ``(a,)`` and best shifts."""
    rotations = exp_so3(angle * directions)
    scores, shifts = comparison.best_shifts(rotations)
    return rotations, scores, shifts


def _frames(group: SymmetryGroup, directions: np.ndarray) -> np.ndarray:
    """Rotations into the group's frame ``(f, 3, 3)`` to be tried: for one axis alone its directions."""
    if _is_cyclic(group):
        return np.stack([_to_z(direction) for direction in directions])
    # so3_grid thins out A against A g; frames F and g F are alike.
    return so3_grid(step_deg=FRAME_STEP_DEG, symmetry=group).transpose(0, 2, 1)


def _to_z(direction: np.ndarray) -> np.ndarray:
    """The smallest rotation that carries a unit vector (not -z) to +z."""
    axis = np.cross(direction, [0.0, 0.0, 1.0])
    sine = np.linalg.norm(axis)
    if sine < 1e-12:
        return np.eye(3)
    return np.asarray(exp_so3(axis / sine * np.arctan2(sine, direction[2]))[0])


def _distinct(frames: np.ndarray, ranked: np.ndarray, group: SymmetryGroup) -> list[int]:
    """The first of ``ranked`` that are no neighbours of one another, up to symmetry."""
    chosen: list[int] = []
    for i in ranked:
        if all(_distance_deg(frames[i], frames[j], group) > DISTINCT_DEG for j in chosen):
            chosen.append(int(i))
        if len(chosen) == FINALISTS:
            break
    return chosen


def _distance_deg(a: np.ndarray, b: np.ndarray, group: SymmetryGroup) -> float:
    """Angle between two frames up to symmetry; for a cyclic group that between the lines of the axis."""
    if _is_cyclic(group):
        return float(np.degrees(np.arccos(min(1.0, abs(a[2] @ b[2])))))
    trace = np.einsum("gij,ij->g", group.operators, a @ b.T)
    return float(np.degrees(np.arccos(np.clip((trace.max() - 1) / 2, -1, 1))))


def _common_centre(operators: list[tuple[np.ndarray, np.ndarray]], middle: np.ndarray) -> np.ndarray:
    """The point ``c`` that operators ``x → R x + t`` leave in place, ``(1 - R) c = t``; where they leave a
    choice, the one nearest ``middle``."""
    system = np.concatenate([np.eye(3) - rotation for rotation, _ in operators])
    rest = np.concatenate([shift - middle + rotation @ middle for rotation, shift in operators])
    return middle + np.linalg.lstsq(system, rest, rcond=1e-6)[0]


def _upright(rotation: np.ndarray, centre: np.ndarray, middle: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A cyclic frame without needless turn, the centre at the height of ``middle`` along the axis."""
    axis = rotation[2] if rotation[2, 2] >= 0 else -rotation[2]
    return _to_z(axis), centre + axis * (axis @ (middle - centre))


def _half_of(group: SymmetryGroup) -> tuple[np.ndarray, np.ndarray]:
    """One operator of each pair of inverses, without the identity, and how many each stands for."""
    vectors = log_so3(group.operators[1:])
    leading = np.array([v[np.flatnonzero(np.abs(v) > 1e-6)[-1]] for v in vectors])
    twofold = np.linalg.norm(vectors, axis=1) > np.pi - 1e-6
    keep = twofold | (leading > 0)
    return group.operators[1:][keep], np.where(twofold, 1.0, 2.0)[keep]


def _mean_fsc(
    comparison: MapComparison, group: SymmetryGroup, rotation: np.ndarray, centre: np.ndarray
) -> float:
    operators, weight = _half_of(group)
    scores = []
    for operator in rotation.T @ operators @ rotation:
        shift = centre - operator @ centre
        scores.append(comparison.score(Pose(rotation=operator, flipped=False, shift=shift, score=0.0)))
    return float(np.average(scores, weights=weight))


class _Refinement:
    """Ascent of the mean correlation of a map with its copies, over frame and centre together."""

    def __init__(self, small: np.ndarray, shells: int, group: SymmetryGroup) -> None:
        self.box = small.shape[0]
        self.map = torch.from_numpy(np.ascontiguousarray(_filtered(small, shells, equal_power=True)))
        inside = np.argwhere(_radius(self.box) < 0.47 * self.box)
        self.values = self.map[tuple(inside.T)]
        self.points = torch.from_numpy((inside[:, ::-1] - self.box // 2).astype(np.float32))
        operators, weight = _half_of(group)
        self.operators = torch.from_numpy(operators.astype(np.float32))
        self.weight = torch.from_numpy((weight / weight.sum()).astype(np.float32))

    def refined(self, rotation: np.ndarray, centre: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        """The frame and the centre (in units of the extent) nearby of the best score, and that score."""
        start = torch.from_numpy(rotation.astype(np.float32))
        radius = 0.25 * self.box  # a step of one unit moves the map by about a voxel, turned or shifted

        def loss(step: np.ndarray) -> tuple[float, np.ndarray]:
            variable = torch.tensor(step, dtype=torch.float32, requires_grad=True)
            value = -self._score(start @ _exponential(variable[:3] / radius), variable[3:])
            (gradient,) = torch.autograd.grad(value, variable)
            return float(value.detach()), gradient.numpy().astype(np.float64)

        first = np.concatenate([np.zeros(3), centre * self.box])
        best = minimize(loss, first, jac=True, method="L-BFGS-B", options={"maxiter": 30, "ftol": 1e-5})
        return rotation @ exp_so3(best.x[:3] / radius)[0], best.x[3:] / self.box, -float(best.fun)

    def _score(self, frame: torch.Tensor, centre: torch.Tensor) -> torch.Tensor:
        operators = frame.T @ self.operators @ frame
        at = (self.points - centre) @ operators.transpose(1, 2) + centre  # (g, p, 3), x y z in voxels
        # grid_sample wants -1 … 1 from the middle of the first voxel to that of the last.
        unit = (at + self.box // 2) * (2 / (self.box - 1)) - 1
        copies = torch.nn.functional.grid_sample(
            self.map[None, None], unit[None, :, :, None], mode="bilinear", align_corners=True
        )[0, 0, :, :, 0]
        norm = copies.square().sum(dim=1).sqrt() * self.values.square().sum().sqrt()
        return ((copies @ self.values) / norm) @ self.weight


def _exponential(vector: torch.Tensor) -> torch.Tensor:
    """The rotation ``(3, 3)`` of a rotation vector (rad), differentiable at zero."""
    x, y, z = vector
    zero = torch.zeros_like(x)
    return torch.linalg.matrix_exp(torch.stack([zero, -z, y, z, zero, -x, -y, x, zero]).reshape(3, 3))
