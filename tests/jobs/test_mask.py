"""mask: follows the molecule, or is a sphere."""

import numpy as np
import pytest

from parhelion.errors import ParameterError
from parhelion.io.mrc import read_volume


def test_mask_holds_the_molecule_and_not_the_corners(run, molecule) -> None:
    result = run("mask", input=molecule)
    mask, density = read_volume(result.outputs["mask"]), read_volume(molecule).data
    assert mask.pixel_size_angstrom == 4.0
    assert mask.data.min() >= 0
    assert mask.data.max() <= 1
    assert mask.data[density > 0.5 * density.max()].min() > 0.99
    assert mask.data[0, 0, 0] == 0
    assert 0 < result.figures["mask_fraction_percent"] < 60


def test_sphere_has_the_volume_of_its_radius(run, molecule) -> None:
    result = run("mask", input=molecule, radius=40, edge=0)
    assert np.isclose(result.figures["mask_volume_angstrom3"], 4 / 3 * np.pi * 40**3, rtol=0.02)


def test_options_of_the_other_kind_are_refused(run, molecule) -> None:
    with pytest.raises(ParameterError, match="--radius makes a sphere; --threshold"):
        run("mask", input=molecule, radius=40, threshold=0.1)
