"""flip-hand: a mirror about voxel n // 2, the same for all maps, undone by a second one."""

import numpy as np
import pytest

from parhelion.errors import InputError
from parhelion.io.mrc import read_volume, write_volume
from parhelion.model.volume import Volume


def test_mirror_about_the_centre_voxel(run, molecule) -> None:
    (path,) = run("flip_hand", input=molecule).outputs["maps"]
    before, after = read_volume(molecule).data, read_volume(path).data
    centre = 16
    assert np.array_equal(after[:, :, centre], before[:, :, centre])
    assert np.array_equal(after[:, :, centre + 5], before[:, :, centre - 5])
    assert not np.allclose(after, before, atol=0.1)


@pytest.mark.parametrize("box", [8, 9])
def test_twice_is_nothing(run, tmp_path, box) -> None:
    data = np.random.default_rng(1).normal(size=(box, box, box)).astype(np.float32)
    write_volume(tmp_path / "a.mrc", Volume(data=data, pixel_size_angstrom=1.0))
    (once,) = run("flip_hand", input=tmp_path / "a.mrc").outputs["maps"]
    (twice,) = run("flip_hand", input=once, output=tmp_path / "again").outputs["maps"]
    assert np.array_equal(read_volume(twice).data, data)


def test_inputs_of_one_name_are_refused(run, molecule, tmp_path) -> None:
    (tmp_path / "other").mkdir()
    copy = tmp_path / "other" / molecule.name
    copy.write_bytes(molecule.read_bytes())
    with pytest.raises(InputError, match="two inputs are called molecule"):
        run("flip_hand", input=[molecule, copy])
