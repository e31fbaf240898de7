"""refine-ctf: files, figures, report; RELION as judge of signs and units."""

import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest

from parhelion import api
from parhelion.errors import InputError, MetadataError, ParameterError
from parhelion.fourier.shells import fsc
from parhelion.io.mrc import open_stack, read_volume, write_volume
from parhelion.io.particles import read_particles, write_particles
from parhelion.io.star import read_star
from parhelion.model.table import Table
from parhelion.model.volume import Volume

COUNT = 120
TILT, TREFOIL = (1.0, -0.6), (20.0, -15.0)


def atoms(box: int = 64, pixel: float = 1.5) -> Volume:
    """Atoms at random within 25 Å."""
    rng = np.random.default_rng(7)
    places = rng.normal(0, 1, (500, 3))
    places *= (25 * rng.uniform(0, 1, 500) ** (1 / 3) / np.linalg.norm(places, axis=1))[:, None]
    axis = (np.arange(box) - box // 2) * pixel
    each = [np.exp(-((axis[None, :] - places[:, i : i + 1]) ** 2) / (2 * 0.9**2)) for i in range(3)]
    data = np.einsum("az,ay,ax->zyx", each[2], each[1], each[0]).astype(np.float32)
    return Volume(data=data, pixel_size_angstrom=pixel)


def defocus(particles) -> np.ndarray:
    return (particles.views.defocus_u_angstrom + particles.views.defocus_v_angstrom) / 2


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    """Aberrated images; ``start.star`` has their poses, halves and micrographs, and wrong defoci."""
    folder = tmp_path_factory.mktemp("refine_ctf")
    write_volume(folder / "model.mrc", atoms())
    made = api.function("simulate_particles")(
        model=folder / "model.mrc", count=COUNT, snr=0.5, shift=2, defocus_range=(0.4, 0.8),
        beam_tilt=TILT, trefoil=TREFOIL, output=folder / "simulated", device="cpu", threads=1,
    ).outputs  # fmt: skip
    blind, truth = (read_particles(made[name]) for name in ("particles", "truth"))
    error = np.random.default_rng(2).uniform(-300, 300, COUNT)
    views = replace(
        blind.views,
        defocus_u_angstrom=blind.views.defocus_u_angstrom + error,
        defocus_v_angstrom=blind.views.defocus_v_angstrom + error,
    )
    names = np.array([f"mic{i // 20}.mrc" for i in range(COUNT)], dtype=object)
    start = replace(
        blind, views=views, half=(np.arange(COUNT) % 2 + 1).astype(np.int8),
        extra=blind.extra.with_columns({"rlnMicrographName": names}),
    ).with_poses(truth.rotation, truth.shift_xyz_angstrom)  # fmt: skip
    write_particles(made["truth"].parent / "start.star", start)
    return made | {"start": made["truth"].parent / "start.star"}


@pytest.fixture
def halves(simulated, tmp_path):
    """Two half maps with noise of their own, their mask and their FSC."""
    rng, volume, paths = np.random.default_rng(6), read_volume(simulated["reference"]), []
    for number in (1, 2):
        noise = rng.normal(0, 0.25 * volume.data.std(), volume.data.shape).astype(np.float32)
        paths.append(tmp_path / f"half{number}.mrc")
        write_volume(paths[-1], replace(volume, data=volume.data + noise))
    return paths


def test_everything_is_written_and_shown(run, simulated) -> None:
    found = run(
        "refine_ctf", input=simulated["start"], reference=simulated["reference"], resolution_limit=3.3
    )
    assert set(found.outputs) == {"particles", "parameters", "changes", "shells", "phases"}
    truth, new = (read_particles(path) for path in (simulated["truth"], found.outputs["particles"]))
    assert np.sqrt(((defocus(new) - defocus(truth)) ** 2).mean()) < 60
    np.testing.assert_allclose(new.optics[0].beam_tilt_xy_mrad, TILT, atol=0.06)
    np.testing.assert_allclose(new.optics[0].odd_zernike, (0, 0, TREFOIL[1], 0, 0, TREFOIL[0]), atol=3)
    figures = found.figures
    assert figures["used_particles"] == COUNT
    assert figures["beam_tilt_x_mrad"] == pytest.approx(new.optics[0].beam_tilt_xy_mrad[0])
    assert figures["trefoil_cosine_rad_angstrom3"] == pytest.approx(TREFOIL[0], abs=3)
    assert 100 < figures["defocus_change_angstrom"] < 250
    assert figures["defocus_uncertainty_angstrom"] < 60
    assert figures["log_likelihood_gain_per_particle"] > 5
    rows = read_star(found.outputs["parameters"])["parameters"]
    assert list(rows["parhelionParameter"])[:2] == ["beam_tilt_x_mrad", "beam_tilt_y_mrad"]
    assert all(error > 0 for error in rows["parhelionStandardError"])
    changes = read_star(found.outputs["changes"])["particles"]
    moved = defocus(new) - defocus(read_particles(simulated["start"]))
    np.testing.assert_allclose(changes["parhelionDefocusChange"], moved, atol=1e-3)
    shells = read_star(found.outputs["shells"])["shells"]
    gained = shells["parhelionCorrelationAfter"] - shells["parhelionCorrelationBefore"]
    assert gained[15:28].mean() > 0.05
    assert open_stack(found.outputs["phases"]).shape[0] == 4
    report = (found.folder / "report.html").read_text(encoding="utf-8")
    for shown in ("Changes of defocus", "Antisymmetric phase", "Optics group simulated", "standard error"):
        assert shown in report
    assert any("the two half maps tell more" in notice for notice in found.notices)


def test_what_was_found_is_applied_by_later_jobs(run, simulated, tmp_path) -> None:
    found = run(
        "refine_ctf", input=simulated["start"], reference=simulated["reference"], resolution_limit=3.3
    )
    reference = read_volume(simulated["reference"]).data
    curves = [
        fsc(
            read_volume(
                run("reconstruct", input=path, halves=False, output=tmp_path / name).outputs["map"]
            ).data,
            reference,
        )[18:29].mean()
        for name, path in (("old", simulated["start"]), ("new", found.outputs["particles"]))
    ]
    assert curves[1] > curves[0] + 0.1


def test_half_maps_micrographs_and_all_switches(run, simulated, halves) -> None:
    found = run(
        "refine_ctf", input=simulated["start"], reference=halves, defocus="micrograph",
        astigmatism="micrograph", tetrafoil=True, cs=True, magnification=True,
    )  # fmt: skip
    changes = read_star(found.outputs["changes"])
    assert changes["micrographs"].rows == COUNT // 20
    assert "parhelionAstigmatism1Error" in changes["micrographs"]
    names = {str(name) for name in read_star(found.outputs["parameters"])["parameters"]["parhelionParameter"]}
    assert {"magnification_xx", "spherical_aberration_mm", "tetrafoil_sine_rad_angstrom4"} <= names
    assert found.figures["magnification_anisotropy_percent"] < 0.3
    assert not any("the two half maps" in notice for notice in found.notices)
    assert found.figures["resolution_used_angstrom"] > 3.05


def test_bad_input_is_told(run, simulated, halves, tmp_path) -> None:
    with pytest.raises(MetadataError, match="no poses"):
        run("refine_ctf", input=simulated["particles"], reference=simulated["reference"])
    nameless = read_particles(simulated["start"])
    write_particles(tmp_path / "nameless.star", replace(nameless, extra=Table({}), half=None))
    with pytest.raises(MetadataError, match="rlnMicrographName"):
        run(
            "refine_ctf",
            input=tmp_path / "nameless.star",
            reference=simulated["reference"],
            astigmatism="micrograph",
            output=tmp_path / "y",
        )
    with pytest.raises(MetadataError, match="no half set"):
        run("refine_ctf", input=tmp_path / "nameless.star", reference=halves, output=tmp_path / "x")
    with pytest.raises(InputError, match="wrong order"):
        run("refine_ctf", input=simulated["start"], reference=halves[::-1])
    with pytest.raises(InputError, match="found 3"):
        run("refine_ctf", input=simulated["start"], reference=[*halves, simulated["reference"]])
    with pytest.raises(InputError, match="same file"):
        run("refine_ctf", input=simulated["start"], reference=[halves[0], halves[0]])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"defocus": "no", "beam_tilt": False, "trefoil": False}, "nothing is left to refine"),
        ({"defocus_range": 40.0}, "is larger than --defocus-range 40"),
        ({"defocus": "no", "defocus_step": 10.0}, "belong to --defocus"),
        ({"astigmatism": "particle"}, "expected one of micrograph, group, no"),
        ({"resolution_limit": -1.0}, "--resolution-limit"),
    ],
)
def test_options_that_make_no_sense_are_refused(run, simulated, options, said) -> None:
    with pytest.raises(ParameterError, match=said):
        run("refine_ctf", input=simulated["start"], reference=simulated["reference"], **options)


def test_a_dry_run_estimates_memory(run, simulated, halves) -> None:
    given = {"input": simulated["start"], "reference": simulated["reference"], "dry_run": True}
    plain = run("refine_ctf", **given).estimate
    assert 2e8 < plain.memory_bytes < 2e9
    two = run("refine_ctf", **given | {"reference": halves}).estimate
    volume = read_volume(halves[0]).data.size
    assert two.memory_bytes > plain.memory_bytes + 4 * volume
    more = run("refine_ctf", magnification=True, tetrafoil=True, **given).estimate
    assert more.per_thread_bytes > plain.per_thread_bytes


@pytest.mark.skipif(shutil.which("relion_ctf_refine") is None, reason="RELION is not installed")
def test_relion_finds_the_same_signs_and_reads_what_is_written(run, simulated, halves, tmp_path) -> None:
    """relion_ctf_refine on our images: beam tilt and trefoil as simulated; on our result: nothing is left."""
    mask = run("mask", input=simulated["reference"]).outputs["mask"]
    curve = run("fsc", input=halves, mask=mask).outputs["fsc"]
    ours = run(
        "refine_ctf", input=simulated["start"], reference=simulated["reference"], resolution_limit=3.3
    ).outputs["particles"]
    found = {}
    # relative paths of images are read from where RELION runs
    folder = simulated["start"].parent
    shutil.copy(ours, folder / "refined.star")
    for name in ("start", "refined"):
        words = [
            "relion_ctf_refine", "--i", f"{name}.star", "--f", str(curve), "--m1", str(halves[0]),
            "--m2", str(halves[1]), "--mask", str(mask), "--o", f"relion_{name}/", "--fit_beamtilt",
            "--odd_aberr_max_n", "3", "--kmin_tilt", "10", "--j", "1",
        ]  # fmt: skip
        (folder / f"relion_{name}").mkdir()
        done = subprocess.run(words, cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        optics = read_star(folder / f"relion_{name}" / "particles_ctf_refine.star")["optics"]
        odd = [float(v) for v in str(optics["rlnOddZernike"][0]).strip("[]").split(",")]
        found[name] = (float(optics["rlnBeamTiltX"][0]), float(optics["rlnBeamTiltY"][0]), odd[5], odd[2])
    # RELION corrects no defocus here, so that its estimate from the start is blurred, not turned
    assert np.all(np.sign(found["start"]) == np.sign((*TILT, *TREFOIL)))
    np.testing.assert_allclose(found["start"][:2], TILT, atol=0.25)
    np.testing.assert_allclose(found["refined"][:2], TILT, atol=0.08)
    np.testing.assert_allclose(found["refined"][2:], TREFOIL, atol=5)
