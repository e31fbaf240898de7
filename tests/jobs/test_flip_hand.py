"""flip-hand: a mirror about voxel n // 2, the same for all maps, undone by a second one."""

import numpy as np
import pytest

from parhelion.errors import InputError, MetadataError
from parhelion.io.mrc import open_stack, read_volume, write_volume
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


def test_particles_follow(run, molecule, tmp_path) -> None:
    """Projections of the mirrored map at the new poses are those of the map at the old ones."""
    made = run("simulate_particles", model=molecule, count=10, output=tmp_path / "made").outputs
    result = run("flip_hand", input=made["reference"], particles=made["truth"])
    before = run("project_map", input=made["reference"], particles=made["truth"], output=tmp_path / "b")
    after = run(
        "project_map",
        input=result.outputs["maps"][0],
        particles=result.outputs["particles"],
        output=tmp_path / "a",
    )
    images = [open_stack(r.outputs["images"]).read(np.arange(10)) for r in (before, after)]
    np.testing.assert_allclose(images[0], images[1], atol=1e-3 * np.abs(images[0]).max())
    # at the old poses the mirrored map shows something else
    other = run(
        "project_map", input=result.outputs["maps"][0], particles=made["truth"], output=tmp_path / "o"
    )
    wrong = open_stack(other.outputs["images"]).read(np.arange(10))
    assert np.abs(wrong - images[0]).max() > 0.1 * np.abs(images[0]).max()


def test_particles_without_poses_are_named_before_a_map_is_written(run, molecule, tmp_path) -> None:
    made = run("simulate_particles", model=molecule, count=4, output=tmp_path / "made").outputs
    with pytest.raises(MetadataError, match=r"particles\.star has no poses"):
        run("flip_hand", input=molecule, particles=made["particles"], output=tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.mrc"))
