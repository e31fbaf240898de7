"""info: what a file is, whatever it is."""

import json

import pytest

from parhelion.errors import FormatError, InputError


@pytest.fixture
def simulated(simulate):
    return simulate(count=40, snr=2.0, shift=3)


def test_a_package_tells_all_that_cistems_pane_shows(run, simulated, tmp_path) -> None:
    made = run("package", input=simulated["truth"], diameter=90.0, classes=2, poses="random", name="mine")
    found = run("info", input=made.folder)
    figures = found.figures
    assert figures["kind"] == "refinement package"
    assert str(simulated["images"]) in figures["stack"]
    wanted = {"name": "mine", "particles": 40, "box": 32, "classes": 2, "symmetry": "C1", "refinements": 0}
    assert {name: figures[name] for name in wanted} == wanted
    assert (figures["mass_kda"], figures["largest_dimension_angstrom"]) == (300.0, 90.0)
    assert figures["half_maps"] == figures["references"] == 2
    assert json.loads(found.outputs["info"].read_text())[str(made.folder / "package.json")]["name"] == "mine"
    report = (found.folder / "report.html").read_text(encoding="utf-8")
    assert "First images" in report and "reference_002.mrc" in report


def test_particles_maps_and_stacks(run, simulated, molecule, tmp_path) -> None:
    def told(path, name: str, **options):
        return run("info", input=path, output=tmp_path / name, **options)

    truth = told(simulated["truth"], "truth")
    assert truth.figures["kind"] == "particles"
    assert truth.figures["poses"] == "yes"
    assert truth.figures["voltage_kv"] == 300.0
    assert truth.figures["box"] == 32
    assert told(simulated["particles"], "bare").figures["poses"] == "no"
    stack = told(simulated["images"], "stack").figures
    assert (stack["kind"], stack["images"], stack["pixels"]) == ("images", 40, "32 x 32")
    volume = told(molecule, "map").figures
    assert (volume["kind"], volume["voxels"]) == ("map", "32 x 32 x 32")
    assert volume["largest_density"] > volume["mean_density"]
    part = run("reconstruct", input=simulated["truth"], partial_sums=True, last=10, output=tmp_path / "part")
    sums = told(part.outputs["sums"], "sums").figures
    assert (sums["kind"], sums["range"], sums["particles_of_table"]) == ("partial sums", "1 to 10", 40)
    both = told([molecule, simulated["truth"]], "both").figures
    assert set(both) == {"files", "molecule.mrc", "truth.star"}
    assert both["molecule.mrc"].startswith("map: 32 x 32 x 32 voxels")
    assert both["truth.star"].startswith("particles: 40, box 32") and "with poses" in both["truth.star"]
    again = tmp_path / "again" / molecule.name
    again.parent.mkdir()
    again.write_bytes(molecule.read_bytes())
    assert {str(molecule), str(again)} <= set(told([molecule, again], "alike").figures)


def test_as_many_rows_as_wanted(run, simulated, tmp_path) -> None:
    def rows(count: int) -> int:
        found = run("info", input=simulated["truth"], rows=count, output=tmp_path / str(count))
        return (found.folder / "report.html").read_text(encoding="utf-8").count("particles.mrcs</td>")

    assert (rows(0), rows(5), rows(1000)) == (0, 5, 40)


def test_tables_of_micrographs(run, tmp_path) -> None:
    listed = tmp_path / "micrographs.star"
    head = "data_\nloop_\n_rlnMicrographName #1\n_rlnVoltage #2\n_rlnSphericalAberration #3\n"
    head += "_rlnAmplitudeContrast #4\n_rlnMicrographPixelSize #5\n"
    listed.write_text(head + "a.mrc 300 2.7 0.1 1.5\nb.mrc 300 2.7 0.1 1.5\n", encoding="utf-8")
    found = run("info", input=listed, output=tmp_path / "info").figures
    assert (found["kind"], found["files"], found["missing_files"]) == ("micrographs", 2, 2)
    assert found["ctf"] == "no"


def test_any_other_table_tells_its_columns(run, tmp_path) -> None:
    table = tmp_path / "fsc.star"
    table.write_text("data_fsc\nloop_\n_rlnResolution #1\n_rlnSsnr #2\n0.1 1\n0.2 0.5\n", encoding="utf-8")
    found = run("info", input=table, output=tmp_path / "info").figures
    assert found == {"kind": "STAR table", "blocks": 1, "data_fsc": "2 rows: rlnResolution, rlnSsnr"}


def test_what_is_nothing_is_refused(run, tmp_path) -> None:
    nothing = tmp_path / "nothing.star"
    nothing.write_text("hello\n", encoding="utf-8")
    with pytest.raises((FormatError, InputError), match=r"nothing\.star"):
        run("info", input=nothing, output=tmp_path / "info")
