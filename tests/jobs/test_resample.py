"""resample: box and pixel size change, the molecule stays where it is."""

import numpy as np
import pytest

from parhelion.errors import ParameterError
from parhelion.io.mrc import read_volume


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
