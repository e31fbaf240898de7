"""class2d: what it writes and shows, the choice of good classes, and what it refuses."""

import json

import numpy as np
import pytest

from parhelion.algorithms.class2d import checkpoint
from parhelion.errors import Cancelled, InputError, MetadataError, ParameterError
from parhelion.geometry.rotations import to_relion
from parhelion.io.mrc import StackWriter, open_stack
from parhelion.io.particles import read_particles
from parhelion.io.star import read_star
from parhelion.jobs._class2d_input import percent_of

QUICK = {"diameter": 84, "classes": 4, "cycles": 4, "initial_resolution": 30, "final_resolution": 14}


@pytest.fixture
def particles(simulate):
    return simulate(count=80, snr=1.0, shift=4)["particles"]


def test_everything_is_written_and_shown(run, particles) -> None:
    found = run("class2d", input=particles, select_score=0.0, select_sigma=1000, **QUICK)
    classes = open_stack(found.outputs["classes"])
    assert classes.shape == (4, 32, 32)
    assert classes.pixel_size_angstrom == pytest.approx(4.0)
    tables = read_star(found.outputs["table"])
    table = tables["model_classes"]
    assert table["rlnReferenceImage"][0] == "000001@classes.mrcs"
    np.testing.assert_array_equal(np.asarray(table["rlnClassNumber"]), [1, 2, 3, 4])
    assert np.asarray(table["rlnClassDistribution"]).sum() == pytest.approx(1, abs=1e-4)
    assert (np.asarray(table["rlnEstimatedResolution"]) > 8).all()
    members = np.asarray(table["parhelionMembers"])
    assert members.sum() == 80
    frc = tables["class_frc"]
    assert frc.rows % 4 == 0
    assert np.asarray(frc["rlnFourierShellCorrelation"]).max() <= 1
    classified = read_particles(found.outputs["particles"])
    np.testing.assert_array_equal(np.bincount(classified.class_number, minlength=5)[1:], members)
    angles = to_relion(classified.rotation)
    assert np.abs(angles[:, :2]).max() < 1e-6 < np.ptp(angles[:, 2])
    assert np.abs(classified.shift_xyz_angstrom[:, 2]).max() == 0
    probability = classified.extra["rlnMaxValueProbDistribution"]
    assert 0 < probability.min() <= probability.max() <= 1
    assert set(np.round(classified.extra["rlnClassScore"], 4)) <= set(np.asarray(table["rlnClassScore"]))
    assert [path.name for path in found.outputs["cycles"]] == [f"classes_{i:03d}.mrcs" for i in range(1, 5)]
    assert all(open_stack(path).shape == (4, 32, 32) for path in found.outputs["cycles"])
    assert open_stack(found.outputs["start"]).shape == (4, 32, 32)
    history = json.loads((found.folder / "history.json").read_text())["cycles"]
    assert [row["cycle"] for row in history] == [1, 2, 3, 4]
    assert all({"log_likelihood", "sigma", "moved_percent"} <= set(row) for row in history)
    assert history[-1]["log_likelihood"] > history[0]["log_likelihood"]
    assert (classified.extra["cisTEMSigma"] > 0).all() and np.ptp(classified.extra["parhelionScale"]) > 0
    report = (found.folder / "report.html").read_text(encoding="utf-8")
    assert report.count("<figcaption>start of ") == report.count("<figcaption>class ") == 4
    for shown in ("Good classes", "score", "Cycles", "Starting and final class averages", "particles"):
        assert shown in report
    selected = read_particles(found.outputs["selected"])
    assert len(selected) == found.figures["selected_particles"] == 80


def test_only_good_classes_are_selected(run, particles, tmp_path) -> None:
    # the job's simulated views are all different: with few particles per class some agree in detail, some not
    first = run("class2d", input=particles, **QUICK)
    score = np.asarray(read_star(first.outputs["table"])["model_classes"]["rlnClassScore"])
    limit = float(np.sort(score)[1:3].mean())
    found = run("class2d", input=particles, select_score=round(limit, 4), **QUICK, output=tmp_path / "half")
    table = read_star(found.outputs["table"])["model_classes"]
    good = np.asarray(table["parhelionSelected"]).astype(bool)
    np.testing.assert_array_equal(good, score >= round(limit, 4))
    selected = read_particles(found.outputs["selected"])
    assert set(selected.class_number) == set(np.flatnonzero(good) + 1)
    left_out = found.figures["disturbed_particles"] + found.figures["unexplained_particles"]
    assert len(selected) == np.asarray(table["parhelionMembers"])[good].sum() - left_out < 80
    every = read_particles(found.outputs["particles"])
    chosen = every.extra["parhelionSelected"].astype(bool)
    np.testing.assert_array_equal(every.views.image_index[chosen], selected.views.image_index)
    assert "Other classes" in (found.folder / "report.html").read_text(encoding="utf-8")
    none = run("class2d", input=particles, select_score=1.0, **QUICK, output=tmp_path / "none")
    assert "selected" not in none.outputs
    assert any("no class reaches" in note for note in none.notices)
    off = run("class2d", input=particles, select="none", **QUICK, output=tmp_path / "off")
    assert not (off.folder / "selected.star").exists()
    report = (off.folder / "report.html").read_text(encoding="utf-8")
    assert "Other classes" not in report


def test_earlier_classes_are_references(run, particles, tmp_path) -> None:
    first = run("class2d", input=particles, **QUICK, percent=60)
    assert percent_of(first.outputs["classes"]) == 60
    assert percent_of(None) == percent_of(tmp_path / "classes.mrcs") == 0
    options = {key: value for key, value in QUICK.items() if key != "classes"}
    again = run(
        "class2d",
        input=particles,
        references=first.outputs["classes"],
        **{**options, "cycles": 1},
        output=tmp_path / "again",
    )
    assert open_stack(again.outputs["classes"]).shape == (4, 32, 32)
    small = tmp_path / "small.mrcs"
    with StackWriter(small, 2, (24, 24), 4.0) as writer:
        writer.write(0, np.ones((2, 24, 24), np.float32))
    with pytest.raises(InputError, match="24 x 24 pixels, the particles 32 x 32"):
        run("class2d", input=particles, references=small, **options, output=tmp_path / "bad")


def test_a_run_that_was_killed_goes_on_to_the_same_files(run, particles, tmp_path, monkeypatch) -> None:
    whole = run("class2d", input=particles, select_score=0.0, **QUICK, output=tmp_path / "whole")
    save = checkpoint.save

    def save_and_die(folder, state, mark) -> None:
        save(folder, state, mark)
        if state.cycle == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save", save_and_die)
    options = {"input": particles, "select_score": 0.0, **QUICK, "output": tmp_path / "killed"}
    with pytest.raises(Cancelled):
        run("class2d", **options)
    monkeypatch.setattr(checkpoint, "save", save)
    resumed = run("class2d", **options, resume=True)
    for name in ("classes", "start", "table"):
        assert resumed.outputs[name].read_bytes() == whole.outputs[name].read_bytes()
    cycles = json.loads((resumed.folder / "history.json").read_text())["cycles"]
    assert [row["cycle"] for row in cycles] == [1, 2, 3, 4]
    first, second = (read_particles(r.outputs["particles"]) for r in (whole, resumed))
    np.testing.assert_array_equal(first.class_number, second.class_number)
    np.testing.assert_array_equal(first.rotation, second.rotation)


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"classes": 60}, ParameterError, "too few for 60 classes"),
        ({"diameter": 900}, ParameterError, "does not fit into the box"),
        ({"initial_resolution": 12}, ParameterError, "--final-resolution"),
        ({"low_resolution": 40}, ParameterError, "--low-resolution"),
        ({"smoothing": 0.05}, ParameterError, "--smoothing"),
        ({"cycles": 0}, ParameterError, "--cycles"),
        ({"percent": 0}, ParameterError, "--percent"),
        ({"references": "particles"}, ParameterError, "--classes"),
        ({"select": "none", "select_score": 0.4}, ParameterError, "--select-score"),
        ({"select": "none", "select_sigma": 3}, ParameterError, "--select-sigma"),
        ({"local": True}, ParameterError, "takes the classes of the table"),
        ({"local": True, "start_average": 9, "classes": None}, ParameterError, "--local is another start"),
        ({"local": True, "classes": None}, MetadataError, "no classes"),
        ({"padding": 0.5}, ParameterError, "--padding"),
        ({"start_average": 3, "references": "particles", "classes": None}, ParameterError, "random start"),
    ],
)
def test_options_that_make_no_sense_are_refused(run, particles, options, error, said) -> None:
    given = {key: value for key, value in {**QUICK, **options}.items() if value is not None}
    if "references" in given:
        given["references"] = particles
    with pytest.raises(error, match=said):
        run("class2d", input=particles, **given)


def test_a_dry_run_estimates_and_writes_nothing(run, particles, tmp_path) -> None:
    found = run("class2d", input=particles, **QUICK, dry_run=True, output=tmp_path / "dry")
    assert found.estimate.memory_bytes > 1e8
    assert found.estimate.seconds > 0
    assert not (tmp_path / "dry").exists()


def test_a_range_of_particles(run, particles, tmp_path) -> None:
    found = run("class2d", input=particles, **QUICK, first=11, last=50)
    table = read_particles(found.outputs["particles"])
    np.testing.assert_array_equal(table.views.image_index, np.arange(10, 50))
    with pytest.raises(ParameterError, match="--first"):
        run("class2d", input=particles, **QUICK, first=81, output=tmp_path / "none")
    with pytest.raises(ParameterError, match="--last 5 comes before --first 9"):
        run("class2d", input=particles, **QUICK, first=9, last=5, output=tmp_path / "none")
    with pytest.raises(ParameterError, match="--references and --cycles 1"):
        run("class2d", input=particles, **QUICK, partial_sums=True, output=tmp_path / "none")


def test_an_earlier_table_is_the_start(run, particles, tmp_path) -> None:
    options = {**QUICK, "select": "none", "centre": False}
    first = run("class2d", input=particles, **options, output=tmp_path / "first")
    options = {key: value for key, value in options.items() if key != "classes"} | {"cycles": 1}
    again = run("class2d", input=first.outputs["particles"], **options, local=True)
    assert again.figures["classes"] == 4
    one, other = (
        open_stack(path).read(np.arange(4)) for path in (first.outputs["classes"], again.outputs["start"])
    )
    alike = np.corrcoef(one.reshape(4, -1), other.reshape(4, -1))[:4, 4:]
    assert sorted(alike.argmax(axis=0)) == [0, 1, 2, 3]
    assert (alike.max(axis=0) > 0.95).all()
    before, after = (read_particles(found.outputs["particles"]) for found in (first, again))
    assert np.median(np.hypot(*(after.shift_xyz_angstrom - before.shift_xyz_angstrom)[:, :2].T)) < 2
    cycles = [json.loads((f.folder / "history.json").read_text())["cycles"] for f in (first, again)]
    assert cycles[1][0]["log_likelihood"] > cycles[0][0]["log_likelihood"] + 1
    assert cycles[1][0]["moved_percent"] < 60


def test_the_microscope_can_be_given(run, particles, tmp_path) -> None:
    first = run("class2d", input=particles, **{**QUICK, "cycles": 2}, output=tmp_path / "first")
    plain = read_particles(first.outputs["particles"])
    for name, value, field in (
        ("voltage", 100.0, "voltage_kv"),
        ("cs", 10.0, "spherical_aberration_mm"),
        ("amplitude_contrast", 0.9, "amplitude_contrast"),
    ):
        found = run("class2d", input=particles, **{**QUICK, "cycles": 2, name: value}, output=tmp_path / name)
        table = read_particles(found.outputs["particles"])
        assert getattr(table.optics[0], field) == value
        evidence = "rlnLogLikeliContribution"
        assert np.abs(table.extra[evidence] - plain.extra[evidence]).max() > 1e-3
