"""demo: a molecule is made, movies of it are simulated, solved and compared, without any input."""

import numpy as np
import pytest

from parhelion.algorithms.simulate.demo_molecule import demo_molecule
from parhelion.errors import ParameterError
from parhelion.geometry.symmetry import symmetry_group
from parhelion.io.mrc import read_volume

TINY = {
    "count": 2,
    "size": 360,
    "frames": 4,
    "dose_per_frame": 9,
    "particles_per_movie": 24,
    "pixel_size": 4,
    "final_pixel_size": 5,
    "diameter": 150,
    "starts": 1,
    "rounds": 2,
    "max_rounds": 1,
}


def test_the_demonstration_runs_from_end_to_end(run) -> None:
    found = run("demo", **TINY)
    assert set(found.outputs) == {"molecule", "potential", "map", "aligned", "fsc", "particles"}
    aligned, molecule = (read_volume(found.outputs[name]) for name in ("aligned", "molecule"))
    assert aligned.data.shape == molecule.data.shape
    assert 4 < aligned.pixel_size_angstrom <= 5
    assert found.figures["fsc_half_against_truth_angstrom"] >= 10
    assert found.figures["true_particles"] == 48
    assert 15 < found.figures["picked_particles"] <= 55
    steps = {path.name for path in (found.folder / "02_spa").glob("0*")}
    assert steps == {
        "01_motion",
        "02_ctf",
        "03_pick",
        "04_extract",
        "05_abinitio",
        "06_refine",
        "07_postprocess",
    }
    assert any("agrees with the molecule to" in note for note in found.notices)
    assert any("report.html" in note for note in found.notices)
    report = (found.folder / "report.html").read_text(encoding="utf-8")
    for shown in (
        "Comparison with the truth",
        "Simulated movies",
        "From movies to a map",
        "What was decided",
        "Lowest merit of a pick",
        "FSC 0.5",
    ):
        assert shown in report


@pytest.mark.parametrize("name", ["C1", "C3", "D2"])
def test_the_molecule_has_its_symmetry_and_size(name) -> None:
    group = symmetry_group(name)
    made = demo_molecule(40, 4.0, symmetry=group, diameter_angstrom=130).data
    z, y, x = (np.indices(made.shape) - 20) * 4.0
    outside = np.sqrt(x**2 + y**2 + z**2) > 75
    assert np.abs(made[outside]).max() < 0.02 * made.max()
    half_turn = np.roll(made[:, ::-1, ::-1], (1, 1), axis=(1, 2))
    inside = (slice(1, None),) * 3
    alike = np.corrcoef(made[inside].ravel(), half_turn[inside].ravel())[0, 1]
    assert (alike > 0.999) == (name == "D2")
    residues = made.sum() / len(group)
    assert abs(residues - round(float(residues))) < 0.05
    other = demo_molecule(40, 4.0, symmetry=group, diameter_angstrom=130, seed=1).data
    assert np.corrcoef(made.ravel(), other.ravel())[0, 1] < 0.95


def test_a_molecule_that_does_not_fit_is_refused(run) -> None:
    with pytest.raises(ParameterError, match="diameter from 60"):
        demo_molecule(32, 3.0, symmetry=symmetry_group("C1"), diameter_angstrom=120)
    with pytest.raises(ParameterError, match="too small for symmetry O"):
        demo_molecule(32, 3.0, symmetry=symmetry_group("O"), diameter_angstrom=61)
