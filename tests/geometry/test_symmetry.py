"""Groups against RELION's operators, cisTEM's and EMAN2's tables, and the axioms of a group."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from parhelion.errors import ParameterError
from parhelion.geometry.rotations import exp_so3, from_eman2, random_rotations
from parhelion.geometry.so3 import sphere_grid
from parhelion.geometry.symmetry import (
    HelicalSymmetry,
    SymmetryGroup,
    asymmetric_unit_mask,
    axes,
    conjugate,
    helical_symmetry,
    symmetry_group,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "symmetry"
RELION_NAMES = ["C1", "C7", "D2", "D7", "T", "O", "I", "I1", "I2", "I3", "I4"]


def same_set(a: np.ndarray, b: np.ndarray, tolerance: float) -> bool:
    distance = np.abs(a[:, None] - b[None]).max(axis=(2, 3))
    return len(a) == len(b) and bool(
        (distance.min(axis=0) < tolerance).all() and (distance.min(axis=1) < tolerance).all()
    )


@pytest.mark.parametrize("name", RELION_NAMES)
def test_operators_are_relions(name: str) -> None:
    golden = np.array(json.loads((GOLDEN / f"relion_{name}.json").read_text()))
    # RELION prints five digits, computed from axes that are typed in with as few
    assert same_set(symmetry_group(name).operators, golden, 1e-4)


@pytest.mark.parametrize("name", [*RELION_NAMES, "C2", "C6", "D3", "D5"])
def test_operators_form_a_group(name: str) -> None:
    group = symmetry_group(name)
    R = group.operators
    np.testing.assert_array_equal(R[0], np.eye(3))
    np.testing.assert_allclose(np.linalg.det(R), 1.0, atol=1e-12)
    products = (R[:, None] @ R[None]).reshape(-1, 3, 3)
    distance = np.abs(products[:, None] - R[None]).max(axis=(2, 3))
    assert distance.min(axis=1).max() < 1e-12
    # every product occurs once per row of the multiplication table
    assert (np.bincount(distance.argmin(axis=1)) == len(R)).all()


@pytest.mark.parametrize("name", ["C5", "D4", "O"])
def test_scipy_agrees_for_c_d_and_o(name: str) -> None:
    assert same_set(symmetry_group(name).operators, Rotation.create_group(name).as_matrix(), 1e-12)


def test_i_is_i2_and_names_ignore_case() -> None:
    assert symmetry_group("i") == symmetry_group("I2")
    assert symmetry_group("i") != symmetry_group("I1")
    assert symmetry_group(" d7 ").name == "D7"


@pytest.mark.parametrize(
    ("cistem", "relion"), [("I", "I1"), ("I1", "I1"), ("I2", "I2"), ("T2", "T"), ("O", "O"), ("D7", "D7")]
)
def test_cistem_settings(cistem: str, relion: str) -> None:
    assert symmetry_group(cistem, setting="cistem") == symmetry_group(relion)


@pytest.mark.parametrize(
    ("name", "operator"),
    [  # one line each of cisTEM's table of symmetry matrices, which belongs to no other setting
        ("I1", [[-0.5, -0.309017, -0.809017], [-0.309017, -0.809017, 0.5], [-0.809017, 0.5, 0.309017]]),
        ("I2", [[0.5, -0.809017, -0.309017], [-0.809017, -0.309017, -0.5], [0.309017, 0.5, -0.809017]]),
        ("T", [[0.0, 0.0, -1.0], [-1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]),
        (
            "T2",
            [
                [-0.500005, -0.288678, -0.816495],
                [0.288671, 0.833331, -0.471411],
                [0.816493, -0.47141, -0.333332],
            ],
        ),
    ],
)
def test_cistem_operators(name: str, operator: list[list[float]]) -> None:
    distance = np.abs(symmetry_group(name, setting="cistem").operators - operator).max(axis=(1, 2))
    assert distance.min() < 2e-5


def _eman2_table(name: str) -> np.ndarray:
    """az, alt, phi of EMAN2's platonic groups: rings of faces at fixed altitudes."""
    if name == "oct":
        rings = [
            (0, [0], range(0, 360, 90)),
            (90, range(0, 360, 90), range(0, 360, 90)),
            (180, [0], range(0, 360, 90)),
        ]
        offset = 0
    elif name == "tet":
        rings = [(0, [0], range(0, 360, 120)), (109.4712, range(0, 360, 120), range(60, 360, 120))]
        offset = 0
    else:
        fifth, tenth = range(0, 360, 72), range(36, 360, 72)
        rings = [(0, [0], fifth), (63.4349, fifth, tenth), (116.5651, tenth, fifth), (180, [0], fifth)]
        offset = 90
    angles = [
        (az + offset, alt, phi - offset) for alt, all_az, all_phi in rings for az in all_az for phi in all_phi
    ]
    return from_eman2(*np.array(angles, float).T)


@pytest.mark.parametrize("name", ["tet", "oct", "icos"])
def test_eman2_operators(name: str) -> None:
    assert same_set(symmetry_group(name, setting="eman2").operators, _eman2_table(name), 1e-5)


def test_eman2_icos2_operator() -> None:
    operator = [[0.30902, -0.80902, 0.5], [0.80902, 0.5, 0.30902], [-0.5, 0.30902, 0.80902]]
    distance = np.abs(symmetry_group("icos2", setting="eman2").operators - operator).max(axis=(1, 2))
    assert distance.min() < 1e-5
    assert np.abs(symmetry_group("I2").operators - operator).max(axis=(1, 2)).min() > 0.1


@pytest.mark.parametrize("name", ["C0", "D", "X", "I5", "", "C1000", "TH", "c-2"])
def test_unknown_names_are_refused_with_what_is_known(name: str) -> None:
    with pytest.raises(ParameterError, match="I4"):
        symmetry_group(name)


def test_unknown_setting_and_helical_names_are_refused() -> None:
    with pytest.raises(ParameterError, match="cistem"):
        symmetry_group("C1", setting="imagic")
    with pytest.raises(ParameterError, match="helical"):
        symmetry_group("h12,1,5,5", setting="eman2")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("C1", {}), ("C5", {5: 1}), ("D2", {2: 3}), ("D7", {7: 1, 2: 7}),
        ("T", {3: 4, 2: 3}), ("O", {4: 3, 3: 4, 2: 6}), ("I3", {5: 6, 3: 10, 2: 15}),
    ],
)  # fmt: skip
def test_axes_have_the_folds_of_the_group(name: str, expected: dict[int, int]) -> None:
    group = symmetry_group(name)
    found = axes(group)
    counts = {fold: sum(axis.fold == fold for axis in found) for fold in {axis.fold for axis in found}}
    assert counts == expected
    assert [axis.fold for axis in found] == sorted((axis.fold for axis in found), reverse=True)
    for axis in found:
        turn = exp_so3(2 * np.pi / axis.fold * axis.direction)[0]
        assert np.abs(group.operators - turn).max(axis=(1, 2)).min() < 1e-9
    # a group of order g has g - 1 elements other than the identity, fold - 1 about each axis
    assert sum(axis.fold - 1 for axis in found) == len(group) - 1


@pytest.mark.parametrize("name", ["C2", "C7", "D2", "D7", "T", "O", "I1", "I4"])
def test_asymmetric_unit_holds_each_orbit_once(name: str) -> None:
    group = symmetry_group(name)
    directions = random_rotations(300, np.random.default_rng(5))[:, 2]
    images = directions @ np.swapaxes(group.operators, 1, 2)  # (g, n, 3)
    inside = asymmetric_unit_mask(images.reshape(-1, 3), group).reshape(images.shape[:2])
    assert (inside.sum(axis=0) == 1).all()
    grid = sphere_grid(4)
    assert asymmetric_unit_mask(grid, group).mean() == pytest.approx(1 / len(group), rel=0.06)


def test_a_direction_on_an_axis_is_kept_once() -> None:
    poles = np.array([[0.0, 0.0, 1.0], [0.0, 0.0, -1.0]])
    assert asymmetric_unit_mask(poles, symmetry_group("C7")).tolist() == [True, True]
    assert asymmetric_unit_mask(poles, symmetry_group("D7")).sum() == 1


def test_conjugate_turns_the_axes() -> None:
    quarter = exp_so3([[np.pi / 2, 0, 0]])[0]  # z to -y
    turned = axes(conjugate(symmetry_group("C5"), quarter))
    np.testing.assert_allclose(np.abs(turned[0].direction), [0, 1, 0], atol=1e-12)


def test_groups_are_values() -> None:
    assert symmetry_group("C2") == SymmetryGroup("any name", symmetry_group("c2").operators)
    assert len({symmetry_group("D2"), symmetry_group("D2")}) == 1


def test_helix_is_right_handed_like_relions() -> None:
    # measured on a helix of spheres that RELION made with --rise 10 --twist 30: it turns by +30° per 10 Å
    rotation, translation = HelicalSymmetry(twist_deg=30.0, rise_angstrom=10.0, units=3).operators()
    np.testing.assert_array_equal(rotation[0], np.eye(3))
    assert translation[:, 2].tolist() == [0.0, -10.0, 10.0]
    up = rotation[2] @ [1.0, 0.0, 0.0]
    assert np.degrees(np.arctan2(up[1], up[0])) == pytest.approx(30.0)


def test_helical_units_repeat_with_the_rotational_order() -> None:
    rotation, translation = HelicalSymmetry(twist_deg=20.0, rise_angstrom=5.0, order=2, units=8).operators()
    assert rotation.shape == (8, 3, 3)
    assert sorted(translation[:, 2].tolist()) == [-10, -10, -5, -5, 0, 0, 5, 5]
    np.testing.assert_allclose(rotation[1], np.diag([-1, -1, 1]), atol=1e-12)


def test_eman2_helix() -> None:
    # EMAN2's n-th operator of h<n>,<starts>,<daz>,<rise> is the matrix of az = n daz, moved up by n rises
    helix = helical_symmetry("h3,1,25,4.5,2")
    assert helix == HelicalSymmetry(twist_deg=-25, rise_angstrom=4.5, units=3, tilt_range_deg=2.0)
    rotation, translation = helix.operators()
    one_up = int(np.argmax(translation[:, 2]))
    np.testing.assert_allclose(rotation[one_up], from_eman2(25.0, 0.0, 0.0)[0], atol=1e-12)
    assert helical_symmetry("H6:2:30:10").order == 2


@pytest.mark.parametrize(
    "name", ["h12", "h12,1,5", "12,1,5,5", "h12,1,x,5", "h1,1,1,1,1,1", "h5,2,10,3", "h3,1,10,0"]
)
def test_bad_helical_names_are_refused(name: str) -> None:
    with pytest.raises(ParameterError):
        helical_symmetry(name)
