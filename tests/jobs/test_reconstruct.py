"""reconstruct: half maps, map and FSC from a table with poses."""

import numpy as np
import pytest

from parhelion.errors import InputError, MetadataError, ParameterError
from parhelion.fourier.shells import fsc
from parhelion.io.mrc import read_volume
from parhelion.io.star import read_star


@pytest.fixture
def simulated(run, molecule):
    return run("simulate_particles", model=molecule, count=120, snr=1.0, shift=3).outputs


def test_everything_is_written(run, simulated) -> None:
    found = run("reconstruct", input=simulated["truth"])
    assert set(found.outputs) == {"map", "half1", "half2", "mask", "fsc"}
    reference = read_volume(simulated["reference"]).data
    made = read_volume(found.outputs["map"])
    assert made.pixel_size_angstrom == pytest.approx(4.0)
    inside = made.data * read_volume(found.outputs["mask"]).data
    assert fsc(inside, reference)[1:9].mean() > 0.9
    assert found.figures["used_particles"] == 120
    assert found.figures["resolution_angstrom"] < 20
    assert any("protein is white" in note for note in found.notices)
    curves = read_star(found.outputs["fsc"])["fsc"]
    assert "rlnFourierShellCorrelationCorrected" in curves
    report = (found.folder / "report.html").read_text(encoding="utf-8")
    for shown in ("Half maps", "Central slices", "Viewing directions"):
        assert shown in report


def test_without_half_sets_only_a_map(run, simulated) -> None:
    found = run("reconstruct", input=simulated["truth"], halves=False)
    assert set(found.outputs) == {"map"}
    assert "resolution_angstrom" not in found.figures


def test_black_protein_is_turned_white(run, simulated, tmp_path) -> None:
    from parhelion.io.mrc import StackWriter, open_stack

    images = open_stack(simulated["images"]).read(np.arange(120))
    folder = tmp_path / "black"
    folder.mkdir()
    with StackWriter(folder / "particles.mrcs", 120, (32, 32), 4.0) as writer:
        writer.write(0, -images)
    text = simulated["truth"].read_text(encoding="utf-8")
    (folder / "truth.star").write_text(text, encoding="utf-8")
    white = read_volume(run("reconstruct", input=simulated["truth"], output=tmp_path / "a").outputs["map"])
    turned = run("reconstruct", input=folder / "truth.star", output=tmp_path / "b")
    assert any("protein is black" in note for note in turned.notices)
    np.testing.assert_allclose(read_volume(turned.outputs["map"]).data, white.data, atol=1e-4)
    kept = run("reconstruct", input=folder / "truth.star", output=tmp_path / "c", contrast="white")
    assert np.corrcoef(read_volume(kept.outputs["map"]).data.ravel(), white.data.ravel())[0, 1] < -0.9


def test_particles_without_poses_are_refused(run, simulated) -> None:
    with pytest.raises(MetadataError, match="no poses"):
        run("reconstruct", input=simulated["particles"])


def test_a_mask_that_does_not_fit_is_refused(run, simulated, molecule) -> None:
    other = run("mask", input=run("resample", input=molecule, box=24).outputs["map"]).outputs["mask"]
    with pytest.raises(InputError, match="24 x 24 x 24"):
        run("reconstruct", input=simulated["truth"], mask=other)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"halves": False, "auto_mask": True}, "serve the comparison of half maps"),
        ({"diameter": -3}, "--diameter"),
        ({"contrast": "grey"}, "expected one of auto, white, black"),
    ],
)
def test_options_that_make_no_sense_are_refused(run, simulated, options, said) -> None:
    with pytest.raises(ParameterError, match=said):
        run("reconstruct", input=simulated["truth"], **options)


def test_a_dry_run_estimates_and_writes_nothing(run, simulated, tmp_path) -> None:
    found = run("reconstruct", input=simulated["truth"], dry_run=True, output=tmp_path / "dry")
    assert found.estimate.memory_bytes > 3e8
    assert not (tmp_path / "dry").exists()
