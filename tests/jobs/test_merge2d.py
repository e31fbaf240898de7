"""merge2d: parts classified apart make the classes of one run; what does not belong together is refused."""

import numpy as np
import pytest

from parhelion.errors import FormatError, InputError, ParameterError
from parhelion.io.mrc import open_stack
from parhelion.io.particles import read_particles
from parhelion.io.star import read_star

QUICK = {"diameter": 84, "initial_resolution": 20, "final_resolution": 14, "contrast": "white"}
ONE = {**QUICK, "cycles": 1, "select_score": 0.0}


@pytest.fixture
def particles(simulate):
    return simulate(count=70, snr=1.0, shift=4)["particles"]


@pytest.fixture
def references(run, particles, tmp_path):
    found = run("class2d", input=particles, **QUICK, classes=4, cycles=3, output=tmp_path / "first")
    return found.outputs["classes"]


def part(run, particles, references, first, last, folder, **other):
    options = {**ONE, "references": references, "first": first, "last": last, **other}
    return run("class2d", input=particles, **options, partial_sums=True, output=folder).outputs["sums"]


def test_parts_make_the_classes_of_one_run(run, particles, references, tmp_path) -> None:
    whole = run("class2d", input=particles, **ONE, references=references, output=tmp_path / "whole")
    sums = [
        part(run, particles, references, first, last, tmp_path / f"part{first}")
        for first, last in ((1, 25), (26, 60), (61, None))
    ]
    merged = run("merge2d", input=sums, particles=particles, select_score=0.0)
    count = np.arange(4)
    one, other = (open_stack(found.outputs["classes"]).read(count) for found in (whole, merged))
    np.testing.assert_allclose(other, one, atol=2e-4 * np.abs(one).max())
    first, second = (read_star(found.outputs["table"])["model_classes"] for found in (whole, merged))
    for column in ("parhelionMembers", "rlnClassDistribution", "rlnClassScore", "rlnEstimatedResolution"):
        np.testing.assert_allclose(np.asarray(second[column]), np.asarray(first[column]), atol=2e-3)
    first, second = (read_particles(found.outputs["selected"]) for found in (whole, merged))
    np.testing.assert_array_equal(second.class_number, first.class_number)
    np.testing.assert_allclose(second.shift_xyz_angstrom, first.shift_xyz_angstrom, atol=1e-2)
    for column in ("cisTEMSigma", "parhelionScale"):
        np.testing.assert_allclose(second.extra[column], first.extra[column], atol=2e-3)
    assert merged.figures["parts"] == 3
    assert merged.figures["particles"] == 70


def test_the_next_cycle_in_parts_starts_from_the_merged_table(run, particles, references, tmp_path) -> None:
    """A pattern names the files, as a seed and a number do in cisTEM; sigma and scale go on."""
    for first, last in ((1, 40), (41, None)):
        part(run, particles, references, first, last, tmp_path / f"part{first}")
    pattern = str(tmp_path / "part*" / "sums.npz")
    merged = run("merge2d", input=pattern, particles=particles, select="none", output=tmp_path / "merged")
    assert merged.figures["parts"] == 2
    table, classes = merged.outputs["particles"], merged.outputs["classes"]
    whole = run("class2d", input=table, **ONE, references=classes, local=True, output=tmp_path / "whole")
    sums = [
        part(run, table, classes, first, last, tmp_path / f"next{first}", local=True)
        for first, last in ((1, 40), (41, None))
    ]
    again = run("merge2d", input=sums, particles=table, select="none", output=tmp_path / "again")
    one, other = (read_particles(found.outputs["particles"]) for found in (whole, again))
    for column in ("cisTEMSigma", "parhelionScale"):
        np.testing.assert_allclose(other.extra[column], one.extra[column], atol=2e-3)


def test_a_missing_part_is_said_and_other_parts_are_refused(run, particles, references, tmp_path) -> None:
    first = part(run, particles, references, 1, 25, tmp_path / "a")
    told = run("info", input=first, output=tmp_path / "info").figures
    assert (told["kind"], told["range"], told["classes"]) == ("partial sums of class2d", "1 to 25", 4)
    assert (told["particles_of_table"], told["used_particles"]) == (70, 25)
    alone = run("merge2d", input=first, select="none", output=tmp_path / "alone")
    assert any("45 particles are in none of the files" in note for note in alone.notices)
    assert "particles" not in alone.outputs
    with pytest.raises(InputError, match="1 particles, from number 25 on, are in more than one"):
        again = part(run, particles, references, 25, 70, tmp_path / "b")
        run("merge2d", input=[first, again], output=tmp_path / "bad0")
    with pytest.raises(InputError, match="differ in --first and --last only"):
        other = part(run, particles, references, 26, 70, tmp_path / "c", shift_range=8)
        run("merge2d", input=[first, other], output=tmp_path / "bad1")
    wrong = tmp_path / "wrong.npz"
    np.savez(wrong, facts=np.zeros(3))
    with pytest.raises(FormatError, match="holds no partial sums"):
        run("merge2d", input=wrong, output=tmp_path / "bad2")
    with pytest.raises(ParameterError, match="--select-score"):
        run("merge2d", input=first, select="none", select_score=0.2, output=tmp_path / "bad3")
