"""fsc: the curve, the mask, and maps that do not fit."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from parhelion.errors import InputError
from parhelion.io.mrc import read_volume, write_volume
from parhelion.io.star import read_star
from parhelion.io.statistics import read_statistics
from parhelion.model.volume import Volume


def test_curve_and_resolutions(run, half_maps) -> None:
    result = run("fsc", input=half_maps)
    (table,) = read_star(result.outputs["fsc"]).values()
    curve = table["rlnFourierShellCorrelationUnmaskedMaps"]
    assert len(curve) == 17
    assert curve[1] > 0.9
    assert np.allclose(table["rlnAngstromResolution"][[1, 16]], [128.0, 8.0])
    assert np.allclose(table["rlnResolution"][16], 1 / 8)
    assert 8 <= result.figures["resolution_angstrom"] < result.figures["resolution_half_angstrom"] < 60
    assert result.figures["curve"] == "unmasked"


def test_mask_gives_all_four_curves(run, half_maps, molecule) -> None:
    mask = run("mask", input=molecule).outputs["mask"]
    result = run("fsc", input=half_maps, mask=mask)
    (table,) = read_star(result.outputs["fsc"]).values()
    assert {
        "rlnFourierShellCorrelationCorrected",
        "rlnFourierShellCorrelationUnmaskedMaps",
        "rlnFourierShellCorrelationMaskedMaps",
        "rlnCorrectedFourierShellCorrelationPhaseRandomizedMaskedMaps",
    } <= set(table)
    assert result.figures["curve"] == "corrected"


def test_maps_of_different_pixel_size_are_refused_by_name(run, half_maps) -> None:
    write_volume(half_maps[1], Volume(data=np.ones((32, 32, 32)), pixel_size_angstrom=2.0))
    with pytest.raises(InputError, match=r"half1\.mrc has 4\.0000 Å per pixel.*half2\.mrc 2\.0000 Å"):
        run("fsc", input=half_maps)


def test_mask_of_another_map_is_refused_by_name(run, test_data, tmp_path) -> None:
    """A deposited map with a contour mask that belongs to another frame."""
    maps = test_data / "maps"
    mask = next(path for path in maps.glob("emd_3488*mask*"))
    second = Path(shutil.copy(maps / "emd_3488.mrc", tmp_path / "second.mrc"))
    with pytest.raises(InputError, match=r"belongs to another map"):
        run("fsc", input=[maps / "emd_3488.mrc", second], mask=mask)


def test_one_map_given_twice_is_refused(run, half_maps) -> None:
    with pytest.raises(InputError, match="both maps are the same file"):
        run("fsc", input=[half_maps[0], half_maps[0]])


def test_sphere_and_mass(run, half_maps, tmp_path) -> None:
    """A sphere is a mask like another; the particle alone, without its solvent, is resolved better."""
    ball = run("fsc", input=half_maps, outer_radius=45.0, output=tmp_path / "ball")
    assert ball.figures["curve"] == "corrected"
    hollow = run("fsc", input=half_maps, outer_radius=45.0, inner_radius=30.0, output=tmp_path / "hollow")
    assert hollow.figures["resolution_angstrom"] != ball.figures["resolution_angstrom"]
    light = run("fsc", input=half_maps, outer_radius=45.0, mass=60.0, output=tmp_path / "light")
    assert light.figures["particle_resolution_angstrom"] < light.figures["resolution_angstrom"]
    table = read_statistics(light.outputs["statistics"])
    assert len(table.fsc) == 16
    with pytest.raises(InputError, match="of the mask; its mass is too large"):
        run("fsc", input=half_maps, outer_radius=45.0, mass=5000.0, output=tmp_path / "heavy")


def test_smoothed_statistics(run, half_maps, tmp_path) -> None:
    rough, smooth = (
        read_statistics(run("fsc", input=half_maps, smooth=s, output=tmp_path / str(s)).outputs["statistics"])
        for s in (False, True)
    )
    assert np.abs(np.diff(smooth.fsc, 2)).sum() < np.abs(np.diff(rough.fsc, 2)).sum()


def test_directions(run, half_maps, tmp_path) -> None:
    result = run("fsc", input=half_maps, directional=True, output=tmp_path / "d")
    table = read_star(result.outputs["directional"])["directions"]
    assert table.rows == 96
    assert 0 < result.figures["conical_area_ratio"] <= 1
    assert 0 < result.figures["sphericity"] <= 1.01
    assert 0 < result.figures["finest_to_coarsest_axis"] <= 1
    assert "Sphericity" in (result.folder / "report.html").read_text(encoding="utf-8")
    assert result.figures["finest_axis_angstrom"] <= result.figures["coarsest_axis_angstrom"]
    wide = run("fsc", input=half_maps, directional=True, cone=50.0, output=tmp_path / "w")
    assert wide.figures["conical_area_ratio"] > result.figures["conical_area_ratio"]


def test_views_of_particles(run, half_maps, molecule, tmp_path) -> None:
    made = run("simulate_particles", model=molecule, count=60, output=tmp_path / "made").outputs["truth"]
    alone = run("fsc", input=half_maps, particles=made, output=tmp_path / "alone")
    cubic = run("fsc", input=half_maps, particles=made, symmetry="O", output=tmp_path / "cubic")
    assert cubic.figures["least_sampling"] > alone.figures["least_sampling"]
    assert cubic.figures["sampling_compensation"] > 0.9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inner_radius": 10.0}, "give --outer-radius"),
        ({"inner_radius": 10.0, "outer_radius": 9.0}, "must be smaller than the outer"),
        ({"inner_radius": 9000.0, "outer_radius": 9999.0}, "leaves nothing of the box"),
        ({"cone": 30.0}, "--cone belongs to --directional"),
        ({"symmetry": "C2"}, "which is missing"),
    ],
)
def test_options_that_make_no_sense_are_refused(run, half_maps, options, message) -> None:
    with pytest.raises(InputError, match=message):
        run("fsc", input=half_maps, **options)


def test_maps_that_show_nothing_in_common_are_told(run, half_maps, tmp_path) -> None:
    data = read_volume(half_maps[1]).data
    noise = np.random.default_rng(4).normal(size=data.shape).astype(np.float32)
    others = {"inverse": -data, "noise": noise, "flat": np.zeros_like(data)}
    for name, values in others.items():
        write_volume(tmp_path / f"{name}.mrc", Volume(data=values, pixel_size_angstrom=4.0))
    said = {}
    for name in ("inverse", "noise"):
        pair = [half_maps[0], tmp_path / f"{name}.mrc"]
        said[name] = run("fsc", input=pair, output=tmp_path / name).notices
    assert any("one shows protein white, the other black" in note for note in said["inverse"])
    assert any("hardly agree even in their coarsest shells" in note for note in said["noise"])
    with pytest.raises(InputError, match=r"flat\.mrc has the same density everywhere"):
        run("fsc", input=[half_maps[0], tmp_path / "flat.mrc"], output=tmp_path / "f")
    assert not run("fsc", input=half_maps, output=tmp_path / "usual").notices


def test_a_mask_of_a_few_voxels_is_told(run, half_maps, tmp_path) -> None:
    tiny = run("fsc", input=half_maps, outer_radius=1.0)
    assert any("it is too small, too tight or too sharp" in note for note in tiny.notices)
