"""reconstruct: half maps, map and FSC from a table with poses."""

import numpy as np
import pytest

from parhelion.errors import InputError, MetadataError, ParameterError
from parhelion.fourier.shells import fsc
from parhelion.io.mrc import read_volume
from parhelion.io.star import read_star
from parhelion.jobs._fsc import CORRECTED


@pytest.fixture
def simulated(simulate):
    return simulate(count=120, snr=1.0, shift=3)


def test_everything_is_written(run, simulated) -> None:
    found = run("reconstruct", input=simulated["truth"])
    assert set(found.outputs) == {"map", "half1", "half2", "mask", "fsc", "statistics"}
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
    for compared in ({"mass": 100.0}, {"smooth": True}):
        with pytest.raises(ParameterError, match="serves the comparison of half maps"):
            run("reconstruct", input=simulated["truth"], halves=False, **compared)


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
        ({"halves": False, "auto_mask": True}, "serves the comparison of half maps"),
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


@pytest.fixture
def scored(simulated):
    """The table beside the images, with classes, occupancies, scores and exposures."""
    from parhelion.io.particles import read_particles, write_particles
    from parhelion.model.occupancy import with_occupancies

    particles = read_particles(simulated["truth"])
    rng = np.random.default_rng(1)
    share = np.where(np.arange(120) < 80, 95.0, 5.0)
    particles = with_occupancies(particles, np.stack([share, 100 - share], axis=1))
    columns = {
        "cisTEMScore": rng.normal(20, 8, 120) + 2e-3 * particles.views.defocus_u_angstrom,
        "cisTEMPreExposure": np.zeros(120),
        "cisTEMTotalExposure": np.full(120, 60.0),
    }
    from dataclasses import replace

    particles = replace(particles, extra=particles.extra.with_columns(columns))
    path = simulated["truth"].parent / "scored.star"
    write_particles(path, particles)
    return path


def test_maps_of_classes(run, scored) -> None:
    found = run("reconstruct", input=scored, classes="all")
    assert [p.name for p in found.outputs["class_maps"]] == ["map_001.mrc", "map_002.mrc"]
    assert [p.name for p in found.outputs["class_statistics"]] == ["statistics_001.txt", "statistics_002.txt"]
    assert found.figures["class_1_particles_in_map"] == pytest.approx(78)
    assert found.figures["class_1_resolution_angstrom"] < found.figures["class_2_resolution_angstrom"]


OPTIONS = [
    {"score_weight": 0.0},
    {"adjust_scores": False},
    {"score_threshold": 0.5},
    {"score_threshold": 45.0},
    {"exposure_weights": True},
    {"classes": "2"},
    {"classes": "1", "occupancy_weights": False},
    {"first": 30},
    {"last": 90},
    {"split": "even-odd"},
    {"normalise": False},
    {"diameter": 90.0},
    {"diameter": 90.0, "autocrop": True},
    {"padding": 1.5},
    {"resolution_limit": 20.0},
    {"ewald": "positive"},
    {"auto_mask": False},
    {"outer_radius": 40.0},
    {"outer_radius": 40.0, "inner_radius": 15.0},
    {"centre": True},
]


def test_every_option_changes_something(run, scored, tmp_path) -> None:
    plain = run("reconstruct", input=scored, output=tmp_path / "plain").outputs
    before = {name: read_volume(plain[name]).data for name in ("map", "half1", "mask")}
    for number, options in enumerate(OPTIONS):
        found = run("reconstruct", input=scored, output=tmp_path / str(number), **options).outputs
        names = {name: name for name in before} if "map" in found else {"map": "class_maps"}
        differences = []
        for one, other in names.items():
            path = found[other][0] if isinstance(found[other], list) else found[other]
            after = read_volume(path).data
            differences.append(np.abs(before[one] - after).max() / np.abs(before[one]).max())
        assert max(differences) > 1e-3, options


def test_blurring_needs_a_reference_and_uses_its_options(run, scored, simulated, tmp_path) -> None:
    def blurred(name: str, **options):
        options |= {"reference": simulated["reference"], "output": tmp_path / name}
        return read_volume(run("reconstruct", input=scored, **options).outputs["map"]).data

    plain = blurred("plain")
    scale = np.abs(plain).max()
    assert np.abs(plain - blurred("smooth", smoothing=0.1)).max() > 1e-3 * scale
    assert np.abs(plain - blurred("coarse", reference_limit=30.0)).max() > 1e-3 * scale
    with pytest.raises(ParameterError, match="--smoothing needs --reference"):
        run("reconstruct", input=scored, smoothing=0.5)


def test_a_thresholded_reference_has_no_deep_holes(molecule) -> None:
    from parhelion.io.mrc import write_volume
    from parhelion.jobs.reconstruct import Params, _reference
    from parhelion.model.volume import Volume

    data = read_volume(molecule).data - 0.9
    write_volume(molecule, Volume(data=data, pixel_size_angstrom=4.0))
    common = {"input": molecule, "reference": molecule}
    kept = _reference(Params.model_construct(**common, threshold_reference=False))
    raised = _reference(Params.model_construct(**common, threshold_reference=True))
    assert raised.data.min() == pytest.approx(-0.3 * data.max())
    assert kept.data.min() == pytest.approx(data.min())


def test_statistics_in_cistems_columns(run, simulated, tmp_path) -> None:
    from parhelion.io.statistics import read_statistics

    plain = run("reconstruct", input=simulated["truth"], output=tmp_path / "a")
    massive = run(
        "reconstruct",
        input=simulated["truth"],
        outer_radius=60.0,
        mass=50.0,
        smooth=True,
        output=tmp_path / "b",
    )
    first, second, _ = plain.outputs["statistics"].read_text().split("\n", 2)
    assert first == f"C {CORRECTED}" and second.startswith("C SHELL")
    shown = read_star(plain.outputs["fsc"])["fsc"]
    corrected, masked = (
        shown[f"rlnFourierShellCorrelation{kind}"].astype(float)[1:] for kind in ("Corrected", "MaskedMaps")
    )
    written = read_statistics(plain.outputs["statistics"]).fsc
    np.testing.assert_allclose(written, corrected, atol=1e-5)
    assert np.abs(written - masked).max() > 1e-3
    one, other = (read_statistics(r.outputs["statistics"]) for r in (plain, massive))
    assert one.part_ssnr is not None and other.part_ssnr is not None
    assert other.part_ssnr[4] > one.part_ssnr[4]
    # hours of work are not lost for a mass that cannot be
    odd = run("reconstruct", input=simulated["truth"], mass=1e5, output=tmp_path / "c")
    assert any("its mass is too large for the mask" in note for note in odd.notices)
    np.testing.assert_allclose(read_statistics(odd.outputs["statistics"]).part_ssnr, one.part_ssnr, rtol=1e-6)


def test_particles_follow_the_centre(run, simulated, tmp_path) -> None:
    from parhelion.io.particles import read_particles, write_particles

    particles = read_particles(simulated["truth"])
    off = particles.shift_xyz_angstrom + particles.rotation @ np.array([12.0, -8.0, 16.0])
    off[:, 2] = 0
    moved = simulated["truth"].parent / "moved.star"
    write_particles(moved, particles.with_poses(particles.rotation, off))
    found = run("reconstruct", input=moved, centre=True, output=tmp_path / "centred")
    again = run("reconstruct", input=found.outputs["particles"], output=tmp_path / "again")
    a, b = (read_volume(r.outputs["map"]).data[4:-4, 4:-4, 4:-4].ravel() for r in (found, again))
    assert np.corrcoef(a, b)[0, 1] > 0.98
    assert found.figures["moved_angstrom"] > 8
