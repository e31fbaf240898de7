"""postprocess: all results of one run, options that exclude each other, MTF."""

from dataclasses import replace

import numpy as np
import pytest

from parhelion.errors import InputError, MetadataError, ParameterError
from parhelion.io.mrc import read_volume, write_volume
from parhelion.io.star import read_star
from parhelion.io.star_writer import write_star
from parhelion.model.table import Table


def test_results_agree_with_each_other(run, half_maps) -> None:
    result = run("postprocess", input=half_maps, bfactor=-50)
    volumes = {name: read_volume(result.outputs[name]) for name in ("map", "masked_map", "mask")}
    assert np.allclose(volumes["masked_map"].data, volumes["map"].data * volumes["mask"].data, atol=1e-6)
    assert result.figures["bfactor_angstrom2"] == -50
    assert 8 <= result.figures["resolution_angstrom"] < 30
    (table,) = read_star(result.outputs["fsc"]).values()
    assert "rlnFourierShellCorrelationCorrected" in table


def test_a_mask_of_another_pixel_size_is_refused(run, half_maps, molecule, tmp_path) -> None:
    """Its shape would fit; a header that says nothing, or what the map's own says, is no reason."""
    made = read_volume(run("mask", input=molecule, radius=50).outputs["mask"])
    other = tmp_path / "other.mrc"
    write_volume(other, replace(made, pixel_size_angstrom=5.0))
    with pytest.raises(InputError, match=r"5 Å per pixel.*half1\.mrc has 4"):
        run("postprocess", input=half_maps, mask=other)
    for pixel, given in ((1.0, None), (4.02, None), (4.0, 5.0)):
        write_volume(other, replace(made, pixel_size_angstrom=pixel))
        run("postprocess", input=half_maps, mask=other, pixel_size=given, output=tmp_path / f"{pixel}")


def test_given_mask_is_used(run, half_maps, molecule) -> None:
    mask = run("mask", input=molecule, radius=50).outputs["mask"]
    result = run("postprocess", input=half_maps, mask=mask)
    assert np.array_equal(read_volume(result.outputs["mask"]).data, read_volume(mask).data)


def test_detector_curve_raises_high_frequencies(run, half_maps, tmp_path) -> None:
    write_star(
        tmp_path / "mtf.star",
        {
            "mtf": Table(
                {"rlnResolutionInversePixel": np.array([0.0, 0.5]), "rlnMtfValue": np.array([1.0, 0.25])}
            )
        },
    )
    options = {"input": half_maps, "bfactor": 0, "lowpass": 8}
    plain = run("postprocess", **options)
    raised = run("postprocess", **options, mtf=tmp_path / "mtf.star", output=tmp_path / "raised")
    power = [np.abs(np.fft.fftn(read_volume(r.outputs["map"]).data))[0, 0, 12] for r in (plain, raised)]
    assert power[1] > 1.5 * power[0]


def test_file_without_a_curve_is_refused(run, half_maps, tmp_path) -> None:
    write_star(tmp_path / "mtf.star", {"x": Table({"a": np.array([1.0])})})
    with pytest.raises(MetadataError, match="rlnMtfValue"):
        run("postprocess", input=half_maps, mtf=tmp_path / "mtf.star")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"mtf_pixel_size": 1.0}, "--mtf, which is missing"),
        ({"fit_from": 10.0, "fit_to": 12.0}, "must be finer"),
    ],
)
def test_options_that_make_no_sense_are_refused(run, half_maps, options, said) -> None:
    with pytest.raises(ParameterError, match=said):
        run("postprocess", input=half_maps, **options)


def test_statistics_and_the_particle_without_its_solvent(run, half_maps, tmp_path) -> None:
    plain = run("postprocess", input=half_maps, output=tmp_path / "plain")
    light = run("postprocess", input=half_maps, mass=80.0, output=tmp_path / "light")
    assert light.figures["particle_resolution_angstrom"] <= light.figures["resolution_angstrom"]
    rows = [
        [line.split() for line in r.outputs["statistics"].read_text().splitlines()[2:]]
        for r in (plain, light)
    ]
    assert len(rows[0]) == 16
    # a quarter of the way: same FSC, a better one of the particle where its mass is known
    assert rows[0][4][3] == rows[1][4][3]
    assert float(rows[1][4][4]) > float(rows[0][4][4])
