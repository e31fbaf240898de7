"""project-map: images of a table's particles without noise, or a regular grid of views."""

import numpy as np
import pytest

from parhelion.errors import InputError, ParameterError
from parhelion.io.mrc import open_stack, read_volume, write_volume
from parhelion.io.particles import read_particles
from parhelion.model.volume import Volume


def test_images_are_those_of_the_simulation_without_noise(run, molecule) -> None:
    simulated = run("simulate_particles", model=molecule, count=20, snr=1000.0)
    made = run(
        "project_map", input=simulated.outputs["reference"], particles=simulated.outputs["truth"], ctf=True
    )
    assert not any("no CTF" in note for note in made.notices)
    noisy = open_stack(simulated.outputs["images"]).read(np.arange(20))
    clean = open_stack(made.outputs["images"]).read(np.arange(20))
    correlations = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(noisy, clean, strict=True)]
    assert min(correlations) > 0.995
    table = read_particles(made.outputs["particles"])
    truth = read_particles(simulated.outputs["truth"])
    assert np.allclose(table.rotation, truth.rotation, atol=1e-6)
    assert table.views.image_path[0].name == "projections.mrcs"


def test_grid_of_views_from_the_top_down(run, molecule) -> None:
    made = run("project_map", input=molecule, step=30)
    assert made.figures["projections"] == 48
    images = open_stack(made.outputs["images"]).read(np.arange(48))
    mass = read_volume(molecule).data.sum()
    assert np.allclose(images.sum(axis=(1, 2)), mass, rtol=0.02)
    table = read_particles(made.outputs["particles"])
    assert np.allclose(table.shift_xyz_angstrom, 0)


def test_map_on_another_grid_is_resampled_with_a_notice(run, molecule) -> None:
    simulated = run("simulate_particles", model=molecule, count=3)
    coarse = run("resample", input=molecule, box=24).outputs["map"]
    made = run("project_map", input=coarse, particles=simulated.outputs["truth"])
    assert any("resampled to the particles' grid" in notice for notice in made.notices)
    assert any("no CTF" in notice for notice in made.notices)
    assert open_stack(made.outputs["images"]).shape == (3, 32, 32)


def test_particles_without_poses_are_refused(run, molecule) -> None:
    from parhelion.errors import MetadataError

    simulated = run("simulate_particles", model=molecule, count=3)
    with pytest.raises(MetadataError, match="no poses"):
        run("project_map", input=molecule, particles=simulated.outputs["particles"])


@pytest.mark.parametrize(
    ("options", "said"),
    [({}, "give --particles"), ({"step": 15.0, "ctf": True}, "--ctf needs --particles")],
)
def test_options_that_make_no_sense_are_refused(run, molecule, options, said) -> None:
    with pytest.raises(ParameterError, match=said):
        run("project_map", input=molecule, **options)


@pytest.mark.parametrize(("stem", "least"), [("relion_proj_batch", 0.95), ("relion_proj_batch_pfac2", 0.955)])
def test_relions_own_projections_are_met(run, test_data, stem, least) -> None:
    """Projections with CTF that RELION made of point masses, with padding 1 and 2."""
    folder = test_data / "formats" / "relion"
    made = run(
        "project_map",
        input=folder / "pointmass.mrc",
        particles=folder / f"{stem}.star",
        ctf=True,
        pixel_size=3.54,
    )
    theirs = open_stack(folder / f"{stem}.mrcs")
    every = np.arange(len(theirs))
    ours = open_stack(made.outputs["images"]).read(every)
    pairs = zip(ours, theirs.read(every), strict=True)
    correlations = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in pairs]
    assert min(correlations) > least


@pytest.fixture
def views(run, molecule, tmp_path):
    """Ten particles with poses and shifts, and their projections by any options."""
    made = run("simulate_particles", model=molecule, count=10, output=tmp_path / "made").outputs

    def project(name: str, **options) -> tuple[np.ndarray, object]:
        where = {"input": made["reference"], "particles": made["truth"], "output": tmp_path / name}
        result = run("project_map", **(where | options))
        stack = open_stack(result.outputs["images"])
        return stack.read(np.arange(len(stack))), read_particles(result.outputs["particles"])

    return project


def test_a_part_of_the_particles(views) -> None:
    whole, _ = views("all")
    part, table = views("part", first=3, last=6)
    np.testing.assert_allclose(part, whole[2:6], atol=1e-5)
    assert len(table) == 4 and table.views.image_index.tolist() == [0, 1, 2, 3]
    with pytest.raises(InputError, match="beyond the last of 10 views"):
        views("none", first=11)


def test_without_shifts_the_molecule_is_not_moved(views) -> None:
    def centroid(images: np.ndarray) -> np.ndarray:
        y, x = np.indices(images.shape[1:]) - images.shape[1] // 2
        total = images.sum(axis=(1, 2))
        return np.stack([(images * a).sum(axis=(1, 2)) / total for a in (x, y)], axis=1)

    shifted, table = views("with")
    centred, other = views("without", shifts=False)
    moved = 4.0 * (centroid(shifted) - centroid(centred))
    np.testing.assert_allclose(moved, -table.shift_xyz_angstrom[:, :2], atol=0.1)
    assert np.abs(table.shift_xyz_angstrom).max() > 1 and np.all(other.shift_xyz_angstrom == 0)


def test_mask_and_noise(views) -> None:
    clean, _ = views("clean")
    masked, _ = views("masked", mask_radius=30.0)
    y, x = np.indices((32, 32)) - 16
    radius = np.hypot(x, y) * 4.0
    assert np.abs(masked[:, radius > 47]).max() == 0
    np.testing.assert_allclose(masked[:, radius < 30], clean[:, radius < 30], atol=1e-5)
    noisy, _ = views("noisy", snr=0.5)
    noise = noisy - clean
    np.testing.assert_allclose(noise.var(axis=(1, 2)), clean.var(axis=(1, 2)) / 0.5, rtol=0.2)
    assert abs(np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1]) < 0.1
    part, _ = views("again", snr=0.5, last=2)
    np.testing.assert_allclose(part, noisy[:2], atol=1e-5)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"step": 30.0, "shifts": False}, "--no-shifts needs --particles"),
        ({"step": 30.0, "first": 5, "last": 3}, "--last 3 comes before --first 5"),
    ],
)
def test_options_that_contradict_each_other(run, molecule, options, said) -> None:
    with pytest.raises(ParameterError, match=said):
        run("project_map", input=molecule, **options)


def test_symmetry_is_imposed_and_a_grid_is_as_small_as_it_may_be(run, molecule, views, tmp_path) -> None:
    whole = run("project_map", input=molecule, step=15, output=tmp_path / "whole")
    part = run("project_map", input=molecule, step=15, symmetry="D2", output=tmp_path / "part")
    assert whole.figures["projections"] / 5 < part.figures["projections"] < whole.figures["projections"] / 3
    plain, _ = views("plain")
    imposed, table = views("imposed", symmetry="C2")
    assert np.corrcoef(plain.ravel(), imposed.ravel())[0, 1] < 0.98
    # particles turned by the operator show the same
    from parhelion.geometry.symmetry import symmetry_group
    from parhelion.io.particles import write_particles

    turned = table.rotation @ symmetry_group("C2").operators[1]
    write_particles(tmp_path / "turned.star", table.with_poses(turned, table.shift_xyz_angstrom))
    options = {"particles": tmp_path / "turned.star", "symmetry": "C2", "output": tmp_path / "again"}
    stack = open_stack(
        run("project_map", input=tmp_path / "made" / "reference.mrc", **options).outputs["images"]
    )
    again = stack.read(np.arange(10))
    assert np.corrcoef(again.ravel(), imposed.ravel())[0, 1] > 0.995


def test_padding_keeps_what_the_ctf_spreads_from_wrapping(views) -> None:
    tight, _ = views("tight", ctf=True, padding=1)
    wide, _ = views("wide", ctf=True, padding=3)
    usual, _ = views("usual", ctf=True)
    assert np.abs(tight - wide).max() > 0.002 * np.abs(wide).max()
    assert np.abs(usual - wide).max() < np.abs(tight - wide).max()
    with pytest.raises(ParameterError, match="--padding is for CTF and shifts"):
        views("none", padding=2, particles=None, step=30.0)


def test_a_map_without_density_is_refused(run, molecule, tmp_path) -> None:
    flat = Volume(data=np.zeros((32, 32, 32), np.float32), pixel_size_angstrom=4.0)
    write_volume(tmp_path / "flat.mrc", flat)
    with pytest.raises(InputError, match=r"flat\.mrc has the same density everywhere"):
        run("project_map", input=tmp_path / "flat.mrc", step=60)
    made = run("simulate_particles", model=molecule, count=4, output=tmp_path / "made").outputs
    with pytest.raises(InputError, match=r"particles\.star has no poses"):
        run("project_map", input=molecule, particles=made["particles"], dry_run=True)
