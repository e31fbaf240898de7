"""convert: from and to, under the inputs' names."""

import numpy as np
import pytest

from parhelion.errors import InputError
from parhelion.fourier.resample import fourier_resize_images
from parhelion.geometry.rotations import angle_between
from parhelion.io.cryosparc import stated_contrast
from parhelion.io.formats import FORMATS
from parhelion.io.mrc import open_stack, read_volume
from parhelion.io.particles import read_particles
from parhelion.io.star import read_star
from parhelion.jobs.convert import EXTENSIONS


def test_every_format_that_is_written_can_be_chosen() -> None:
    assert set(EXTENSIONS) == {f.name for f in FORMATS.values() if f.write is not None}


def test_images_to_tiff_and_back(run, molecule, tmp_path) -> None:
    images = run("simulate_particles", model=molecule, count=5).outputs["images"]
    (tiff,) = run("convert", input=images, to="tiff", pixel_size=4.0).outputs["files"]
    assert tiff.name == "particles.tif"
    (again,) = run("convert", input=tiff, pixel_size=4.0, output=tmp_path / "again").outputs["files"]
    assert again.name == "particles.mrcs"
    every = np.arange(5)
    assert np.array_equal(open_stack(again).read(every), open_stack(images).read(every))


def test_cryosparc_particles_to_star(run, test_data) -> None:
    """A .cs file and the STAR file of the same particles say the same."""
    folder = test_data / "formats" / "cryosparc"
    source = sorted(folder.glob("*.cs"), key=lambda p: p.stat().st_size)[0]
    (made,) = run("convert", input=source).outputs["files"]
    assert made.suffix == ".star"
    before, after = read_particles(source), read_particles(made)
    assert len(before) == len(after)
    assert np.allclose(before.views.defocus_u_angstrom, after.views.defocus_u_angstrom, atol=0.1)


def test_volume_stays_a_map(run, molecule) -> None:
    (made,) = run("convert", input=molecule).outputs["files"]
    assert np.array_equal(read_volume(made).data, read_volume(molecule).data)


def test_inputs_of_one_name_are_refused(run, molecule, tmp_path) -> None:
    copy = tmp_path / "molecule.map"
    copy.write_bytes(molecule.read_bytes())
    with pytest.raises(InputError, match="two inputs are called molecule"):
        run("convert", input=[molecule, copy])


@pytest.fixture
def particles(simulate):
    """Twelve simulated particles with their poses: ``truth.star`` of ``simulate particles``."""
    return simulate(count=12, snr=100.0)["truth"]


def test_particles_to_every_program_and_back(run, particles, tmp_path) -> None:
    before = read_particles(particles)
    for to in ("par", "cistem", "cs", "star30", "star"):
        (made,) = run("convert", input=particles, to=to, output=tmp_path / to).outputs["files"]
        assert made.suffix == EXTENSIONS[to]
        (back,) = run("convert", input=made, output=tmp_path / f"{to}_back").outputs["files"]
        after = read_particles(back)
        assert angle_between(before.rotation, after.rotation).max() < 0.002
        np.testing.assert_allclose(before.shift_xyz_angstrom, after.shift_xyz_angstrom, atol=1e-3)
        assert after.optics[0].box == before.optics[0].box
        assert after.views.image_path == before.views.image_path


def test_other_jobs_read_what_was_converted(run, particles, tmp_path) -> None:
    """A .par with our comments, a .cs and a cisTEM table reconstruct to the same map as the STAR file."""
    expected = read_volume(run("reconstruct", input=particles, output=tmp_path / "r").outputs["map"]).data
    for to in ("par", "cistem", "cs"):
        (made,) = run("convert", input=particles, to=to, contrast="white", output=tmp_path / to).outputs[
            "files"
        ]
        found = run("reconstruct", input=made, output=tmp_path / f"r_{to}").outputs["map"]
        assert np.corrcoef(read_volume(found).data.ravel(), expected.ravel())[0, 1] > 0.999


def test_what_a_par_leaves_out_can_be_given(run, particles, tmp_path) -> None:
    (par,) = run("convert", input=particles, to="par", contrast="white").outputs["files"]
    bare = tmp_path / "bare.par"
    bare.write_text("\n".join(line for line in par.read_text().splitlines() if ":" not in line) + "\n")
    with pytest.raises(InputError, match="does not name its stack"):
        run("convert", input=bare, output=tmp_path / "none")
    given = {"stack": particles.parent / "particles.mrcs", "pixel_size": 4.0}
    given |= {"voltage": 200.0, "cs": 1.4, "amplitude_contrast": 0.08}
    (made,) = run("convert", input=bare, output=tmp_path / "made_star", **given).outputs["files"]
    group = read_particles(made).optics[0]
    assert (group.voltage_kv, group.spherical_aberration_mm, group.amplitude_contrast) == (200.0, 1.4, 0.08)
    assert group.pixel_size_angstrom == 4.0
    with pytest.raises(InputError, match="which says itself where its images are"):
        run("convert", input=particles, voltage=200.0, output=tmp_path / "refused")


def test_contrast_is_stated(run, particles, tmp_path) -> None:
    for contrast, sign in (("auto", 1), ("white", 1), ("black", -1)):
        result = run("convert", input=particles, to="cs", contrast=contrast, output=tmp_path / contrast)
        assert (np.load(result.outputs["files"][0], allow_pickle=False)["blob/sign"] == sign).all()


def test_tables_are_converted_without_their_images(run, particles, tmp_path) -> None:
    """A table alone, as on a laptop: its contrast stays unknown, and that is said."""
    lonely = tmp_path / "lonely" / "truth.star"
    lonely.parent.mkdir()
    lonely.write_bytes(particles.read_bytes())
    for to in ("par", "cs", "cistem"):
        result = run("convert", input=lonely, to=to, output=tmp_path / f"lonely_{to}")
        assert any("do not say how protein looks" in notice for notice in result.notices)
        assert len(read_particles(result.outputs["files"][0])) == 12


def test_a_new_stack_is_smaller_and_black(run, particles, tmp_path) -> None:
    options = {"new_stack": True, "downsample": 2.0, "stack_contrast": "black", "contrast": "white"}
    table, stack = run("convert", input=particles, to="par", **options).outputs["files"]
    made = read_particles(table)
    before = read_particles(particles)
    assert made.optics[0].pixel_size_angstrom == pytest.approx(8.0)
    assert stated_contrast(made) == "black"
    images = open_stack(stack).read(np.arange(12))
    assert images.shape == (12, 16, 16)
    full = open_stack(before.views.image_path[0]).read(before.views.image_index)
    np.testing.assert_allclose(images, -fourier_resize_images(full, 16), atol=1e-4)
    np.testing.assert_allclose(made.shift_xyz_angstrom, before.shift_xyz_angstrom, atol=1e-3)


def test_box_and_normalising(run, particles, tmp_path) -> None:
    options = {"new_stack": True, "box": 40, "normalise": True, "radius": 60.0}
    _, stack = run("convert", input=particles, **options).outputs["files"]
    images = open_stack(stack).read(np.arange(12))
    y, x = np.indices((40, 40)) - 20
    outside = np.hypot(x, y) > 15
    np.testing.assert_allclose(images[:, outside].mean(axis=1), 0, atol=1e-4)
    np.testing.assert_allclose(images[:, outside].std(axis=1), 1, atol=1e-4)
    # a smaller radius counts more pixels as background
    other = run("convert", input=particles, output=tmp_path / "r", **{**options, "radius": 30.0})
    assert not np.allclose(open_stack(other.outputs["files"][1]).read(np.arange(12)), images, atol=1e-3)


def test_flipped_phases(run, particles, tmp_path) -> None:
    """With one sign of the CTF images look like projections; the table says so, and is not used twice."""
    table, stack = run("convert", input=particles, new_stack=True, flip_phases=True).outputs["files"]
    assert read_star(table)["optics"]["rlnCtfDataArePhaseFlipped"].tolist() == [1]
    before = read_particles(particles)
    images = open_stack(stack).read(np.arange(12))
    full = open_stack(before.views.image_path[0]).read(before.views.image_index)
    clean = run("project_map", input=particles.parents[1] / "molecule.mrc", particles=particles)
    truth = open_stack(clean.outputs["images"]).read(np.arange(12))

    def likeness(a: np.ndarray) -> float:
        return float(np.mean([np.corrcoef(i.ravel(), t.ravel())[0, 1] for i, t in zip(a, truth)]))

    assert likeness(images) > likeness(full) + 0.02
    with pytest.raises(InputError, match="rlnCtfDataArePhaseFlipped is set"):
        read_particles(table)


def test_options_that_ask_for_nothing_are_refused(run, particles, molecule, tmp_path) -> None:
    with pytest.raises(InputError, match="--flip-phases changes images; ask for them with --new-stack"):
        run("convert", input=particles, flip_phases=True)
    with pytest.raises(InputError, match="--radius says where --normalise begins"):
        run("convert", input=particles, new_stack=True, radius=50.0)
    with pytest.raises(InputError, match="is a volume; options on images and optics"):
        run("convert", input=molecule, new_stack=True, output=tmp_path / "v")


def test_positions_of_cryosparc_become_coordinates(run, particles, tmp_path) -> None:
    (table,) = run("convert", input=particles, to="cs", output=tmp_path / "cs").outputs["files"]
    before = np.load(table, allow_pickle=False)
    place = [("location/micrograph_shape", "<u4", (2,)), ("location/center_x_frac", "<f4")]
    place += [("location/center_y_frac", "<f4")]
    fields = [(name, before.dtype[name]) for name in before.dtype.names]
    placed = np.zeros(len(before), [*fields, *place])
    for name in before.dtype.names:
        placed[name] = before[name]
    placed["location/micrograph_shape"] = (100, 200)
    placed["location/center_x_frac"], placed["location/center_y_frac"] = 0.5, 0.25
    with table.open("wb") as stream:
        np.save(stream, placed)
    for positions, expected in (("coordinates", (100, 25)), ("flipped", (100, 75)), ("fractions", None)):
        (star,) = run("convert", input=table, positions=positions, output=tmp_path / positions).outputs[
            "files"
        ]
        rows = read_star(star)["particles"]
        if expected is None:
            assert "rlnCoordinateX" not in rows and rows["cryosparcCenterYFrac"][0] == 0.25
        else:
            assert (rows["rlnCoordinateX"][0], rows["rlnCoordinateY"][0]) == expected
    with pytest.raises(InputError, match="do not say where they lay"):
        run("convert", input=particles, positions="flipped", output=tmp_path / "no")


def test_a_stack_without_a_table_is_prepared(run, molecule, tmp_path) -> None:
    """As cisTEM's prepare_stack: another box by Fourier cropping, background to mean 0, variance 1."""
    made = run("simulate_particles", model=molecule, count=12, snr=1.0, output=tmp_path / "made").outputs
    images = made["images"]

    def prepared(name: str, **options) -> tuple[np.ndarray, float]:
        options |= {"new_stack": True, "output": tmp_path / name}
        (path,) = run("convert", input=images, **options).outputs["files"]
        stack = open_stack(path)
        return stack.read(np.arange(len(stack))), stack.pixel_size_angstrom

    smaller, pixel = prepared("smaller", downsample=2.0, normalise=True, radius=40.0)
    assert smaller.shape == (12, 16, 16)
    assert pixel == pytest.approx(8.0)
    y, x = np.indices((16, 16)) - 8
    outside = smaller[:, np.hypot(x, y) * 8 > 44]
    np.testing.assert_allclose(outside.mean(1), 0, atol=0.1)
    np.testing.assert_allclose(outside.std(1), 1, atol=0.1)
    same, _ = prepared("same")
    turned, _ = prepared("turned", stack_contrast="black", contrast="white")
    np.testing.assert_allclose(turned, -same, atol=1e-6)
    guessed, _ = prepared("guessed", stack_contrast="black")
    np.testing.assert_allclose(guessed, -same, atol=1e-6)
    with pytest.raises(InputError, match="a stack without a table"):
        prepared("flipped", flip_phases=True)


@pytest.mark.parametrize("program", ["cistem", "par"])
def test_one_table_for_each_class(run, particles, tmp_path, program) -> None:
    from parhelion.io.particles import write_particles
    from parhelion.model.occupancy import with_occupancies

    table = read_particles(particles)
    percent = np.random.default_rng(1).dirichlet(np.ones(2), len(table)) * 100
    path = particles.parent / "classes.star"
    write_particles(path, with_occupancies(table, percent))
    for number in (1, 2):
        options = {"to": program, "occupancies_of": number, "output": tmp_path / str(number)}
        (made,) = run("convert", input=path, **options).outputs["files"]
        found = np.asarray(read_particles(made).extra["cisTEMOccupancy"], float)
        np.testing.assert_allclose(found, percent[:, number - 1], atol=0.006)
    with pytest.raises(InputError, match="occupancies of 2 classes"):
        run("convert", input=path, to=program, occupancies_of=3, output=tmp_path / "three")


def test_the_estimate_of_a_new_stack_knows_its_box(run, particles) -> None:
    """Images are made a few at a time whatever the box: memory for 4096 pixels is not 64 images of them."""
    options = {"input": particles, "new_stack": True, "dry_run": True}
    small, large = (run("convert", box=box, **options).estimate for box in (64, 4096))
    assert large.disk_bytes > 1000 * small.disk_bytes
    assert small.memory_bytes + 300e6 < large.memory_bytes < 8e9
