"""resample: box and pixel size change, the molecule stays where it is."""

import numpy as np
import pytest

from parhelion.errors import MetadataError, ParameterError
from parhelion.io.mrc import read_volume, write_volume
from parhelion.model.volume import Volume


def centre_of_mass(volume) -> np.ndarray:
    grids = np.indices(volume.data.shape) - volume.data.shape[0] // 2
    return (grids * volume.data).sum(axis=(1, 2, 3)) / volume.data.sum() * volume.pixel_size_angstrom


@pytest.mark.parametrize(
    ("options", "box", "pixel"),
    [
        ({"box": 24}, 24, 128 / 24),
        ({"pixel_size": 2.0}, 64, 2.0),
        ({"pixel_size": 4.0, "box": 40}, 40, 4.0),
        ({"input_pixel_size": 2.0, "box": 64}, 64, 1.0),
    ],
)
def test_grid_is_as_asked_and_molecule_in_place(run, molecule, options, box, pixel) -> None:
    result = run("resample", input=molecule, **options)
    made = read_volume(result.outputs["map"])
    assert made.box == box
    assert np.isclose(made.pixel_size_angstrom, pixel, rtol=1e-5)
    assert result.figures == {"box": box, "pixel_size_angstrom": pytest.approx(pixel)}
    scale = options.get("input_pixel_size", 4.0) / 4.0
    assert np.allclose(centre_of_mass(made), scale * centre_of_mass(read_volume(molecule)), atol=0.3)


def test_nothing_asked_is_refused(run, molecule) -> None:
    with pytest.raises(ParameterError, match="give --pixel-size, --box or both"):
        run("resample", input=molecule)


def test_a_pixel_size_that_takes_too_many_voxels_is_refused_before_memory_is_taken(run, molecule) -> None:
    with pytest.raises(ParameterError, match=r"256 Å would take 2560 pixels, 2048 are possible"):
        run("resample", input=molecule, pixel_size=0.1, input_pixel_size=8)


def test_a_map_that_is_no_cube_becomes_one(run, molecule, tmp_path) -> None:
    whole = read_volume(molecule)
    cut = whole.data[:, 4:-4, 2:-2]
    write_volume(tmp_path / "flat.mrc", Volume(data=cut, pixel_size_angstrom=4.0))
    made = read_volume(run("resample", input=tmp_path / "flat.mrc", box=32).outputs["map"])
    assert np.allclose(made.data, whole.data, atol=1e-3 * whole.data.max())


def test_a_map_without_a_pixel_size_is_asked_for_by_its_own_option(run, molecule, tmp_path) -> None:
    path = tmp_path / "silent.mrc"
    raw = bytearray(molecule.read_bytes())
    raw[40:52] = bytes(12)
    path.write_bytes(raw)
    with pytest.raises(MetadataError, match="give it with --input-pixel-size"):
        run("resample", input=path, box=24)
