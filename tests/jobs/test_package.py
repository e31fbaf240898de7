"""package: particles, classes, references and what no table says, from every source there is."""

import json
from dataclasses import replace

import numpy as np
import pytest

from parhelion.errors import FormatError, InputError, MetadataError, ParameterError
from parhelion.fourier.shells import fsc
from parhelion.io.mrc import open_stack, read_volume, write_volume
from parhelion.io.package import Package, read_package
from parhelion.io.particles import read_particles, write_particles
from parhelion.model.occupancy import occupancies, with_occupancies
from parhelion.model.volume import Volume


@pytest.fixture
def simulated(simulate):
    return simulate(count=60, snr=2.0, shift=3)


@pytest.fixture
def package(run, simulated):
    return run("package", input=simulated["truth"], diameter=90.0, mass=120.0, symmetry="C2", name="first")


def finished(folder, of, particles, job: str = "refine", when: str = "2030-01-01", **maps) -> None:
    """What a refinement of ``of`` leaves in its folder."""
    folder.mkdir()
    write_particles(folder / "particles.star", particles)
    for name, volume in maps.items():
        write_volume(folder / f"{name}.mrc", volume)
    record = {
        "job": job,
        "status": "finished",
        "finished": when,
        "inputs": [{"option": "input", "absolute_path": str(of)}],
        "outputs": {"particles": "particles.star"} | {name: f"{name}.mrc" for name in maps},
        "figures": {"resolution_angstrom": 7.5},
    }
    (folder / "job.json").write_text(json.dumps(record), encoding="utf-8")


def test_a_package_of_a_table(simulated, package) -> None:
    described = read_package(package.folder)
    assert isinstance(described, Package)
    assert (described.name, described.symmetry, described.mass_kda) == ("first", "C2", 120.0)
    assert (described.count, described.classes, described.box) == (60, 1, 32)
    assert described.largest_dimension_angstrom == 90.0
    assert described.contrast == "white"
    assert described.refinements == ()
    (reference,) = described.references
    assert (reference.map, reference.half1) == ("reference_001.mrc", "half1_001.mrc")
    assert reference.origin == "generated from the parameters"
    kept, truth = read_particles(package.outputs["particles"]), read_particles(simulated["truth"])
    np.testing.assert_allclose(kept.rotation, truth.rotation, atol=1e-6)
    assert kept.views.image_path[0].samefile(simulated["images"])
    made = read_volume(package.outputs["references"][0])
    assert made.data.shape == (32, 32, 32)
    report = (package.folder / "report.html").read_text(encoding="utf-8")
    assert "First particles" in report and "Reference of class 1" in report


def test_defaults_are_cistems(run, simulated) -> None:
    with pytest.raises(ParameterError, match="150 Å does not fit"):
        run("package", input=simulated["truth"])
    figures = run("package", input=simulated["truth"], diameter=100.0, output=simulated["truth"].parent / "p")
    assert figures.figures["mass_kda"] == 300.0
    assert figures.figures["symmetry"] == "C1"


@pytest.mark.parametrize("groups", ["C2", ["C2"], ["C1", "C2"]])
def test_a_refinement_of_no_package_hands_on_what_it_was_told(run, simulated, tmp_path, groups) -> None:
    folder = tmp_path / "refined"
    finished(folder, simulated["truth"], read_particles(simulated["truth"]))
    record = json.loads((folder / "job.json").read_text())
    record["parameters"] = {"symmetry": groups, "diameter": 90.0, "mass": None}
    (folder / "job.json").write_text(json.dumps(record))
    figures = run("package", input=folder).figures
    assert figures["symmetry"] == ("C1" if groups == ["C1", "C2"] else "C2")
    assert (figures["largest_dimension_angstrom"], figures["mass_kda"]) == (90.0, 300.0)


def test_random_parameters_make_a_ball(run, simulated, tmp_path) -> None:
    found = run("package", input=simulated["particles"], classes=4, diameter=90.0)
    particles = read_particles(found.outputs["particles"])
    assert not particles.shift_xyz_angstrom.any()
    assert np.abs(particles.rotation.mean(0)).max() < 0.3
    percent = occupancies(particles)
    assert percent.shape == (60, 4)
    assert percent.min() >= 0 and percent.max() <= 50 and percent.max() > 35
    np.testing.assert_array_equal(particles.class_number, percent.argmax(1) + 1)
    assert len(found.outputs["references"]) == 4
    # what random views average to has no shape: every shell is nearly constant
    data = read_volume(found.outputs["references"][0]).data
    truth = read_volume(simulated["reference"]).data
    axis = np.arange(32) - 16
    radius = np.rint(np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2)).astype(int)

    def uneven(volume: np.ndarray) -> float:
        centre = volume[16, 16, 16]
        shell = volume[radius == 4]
        return float(shell.std() / abs(centre - volume[radius == 14].mean()))

    assert uneven(data) < 0.5 * uneven(truth)
    again = run(
        "package", input=simulated["truth"], poses="random", diameter=90.0, output=tmp_path / "again", seed=7
    )
    assert not np.allclose(
        read_particles(again.outputs["particles"]).rotation, read_particles(simulated["truth"]).rotation
    )
    with pytest.raises(MetadataError, match="--poses keep"):
        run("package", input=simulated["particles"], poses="keep", diameter=90.0, output=tmp_path / "none")


def test_particles_of_two_dimensional_classes(run, simulated, tmp_path) -> None:
    particles = read_particles(simulated["truth"])
    flat = simulated["truth"].parent / "flat.star"
    write_particles(flat, replace(particles, class_number=np.arange(60) % 6 + 1))
    found = run("package", input=flat, classes_2d="1,4", new_stack=True, diameter=90.0)
    chosen = read_particles(found.outputs["particles"])
    rows = np.flatnonzero(np.isin(np.arange(60) % 6, (0, 3)))
    assert len(chosen) == 20
    assert chosen.extra["cisTEMBest2DClass"].tolist() == [1, 4] * 10
    # the stack holds these images only, and parameters begin anew
    stack = open_stack(found.outputs["stack"])
    assert stack.shape == (20, 32, 32)
    whole = open_stack(simulated["images"]).read(rows)
    np.testing.assert_array_equal(stack.read(np.arange(20)), whole)
    assert not np.allclose(chosen.rotation, particles.rotation[rows])
    kept = run("package", input=flat, classes_2d="1,4", poses="keep", diameter=90.0, output=tmp_path / "kept")
    np.testing.assert_allclose(
        read_particles(kept.outputs["particles"]).rotation, particles.rotation[rows], atol=1e-6
    )
    with pytest.raises(ParameterError, match="there are 1, 2, 3"):
        run("package", input=flat, classes_2d="9", diameter=90.0, output=tmp_path / "none")
    with pytest.raises(MetadataError, match="--classes-2d needs"):
        run("package", input=simulated["truth"], classes_2d="1", diameter=90.0, output=tmp_path / "no")


def test_a_package_goes_on_with_its_last_refinement(run, package, tmp_path) -> None:
    own = read_particles(package.outputs["particles"])
    older = own.with_poses(own.rotation[::-1].copy(), own.shift_xyz_angstrom)
    newer = own.with_poses(np.roll(own.rotation, 1, axis=0), own.shift_xyz_angstrom)
    volume = Volume(data=np.full((32,) * 3, 2.0, np.float32), pixel_size_angstrom=4.0)
    finished(tmp_path / "older", package.outputs["particles"], older, when="2030-01-01")
    maps = {"map": volume, "half1": volume, "half2": volume}
    finished(tmp_path / "newer", package.outputs["particles"], newer, when="2030-02-01", **maps)
    finished(tmp_path / "of_others", tmp_path / "elsewhere.star", older)
    described = read_package(package.folder)
    assert [(r.number, r.resolution_angstrom) for r in described.refinements] == [(1, 7.5), (2, 7.5)]

    def rotations(name: str, **options) -> np.ndarray:
        result = run("package", input=package.folder, output=tmp_path / "made" / name, **options)
        return read_particles(result.outputs["particles"]).rotation

    np.testing.assert_allclose(rotations("last"), newer.rotation, atol=1e-6)
    np.testing.assert_allclose(rotations("one", refinement="1"), older.rotation, atol=1e-6)
    np.testing.assert_allclose(rotations("start", refinement="start"), own.rotation, atol=1e-6)
    last = read_package(tmp_path / "made" / "last")
    # defaults come from the template, references and half maps from the refinement
    assert (last.symmetry, last.mass_kda, last.largest_dimension_angstrom) == ("C2", 120.0, 90.0)
    assert last.references[0].origin == str((tmp_path / "newer" / "map.mrc").resolve())
    assert read_volume(tmp_path / "made" / "last" / "half2_001.mrc").data.mean() == 2.0
    rotations("other", symmetry="D2", generate=True)
    other = read_package(tmp_path / "made" / "other")
    assert (other.symmetry, other.references[0].origin) == ("D2", "generated from the parameters")
    # the folder of a refinement serves as well
    alone = run("package", input=tmp_path / "newer", diameter=90.0, output=tmp_path / "made" / "alone")
    assert read_volume(alone.outputs["references"][0]).data.mean() == 2.0
    with pytest.raises(ParameterError, match=r"--refinement 7: the package has 1 \(refine"):
        rotations("none", refinement="7")


@pytest.fixture
def classified(simulated):
    particles = read_particles(simulated["truth"])
    percent = np.where((np.arange(60) < 40)[:, None], [80.0, 15.0, 5.0], [5.0, 5.0, 90.0])
    path = simulated["truth"].parent / "classified.star"
    write_particles(path, with_occupancies(particles, percent))
    return path


def test_classes_are_merged_dropped_and_begun_anew(run, classified, tmp_path) -> None:
    def made(name: str, **options):
        found = run("package", input=classified, diameter=90.0, output=tmp_path / name, **options)
        return read_particles(found.outputs["particles"])

    kept = made("kept")
    np.testing.assert_allclose(occupancies(kept)[0], [80, 15, 5])
    merged = made("merged", class_setup="1+2,3")
    np.testing.assert_allclose(occupancies(merged)[0], [95, 5])
    dropped = made("dropped", class_setup="1,2")
    assert len(dropped) == 40
    assert len(made("carried", class_setup="1,2", carry_all=True)) == 60
    anew = occupancies(made("random", class_setup="1+2,3", occupancies="random"))
    assert sorted(np.unique(anew)) == [0, 100]
    with pytest.raises(ParameterError, match="3 classes and 2 are asked for"):
        made("wrong", classes=2)
    with pytest.raises(ParameterError, match="makes 2 classes, --classes says 3"):
        made("two", class_setup="1+2,3", classes=3)


def test_classes_of_a_refinement_go_on(run, package, tmp_path) -> None:
    """A classification of a package of one class makes one of three."""
    own = read_particles(package.outputs["particles"])
    percent = np.tile([50.0, 30.0, 20.0], (60, 1))
    finished(tmp_path / "classified", package.outputs["particles"], with_occupancies(own, percent))
    found = run("package", input=package.folder, output=tmp_path / "next")
    assert found.figures["classes"] == 3
    np.testing.assert_allclose(occupancies(read_particles(found.outputs["particles"])), percent)
    anew = run("package", input=package.folder, poses="random", output=tmp_path / "anew")
    assert anew.figures["classes"] == 1


def test_maps_of_a_refinement_of_several_classes_are_found(package, tmp_path) -> None:
    own, folder = read_particles(package.outputs["particles"]), tmp_path / "several"
    finished(folder, package.outputs["particles"], own)
    record = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    names = [[f"{what}_{k:03d}.mrc" for k in (1, 2)] for what in ("map", "half1", "half2")]
    record["outputs"] |= dict(zip(("class_maps", "class_half1", "class_half2"), names))
    (folder / "job.json").write_text(json.dumps(record), encoding="utf-8")
    (found,) = read_package(package.folder).refinements
    listed = (found.maps, found.half1, found.half2)
    assert [[path.removeprefix(f"{folder}/") for path in one] for one in listed] == names


@pytest.mark.parametrize("classes", [1, 2])
def test_maps_of_an_abinitio_become_the_references(run, simulated, molecule, tmp_path, classes) -> None:
    """Its folder tells the chosen map and those of all classes, on a grid of its own."""
    own, folder = read_particles(simulated["truth"]), tmp_path / "start"
    number = np.arange(len(own)) % classes + 1
    volume = Volume(data=read_volume(molecule).data[4:28, 4:28, 4:28], pixel_size_angstrom=4.0)
    finished(folder, simulated["truth"], replace(own, class_number=number), job="abinitio", map_001=volume)
    write_volume(folder / "map_002.mrc", replace(volume, data=2 * volume.data))
    record = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    listed = [f"map_{k:03d}.mrc" for k in range(1, classes + 1)]
    record["outputs"] = {"particles": "particles.star", "map": "map_001.mrc", "maps": listed}
    record["parameters"] = {"symmetry": "C2", "diameter": 90.0}
    (folder / "job.json").write_text(json.dumps(record), encoding="utf-8")
    made = run("package", input=folder)
    assert [str(folder / name) for name in listed] == [r.origin for r in read_package(made.folder).references]
    maps = [read_volume(path).data for path in made.outputs["references"]]
    inner = maps[0][4:28, 4:28, 4:28]
    assert np.corrcoef(inner.ravel(), volume.data.ravel())[0, 1] > 0.99
    assert made.figures["symmetry"] == "C2"
    again = run("package", input=folder, generate=True, output=tmp_path / "generated")
    assert read_package(again.folder).references[0].origin == "generated from the parameters"


@pytest.mark.parametrize(
    "record",
    [{"outputs": {"map": [7]}}, {"outputs": []}, {"figures": None}, {"inputs": [3]}],
)
def test_damaged_records_beside_a_package_are_passed_over(package, tmp_path, record) -> None:
    own, folder = read_particles(package.outputs["particles"]), tmp_path / "odd"
    finished(folder, package.outputs["particles"], own)
    whole = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    (folder / "job.json").write_text(json.dumps(whole | record), encoding="utf-8")
    assert read_package(package.folder).refinements == ()


def test_tables_of_one_class_each_are_merged(run, simulated, tmp_path) -> None:
    particles = read_particles(simulated["truth"])
    paths = []
    for k in (1, 2):
        turned = np.roll(particles.rotation, k, axis=0)
        share = np.where((np.arange(60) < 30) == (k == 1), 90.0, 10.0)
        extra = particles.extra.with_columns({"cisTEMOccupancy": share})
        paths.append(simulated["truth"].parent / f"class{k}.star")
        table = particles.with_poses(turned, particles.shift_xyz_angstrom)
        write_particles(paths[-1], replace(table, extra=extra))

    def made(name: str, **options):
        found = run("package", input=paths, diameter=90.0, output=tmp_path / name, **options)
        return read_particles(found.outputs["particles"])

    best = made("best", class_setup="1+2,1")
    expected = np.where(
        (np.arange(60) < 30)[:, None, None],
        np.roll(particles.rotation, 1, 0),
        np.roll(particles.rotation, 2, 0),
    )
    assert np.abs(best.rotation - expected).max(axis=(1, 2))[30:].max() < 1e-6
    random = made("random", class_setup="1+2", merged_poses="random")
    agree = np.abs(random.rotation - expected).max(axis=(1, 2)) < 1e-6
    assert 10 < agree.sum() < 50
    both = made("both")
    assert occupancies(both).shape == (60, 2)


def test_references_of_ones_own(run, simulated, molecule, tmp_path) -> None:
    small = run("resample", input=molecule, box=24).outputs["map"]
    found = run("package", input=simulated["truth"], references=small, diameter=90.0)
    assert read_volume(found.outputs["references"][0]).data.shape == (32, 32, 32)
    assert any("resampled" in note for note in found.notices)
    assert "half1" not in found.outputs
    with pytest.raises(ParameterError, match="1 references were given for 2 classes"):
        run(
            "package",
            input=simulated["truth"],
            references=small,
            classes=2,
            diameter=90.0,
            output=tmp_path / "b",
        )
    with_halves = {"references": molecule, "half1": small, "half2": small}
    found = run("package", input=simulated["truth"], **with_halves, diameter=90.0, output=tmp_path / "c")
    assert read_package(found.folder).references[0].half2 == "half2_001.mrc"


def test_the_box_and_what_the_ctf_spreads(run, simulated, tmp_path) -> None:
    """Numbers by hand: the slope of the CTF's phase at the 95th of 100 defoci."""
    from parhelion.algorithms.package_setup import box_for_ctf, delocalisation_angstrom, fast_box, usual_box

    particles = read_particles(simulated["truth"])
    s, wavelength = 1 / 10, 0.019687
    larger = np.maximum(particles.views.defocus_u_angstrom, particles.views.defocus_v_angstrom)
    cs = 1e7 * particles.optics[0].spherical_aberration_mm
    by_hand = wavelength * larger * s - cs * wavelength**3 * s**3
    np.testing.assert_allclose(delocalisation_angstrom(particles, 10.0), by_hand, rtol=1e-3)
    box, spread = box_for_ctf(particles, 90.0, 10.0)
    assert spread == pytest.approx(np.percentile(by_hand, 95), rel=1e-3)
    assert box >= (90 + 2 * spread) / 4
    assert [fast_box(n) for n in (5, 97, 100, 300)] == [6, 108, 108, 324]
    assert usual_box(150.0, 1.0) == 384
    fine = run("package", input=simulated["truth"], diameter=90.0, resolution=8.0)
    assert any("would hold it, this one has 32" in note for note in fine.notices)
    coarse = run("package", input=simulated["truth"], diameter=40.0, resolution=100.0, output=tmp_path / "c")
    assert not any("would hold it" in note for note in coarse.notices)


def test_jobs_take_the_package_as_plain_files(run, package, tmp_path) -> None:
    made = run("reconstruct", input=package.outputs["particles"], symmetry="C2", output=tmp_path / "r")
    a, b = (read_volume(p).data for p in (made.outputs["map"], package.outputs["references"][0]))
    assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.9


@pytest.mark.parametrize("program", ["par", "cistem", "cs"])
def test_tables_of_other_programs(run, simulated, tmp_path, program) -> None:
    """Polarity, optics and parameters come from their tables."""
    (table,) = run("convert", input=simulated["truth"], to=program, contrast="white").outputs["files"]
    found = run("package", input=table, diameter=90.0)
    assert read_package(found.folder).contrast == "white"
    assert any("protein is white in the images, as the table says" in note for note in found.notices)
    kept, truth = read_particles(found.outputs["particles"]), read_particles(simulated["truth"])
    np.testing.assert_allclose(kept.rotation, truth.rotation, atol=2e-4)
    assert kept.optics[0].voltage_kv == truth.optics[0].voltage_kv


def test_relion_reads_a_package(run, simulated) -> None:
    """Occupancies and all: its map is that of the package."""
    import shutil
    import subprocess

    relion = shutil.which("relion_reconstruct")
    if relion is None:
        pytest.skip("relion_reconstruct is not installed")
    options = {"new_stack": True, "classes": 2, "diameter": 90.0}
    found = run("package", input=simulated["truth"], poses="keep", **options)
    assert "parhelionOccupancy2" in found.outputs["particles"].read_text(encoding="utf-8")
    subprocess.run(
        [relion, "--i", "particles.star", "--o", "relion.mrc", "--ctf"],
        cwd=found.folder,
        check=True,
        capture_output=True,
    )
    theirs = read_volume(found.folder / "relion.mrc", 4.0).data
    assert fsc(theirs, read_volume(simulated["reference"]).data)[1:7].mean() > 0.9


def test_a_package_can_be_moved(run, package, tmp_path) -> None:
    import shutil

    shutil.copytree(package.folder, tmp_path / "elsewhere")
    moved = run("package", input=tmp_path / "elsewhere", output=tmp_path / "again")
    assert read_package(moved.folder).name == "first"


def test_contrast_is_kept(run, simulated, tmp_path) -> None:
    black = run("package", input=simulated["truth"], contrast="black", diameter=90.0)
    assert read_package(black.folder).contrast == "black"
    again = run("package", input=black.folder, output=tmp_path / "again")
    assert read_package(again.folder).contrast == "black"
    # a map of images that are taken for black is the negative of one of white ones
    white = run("package", input=simulated["truth"], contrast="white", diameter=90.0, output=tmp_path / "w")
    a, b = (read_volume(p.outputs["references"][0]).data.ravel() for p in (black, white))
    assert np.corrcoef(a, b)[0, 1] < -0.99


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"carry_all": True}, "--carry-all belongs to --class-setup"),
        ({"refinement": "best"}, "expected last, start or a number"),
        ({"refinement": "2"}, "is for a package"),
        ({"class_setup": "1", "poses": "random"}, "begin anew"),
        ({"generate": True, "references": "molecule.mrc"}, "choose"),
        ({"class_setup": " "}, "--class-setup is empty"),
        ({"class_setup": "1,4"}, "expected are numbers from 1 to 1"),
    ],
)
def test_options_that_make_no_sense_are_refused(run, simulated, molecule, options, said) -> None:
    if "references" in options:
        options = options | {"references": molecule}
    with pytest.raises(ParameterError, match=said):
        run("package", input=simulated["truth"], diameter=90.0, **options)


def test_damaged_and_missing_packages_are_named(run, package, tmp_path) -> None:
    described = package.outputs["package"]
    text = described.read_text(encoding="utf-8")
    for wrong in (
        text[:50],
        "[]",
        text.replace('"count": 60', '"count": -1'),
        text.replace('"particles.star"', '"../particles.star"'),
        text.replace('"reference_001.mrc"', '"/reference_001.mrc"'),
        text.replace('"half1_001.mrc"', "5"),
    ):
        assert wrong != text
        described.write_text(wrong, encoding="utf-8")
        with pytest.raises(FormatError, match=r"package\.json"):
            run("package", input=package.folder, output=tmp_path / "again")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InputError, match="without package"):
        run("package", input=empty, output=tmp_path / "none")
