"""refine: from particles and a map to half maps, poses and resolution; bad input; resuming."""

import numpy as np
import pytest

from parhelion.errors import InputError, MetadataError, ParameterError
from parhelion.geometry.rotations import align_poses
from parhelion.io.mrc import read_volume, write_volume
from parhelion.io.particles import read_particles
from parhelion.model.volume import Volume

COUNT = 60
QUICK = {"max_rounds": 2, "results_to_refine": 4, "diameter": 90, "initial_resolution": 20}


@pytest.fixture
def simulated(run, molecule):
    return run("simulate_particles", model=molecule, count=COUNT, snr=1.0, shift=3).outputs


@pytest.fixture
def broken(simulated, tmp_path):
    """The same stack with two images that are not finite."""
    folder = tmp_path / "broken"
    folder.mkdir()
    content = bytearray(simulated["images"].read_bytes())
    pixels = np.frombuffer(content, "<f4", offset=len(content) - COUNT * 32 * 32 * 4).reshape(COUNT, 32, 32)
    pixels[[2, 30], 4, 4] = np.nan
    (folder / "particles.mrcs").write_bytes(content)
    (folder / "particles.star").write_text(simulated["particles"].read_text("utf-8"), "utf-8")
    return folder / "particles.star"


def test_everything_is_written(run, simulated) -> None:
    found = run("refine", input=simulated["particles"], reference=simulated["reference"], **QUICK)
    files = {"map", "half1", "half2", "mask", "fsc", "statistics", "orientations", "particles"}
    assert set(found.outputs) == files
    truth = read_particles(simulated["truth"])
    table = read_particles(found.outputs["particles"])
    assert np.median(align_poses(table.rotation, truth.rotation).error_deg) < 5
    assert np.median(np.abs(table.shift_xyz_angstrom - truth.shift_xyz_angstrom)[:, :2]) < 1.5
    assert sorted(np.unique(table.half)) == [1, 2]
    for column in ("rlnLogLikeliContribution", "rlnMaxValueProbDistribution"):
        assert column in table.extra
    assert found.figures["rounds"] == 2
    assert found.figures["resolution_angstrom"] < 25
    assert read_volume(found.outputs["half1"]).data.shape == (32, 32, 32)
    report = (found.folder / "report.html").read_text(encoding="utf-8")
    for shown in (
        "First particles",
        "Half maps",
        "Central slices",
        "Viewing directions",
        "Rounds",
        "Stopped",
    ):
        assert shown in report


def test_bad_images_are_named_and_left_out(run, broken, simulated) -> None:
    found = run("refine", input=broken, reference=simulated["reference"], **{**QUICK, "max_rounds": 1})
    assert found.figures["used_particles"] == COUNT - 2
    assert any("000003@" in note and "000031@" in note for note in found.notices)
    assert len(read_particles(found.outputs["particles"])) == COUNT - 2


def test_rows_past_the_end_of_the_stack_are_dropped_with_a_notice(run, simulated, tmp_path) -> None:
    text = simulated["particles"].read_text("utf-8").replace("000060@", "000099@")
    table = simulated["particles"].parent / "wrong.star"
    table.write_text(text, "utf-8")
    found = run("refine", input=table, reference=simulated["reference"], **{**QUICK, "max_rounds": 1})
    assert any("points at image 99" in note for note in found.notices)
    assert found.figures["used_particles"] == COUNT - 1


def test_a_mask_in_the_frame_of_the_reference_is_resampled_with_it(run, simulated, molecule) -> None:
    small = run("resample", input=molecule, box=26).outputs["map"]
    mask = run("mask", input=small).outputs["mask"]
    found = run(
        "refine",
        input=simulated["particles"],
        reference=small,
        mask=mask,
        **{**QUICK, "max_rounds": 1},
    )
    assert sum("was resampled" in note for note in found.notices) == 2
    assert read_volume(found.outputs["mask"]).data.shape == (32, 32, 32)


def test_a_mask_that_fits_neither_is_refused(run, simulated, tmp_path) -> None:
    path = tmp_path / "odd.mrc"
    write_volume(path, Volume(data=np.ones((20, 20, 20), np.float32), pixel_size_angstrom=4.0))
    with pytest.raises(InputError, match="20 x 20 x 20"):
        run("refine", input=simulated["particles"], reference=simulated["reference"], mask=path, **QUICK)


def test_a_table_without_a_known_pixel_size_can_be_told(run, simulated) -> None:
    found = run(
        "refine",
        input=simulated["particles"],
        reference=simulated["reference"],
        pixel_size=4.1,
        **{**QUICK, "max_rounds": 1},
    )
    assert read_volume(found.outputs["map"]).pixel_size_angstrom == pytest.approx(4.1)
    assert any("resampled" in note for note in found.notices)


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"symmetry": "X3"}, ParameterError, "X3"),
        ({"diameter": 900}, ParameterError, "does not fit into the box"),
        ({"local": True, "shift_range": 5}, ParameterError, "belong to the search"),
        ({"local": True}, MetadataError, "input has none"),
        ({"max_rounds": 0}, ParameterError, "--max-rounds"),
    ],
)
def test_options_that_make_no_sense_are_refused(run, simulated, options, error, said) -> None:
    given = {"input": simulated["particles"], "reference": simulated["reference"], **options}
    with pytest.raises(error, match=said):
        run("refine", **given)


def test_a_finished_round_is_not_done_again(run, simulated, tmp_path, monkeypatch) -> None:
    """A run that fails in its second round goes on there, and ends with the same map."""
    from parhelion.algorithms import refine3d

    given = {"input": simulated["particles"], "reference": simulated["reference"], **QUICK}
    whole = run("refine", **given, output=tmp_path / "whole")
    rounds = []
    original = refine3d.run_round

    def failing(problem, state):
        rounds.append(state.plan.round)
        if state.plan.round == 1 and len(rounds) == 2:
            raise InputError("pulled the plug")
        return original(problem, state)

    monkeypatch.setattr(refine3d, "run_round", failing)
    with pytest.raises(InputError, match="pulled the plug"):
        run("refine", **given, output=tmp_path / "cut")
    resumed = run("refine", **given, output=tmp_path / "cut", resume=True)
    assert rounds == [0, 1, 1]
    for name in ("map", "half1", "half2", "mask"):
        np.testing.assert_array_equal(
            read_volume(resumed.outputs[name]).data, read_volume(whole.outputs[name]).data
        )
    assert resumed.outputs["particles"].read_text("utf-8").count("\n") > COUNT


def test_a_dry_run_estimates_and_writes_nothing(run, simulated, tmp_path) -> None:
    given = {"input": simulated["particles"], "reference": simulated["reference"]}
    found = run("refine", **given, dry_run=True, output=tmp_path / "dry")
    assert found.estimate.memory_bytes > 3e8
    assert not (tmp_path / "dry").exists()
