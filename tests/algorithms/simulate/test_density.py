"""Densities from atomic models: absolute scale, centre, assembly, symmetry, and what does not fit."""

import gemmi
import numpy as np
import pytest

from parhelion.algorithms.simulate.atomic_model import atom_positions, centre_of_mass, read_model
from parhelion.algorithms.simulate.density import density_from_model
from parhelion.algorithms.simulate.symmetry_axes import align_symmetry_axes
from parhelion.errors import FormatError, InputError, ParameterError
from parhelion.fourier.shells import fsc, spectrum
from parhelion.geometry.rotations import exp_so3
from parhelion.geometry.symmetry import symmetry_group


class Notices:
    def __init__(self):
        self.messages = []

    def notice(self, message):
        self.messages.append(message)

    def progress(self, stage, done, total):
        pass

    def record(self, table, **values):
        pass


def pdb_line(number, name, residue, chain, place, b_iso=20.0, kind="ATOM"):
    x, y, z = place
    return (
        f"{kind:<6}{number:>5}  {name:<3} {residue:<3} {chain}{number % 9999:>4}    "
        f"{x:8.3f}{y:8.3f}{z:8.3f}  1.00{b_iso:6.2f}          {name[0]:>2}"
    )


def write_points(path, points, names=None, chain="A", extra=()):
    lines = [
        pdb_line(i + 1, (names or ["CA"] * len(points))[i], "ALA", chain, p) for i, p in enumerate(points)
    ]
    path.write_text("\n".join([*extra, *lines, "END"]) + "\n")


def blob(seed=0, count=150, offset=(40.0, 0.0, 10.0)):
    return np.random.default_rng(seed).normal(0, 9, (count, 3)) + offset


def test_integral_is_the_sum_of_forward_scattering(tmp_path):
    points = blob(count=30)
    write_points(tmp_path / "m.pdb", points)
    volume = density_from_model(tmp_path / "m.pdb", 48, 2.0, solvent=False)
    expected = 30 * sum(gemmi.Element("C").c4322.a) * 47.87801
    assert volume.data.sum() * 2.0**3 == pytest.approx(expected, rel=2e-3)
    # displaced ice and riding hydrogens: 4.53 V times 17.2 Å³ less 0.5288 Å · 47.878 V Å² per atom
    less = density_from_model(tmp_path / "m.pdb", 48, 2.0, solvent=True)
    assert (volume.data - less.data).sum() * 8 == pytest.approx(
        30 * (4.53 * 17.2 - 0.5288 * 47.87801), rel=1e-3
    )


@pytest.mark.parametrize("box", [40, 41])
def test_the_centre_of_mass_is_on_the_centre_voxel(tmp_path, box):
    write_points(tmp_path / "m.pdb", blob())
    data = density_from_model(tmp_path / "m.pdb", box, 3.0, solvent=False).data
    axis = np.arange(box) - box // 2
    for direction in range(3):
        others = tuple(a for a in range(3) if a != direction)
        assert abs((data.sum(others) * axis).sum() / data.sum()) < 0.05


def test_nothing_folds_back_from_beyond_nyquist(tmp_path):
    """Coarse pixels hold the same Fourier coefficients as fine ones."""
    write_points(tmp_path / "m.pdb", blob())
    coarse = density_from_model(tmp_path / "m.pdb", 32, 4.0)
    fine = density_from_model(tmp_path / "m.pdb", 64, 2.0)
    ratio = spectrum(coarse.data)[1:16] * 8 / spectrum(fine.data)[1:16]
    np.testing.assert_allclose(ratio, 1, atol=0.01)


def test_resolution_and_bfactor_act(tmp_path):
    write_points(tmp_path / "m.pdb", blob())
    plain = spectrum(density_from_model(tmp_path / "m.pdb", 48, 2.0).data)
    low = spectrum(density_from_model(tmp_path / "m.pdb", 48, 2.0, resolution_angstrom=8.0).data)
    assert low[14:].max() < 1e-6 * plain.max()
    damped = spectrum(density_from_model(tmp_path / "m.pdb", 48, 2.0, extra_bfactor_angstrom2=80.0).data)
    assert damped[15] / plain[15] == pytest.approx(np.exp(-80 / 2 * (15 / 96) ** 2), rel=0.05)


def test_the_biological_assembly_is_built_and_said(tmp_path):
    remarks = (
        "REMARK 350 BIOMOLECULE: 1",
        "REMARK 350 APPLY THE FOLLOWING TO CHAINS: A,",
        "REMARK 350 B",
        "REMARK 350   BIOMT1   1  1.000000  0.000000  0.000000        0.00000",
        "REMARK 350   BIOMT2   1  0.000000  1.000000  0.000000        0.00000",
        "REMARK 350   BIOMT3   1  0.000000  0.000000  1.000000        0.00000",
        "REMARK 350   BIOMT1   2 -1.000000  0.000000  0.000000        0.00000",
        "REMARK 350   BIOMT2   2  0.000000 -1.000000  0.000000        0.00000",
        "REMARK 350   BIOMT3   2  0.000000  0.000000  1.000000        0.00000",
    )
    points = blob(count=20)
    lines = [pdb_line(i + 1, "CA", "ALA", "AB"[i % 2], p) for i, p in enumerate(points)]
    water = pdb_line(90, "O", "HOH", "A", (0, 0, 0), kind="HETATM")
    (tmp_path / "m.pdb").write_text("\n".join([*remarks, *lines, water, "END"]) + "\n")
    notices = Notices()
    structure = read_model(tmp_path / "m.pdb", notices)
    assert len(atom_positions(structure)[0]) == 40
    np.testing.assert_allclose(centre_of_mass(structure)[:2], 0, atol=1e-3)
    assert any("assembly 1 built" in m for m in notices.messages)
    assert any("water" in m for m in notices.messages)


def test_a_model_larger_than_the_box_is_refused_with_numbers(tmp_path):
    write_points(tmp_path / "m.pdb", [(0, 0, 0), (100, 0, 0)])
    with pytest.raises(ParameterError, match=r"reaches 53 Å.*box of at least 36"):
        density_from_model(tmp_path / "m.pdb", 32, 3.0)


def test_unreadable_and_empty_models_are_refused(tmp_path):
    with pytest.raises(FormatError, match=r"none\.pdb"):
        read_model(tmp_path / "none.pdb")
    (tmp_path / "empty.pdb").write_text("END\n")
    with pytest.raises(FormatError, match="no atoms"):
        read_model(tmp_path / "empty.pdb")
    (tmp_path / "bad.cif").write_text("this is not a model")
    with pytest.raises(FormatError, match=r"bad\.cif"):
        read_model(tmp_path / "bad.cif")


def symmetric_points(name, tilt):
    base = np.random.default_rng(4).normal(0, 8, (60, 3)) + np.array([22, 6, 12])
    whole = np.concatenate([base @ r.T for r in symmetry_group(name).operators])
    return whole @ exp_so3(np.array(tilt))[0].T


@pytest.mark.parametrize(
    ("name", "tilt"), [("C3", (0.03, -0.02, 0.4)), ("D2", (0.05, 0.04, -0.06)), ("T", (1, 2, 0.5))]
)
def test_symmetry_axes_are_turned_into_the_setting(tmp_path, name, tilt):
    write_points(tmp_path / "m.pdb", symmetric_points(name, tilt))
    group = symmetry_group(name)
    structure = read_model(tmp_path / "m.pdb")
    frame = align_symmetry_axes(structure, group)
    assert frame.deviation_angstrom < 0.01
    assert frame.matched_share == 1
    points = (atom_positions(structure)[0] - centre_of_mass(structure)) @ frame.rotation.T
    for operator in group.operators:
        turned = points @ operator.T
        nearest = np.linalg.norm(turned[:, None] - points[None], axis=2).min(axis=1)
        assert nearest.max() < 0.05
    if name == "C3":  # the turn about the axis itself is free, and not made
        assert frame.turn_deg < 3


def test_a_density_with_symmetry_is_the_average_over_the_group(tmp_path):
    points = symmetric_points("C2", (0, 0, 0)) + np.random.default_rng(6).normal(0, 0.3, (120, 3))
    write_points(tmp_path / "m.pdb", points)
    notices = Notices()
    group = symmetry_group("C2")
    data = density_from_model(tmp_path / "m.pdb", 48, 2.5, symmetry=group, observer=notices).data
    turned = np.roll(data[:, ::-1, ::-1], (1, 1), axis=(1, 2))
    assert fsc(data, turned)[1:].min() > 0.999
    assert any("averaged over the 2 operators" in m for m in notices.messages)


def test_a_symmetry_that_the_model_lacks_is_refused(tmp_path):
    write_points(tmp_path / "m.pdb", symmetric_points("C2", (0, 0, 0)))
    with pytest.raises(InputError, match="does not have D3 symmetry"):
        align_symmetry_axes(read_model(tmp_path / "m.pdb"), symmetry_group("D3"))


@pytest.mark.long
@pytest.mark.parametrize(
    ("file", "name", "most"), [("groel_1mnf_D7.pdb", "D7", 0.5), ("spike_6vxx_C3.pdb", "C3", 0.01)]
)
def test_deposited_models_have_their_symmetry(test_data, file, name, most):
    structure = read_model(test_data / "models" / file)
    frame = align_symmetry_axes(structure, symmetry_group(name))
    assert frame.deviation_angstrom < most
    assert frame.turn_deg < 3
