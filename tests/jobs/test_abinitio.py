"""abinitio: a map from particles alone, its starts, and what is said where it is doubtful."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from parhelion.algorithms import ab_initio
from parhelion.algorithms import ab_initio_checkpoint as checkpoint
from parhelion.algorithms.ab_initio import AbInitioResult, Start
from parhelion.algorithms.map_alignment import align_maps
from parhelion.errors import Cancelled, FormatError, InputError, MetadataError, ParameterError
from parhelion.io.mrc import read_volume, write_volume
from parhelion.io.particles import read_particles, write_particles
from parhelion.jobs._abinitio import best_agreement, best_rival, doubts
from parhelion.jobs.abinitio import Params, kept_rounds
from parhelion.model.occupancy import occupancies
from parhelion.model.volume import Volume

QUICK = {"diameter": 90, "starts": 2, "rounds": 2, "final_resolution": 16}


@pytest.fixture
def simulated(simulate):
    return simulate(count=60, snr=1.0, shift=3)


@pytest.mark.long
def test_the_molecule_is_found_from_nothing(run, molecule) -> None:
    made = run("simulate_particles", model=molecule, count=200, snr=1.0, shift=3).outputs
    found = run("abinitio", input=made["particles"], **{**QUICK, "rounds": 14, "starts": 1})
    aligned = align_maps(read_volume(found.outputs["map"]), read_volume(made["reference"]))
    assert aligned.fsc_half_angstrom < 22
    assert found.figures["resolution_limit_angstrom"] == pytest.approx(16, rel=0.1)
    assert any("single start" in note for note in found.notices)


def test_every_start_is_written_and_shown(run, simulated) -> None:
    found = run("abinitio", input=simulated["particles"], symmetry="C2", **QUICK)
    assert [path.name for path in found.outputs["starts"]] == ["start_001.mrc", "start_002.mrc"]
    assert found.outputs["map"].name == "map_001.mrc"
    evidence = found.figures["evidence"], found.figures["evidence_of_the_next"]
    assert evidence[0] >= evidence[1]
    assert found.figures["chosen_start"] in (1, 2)
    assert -1 <= found.figures["symmetry_correlation"] <= 1
    data = read_volume(found.outputs["map"]).data
    turned = np.roll(data[:, ::-1, ::-1], (1, 1), axis=(1, 2))
    inside = (slice(2, -2),) * 3
    np.testing.assert_allclose(data[inside], turned[inside], atol=0.02 * data.max())
    report = (found.folder / "report.html").read_text(encoding="utf-8")
    for shown in ("Initial map (C2)", "Start 1", "Start 2", "chosen", "Rounds", "Central slices"):
        assert shown in report
    assert any("few" in note for note in found.notices)


def test_finished_starts_are_not_made_again(run, simulated, tmp_path, monkeypatch) -> None:
    out, one_start = tmp_path / "cut", ab_initio.one_start
    made: list[int] = []

    def stopped_in_the_second(problem, settings, number, *rest):
        if number == 2:
            raise Cancelled("stopped")
        return one_start(problem, settings, number, *rest)

    def counted(problem, settings, number, *rest):
        made.append(number)
        return one_start(problem, settings, number, *rest)

    job = {"input": simulated["particles"], **QUICK}
    whole = run("abinitio", **job, output=tmp_path / "whole")
    monkeypatch.setattr(ab_initio, "one_start", stopped_in_the_second)
    with pytest.raises(Cancelled):
        run("abinitio", **job, output=out)
    monkeypatch.setattr(ab_initio, "one_start", counted)
    resumed = run("abinitio", **job, output=out, resume=True)
    assert made == [2]
    assert "start 1 was finished before" in resumed.notices
    assert [p.name for p in resumed.outputs["rounds"]] == [p.name for p in whole.outputs["rounds"]]
    np.testing.assert_allclose(
        read_volume(resumed.outputs["map"]).data, read_volume(whole.outputs["map"]).data, atol=1e-5
    )
    assert resumed.figures["evidence"] == pytest.approx(whole.figures["evidence"], rel=1e-5)


def test_a_damaged_start_is_made_anew_and_one_of_other_particles_is_refused(tmp_path) -> None:
    said: list[str] = []
    observer = SimpleNamespace(notice=said.append)
    volumes = torch.ones(1, 4, 4, 4)
    checkpoint.save(tmp_path, 1, volumes, "mark")
    assert torch.equal(checkpoint.load(tmp_path, 1, "mark", observer), volumes)
    assert checkpoint.load(tmp_path, 2, "mark", observer) is None
    with pytest.raises(ParameterError, match=r"other particles.*--overwrite"):
        checkpoint.load(tmp_path, 1, "other", observer)
    (tmp_path / "start_001.npz").write_bytes(b"damaged")
    assert checkpoint.load(tmp_path, 1, "mark", observer) is None
    assert len(said) == 1 and "start_001.npz is damaged" in said[0]


def test_particles_know_their_poses_and_maps_of_rounds_are_kept(run, simulated) -> None:
    found = run("abinitio", input=simulated["particles"], **{**QUICK, "rounds": 3}, keep_every=2)
    names = [path.name for path in found.outputs["rounds"]]
    assert names == [f"start_{s:03d}_round_{r:03d}.mrc" for s in (1, 2) for r in (1, 2, 3)]
    assert found.outputs["maps"] == [found.outputs["map"]]
    particles = read_particles(found.outputs["particles"])
    assert len(particles) == 60
    assert particles.rotation is not None and particles.shift_xyz_angstrom is not None
    assert (particles.class_number == 1).all()
    np.testing.assert_allclose(occupancies(particles), 100)
    assert "rlnMaxValueProbDistribution" in particles.extra
    history = json.loads((found.folder / "history.json").read_text(encoding="utf-8"))["rounds"]
    assert [row["round"] for row in history] == [1, 2, 3, 1, 2, 3]
    assert all(0 < row["sigma"] < 2 and "evidence" in row for row in history)
    report = (found.folder / "report.html").read_text(encoding="utf-8")
    for shown in ("What is left of the images", "Start 2, round by round", "Round 3", "Viewing directions"):
        assert shown in report


def test_classes_begin_from_references_and_share_the_particles(run, simulated, molecule) -> None:
    """A class that is given the molecule takes its particles from one that is given another."""
    other = read_volume(molecule)
    turned = Volume(data=np.ascontiguousarray(other.data.swapaxes(0, 2)) ** 0.25, pixel_size_angstrom=4.0)
    second = molecule.parent / "second.mrc"
    write_volume(second, turned)
    options = {**QUICK, "starts": 1, "keep_every": 0}
    found = run("abinitio", input=simulated["particles"], references=[molecule, second], **options)
    assert [path.name for path in found.outputs["maps"]] == ["map_001.mrc", "map_002.mrc"]
    assert [path.name for path in found.outputs["starts"]] == [
        "start_001_class_001.mrc",
        "start_001_class_002.mrc",
    ]
    assert found.outputs["rounds"] == []
    shares = found.figures["class_1_share"], found.figures["class_2_share"]
    assert shares[0] >= shares[1]
    assert sum(shares) == pytest.approx(1.0, abs=1e-3)
    percent = occupancies(read_particles(found.outputs["particles"]))
    assert percent.shape == (60, 2)
    np.testing.assert_allclose(percent.sum(1), 100, atol=0.01)
    assert "class 2" in (found.folder / "report.html").read_text(encoding="utf-8")


def test_rounds_that_are_kept() -> None:
    given = {"input": "particles.star", "diameter": 90.0, "starts": 1}

    def kept(**options) -> tuple[int, ...]:
        return kept_rounds(Params.model_construct(**{"rounds": 40, "keep_every": None, **given, **options}))

    assert kept() == (1, 14, 28, 40)
    assert kept(keep_every=20) == (1, 20, 40)
    assert kept(keep_every=0) == ()


def test_the_same_seed_gives_the_same_map(run, simulated, tmp_path) -> None:
    maps = [
        run("abinitio", input=simulated["particles"], **QUICK, seed=seed, output=tmp_path / name)
        for seed, name in ((3, "a"), (3, "b"), (4, "c"))
    ]
    a, b, c = (read_volume(one.outputs["map"]).data for one in maps)
    np.testing.assert_array_equal(a, b)
    assert not np.allclose(a, c, atol=1e-3 * np.abs(a).max())


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"symmetry": "X3"}, ParameterError, "X3"),
        ({"diameter": 900}, ParameterError, "does not fit into the box"),
        ({"initial_resolution": 15, "final_resolution": 20}, ParameterError, "finer"),
        ({"starts": 0}, ParameterError, "--starts"),
        ({"batch": 50, "percent": (10, 50)}, ParameterError, "--batch and --percent"),
        ({"blurring": False, "smoothing": 0.5}, ParameterError, "--no-blurring"),
        ({"starts": 1, "start_from": "previous"}, ParameterError, "more than one"),
        ({"apply_symmetry": "always"}, ParameterError, "other than C1"),
        ({"inner_radius": 60}, ParameterError, "leaves nothing"),
        ({"diameter": None}, InputError, "--diameter"),
    ],
)
def test_options_that_make_no_sense_are_refused(run, simulated, options, error, said) -> None:
    given = {key: value for key, value in {**QUICK, **options}.items() if value is not None}
    with pytest.raises(error, match=said):
        run("abinitio", input=simulated["particles"], **given)


def result(agreements: list[float], correlation: float | None = None) -> AbInitioResult:
    """A result whose first start is the chosen one."""
    volume = Volume(data=np.zeros((4, 4, 4), np.float32), pixel_size_angstrom=1.0)
    starts = tuple(
        Start(seed=i, evidence=-float(i), volume=volume, agreement=value)
        for i, value in enumerate([1.0, *agreements])
    )
    return AbInitioResult(
        volume=volume,
        chosen=0,
        starts=starts,
        symmetry="C1",
        symmetry_correlation=correlation,
        resolution_limit_angstrom=20.0,
        notes=(),
    )


def test_a_map_that_stands_alone_is_called_doubtful() -> None:
    assert doubts(result([0.2, 0.9])) == []
    assert "mean FSC at most 0.30" in doubts(result([0.2, 0.3]))[0]
    assert "single start" in doubts(result([]))[0]
    assert best_rival(result([0.2, 0.9])) == 1
    assert best_agreement(result([0.2, 0.9])) == 0.9


def test_a_dry_run_estimates_and_writes_nothing(run, simulated, tmp_path) -> None:
    found = run("abinitio", input=simulated["particles"], **QUICK, dry_run=True, output=tmp_path / "dry")
    assert found.estimate.memory_bytes > 3e8
    assert found.estimate.seconds > 0
    assert not (tmp_path / "dry").exists()


def test_class_averages_take_the_place_of_particles(run, simulated, tmp_path) -> None:
    """The in-plane poses and classes of the table say what is averaged; all particles get their poses."""
    particles = read_particles(simulated["particles"])
    numbers = np.arange(len(particles)) // 2 + 1
    flat = np.broadcast_to(np.eye(3), (len(particles), 3, 3))
    classified = tmp_path / "classified.star"
    in_plane = particles.with_poses(flat, np.zeros((len(particles), 3)))
    write_particles(classified, replace(in_plane, class_number=numbers))
    options = {**QUICK, "starts": 1, "keep_every": 0, "class_averages": True}
    found = run("abinitio", input=classified, **options, images_per_class=2)
    assert any("60 of 60 particles make 30 averages of about 2" in note for note in found.notices)
    assert len(read_particles(found.outputs["particles"])) == 60
    rows = json.loads((found.folder / "history.json").read_text(encoding="utf-8"))["rounds"]
    assert {row["particles"] for row in rows} == {24}
    with pytest.raises(MetadataError, match=r"no 2D classes \(rlnClassNumber\); take the particles.star"):
        run("abinitio", input=simulated["particles"], **options, output=tmp_path / "none")
    (tmp_path / "classes.star").write_text("data_model_classes\n\nloop_\n_rlnClassNumber #1\n1\n")
    write_particles(tmp_path / "selected.star", in_plane)
    for averages in (tmp_path / "classes.star", simulated["particles"].with_name("particles.mrcs")):
        with pytest.raises(FormatError, match=rf"{averages.name} holds images without.*such as .*\.star"):
            run("abinitio", input=averages, **options, output=tmp_path / "averages")
    with pytest.raises(ParameterError, match="--images-per-class"):
        run("abinitio", input=classified, **QUICK, images_per_class=2, output=tmp_path / "alone")
