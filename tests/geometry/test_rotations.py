"""Rotations against their definitions, other packages' conventions, and recorded poses of other programs."""

from pathlib import Path

import numpy as np
import pytest
import starfile
from hypothesis import given, settings
from hypothesis import strategies as st

from parhelion.errors import MetadataError
from parhelion.geometry import rotations as rot
from parhelion.geometry.symmetry import symmetry_group

HAND = np.diag([1.0, 1.0, -1.0])


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def rotation_about(axis: str, angle_deg: float) -> np.ndarray:
    c, s = np.cos(np.radians(angle_deg)), np.sin(np.radians(angle_deg))
    return np.array({"x": [[1, 0, 0], [0, c, -s], [0, s, c]], "y": [[c, 0, s], [0, 1, 0], [-s, 0, c]],
                     "z": [[c, -s, 0], [s, c, 0], [0, 0, 1]]}[axis])  # fmt: skip


def test_relion_matrix_is_that_of_the_package() -> None:
    # RELION's Euler_angles2matrix, written out for rot, tilt, psi = a, b, g
    a, b, g = np.radians([30.0, 50.0, -110.0])
    ca, cb, cg, sa, sb, sg = np.cos(a), np.cos(b), np.cos(g), np.sin(a), np.sin(b), np.sin(g)
    expected = [
        [cg * cb * ca - sg * sa, cg * cb * sa + sg * ca, -cg * sb],
        [-sg * cb * ca - cg * sa, -sg * cb * sa + cg * ca, sg * sb],
        [sb * ca, sb * sa, cb],
    ]
    np.testing.assert_allclose(rot.from_relion(30.0, 50.0, -110.0)[0], expected, atol=1e-14)


def test_eman2_matrix_is_that_of_the_package() -> None:
    # EMAN2's Transform for az, alt, phi (the x-convention of Goldstein)
    az, alt, phi = np.radians([40.0, 65.0, 200.0])
    c, s = np.cos, np.sin
    top = [
        c(phi) * c(az) - c(alt) * s(az) * s(phi),
        c(phi) * s(az) + c(alt) * c(az) * s(phi),
        s(alt) * s(phi),
    ]
    bottom = [s(alt) * s(az), -s(alt) * c(az), c(alt)]
    A = rot.from_eman2(40.0, 65.0, 200.0)[0]
    np.testing.assert_allclose(A[0], top, atol=1e-14)
    np.testing.assert_allclose(A[2], bottom, atol=1e-14)


def test_cryosparc_vector_is_the_transposed_exponential() -> None:
    # a quarter turn about z carries x to y in the exponential; cryoSPARC's pose is its transpose
    A = rot.from_cryosparc([[0.0, 0.0, np.pi / 2]])[0]
    np.testing.assert_allclose(A @ [0.0, 1.0, 0.0], [1.0, 0.0, 0.0], atol=1e-14)
    np.testing.assert_allclose(rot.to_relion(A[None])[0], [0.0, 0.0, 90.0], atol=1e-12)


def test_spider_and_frealign_share_relions_matrix() -> None:
    expected = rot.from_relion(10.0, 20.0, 30.0)
    np.testing.assert_array_equal(rot.from_spider(10.0, 20.0, 30.0), expected)
    np.testing.assert_array_equal(rot.from_frealign(10.0, 20.0, 30.0), expected)


@pytest.mark.parametrize("name", ["relion", "frealign", "spider", "eman2", "cryosparc"])
def test_every_convention_returns_the_matrix_it_was_given(name: str, rng: np.random.Generator) -> None:
    A = rot.random_rotations(300, rng)
    angles = getattr(rot, f"to_{name}")(A)
    back = getattr(rot, f"from_{name}")(*((angles,) if name == "cryosparc" else angles.T))
    assert rot.angle_between(back, A).max() < 1e-9


@settings(max_examples=200, deadline=None)
@given(
    st.floats(-180, 180),
    st.sampled_from([0.0, 1e-12, 1e-9, 1e-5, 90.0, 180 - 1e-9, 180.0]),
    st.floats(-180, 180),
)
def test_relion_angles_return_the_matrix_at_the_poles_too(first: float, tilt: float, psi: float) -> None:
    A = rot.from_relion(first, tilt, psi)
    assert rot.angle_between(rot.from_relion(*rot.to_relion(A).T), A)[0] < 1e-7


def test_angles_at_the_pole_have_rot_zero() -> None:
    np.testing.assert_allclose(
        rot.to_relion(rot.from_relion(20.0, 0.0, 15.0))[0], [0.0, 0.0, 35.0], atol=1e-12
    )


def test_angles_that_are_no_numbers_are_refused_with_the_row() -> None:
    with pytest.raises(MetadataError, match=r"tilt of 1 of 3 particles.*row 2"):
        rot.from_relion([0, 0, 0], [0, np.nan, 0], 0.0)


@pytest.mark.parametrize("angle", [1e-9, 1e-4, 3.0, 90.0, 179.9, 180.0])
def test_angle_between_is_accurate_from_zero_to_pi(angle: float, rng: np.random.Generator) -> None:
    A = rot.random_rotations(20, rng)
    axis = rng.normal(size=(20, 3))
    w = np.radians(angle) * axis / np.linalg.norm(axis, axis=1, keepdims=True)
    np.testing.assert_allclose(rot.angle_between(A, rot.exp_so3(w) @ A), angle, rtol=1e-6, atol=2e-6)


def test_exponential_is_right_handed_and_the_logarithm_its_inverse(rng: np.random.Generator) -> None:
    np.testing.assert_allclose(rot.exp_so3([[0, 0, np.pi / 2]])[0] @ [1, 0, 0], [0, 1, 0], atol=1e-15)
    w = rng.normal(size=(50, 3)) * 0.8
    np.testing.assert_allclose(rot.log_so3(rot.exp_so3(w)), w, atol=1e-12)


def test_random_rotations_are_uniform(rng: np.random.Generator) -> None:
    A = rot.random_rotations(20000, rng)
    assert np.abs(np.linalg.det(A) - 1).max() < 1e-12
    # the angle θ of a uniform rotation has the density (1 - cos θ)/π: its mean is π/2 + 2/π
    mean = np.radians(rot.angle_between(A, np.eye(3))).mean()
    assert mean == pytest.approx(np.pi / 2 + 2 / np.pi, abs=0.02)
    assert np.abs(A.mean(axis=0)).max() < 0.02


def test_mean_rotation_finds_the_centre(rng: np.random.Generator) -> None:
    centre = rot.random_rotations(1, rng)[0]
    w = rng.normal(size=(200, 3)) * 0.1
    A = np.concatenate([rot.exp_so3(w), rot.exp_so3(-w)]) @ centre
    assert rot.angle_between(rot.mean_rotation(A), centre) < 1e-6
    far = rot.exp_so3([[0, 0, 2.0]]) @ centre
    weighted = rot.mean_rotation(np.concatenate([A, far]), np.append(np.ones(len(A)), 0.0))
    assert rot.angle_between(weighted, centre) < 1e-6


@pytest.mark.parametrize("other_hand", [False, True])
@pytest.mark.parametrize("name", ["C1", "D7", "O", "I2"])
def test_align_poses_recovers_rotation_hand_and_translation(name: str, other_hand: bool) -> None:
    rng = np.random.default_rng(3)
    n = 300
    operators = symmetry_group(name).operators
    truth = rot.random_rotations(n, rng)
    q = rot.random_rotations(1, rng)[0]
    noise = rot.exp_so3(np.radians(1.0) * rng.normal(size=(n, 3)))
    estimate = noise @ truth @ operators[rng.integers(len(operators), size=n)] @ q
    wrong = rng.random(n) < 0.4
    estimate[wrong] = rot.random_rotations(int(wrong.sum()), rng)
    if other_hand:
        estimate = HAND @ estimate @ HAND
    found = rot.align_poses(estimate, truth, operators, allow_other_hand=True)
    assert found.mirrored == other_hand
    assert min(rot.angle_between(found.rotation, operators @ q)) < 0.4
    assert np.median(found.error_deg[~wrong]) < 2.0

    # a map displaced by d: every shift changes by the in-plane part of the turned d
    displacement = np.array([3.0, -2.0, 5.0])
    shift_true = rng.normal(size=(n, 3))
    shift_est = shift_true.copy()
    shift_est[:, :2] += np.einsum("nij,j->ni", found.rotation_true_frame[:, :2], displacement)
    error, translation = rot.shift_error(shift_est, shift_true, found)
    np.testing.assert_allclose(translation, displacement, atol=1e-6)
    assert error.max() < 1e-6


def test_align_poses_without_error_is_exact(rng: np.random.Generator) -> None:
    truth = rot.random_rotations(40, rng)
    q = rot.random_rotations(1, rng)[0]
    found = rot.align_poses(truth @ q, truth)
    assert rot.angle_between(found.rotation, q) < 1e-6
    assert found.error_deg.max() < 1e-6


def test_align_poses_refuses_sets_of_different_length(rng: np.random.Generator) -> None:
    with pytest.raises(MetadataError, match="equal"):
        rot.align_poses(rot.random_rotations(3, rng), rot.random_rotations(4, rng))


def _truth(test_data: Path) -> tuple[np.ndarray, np.ndarray, list[str]]:
    table = starfile.read(test_data / "blob_particles" / "truth.star")["particles"]
    A = rot.from_relion(*table[["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]].to_numpy().T)
    return A, table[["rlnOriginXAngst", "rlnOriginYAngst"]].to_numpy(), list(table["rlnImageName"])


def test_cistem_poses_agree_with_the_truth(test_data: Path) -> None:
    A, shift, _ = _truth(test_data)
    table = starfile.read(test_data / "peers" / "blob_cistem_auto_refine.star")
    names = ["cisTEMAnglePhi", "cisTEMAngleTheta", "cisTEMAnglePsi"]
    found = rot.align_poses(rot.from_frealign(*table[names].to_numpy().T), A, allow_other_hand=True)
    assert not found.mirrored
    assert rot.angle_between(found.rotation, np.eye(3)) < 3.0
    assert np.median(found.error_deg) == pytest.approx(7.7, abs=0.2)
    # cisTEM's shifts have the opposite sign
    error, translation = rot.shift_error(-table[["cisTEMXShift", "cisTEMYShift"]].to_numpy(), shift, found)
    assert np.median(error) < 1.2
    assert np.linalg.norm(translation) < 2.0


def test_relion_poses_agree_with_the_truth(test_data: Path) -> None:
    A, shift, images = _truth(test_data)
    table = starfile.read(test_data / "peers" / "blob_relion5_auto_refine.star")["particles"]
    table = table.set_index("rlnImageName").loc[images]
    estimate = rot.from_relion(*table[["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]].to_numpy().T)
    found = rot.align_poses(estimate, A)
    assert np.median(found.error_deg) == pytest.approx(4.35, abs=0.15)
    error, _ = rot.shift_error(table[["rlnOriginXAngst", "rlnOriginYAngst"]].to_numpy(), shift, found)
    assert np.median(error) < 0.8
