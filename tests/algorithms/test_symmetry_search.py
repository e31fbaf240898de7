"""The axes of a point group are found again after a known rotation and shift, through noise."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from parhelion.algorithms.map_comparison import Pose, moved_volume
from parhelion.algorithms.simulate.density import density_from_model
from parhelion.algorithms.symmetry_search import find_symmetry, impose_symmetry
from parhelion.errors import InputError, MetadataError, ParameterError
from parhelion.fourier.filters import lowpass
from parhelion.geometry.symmetry import axes, symmetry_group
from parhelion.model.volume import Volume

BOX, PIXEL = 48, 4.0


def point_map(points, sigma=7.0):
    """Gaussians at ``points (n, 3)``, x, y, z in Å from the centre voxel."""
    axis = (np.arange(BOX) - BOX // 2) * PIXEL
    factors = [np.exp(-((axis[None] - points[:, i, None]) ** 2) / (2 * sigma**2)) for i in range(3)]
    data = np.einsum("pz,py,px->zyx", factors[2], factors[1], factors[0]).astype(np.float32)
    return Volume(data=data, pixel_size_angstrom=PIXEL)


def subunit(group, seed=4):
    """Points of one subunit, off the axes and small enough that its copies do not fill a sphere."""
    centre = np.array([0.35, 0.2, 0.9]) / np.linalg.norm([0.35, 0.2, 0.9])
    spread = 14.0 if len(group) < 30 else 6.0
    return 50 * centre + np.random.default_rng(seed).normal(0, spread, (8, 3))


def copies(points, group):
    return (points @ group.operators.transpose(0, 2, 1)).reshape(-1, 3)


def with_noise(volume, ratio, seed):
    """Noise of ``ratio`` times the map's standard deviation, both to 20 Å."""
    smooth = lowpass(volume, 20.0).data
    noise = np.random.default_rng(seed).normal(size=smooth.shape).astype(np.float32)
    noise = lowpass(Volume(data=noise, pixel_size_angstrom=volume.pixel_size_angstrom), 20.0).data
    data = smooth + noise * (ratio * smooth.std() / noise.std())
    return Volume(data=data, pixel_size_angstrom=volume.pixel_size_angstrom)


def axis_error_deg(fit, group, turn):
    """The largest angle between an axis of the map, ``turn a``, and the nearest one found of that fold."""
    errors = []
    for axis in axes(group):
        alike = [a.direction @ fit.rotation for a in axes(group) if a.fold == axis.fold]
        errors.append(max(abs(direction @ turn @ axis.direction) for direction in alike))
    return np.degrees(np.arccos(np.clip(min(errors), -1, 1)))


def centre_error(fit, group, centre, turn):
    """Distance in Å of the centre found from the true one; for one axis, from that axis."""
    off = -fit.rotation.T @ fit.shift_xyz_angstrom - centre
    if len(axes(group)) == 1:
        along = turn @ axes(group)[0].direction
        off = off - along * (along @ off)
    return np.linalg.norm(off)


@pytest.mark.parametrize("name", ["C2", "C3", "D2", "D7", "T", "O", "I"])
def test_the_axes_are_found_in_a_turned_and_shifted_map(name):
    """The map is drawn at moved points, so no code of the search made it."""
    group = symmetry_group(name)
    turn = Rotation.from_rotvec([0.7, -1.1, 0.4]).as_matrix()
    centre = np.array([6.0, -9.0, 5.0])
    moved = point_map(copies(subunit(group), group) @ turn.T + centre)
    fit = find_symmetry(with_noise(moved, 0.7, seed=1), group)
    assert axis_error_deg(fit, group, turn) < 2.0
    assert centre_error(fit, group, centre, turn) < PIXEL
    assert 0.45 < fit.correlation < 0.95


def test_points_go_to_rotation_times_point_plus_shift():
    """``aligned`` shows the map where the convention says, in the frame of the group."""
    group = symmetry_group("D3")
    turn, centre = Rotation.from_rotvec([0.2, 0.9, -0.5]).as_matrix(), np.array([-7.0, 3.0, 8.0])
    points = copies(subunit(group), group) @ turn.T + centre
    fit = find_symmetry(point_map(points), group)
    expected = point_map(points @ fit.rotation.T + fit.shift_xyz_angstrom).data
    assert np.corrcoef(fit.aligned.data.ravel(), expected.ravel())[0, 1] > 0.999
    assert np.corrcoef(fit.symmetrised.data.ravel(), expected.ravel())[0, 1] > 0.98
    assert np.linalg.det(fit.rotation) == pytest.approx(1.0)
    assert fit.correlation > 0.97


def test_a_cyclic_map_is_neither_spun_nor_slid_along_its_axis():
    group = symmetry_group("C3")
    points = copies(subunit(group), group)
    tilt = Rotation.from_rotvec([0.5, 0.0, 0.0]).as_matrix()
    moved = points @ tilt.T + [4.0, 0.0, -6.0]
    fit = find_symmetry(point_map(moved), group)
    # The smallest rotation back to z undoes the tilt; the centre of mass ends in the centre voxel.
    assert np.degrees(Rotation.from_matrix(fit.rotation @ tilt).magnitude()) < 1.5
    assert fit.rotation @ moved.mean(axis=0) + fit.shift_xyz_angstrom == pytest.approx(np.zeros(3), abs=4.0)


def test_a_wrong_group_correlates_clearly_less():
    group = symmetry_group("D2")
    volume = with_noise(point_map(copies(subunit(group), group)), 0.5, seed=2)
    right = find_symmetry(volume, group).correlation
    assert right > 0.6
    assert find_symmetry(volume, symmetry_group("D3")).correlation < right - 0.25
    asymmetric = with_noise(point_map(np.random.default_rng(5).normal(0, 25, (40, 3))), 0.5, seed=2)
    assert find_symmetry(asymmetric, group).correlation < right - 0.25


def test_no_symmetry_leaves_the_map_alone():
    volume = point_map(subunit(symmetry_group("C1")))
    fit = find_symmetry(volume, symmetry_group("C1"))
    assert fit.correlation == 1.0
    assert (fit.rotation == np.eye(3)).all() and (fit.shift_xyz_angstrom == 0).all()
    assert (fit.aligned.data == volume.data).all() and (fit.symmetrised.data == volume.data).all()


@pytest.mark.parametrize("name", ["C5", "O", "I"])
def test_imposed_symmetry_is_the_mean_of_the_copies(name):
    group = symmetry_group(name)
    points = subunit(group)
    imposed = impose_symmetry(point_map(points), group).data
    expected = point_map(copies(points, group)).data / len(group)
    assert np.abs(imposed - expected).max() < 0.03 * expected.max()


def test_imposed_symmetry_keeps_the_level_of_the_solvent():
    volume = point_map(subunit(symmetry_group("C4")))
    raised = Volume(data=volume.data + 3, pixel_size_angstrom=PIXEL)
    group = symmetry_group("C4")
    change = impose_symmetry(raised, group).data - impose_symmetry(volume, group).data
    assert np.abs(change - 3).max() < 1e-3


@pytest.mark.parametrize(
    ("file", "name", "pixel"),
    [("beta_galactosidase_5a1a_D2.cif", "D2", 4.0), ("apoferritin_6z6u_O.pdb", "O", 4.0)],
)
def test_real_structures_are_set_upright(test_data, file, name, pixel):
    """The frame found in a moved, noisy map is that of the clean one."""
    group = symmetry_group(name)
    clean = density_from_model(
        test_data / "models" / file, 64, pixel, resolution_angstrom=12.0, symmetry=group
    )
    turn, centre = Rotation.random(random_state=3).as_matrix(), np.array([5.0, -8.0, 3.0])
    pose = Pose(rotation=turn, flipped=False, shift=centre / (64 * pixel), score=0.0)
    moved = Volume(data=moved_volume(clean.data, pose), pixel_size_angstrom=pixel)
    fit = find_symmetry(with_noise(moved, 0.7, seed=3), group, resolution_angstrom=18.0)
    assert axis_error_deg(fit, group, turn) < 2.0
    assert centre_error(fit, group, centre, turn) < pixel
    assert fit.correlation > 0.5


def test_refused():
    group = symmetry_group("D2")
    good = point_map(subunit(group))
    with pytest.raises(ParameterError, match="resolution_angstrom"):
        find_symmetry(good, group, resolution_angstrom=0.0)
    for data in (np.zeros((32, 32, 32)), np.full((32, 32, 32), np.nan), np.eye(8)[None] * np.ones((8, 8, 8))):
        with pytest.raises(InputError):
            find_symmetry(Volume(data=data, pixel_size_angstrom=4.0), group)
    with pytest.raises(MetadataError, match="cubic"):
        find_symmetry(Volume(data=np.ones((16, 16, 18)), pixel_size_angstrom=4.0), group)
