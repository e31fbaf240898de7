"""fsc: the curve, the mask, and maps that do not fit."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from parhelion.errors import InputError
from parhelion.io.mrc import write_volume
from parhelion.io.star import read_star
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
