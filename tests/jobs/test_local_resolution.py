"""local-resolution: files, figures and options."""

import numpy as np
import pytest

from parhelion.errors import InputError
from parhelion.io.mrc import read_volume, write_volume
from parhelion.io.star import read_star
from parhelion.model.volume import Volume


def test_everything_is_written(run, half_maps, molecule) -> None:
    result = run("local_resolution", input=half_maps, window=28.0)
    local = read_volume(result.outputs["resolution"]).data
    figures = result.figures
    fine, coarse = figures["resolution_p5_angstrom"], figures["resolution_p95_angstrom"]
    assert figures["finest_angstrom"] <= fine <= coarse
    # the molecule is resolved, the solvent, which is noise, is not
    mask = read_volume(result.outputs["mask"]).data
    body = read_volume(molecule).data > 0.5
    assert np.median(local[body]) < 0.75 * np.median(local[mask == 0])
    table = read_star(result.outputs["histogram"])["local_resolution"]
    assert table["parhelionVolumePercent"].sum() == pytest.approx(100)


def test_the_filtered_map_has_less_noise(run, half_maps, molecule) -> None:
    result = run("local_resolution", input=half_maps)
    truth, first = read_volume(molecule).data, read_volume(half_maps[0]).data
    filtered = read_volume(result.outputs["map"]).data
    mask = read_volume(result.outputs["mask"]).data
    assert np.std((filtered - truth)[mask == 0]) < 0.3 * np.std((first - truth)[mask == 0])
    assert np.corrcoef(filtered.ravel(), truth.ravel())[0, 1] > 0.9


def test_window_threshold_mask_and_bfactor(run, half_maps, molecule, tmp_path) -> None:
    plain = run("local_resolution", input=half_maps, window=30.0, output=tmp_path / "a")
    wide = run("local_resolution", input=half_maps, window=50.0, output=tmp_path / "b")
    assert (plain.figures["window_angstrom"], wide.figures["window_angstrom"]) == (30.0, 50.0)
    assert wide.figures["coarsest_angstrom"] != plain.figures["coarsest_angstrom"]
    strict = run("local_resolution", input=half_maps, window=30.0, threshold=0.9, output=tmp_path / "c")
    assert strict.figures["resolution_p50_angstrom"] > plain.figures["resolution_p50_angstrom"]
    sharp = run("local_resolution", input=half_maps, window=30.0, bfactor=-1500.0, output=tmp_path / "d")
    # at 0.143 as everywhere, whatever the windows' threshold; and at that
    usual, at = "global_resolution_angstrom", "global_resolution_at_threshold_angstrom"
    assert strict.figures[usual] == plain.figures[usual] < plain.figures[at]
    assert strict.figures[at] > plain.figures[at]
    maps = [read_volume(r.outputs["map"]).data.std() for r in (sharp, plain)]
    assert maps[0] > 1.2 * maps[1]
    everything = Volume(data=np.ones((32,) * 3, np.float32), pixel_size_angstrom=4.0)
    write_volume(tmp_path / "all.mrc", everything)
    options = {"mask": tmp_path / "all.mrc", "filter_map": molecule}
    whole = run("local_resolution", input=half_maps, window=30.0, output=tmp_path / "e", **options)
    assert whole.figures["resolution_p95_angstrom"] > plain.figures["resolution_p95_angstrom"]
    clean = read_volume(whole.outputs["map"]).data
    assert not np.allclose(clean, read_volume(plain.outputs["map"]).data, atol=1e-2)


def test_what_is_refused(run, half_maps, molecule, tmp_path) -> None:
    with pytest.raises(InputError, match="--filter-map is taken as it is"):
        run("local_resolution", input=half_maps, filter_map=molecule, bfactor=-10.0)
    with pytest.raises(InputError, match="in this map it can be 16 to 64"):
        run("local_resolution", input=half_maps, window=5.0, output=tmp_path / "w")
    other = tmp_path / "other.mrc"
    write_volume(other, Volume(data=read_volume(molecule).data, pixel_size_angstrom=4.5))
    with pytest.raises(InputError, match=r"other\.mrc has 4\.5 Å per pixel, the half maps 4"):
        run("local_resolution", input=half_maps, filter_map=other, output=tmp_path / "p")
