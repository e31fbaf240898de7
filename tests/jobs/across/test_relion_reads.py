"""RELION's programs read the tables of every job on particles: the same rows, poses, images and maps."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from parhelion.fourier.shells import fsc
from parhelion.io.mrc import open_stack, read_volume
from parhelion.io.particles import read_particles

HANDLER, RECONSTRUCT, STACK = "relion_star_handler", "relion_reconstruct", "relion_stack_create"
pytestmark = pytest.mark.skipif(
    any(shutil.which(program) is None for program in (HANDLER, RECONSTRUCT, STACK)),
    reason="RELION is not installed",
)
SIZE = {"diameter": 90.0}
JOBS = {
    "refine": {"reference": "reference", "local": True, "max_rounds": 1, **SIZE},
    "refine_manual": {"references": "reference", "align": "none", **SIZE},
    "classify3d": {"classes": 2, "rounds": 4, **SIZE},
    "abinitio": {"starts": 1, "rounds": 2, **SIZE},
    "refine_ctf": {"reference": "reference"},
    "expand_symmetry": {"symmetry": "C2"},
    "package": {"classes": 2, **SIZE},
    "flip_hand": {},
}
"""Options of each job that writes particles with poses in space."""


@pytest.fixture
def simulated(simulate):
    return simulate(count=120, snr=1.0, shift=3)


def called(program: str, cwd: Path, *words: str | Path) -> None:
    subprocess.run([program, *map(str, words)], cwd=cwd, check=True, capture_output=True)


@pytest.mark.parametrize("job", JOBS)
def test_poses_and_maps_of_a_jobs_table(run, simulated, tmp_path, job) -> None:
    options = {n: simulated["reference"] if v == "reference" else v for n, v in JOBS[job].items()}
    if job == "flip_hand":
        options |= {"input": simulated["reference"], "particles": simulated["truth"]}
    found = run(job, **{"input": simulated["truth"], **options})
    table = found.outputs["particles"]
    ours = read_particles(table)
    # names of images stay as the input has them: RELION runs where they start from
    home = simulated["truth"].parent
    called(HANDLER, home, "--i", table, "--o", tmp_path / "theirs.star", "--select", "rlnDefocusU")
    theirs = read_particles(tmp_path / "theirs.star")
    assert len(theirs) == len(ours)
    np.testing.assert_allclose(theirs.rotation, ours.rotation, atol=1e-4)
    np.testing.assert_allclose(theirs.shift_xyz_angstrom, ours.shift_xyz_angstrom, atol=1e-3)
    called(RECONSTRUCT, home, "--i", table, "--o", tmp_path / "relion.mrc", "--ctf")
    made = run("reconstruct", input=table, halves=False, occupancy_weights=False, output=tmp_path / "ours")
    maps = [read_volume(path, 4.0).data for path in (tmp_path / "relion.mrc", made.outputs["map"])]
    assert fsc(*maps)[1:8].mean() > 0.95


def test_images_of_a_two_dimensional_class(run, simulated, tmp_path) -> None:
    """Moved and turned by RELION as the table says, the images of a class add up to its average."""
    found = run("class2d", input=simulated["truth"], classes=2, cycles=4, **SIZE)
    table, home = found.outputs["particles"], simulated["truth"].parent
    likeness = []
    for name, moved in (("moved", ["--apply_transformation"]), ("still", [])):
        called(STACK, home, "--i", table, "--o", tmp_path / name, *moved)
        images = open_stack(tmp_path / f"{name}.mrcs").read(np.arange(120))
        members = read_particles(table).class_number == 1
        average = open_stack(found.outputs["classes"]).read(np.array([0]))[0]
        likeness.append(float(np.corrcoef(images[members].mean(axis=0).ravel(), average.ravel())[0, 1]))
    assert likeness[0] > 0.8
    assert likeness[0] > likeness[1] + 0.05
