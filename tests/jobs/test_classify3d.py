"""``classify3d`` as a job: what it writes, says and refuses."""

import pytest

from parhelion.errors import InputError, OutputError, ParameterError
from parhelion.io.mrc import read_header, read_volume
from parhelion.io.particles import read_particles
from parhelion.io.star import read_star
from parhelion.jobs import classify3d


@pytest.fixture
def truth(simulate):
    """Particles with their true poses."""
    return simulate(count=60, snr=0.5)["truth"]


def test_everything_is_written(run, truth) -> None:
    found = run("classify3d", input=truth, classes=2, diameter=90.0, rounds=4)
    maps = found.outputs["maps"]
    assert [m.name for m in maps] == ["map_001.mrc", "map_002.mrc"]
    box = read_volume(maps[0]).box
    assert all(read_header(half).shape == (box,) * 3 for half in found.outputs["half1"])
    particles = read_particles(found.outputs["particles"])
    assert len(particles) == 60 == found.figures["used_particles"]
    assert set(particles.class_number) <= {1, 2}
    rows = read_star(found.outputs["particles"])["particles"]
    assert (rows["rlnMaxValueProbDistribution"].astype(float) >= 0.5).all()
    shares = [found.figures[f"class_{k}_share"] for k in (1, 2)]
    assert shares[0] >= shares[1] and sum(shares) == pytest.approx(1, abs=1e-6)
    report = (maps[0].parent / "report.html").read_text("utf-8")
    assert "Halves of each class" in report and "Class 2" in report
    # 60 images of one molecule
    assert found.figures["alike_classes"] == "1=2" and "classes 1 and 2 are alike" in report


def test_classes_start_from_maps_or_from_the_input(run, truth, molecule, tmp_path) -> None:
    given = {"diameter": 90.0, "rounds": 4}
    found = run("classify3d", input=truth, references=(molecule, molecule), **given)
    assert len(found.outputs["maps"]) == 2
    carried = found.outputs["particles"]
    percent = [name for name in read_star(carried)["particles"] if "Occupancy" in name]
    assert percent == ["parhelionOccupancy1", "parhelionOccupancy2"]
    again = run("classify3d", input=carried, start="input", output=tmp_path / "again", **given)
    assert len(again.outputs["maps"]) == 2
    with pytest.raises(ParameterError, match="carries one class"):
        run("classify3d", input=truth, start="input", output=tmp_path / "one", **given)
    with pytest.raises(ParameterError, match="carries 2 classes and --classes says 4"):
        run("classify3d", input=carried, start="input", classes=4, output=tmp_path / "four", **given)
    with pytest.raises(ParameterError, match="names 2 maps and --classes says 3"):
        run("classify3d", input=truth, references=(molecule, molecule), classes=3, **given)
    with pytest.raises(ParameterError, match="--start says otherwise"):
        run("classify3d", input=truth, references=(molecule, molecule), start="random", **given)


def test_a_stopped_run_goes_on_to_the_same_figures(run, truth, tmp_path, monkeypatch) -> None:
    common = {"input": truth, "classes": 2, "diameter": 90.0, "rounds": 5}
    whole = run("classify3d", output=tmp_path / "whole", **common)

    def full(*_: object) -> None:
        raise OutputError("the disk is full")

    stopped = tmp_path / "stopped"
    with monkeypatch.context() as patched:
        patched.setattr(classify3d, "show", full)
        with pytest.raises(OutputError, match="the disk is full"):
            run("classify3d", output=stopped, **common)
    again = run("classify3d", output=stopped, resume=True, **common)
    assert again.figures == whole.figures
    assert "going on after round" in (stopped / "log.txt").read_text("utf-8")


def test_each_class_may_have_its_symmetry(run, truth) -> None:
    found = run(
        "classify3d", input=truth, classes=2, diameter=90.0, rounds=4, symmetry=("C1", "C2"), align="local"
    )
    assert len(found.outputs["maps"]) == 2


def test_options_that_make_no_sense_are_refused(run, truth, molecule) -> None:
    with pytest.raises(ParameterError, match="one for all, or one for each"):
        run("classify3d", input=truth, classes=3, diameter=90.0, symmetry=("C1", "C2"))
    with pytest.raises(ParameterError, match="--start split makes classes of one symmetry"):
        run("classify3d", input=truth, classes=2, diameter=90.0, symmetry=("C1", "C2"), start="split")
    with pytest.raises(ParameterError, match="--focus-centre needs --focus-radius"):
        run("classify3d", input=truth, diameter=90.0, focus_centre=(0.0, 0.0, 10.0))
    with pytest.raises(InputError, match="X9"):
        run("classify3d", input=truth, diameter=90.0, symmetry=("X9",))


def test_a_dry_run_says_what_a_run_would(truth) -> None:
    given = {"input": truth, "diameter": 90.0}
    assert classify3d.estimate(classify3d.Params(**given)).memory_bytes > 0
    with pytest.raises(ParameterError, match="carries one class"):
        classify3d.estimate(classify3d.Params(**given, start="input"))
    with pytest.raises(ParameterError, match="lies outside the box"):
        far = {"focus_centre": (2000.0, 0.0, 0.0), "focus_radius": 20.0}
        classify3d.estimate(classify3d.Params(**given, **far))


def test_particles_without_poses_are_refused(run, truth) -> None:
    bare = truth.parent / "particles.star"
    with pytest.raises(InputError, match="no poses"):
        run("classify3d", input=bare, diameter=90.0, classes=2)
