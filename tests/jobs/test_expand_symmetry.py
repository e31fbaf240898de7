"""expand-symmetry: a copy per operator, which later jobs keep."""

import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest

from parhelion.algorithms.symmetry_expansion import expand_by_symmetry
from parhelion.errors import InputError
from parhelion.geometry.rotations import angle_between
from parhelion.geometry.symmetry import symmetry_group
from parhelion.io.mrc import read_volume
from parhelion.io.particles import read_particles, write_particles


@pytest.fixture
def particles(simulate):
    """Forty particles with poses."""
    return simulate(count=40, snr=10.0)["truth"]


def test_copies_show_the_same_image_at_mates_of_the_pose(run, particles) -> None:
    result = run("expand_symmetry", input=particles, symmetry="D2")
    before, after = read_particles(particles), read_particles(result.outputs["particles"])
    assert (len(after), result.figures["copies"]) == (160, 4)
    np.testing.assert_array_equal(after.views.image_index, np.repeat(before.views.image_index, 4))
    np.testing.assert_allclose(
        after.shift_xyz_angstrom, np.repeat(before.shift_xyz_angstrom, 4, axis=0), atol=1e-5
    )
    group = symmetry_group("D2")
    expected = (before.rotation[:, None] @ group.operators).reshape(-1, 3, 3)
    assert angle_between(after.rotation, expected).max() < 1e-4
    assert after.extra["parhelionOperator"].tolist()[:5] == [1, 2, 3, 4, 1]
    assert after.extra["parhelionExpandedFrom"].tolist()[:5] == [1, 1, 1, 1, 2]


@pytest.mark.parametrize("symmetry", ["C3", "O"])
def test_poses_are_relions(run, particles, tmp_path, symmetry) -> None:
    program = shutil.which("relion_particle_symmetry_expand")
    if program is None:
        pytest.skip("relion_particle_symmetry_expand is not installed")
    ours = read_particles(run("expand_symmetry", input=particles, symmetry=symmetry).outputs["particles"])
    command = [program, "--i", str(particles), "--o", str(tmp_path / "relion.star"), "--sym", symmetry]
    subprocess.run(command, cwd=particles.parent, check=True, capture_output=True)
    theirs = read_particles(tmp_path / "relion.star")
    assert len(ours) == len(theirs)
    for image in range(0, 40, 13):
        a, b = (p.rotation[p.views.image_index == image] for p in (ours, theirs))
        nearest = [angle_between(np.broadcast_to(one, b.shape), b).min() for one in a]
        assert max(nearest) < 1e-3


def test_copies_survive_in_later_jobs(run, particles, tmp_path) -> None:
    """A reconstruction in C1 from the expanded set is that of the set with the symmetry imposed."""
    made = run("expand_symmetry", input=particles, symmetry="C4").outputs["particles"]
    alone = run("reconstruct", input=made, output=tmp_path / "c1")
    imposed = run("reconstruct", input=particles, symmetry="C4", output=tmp_path / "c4")
    a, b = (read_volume(r.outputs["map"]).data for r in (alone, imposed))
    assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.98


def test_copies_stay_in_one_half_set(run, particles, tmp_path) -> None:
    before = read_particles(particles)
    for name, half in (("none", None), ("given", 1 + np.arange(40) // 20)):
        write_particles(tmp_path / f"{name}.star", replace(before, half=half))
        result = run(
            "expand_symmetry", input=tmp_path / f"{name}.star", symmetry="C5", output=tmp_path / name
        )
        after = read_particles(result.outputs["particles"])
        each = after.half.reshape(40, 5)
        assert (each == each[:, :1]).all()
        assert np.bincount(each[:, 0]).tolist() == [0, 20, 20]
        if half is not None:
            np.testing.assert_array_equal(each[:, 0], half)


def test_images_that_repeat_without_half_sets_are_not_parted(run, particles, tmp_path) -> None:
    """A merged table, its images twice at different poses: noise must not meet itself in the half maps."""
    before = read_particles(particles)
    expanded = expand_by_symmetry(before, symmetry_group("C2"), np.random.default_rng(0))
    write_particles(tmp_path / "merged.star", replace(expanded, half=None))
    together = run("reconstruct", input=tmp_path / "merged.star", output=tmp_path / "together")
    assert any("half sets were drawn" in notice for notice in together.notices)
    write_particles(tmp_path / "parted.star", replace(expanded, half=1 + np.arange(80) % 2))
    parted = run("reconstruct", input=tmp_path / "parted.star", output=tmp_path / "parted")
    assert any("40 images are in both half sets" in notice for notice in parted.notices)


def test_what_is_refused(run, particles, tmp_path) -> None:
    with pytest.raises(InputError, match="without poses"):
        run("expand_symmetry", input=particles.parent / "particles.star", symmetry="C2")
    made = run("expand_symmetry", input=particles, symmetry="C2", output=tmp_path / "one")
    made = made.outputs["particles"]
    with pytest.raises(InputError, match="expanded by symmetry before"):
        run("expand_symmetry", input=made, symmetry="C2", output=tmp_path / "again")


def test_a_group_of_one_operator_is_said_to_expand_nothing(run, molecule, tmp_path) -> None:
    made = run("simulate_particles", model=molecule, count=6, output=tmp_path / "made").outputs
    result = run("expand_symmetry", input=made["truth"], symmetry="C1")
    assert result.figures["particles"] == 6
    assert any("C1 has one operator only" in note for note in result.notices)
