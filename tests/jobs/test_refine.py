"""refine: from particles and a map to half maps, poses and resolution; bad input; resuming."""

import numpy as np
import pytest

from parhelion.errors import InputError, MetadataError, ParameterError
from parhelion.geometry.rotations import align_poses
from parhelion.io.mrc import read_volume, write_volume
from parhelion.io.particles import read_particles
from parhelion.io.star import read_star
from parhelion.io.statistics import read_statistics
from parhelion.jobs._refine_input import settings_of
from parhelion.jobs.refine import Params
from parhelion.model.occupancy import occupancies
from parhelion.model.volume import Volume

COUNT = 60
QUICK = {"max_rounds": 2, "results_to_refine": 4, "diameter": 90, "initial_resolution": 20}


@pytest.fixture
def simulated(simulate):
    return simulate(count=COUNT, snr=1.0, shift=3)


@pytest.fixture
def simulated_inputs(tmp_path):
    """Files that exist; nothing reads them."""
    names = {"input": tmp_path / "particles.star", "reference": tmp_path / "map.mrc"}
    for path in names.values():
        path.touch()
    return names


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
        "How it came to this",
        "searched everywhere to",
        "No further round: 2 rounds, the most allowed.",
        "gold standard",
        "Half maps inside the mask after each round",
        "Directional FSC",
        "Sphericity",
        "Fourier sampling",
    ):
        assert shown in report
    assert any("stopped before it converged: 2 rounds" in note for note in found.notices)
    assert 0 < found.figures["sphericity"] <= 1.01
    assert 0 < found.figures["finest_to_coarsest_axis"] <= 1
    blocks = read_star(found.outputs["orientations"])
    assert blocks["directions"].rows == 96
    assert {"rlnAngstromResolution", "parhelionSampling"} <= set(blocks["directions"])
    assert blocks["views"]["parhelionParticlesRelativeToMean"].mean() == pytest.approx(1)
    statistics = read_statistics(found.outputs["statistics"])
    corrected = read_star(found.outputs["fsc"])["fsc"]["rlnFourierShellCorrelationCorrected"]
    np.testing.assert_allclose(statistics.fsc, corrected[1:], atol=1e-4)


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
        ({"local": True}, MetadataError, "has no poses"),
        ({"max_rounds": 0}, ParameterError, "--max-rounds"),
        ({"local": True, "autocrop": True}, ParameterError, "--autocrop belong to the search"),
        ({"blurring": False, "smoothing": 0.5}, ParameterError, "that they do not"),
        ({"auto_mask": False, "outside_weight": 0.5}, ParameterError, "there is no mask"),
        ({"outside_lowpass": 20.0}, ParameterError, "give it a weight"),
        ({"mask": "reference", "centre": True}, ParameterError, "--mask would not follow"),
        ({"symmetry": "C1,D2"}, ParameterError, "one for all, or one for each"),
        ({"class_rounds": 9}, ParameterError, "is for several --classes"),
        ({"inner_radius": 70.0, "diameter": 90}, ParameterError, "must be smaller than the outer"),
    ],
)
def test_options_that_make_no_sense_are_refused(run, simulated, options, error, said) -> None:
    given = {"input": simulated["particles"], "reference": simulated["reference"], **options}
    if "mask" in options:
        given["mask"] = simulated["reference"]
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


def test_the_maps_of_every_round_are_kept(run, simulated) -> None:
    found = run(
        "refine", input=simulated["particles"], reference=simulated["reference"], save_rounds=True, **QUICK
    )
    names = {path.name for path in found.outputs["rounds"]}
    for number in (1, 2):
        for what in ("half1.mrc", "half2.mrc", "reference1.mrc", "mask.mrc", "fsc.star", "statistics.txt"):
            assert f"round_{number:03d}_{what}" in names
    last = next(p for p in found.outputs["rounds"] if p.name == "round_002_half1.mrc")
    np.testing.assert_array_equal(read_volume(last).data, read_volume(found.outputs["half1"]).data)
    first = next(p for p in found.outputs["rounds"] if p.name == "round_001_half1.mrc")
    assert not np.array_equal(read_volume(first).data, read_volume(last).data)
    # one meaning in all tables of statistics: the corrected curve
    table, shown = (last.with_name(f"round_002_{name}") for name in ("statistics.txt", "fsc.star"))
    np.testing.assert_allclose(read_statistics(table).fsc, read_statistics(shown).fsc, atol=1e-5)
    whole = read_statistics(found.outputs["statistics"])
    # a round's tables end with what its maps hold, before the box's last shell
    np.testing.assert_allclose(read_statistics(table).fsc[:-1], whole.fsc[:-1], atol=1e-5)


REACH = {
    "low_resolution": ("low_resolution_angstrom", 60.0),
    "search_radius": ("search_radius_angstrom", 40.0),
    "autocrop": ("autocrop", True),
    "percent": ("percent", 40.0),
    "best_percent": ("best_percent", 60.0),
    "score_weight": ("score_weight", 2.0),
    "blurring": ("blurring", False),
    "smoothing": ("smoothing", 0.2),
    "outer_radius": ("outer_radius_angstrom", 36.0),
    "inner_radius": ("inner_radius_angstrom", 15.0),
    "mask_edge": ("mask_edge_angstrom", 30.0),
    "outside_weight": ("outside_weight", 1.0),
    "centre": ("centre", True),
    "scheme": ("scheme", "cistem"),
}


@pytest.mark.parametrize("name", REACH)
def test_the_options_reach_the_refinement(simulated_inputs, name) -> None:
    """What each does there is shown in tests/engine/test_options.py and test_refine_classes.py."""
    field, value = REACH[name]
    assert getattr(settings_of(Params(**simulated_inputs), 1), field) != value
    assert getattr(settings_of(Params(**simulated_inputs, **{name: value}), 1), field) == value


def test_cistems_scheme_and_options_together(run, simulated) -> None:
    found = run(
        "refine",
        input=simulated["particles"],
        reference=simulated["reference"],
        scheme="cistem",
        mass=40.0,
        low_resolution=60.0,
        best_percent=90.0,
        outside_weight=0.5,
        outside_lowpass=30.0,
        mask_edge=20.0,
        smoothing=0.5,
        **{**QUICK, "diameter": 60},
        autocrop=True,
        centre=True,
    )
    assert found.figures["scheme"] == "cistem"
    assert found.figures["particle_resolution_angstrom"] <= found.figures["resolution_angstrom"]
    assert found.figures["rounds"] == 2
    assert "aligned to one map" in (found.folder / "report.html").read_text(encoding="utf-8")


def test_several_classes(run, simulated) -> None:
    found = run(
        "refine",
        input=simulated["particles"],
        reference=simulated["reference"],
        classes=2,
        symmetry="C1,C2",
        class_rounds=4,
        class_align="none",
        class_resolution=16,
        save_rounds=True,
        **QUICK,
    )
    assert [path.name for path in found.outputs["class_maps"]] == ["map_001.mrc", "map_002.mrc"]
    for name in ("class_half1", "class_half2", "class_masks"):
        assert len(found.outputs[name]) == 2
    assert "map" not in found.outputs
    table = read_particles(found.outputs["particles"])
    assert set(np.unique(table.class_number)) <= {1, 2}
    np.testing.assert_allclose(occupancies(table).sum(1), 100, atol=0.01)
    assert found.figures["class_1_particles"] + found.figures["class_2_particles"] == COUNT
    assert found.figures["class_1_resolution_angstrom"] == found.figures["resolution_angstrom"]
    assert any(path.name.startswith("together_round_001") for path in found.outputs["rounds"])
    report = (found.folder / "report.html").read_text(encoding="utf-8")
    for shown in ("Class 1", "Class 2", "Half maps of each class", "Telling classes apart", "all together"):
        assert shown in report
