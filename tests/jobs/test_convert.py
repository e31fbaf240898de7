"""convert: from and to, under the inputs' names."""

import numpy as np
import pytest

from parhelion.errors import InputError
from parhelion.io.formats import FORMATS
from parhelion.io.mrc import open_stack, read_volume
from parhelion.io.particles import read_particles
from parhelion.jobs.convert import EXTENSIONS


def test_every_format_that_is_written_can_be_chosen() -> None:
    assert set(EXTENSIONS) == {f.name for f in FORMATS.values() if f.write is not None}


def test_images_to_tiff_and_back(run, molecule, tmp_path) -> None:
    images = run("simulate_particles", model=molecule, count=5).outputs["images"]
    (tiff,) = run("convert", input=images, to="tiff", pixel_size=4.0).outputs["files"]
    assert tiff.name == "particles.tif"
    (again,) = run("convert", input=tiff, pixel_size=4.0, output=tmp_path / "again").outputs["files"]
    assert again.name == "particles.mrcs"
    every = np.arange(5)
    assert np.array_equal(open_stack(again).read(every), open_stack(images).read(every))


def test_cryosparc_particles_to_star(run, test_data) -> None:
    """A .cs file and the STAR file of the same particles say the same."""
    folder = test_data / "formats" / "cryosparc"
    source = sorted(folder.glob("*.cs"), key=lambda p: p.stat().st_size)[0]
    (made,) = run("convert", input=source).outputs["files"]
    assert made.suffix == ".star"
    before, after = read_particles(source), read_particles(made)
    assert len(before) == len(after)
    assert np.allclose(before.views.defocus_u_angstrom, after.views.defocus_u_angstrom, atol=0.1)


def test_volume_stays_a_map(run, molecule) -> None:
    (made,) = run("convert", input=molecule).outputs["files"]
    assert np.array_equal(read_volume(made).data, read_volume(molecule).data)


def test_inputs_of_one_name_are_refused(run, molecule, tmp_path) -> None:
    copy = tmp_path / "molecule.map"
    copy.write_bytes(molecule.read_bytes())
    with pytest.raises(InputError, match="two inputs are called molecule"):
        run("convert", input=[molecule, copy])
