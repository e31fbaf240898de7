"""Alignment recovers a known rotation, shift and hand, through noise and other grids."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from parhelion.algorithms.map_alignment import align_maps
from parhelion.algorithms.map_comparison import MIRROR, MapComparison, Pose, moved_volume
from parhelion.errors import InputError, ParameterError
from parhelion.fourier.filters import lowpass
from parhelion.fourier.shells import fsc
from parhelion.geometry.symmetry import symmetry_group
from parhelion.model.volume import Volume

BOX, PIXEL = 48, 4.0


def point_map(points, box=BOX, pixel=PIXEL, sigma=5.0):
    """Gaussians at ``points (n, 3)``, x, y, z in Å from the centre voxel."""
    axis = (np.arange(box) - box // 2) * pixel
    factors = [np.exp(-((axis[None] - points[:, i, None]) ** 2) / (2 * sigma**2)) for i in range(3)]
    data = np.einsum("pz,py,px->zyx", factors[2], factors[1], factors[0]).astype(np.float32)
    return Volume(data=data, pixel_size_angstrom=pixel)


@pytest.fixture(scope="module")
def points():
    rng = np.random.default_rng(3)
    ball = rng.normal(0, 1, (60, 3))
    ball *= rng.uniform(0, 1, (60, 1)) ** (1 / 3) / np.linalg.norm(ball, axis=1, keepdims=True)
    return ball * [60, 42, 28] + [4, 0, -6]


def angle_deg(a, b):
    return np.degrees(np.arccos(np.clip((np.trace(a.T @ b) - 1) / 2, -1, 1)))


@pytest.mark.parametrize("flipped", [False, True])
def test_a_known_transformation_is_found(points, flipped):
    """The moving map is drawn at transformed points, so no code of the alignment made it."""
    rng = np.random.default_rng(int(flipped))
    rotation, shift = Rotation.random(rng=rng).as_matrix(), rng.uniform(-15, 15, 3)
    linear = rotation @ (MIRROR if flipped else np.eye(3))
    moving = point_map((points - shift) @ linear)  # x_target = linear x_moving + shift
    moving.data[:] += rng.normal(0, 0.5 * moving.data.std(), moving.data.shape)
    found = align_maps(moving, point_map(points))
    assert found.hand_flipped == flipped
    assert angle_deg(found.rotation, rotation) < 0.5
    np.testing.assert_allclose(found.shift_xyz_angstrom, shift, atol=0.3)
    assert found.mean_fsc > 0.65
    np.testing.assert_allclose(found.fsc, fsc(found.aligned.data, point_map(points).data), atol=1e-6)


def test_another_grid_is_resampled(points):
    rotation = Rotation.random(rng=np.random.default_rng(5)).as_matrix()
    moving = point_map(points @ rotation, box=61, pixel=3.1)
    found = align_maps(moving, point_map(points))
    assert angle_deg(found.rotation, rotation) < 0.2
    assert found.aligned.data.shape == (BOX,) * 3
    assert found.fsc[1:18].min() > 0.98


def test_the_other_hand_is_left_alone_when_told_so(points):
    mirrored = point_map(points @ MIRROR)
    free = align_maps(mirrored, point_map(points))
    bound = align_maps(mirrored, point_map(points), allow_other_hand=False)
    assert free.hand_flipped
    assert not bound.hand_flipped
    assert free.mean_fsc > bound.mean_fsc + 0.2


def test_a_coarse_map_is_aligned_as_far_as_it_goes(points):
    rotation = Rotation.random(rng=np.random.default_rng(8)).as_matrix()
    moving = lowpass(point_map(points @ rotation), 30.0)
    noise = np.random.default_rng(9).normal(0, 0.2 * moving.data.std(), moving.data.shape)
    moving = Volume(data=(moving.data + noise).astype(np.float32), pixel_size_angstrom=PIXEL)
    found = align_maps(moving, point_map(points))
    assert angle_deg(found.rotation, rotation) < 3
    assert found.fsc_half_angstrom < 35


def test_symmetry_shortens_the_search_and_gives_an_equivalent_answer(points):
    group = symmetry_group("D2")
    whole = np.concatenate([points @ operator.T for operator in group.operators])
    rotation = Rotation.random(rng=np.random.default_rng(2)).as_matrix()
    found = align_maps(point_map(whole @ rotation), point_map(whole), symmetry=group)
    assert min(angle_deg(found.rotation, s @ rotation) for s in group.operators) < 0.2


def test_unlike_maps_do_not_agree(points):
    other = np.random.default_rng(11).normal(0, 20, (60, 3))
    assert align_maps(point_map(other), point_map(points)).fsc[12:20].mean() < 0.5


@pytest.mark.parametrize("flipped", [False, True])
def test_gradient_and_best_shift_agree_with_the_score(points, flipped):
    data, shells = point_map(points).data, 8
    rotation = Rotation.from_rotvec([0.1, -0.2, 0.15]).as_matrix()
    pose = Pose(rotation=rotation, flipped=flipped, shift=np.array([0.02, -0.01, 0.03]), score=0.0)
    comparison = MapComparison(data, data, shells)
    gradient, _ = comparison._derivatives(pose)
    step = 1e-3
    for axis in range(6):
        values = []
        for sign in (1, -1):
            delta = np.zeros(6)
            delta[axis] = sign * step
            turn = Rotation.from_rotvec(delta[:3]).as_matrix()
            moved = Pose(
                rotation=turn @ rotation,
                flipped=flipped,
                shift=turn @ pose.shift + delta[3:] / comparison.box,
                score=0.0,
            )
            values.append(comparison.score(moved))
        assert gradient[axis] == pytest.approx((values[0] - values[1]) / (2 * step), rel=0.05, abs=2e-2)
    score, shift = comparison.best_shifts(pose.linear[None])
    at_best = Pose(rotation=rotation, flipped=flipped, shift=shift[0], score=0.0)
    assert score[0] == pytest.approx(comparison.score(at_best), abs=1e-4)


def test_a_moved_volume_is_where_the_points_went(points):
    rotation = Rotation.from_rotvec([0.4, 0.5, -0.9]).as_matrix()
    shift = np.array([6.0, -4.0, 2.0])
    pose = Pose(rotation=rotation, flipped=True, shift=shift / (BOX * PIXEL), score=0.0)
    out = moved_volume(point_map(points, sigma=6.0).data, pose)
    expected = point_map(points @ (rotation @ MIRROR).T + shift, sigma=6.0).data
    assert np.corrcoef(out.ravel(), expected.ravel())[0, 1] > 0.999


def test_maps_that_cannot_be_aligned_are_refused(points):
    target = point_map(points)
    with pytest.raises(InputError, match="moving map is constant"):
        align_maps(Volume(data=np.zeros((16,) * 3), pixel_size_angstrom=2.0), target)
    with pytest.raises(ParameterError, match="search_angstrom"):
        align_maps(target, target, search_angstrom=-1)
