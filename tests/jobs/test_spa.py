"""spa: all steps with one command, their results at the top, resuming, and real particles."""

import numpy as np
import pytest
from scipy import ndimage

from parhelion.algorithms import first_run
from parhelion.algorithms.class2d import selection
from parhelion.algorithms.map_alignment import align_maps
from parhelion.algorithms.simulate.density import density_from_model
from parhelion.errors import InputError, ParameterError
from parhelion.geometry.symmetry import symmetry_group
from parhelion.io.mrc import StackWriter, open_stack, read_volume
from parhelion.io.particles import read_particles
from parhelion.jobs import postprocess, spa

QUICK = {"diameter": 90, "max_rounds": 1}
FIRST = {"starts": 1, "rounds": 2}


@pytest.fixture
def simulated(simulate):
    return simulate(count=60, snr=1.0, shift=3)


def test_every_step_is_run_and_its_results_are_at_the_top(run, simulated) -> None:
    found = run("spa", input=simulated["particles"], **QUICK, **FIRST)
    folder = found.folder
    assert {path.name for path in folder.glob("0*")} == {"01_abinitio", "02_refine", "03_postprocess"}
    from_classes = {"classes", "recentred", "recentred_stack"}  # 60 particles are too few for them
    assert set(found.outputs) == {output.name for output in spa.OUTPUTS} - from_classes
    assert (folder / "map.mrc").samefile(folder / "03_postprocess" / "map.mrc")
    assert (folder / "half1.mrc").samefile(folder / "02_refine" / "half1.mrc")
    assert found.figures["resolution_angstrom"] > 7.9
    table = read_particles(folder / "particles.star")
    assert table.views.image_path[0] == simulated["images"].resolve()
    assert table.rotation is not None
    report = (folder / "report.html").read_text(encoding="utf-8")
    for shown in ("What was decided", "Initial map", "Refinement", "Post-processing", "Chosen start"):
        assert shown in report
    assert any("single start" in note for note in found.notices)


def test_a_reference_leaves_out_the_first_step(run, simulated) -> None:
    given = {"input": simulated["particles"], "reference": simulated["reference"]}
    found = run("spa", **given, **QUICK, bfactor=0, contrast="white")
    assert {path.name for path in found.folder.glob("0*")} == {"01_refine", "02_postprocess"}
    assert "initial_map" not in found.outputs
    assert found.figures["bfactor_angstrom2"] == 0
    aligned = align_maps(read_volume(found.outputs["map"]), read_volume(simulated["reference"]))
    assert aligned.fsc_half_angstrom < 20


def test_finished_steps_are_not_done_again(run, simulated, tmp_path, monkeypatch) -> None:
    given = {"input": simulated["particles"], "reference": simulated["reference"], **QUICK}

    def failing(*_, **__):
        raise InputError("pulled the plug")

    with monkeypatch.context() as patch:
        patch.setattr(postprocess, "figures_of", failing)
        with pytest.raises(InputError, match="pulled the plug"):
            run("spa", **given, output=tmp_path / "cut")
    refined = (tmp_path / "cut" / "01_refine" / "map.mrc").stat()
    resumed = run("spa", **given, output=tmp_path / "cut", resume=True)
    after = (tmp_path / "cut" / "01_refine" / "map.mrc").stat()
    assert (refined.st_ino, refined.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert "Refinement" in (resumed.folder / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "--diameter is needed"),
        ({"diameter": 90, "symmetry": "X3"}, "X3"),
        ({"reference": "reference", "starts": 2}, "--reference gives one"),
    ],
)
def test_options_that_make_no_sense_are_refused(run, simulated, options, said) -> None:
    given = {k: simulated[v] if k == "reference" else v for k, v in options.items()}
    with pytest.raises(ParameterError, match=said):
        run("spa", input=simulated["particles"], **given)


def test_a_dry_run_estimates_and_writes_nothing(run, simulated, tmp_path) -> None:
    found = run("spa", input=simulated["particles"], **QUICK, dry_run=True, output=tmp_path / "dry")
    assert found.estimate.memory_bytes > 3e8
    assert not (tmp_path / "dry").exists()


@pytest.mark.long
def test_galactosidase_from_nothing(run, test_data) -> None:
    """Real particles with the picker's junk; the atomic model has never been near them."""
    found = run(
        "spa",
        input=test_data / "bgal_particles" / "particles.star",
        symmetry="D2",
        diameter=180,
        starts=2,
        threads=2,
    )
    solved = read_volume(found.outputs["masked_map"])
    group = symmetry_group("D2")
    model = test_data / "models" / "beta_galactosidase_5a1a_D2.cif"
    truth = density_from_model(model, solved.box, solved.pixel_size_angstrom, symmetry=group)
    assert align_maps(solved, truth, symmetry=group).fsc_half_angstrom < 9
    assert found.figures["resolution_angstrom"] < 9


@pytest.fixture
def with_junk(run, molecule, tmp_path):
    """320 particles, an eighth of them noise, a quarter up to 20 Å off centre; and which are noise."""
    found = run("simulate_particles", model=molecule, count=320, snr=1.0, shift=20, output=tmp_path / "made")
    stack = found.outputs["images"]
    images = np.asarray(open_stack(stack).read(np.arange(320)))
    rng = np.random.default_rng(2)
    junk = rng.permutation(320) < 40
    images[junk] = rng.normal(0, images.std(), size=images[junk].shape)
    with StackWriter(stack, 320, images.shape[1:], 4.0) as writer:
        writer.write(0, images.astype(np.float32))
    return found.outputs, junk


def test_particles_of_good_classes_are_kept_and_centred(run, with_junk) -> None:
    made, junk = with_junk
    given = {"input": made["particles"], "reference": made["reference"], "contrast": "white", **QUICK}
    found = run("spa", **given)
    assert {path.name for path in found.folder.glob("0*")} == {
        "01_class2d",
        "02_refine",
        "03_postprocess",
    }
    kept = read_particles(found.outputs["particles"])
    # the table is that of the input's images, whatever was moved on the way
    assert kept.views.image_path[0] == made["images"].resolve()
    inside = np.isin(np.arange(320), kept.views.image_index)
    assert inside[~junk].mean() > 0.9 > 0.3 > inside[junk].mean()
    assert found.figures["kept_particles"] == inside.sum()
    moved = np.asarray(open_stack(found.outputs["recentred_stack"]).read(np.arange(inside.sum())))
    box = np.indices((32, 32)) - 16

    def spread(images) -> float:
        bright = np.clip(ndimage.gaussian_filter(images.mean(0), 1), 0, None)
        return float((bright * (box**2).sum(0)).sum() / bright.sum())

    before = np.asarray(open_stack(made["images"]).read(kept.views.image_index))
    assert spread(moved) < spread(before)
    shown = (found.folder / "report.html").read_text(encoding="utf-8")
    for text in ("2D classes", "What the 2D classes gained", "kept: class 1", "dropped: class"):
        assert text in shown
    truth = read_particles(made["truth"])
    error = kept.shift_xyz_angstrom[:, :2] - truth.shift_xyz_angstrom[kept.views.image_index, :2]
    assert np.median(np.hypot(*error.T)) < 8


def test_picked_particles_are_cut_again_at_their_centres(run, monkeypatch) -> None:
    monkeypatch.setattr(first_run, "FEWEST_FOR_CLASSES", 20)
    monkeypatch.setattr(selection, "score_threshold", lambda *_: 0.0)
    sizes = {"count": 2, "size": 360, "frames": 4, "dose_per_frame": 9, "particles_per_movie": 24}
    scale = {"pixel_size": 4, "final_pixel_size": 5, "diameter": 150}
    found = run("demo", **sizes, **scale, starts=1, rounds=2, max_rounds=1)
    folder = found.folder / "02_spa"
    assert {"04_extract", "05_class2d", "06_extract", "07_abinitio"} <= {p.name for p in folder.glob("0*")}
    kept = read_particles(folder / "05_class2d" / "selected.star")
    again = read_particles(folder / "06_extract" / "particles.star")
    assert np.abs(kept.shift_xyz_angstrom[:, :2]).max() > 4
    assert np.abs(again.shift_xyz_angstrom[:, :2]).max() < 4  # half a pixel of the micrographs each way
    assert not (folder / "recentred").exists()
    final = read_particles(folder / "particles.star")
    assert final.views.image_path[0].parent == folder.resolve() / "06_extract" / "particles"


def test_without_classes_all_particles_are_used(run, with_junk) -> None:
    made, _ = with_junk
    given = {"input": made["particles"], "reference": made["reference"], "contrast": "white", **QUICK}
    found = run("spa", **given, class2d=False)
    assert {path.name for path in found.folder.glob("0*")} == {"01_refine", "02_postprocess"}
    assert found.figures["used_particles"] == 320
    assert "classes" not in found.outputs and "recentred" not in found.outputs
