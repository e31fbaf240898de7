"""``refine-manual`` as a job: what it writes, says, resumes and refuses."""

from dataclasses import replace

import numpy as np
import pytest

from manual_data import molecule
from parhelion.errors import InputError, MetadataError, OutputError, ParameterError
from parhelion.geometry.rotations import align_poses, angle_between
from parhelion.io.mrc import open_stack, read_header, read_volume, write_volume
from parhelion.io.particles import read_particles, write_particles
from parhelion.io.star import read_star
from parhelion.io.statistics import read_statistics
from parhelion.jobs import _refine_manual_work
from parhelion.model.occupancy import occupancies
from parhelion.model.volume import Volume

SCORES = ("cisTEMOccupancy", "cisTEMLogP", "cisTEMSigma", "cisTEMScore", "cisTEMScoreChange")
SIZE = {"diameter": 80.0, "resolution_limit": 12.0}


@pytest.fixture
def truth(simulate):
    """Particles with their true poses."""
    return simulate(count=80, snr=0.5)["truth"]


@pytest.fixture
def maps(tmp_path):
    """Two maps that differ in a domain."""
    paths = []
    for number, domain in enumerate((0.0, 1.5)):
        paths.append(tmp_path / f"reference{number}.mrc")
        write_volume(paths[-1], molecule(domain))
    return paths


def test_everything_is_written_for_every_class(run, truth, maps) -> None:
    found = run("refine_manual", input=truth, references=maps, matching_projections=True, mass=100.0, **SIZE)
    out = found.outputs
    assert [p.name for p in out["maps"]] == ["map_001.mrc", "map_002.mrc"]
    box = read_volume(out["maps"][0]).box
    for name in ("half1", "half2", "masks"):
        assert all(read_header(path).shape == (box,) * 3 for path in out[name])
    assert all("rlnFourierShellCorrelationCorrected" in read_star(p)["fsc"] for p in out["fsc"])
    table = read_statistics(out["statistics"][0])
    assert table.part_ssnr is not None and table.fsc[0] > 0.9
    np.testing.assert_allclose(table.fsc, read_statistics(out["fsc"][0]).fsc, atol=1e-5)  # the corrected
    assert open_stack(out["projections"]).shape[0] == 80
    particles = read_particles(out["particles"])
    assert occupancies(particles).shape == (80, 2)
    for path in (out["particles"], *out["class_particles"]):
        rows = read_star(path)["particles"]
        assert all(name in rows for name in SCORES)
        score = rows["cisTEMScore"].astype(float)
        assert (score >= -100).all() and (score <= 100).all()
    assert found.figures["class_1_share"] + found.figures["class_2_share"] == pytest.approx(1)
    assert found.figures["used_particles"] == 80 and found.figures["cycles"] == 1
    report = (out["maps"][0].parent / "report.html").read_text("utf-8")
    for title in ("Half maps", "Scores", "View directions of class 2", "How surely particles belong"):
        assert title in report


def test_changes_say_how_far_particles_moved(run, truth) -> None:
    found = run("refine_manual", input=truth, **SIZE)
    changes = read_star(found.outputs["changes"])["changes"]
    before, after = read_particles(truth), read_particles(found.outputs["particles"])
    angle = angle_between(after.rotation, before.rotation)
    assert np.allclose(changes["parhelionAngleChangeDegrees"].astype(float), angle, atol=0.01)
    shift = (after.shift_xyz_angstrom - before.shift_xyz_angstrom)[:, 0]
    assert np.allclose(changes["parhelionShiftChangeXAngstrom"].astype(float), shift, atol=0.01)


def test_results_go_on_from_class_tables_and_to_cistem(run, truth, maps, tmp_path) -> None:
    first = run("refine_manual", input=truth, references=maps, **SIZE)
    tables = first.outputs["class_particles"]
    second = run(
        "refine_manual",
        input=first.outputs["particles"],
        references=first.outputs["maps"],
        class_particles=tables,
        align="none",
        output=tmp_path / "second",
        **SIZE,
    )
    for before, after in zip(tables, second.outputs["class_particles"]):
        assert np.allclose(read_particles(before).rotation, read_particles(after).rotation, atol=1e-4)
    star = run("convert", input=tables[0], to="cistem", output=tmp_path / "cistem").outputs
    written = np.atleast_1d(next(iter(star.values())))[0]
    rows = next(iter(read_star(written).values()))
    there = read_star(tables[0])["particles"]
    assert np.allclose(rows["cisTEMScore"].astype(float), there["cisTEMScore"].astype(float), atol=0.01)
    shorter = tmp_path / "shorter.star"
    write_particles(shorter, read_particles(tables[1]).take(np.arange(70)))
    twice = tmp_path / "twice.star"
    twice.write_text(tables[1].read_text().replace("000080@", "000001@"))
    for number, (table, message) in enumerate(
        ((shorter, "no row for 10 of 80 particles"), (twice, "some images more than once"))
    ):
        with pytest.raises(MetadataError, match=message):
            run(
                "refine_manual",
                input=truth,
                references=maps,
                class_particles=[tables[0], table],
                output=tmp_path / f"third{number}",
                **SIZE,
            )


def test_particles_without_poses_are_searched(run, truth, maps) -> None:
    bare = truth.parent / "particles.star"
    found = run("refine_manual", input=bare, references=maps[:1], angular_step=20.0, **SIZE)
    history = (found.outputs["maps"][0].parent / "history.json").read_text()
    assert '"moved_deg": 180' in history
    with pytest.raises(MetadataError, match=r"no poses .*search globally"):
        run("refine_manual", input=bare, output=found.outputs["maps"][0].parent / "b", **SIZE)


def test_first_last_and_mask(run, truth, molecule, tmp_path) -> None:
    mask = tmp_path / "mask.mrc"
    like = read_volume(molecule)
    body = (like.data > 0.3).astype(np.float32)
    write_volume(mask, replace(like, data=0.2 * body))
    outputs = [
        run(
            "refine_manual",
            input=truth,
            references=[molecule],
            mask=mask,
            mask_edge=edge,
            first=11,
            last=50,
            output=tmp_path / f"edge{edge}",
            **SIZE,
        ).outputs
        for edge in (4.0, 20.0)
    ]
    small, large = (read_volume(o["masks"][0]).data for o in outputs)
    # whatever lies above 0 is wholly inside
    inside = np.zeros_like(body, bool)
    inside[10:22, 10:22, 10:22] = body[10:22, 10:22, 10:22] > 0
    assert small[inside].min() > 0.99 and large.sum() > small.sum()
    rows = read_star(outputs[0]["changes"])["changes"]
    assert len(rows["parhelionInputRow"]) == 40
    names = [str(n) for n in read_star(outputs[0]["particles"])["particles"]["rlnImageName"]]
    assert names[0].startswith("000011@") and names[-1].startswith("000050@")
    wrong = tmp_path / "wrong.mrc"
    write_volume(wrong, Volume(data=np.ones((20,) * 3, np.float32), pixel_size_angstrom=4.0))
    with pytest.raises(InputError, match="20 x 20 x 20 voxels"):
        run("refine_manual", input=truth, mask=wrong, output=tmp_path / "w", **SIZE)


def test_blank_edges_cropping_statistics_and_contrast(run, truth, molecule, tmp_path) -> None:
    made = run("refine_manual", input=truth, references=[molecule], **SIZE)
    stack = truth.parent / "particles.mrcs"
    particles = read_particles(truth)
    data = np.fromfile(stack, dtype="<f4", offset=1024).reshape(len(particles), 32, 32).copy()
    data[4, :3] = 0
    raw = stack.read_bytes()[:1024]
    stack.write_bytes(raw + data.tobytes())
    kept, left = (
        run(
            "refine_manual",
            input=truth,
            references=[molecule],
            exclude_edges=exclude,
            output=tmp_path / f"edges{exclude}",
            **SIZE,
        )
        for exclude in (False, True)
    )
    assert kept.figures["used_particles"] == 80 and left.figures["used_particles"] == 79
    common = {"input": truth, "references": [molecule], **SIZE}
    weighted = run(
        "refine_manual", statistics=made.outputs["statistics"][0], output=tmp_path / "weighted", **common
    )
    assert weighted.figures["mean_score"] != left.figures["mean_score"]
    with pytest.raises(InputError, match="images and reference are of opposite contrast"):
        run("refine_manual", contrast="black", output=tmp_path / "black", **common)
    small = run("refine_manual", autocrop=True, outer_radius=30.0, output=tmp_path / "crop", **common)
    assert read_volume(small.outputs["maps"][0]).box == 32
    assert len(read_star(small.outputs["fsc"][0])["fsc"]["rlnResolution"]) < 17


def test_a_stopped_run_goes_on_to_the_same_figures(run, truth, molecule, tmp_path, monkeypatch) -> None:
    common = {"input": truth, "references": [molecule], "cycles": 2, **SIZE}
    whole = run("refine_manual", output=tmp_path / "whole", **common)

    def full(*_: object) -> None:
        raise OutputError("the disk is full")

    stopped = tmp_path / "stopped"
    with monkeypatch.context() as patched:
        patched.setattr(_refine_manual_work, "write", full)
        with pytest.raises(OutputError, match="the disk is full"):
            run("refine_manual", output=stopped, **common)
    again = run("refine_manual", output=stopped, resume=True, **common)
    assert again.figures == whole.figures
    assert "going on after cycle 2" in (stopped / "log.txt").read_text("utf-8")


def test_options_go_together(run, truth) -> None:
    found = run(
        "refine_manual",
        input=truth,
        classes=2,
        cycles=2,
        percent=60.0,
        blurring=True,
        smoothing=0.5,
        symmetry=("C1", "C2"),
        signed_limit=25.0,
        refine_parameters=("psi", "theta", "x"),
        class_resolution=20.0,
        focus_radius=25.0,
        autocrop=True,
        refine_defocus=True,
        mass=60.0,
        outside_weight=0.2,
        **SIZE,
    )
    assert found.figures["cycles"] == 2 and len(found.outputs["maps"]) == 2


def test_dry_run_plans_memory(run, truth, molecule) -> None:
    from parhelion.jobs import refine_manual
    from parhelion.registry import validate

    def plan(**options):
        values = {"input": truth, "references": [molecule], **SIZE, **options}
        return refine_manual.estimate(validate(refine_manual.Params, values))

    assert plan(align="global").memory_bytes > plan(align="local").memory_bytes > 0
    assert plan(cycles=10).seconds == pytest.approx(10 * plan().seconds)
    assert plan(matching_projections=True).disk_bytes > plan().disk_bytes


WRONG = [
    ({"symmetry": ("C1", "C2", "C3")}, "one for all, or one for each"),
    ({"classes": 3}, "gives 2 files for 3 classes"),
    ({"focus_centre": (0.0, 0.0, 10.0)}, "--focus-centre does nothing without --focus-radius"),
    ({"defocus_step": 20.0}, "--defocus-step does nothing without --refine-defocus"),
    ({"smoothing": 0.5}, "--smoothing does nothing without --blurring"),
    ({"mask_edge": 5.0}, "--mask-edge does nothing without --mask"),
    ({"outside_lowpass": 20.0}, "--outside-lowpass does nothing without --outside-weight"),
    ({"align": "local", "angular_step": 5.0}, "--angular-step does nothing without --align global"),
    ({"angular_step": 5.0}, "does nothing without --align global: the particles have poses"),
    ({"class_resolution": 130.0}, "nothing would be left to compare"),
    ({"align": "none", "refine_parameters": ("psi",)}, "--refine-parameters does nothing without"),
    ({"align": "global", "refine_parameters": ("psi",)}, "cannot keep theta, phi"),
    ({"refine_parameters": ("rot",)}, "--refine-parameters"),
    ({"outside_weight": 0.5, "auto_mask": False}, "there is none"),
    ({"first": 9, "last": 3}, "--last 3 comes before --first 9"),
    ({"first": 900}, "there are 80 particles"),
    ({"class_resolution": 8.0}, "cannot be finer"),
    ({"map_limit": 20.0}, "the next cycle would lack"),
    ({"score_weight": 11.0}, "0 to 10"),
    ({"smoothing": 0.05, "blurring": True}, "0.1 to 1"),
]


def test_options_that_make_no_sense_are_refused(run, truth, maps) -> None:
    for options, message in WRONG:
        with pytest.raises(ParameterError, match=message):
            run("refine_manual", input=truth, references=maps, overwrite=True, **{**SIZE, **options})


def test_options_of_references_and_classes_need_them(run, truth, molecule) -> None:
    for options, message in (
        ({"threshold_reference": True}, "does nothing without --references"),
        ({"focus_radius": 10.0}, "tell classes apart and there is one"),
        ({"references": [molecule], "class_resolution": 20.0}, "tell classes apart and there is one"),
    ):
        with pytest.raises(ParameterError, match=message):
            run("refine_manual", input=truth, **{**SIZE, **options})
    with pytest.raises(InputError, match="--diameter must say"):
        run("refine_manual", input=truth)


@pytest.mark.long
def test_known_poses_come_back_from_a_map_of_40_angstrom(run, test_data, tmp_path) -> None:
    data = test_data / "blob_particles"
    searched = run(
        "refine_manual",
        input=data / "particles.star",
        references=[data / "start_40A.mrc"],
        diameter=130.0,
        align="global",
        cycles=2,
        resolution_limit=20.0,
    )
    found = run(
        "refine_manual",
        input=searched.outputs["particles"],
        diameter=130.0,
        cycles=4,
        resolution_limit=10.0,
        output=tmp_path / "local",
    )
    poses = read_particles(found.outputs["particles"]).rotation
    error = align_poses(poses, read_particles(data / "truth.star").rotation).error_deg
    # the automatic refinement of this program ends at 3.3 to 3.5 degrees
    assert np.median(error) < 4.0 and (error < 10).mean() > 0.9


def test_a_dry_run_finds_what_the_tables_lack(run, truth, molecule, tmp_path) -> None:
    table = read_particles(truth)
    bare = tmp_path / "bare.star"
    write_particles(bare, replace(table, rotation=None, shift_xyz_angstrom=None))
    job = {"references": [molecule], "dry_run": True, "output": tmp_path / "dry", **SIZE}
    with pytest.raises(MetadataError, match=r"bare.star has no poses"):
        run("refine_manual", input=bare, align="local", **job)
    with pytest.raises(ParameterError, match=f"--first 5000: there are {len(table)} particles"):
        run("refine_manual", input=truth, first=5000, **job)
    assert run("refine_manual", input=bare, align="global", **job).estimate is not None
    stack = tmp_path / "other" / table.views.image_path[0].name
    stack.parent.mkdir()
    stack.write_bytes(b"other images")
    write_particles(tmp_path / "other.star", replace(table, views=replace(table.views, image_path=(stack,))))
    job |= {"references": [molecule, molecule], "class_particles": [truth, tmp_path / "other.star"]}
    with pytest.raises(MetadataError, match=r"other.star is of the images in .*other"):
        run("refine_manual", input=truth, **job)
