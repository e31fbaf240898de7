"""What every job on particles says about tables and images that it cannot use."""

from pathlib import Path

import numpy as np
import pytest

from parhelion.errors import FormatError, InputError, ParameterError
from parhelion.io.mrc import StackWriter, open_stack, read_volume, write_volume
from parhelion.io.particles import read_particles
from parhelion.jobs._particles import read_with_images
from parhelion.model.volume import Volume


class Notices:
    """Observer that keeps what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def notice(self, text: str) -> None:
        self.said.append(text)


def write_stack(path: Path, images: np.ndarray) -> None:
    with StackWriter(path, len(images), images.shape[1:], 4.0) as writer:
        writer.write(0, images)


@pytest.fixture
def simulated(simulate):
    """``particles.star`` of 12 particles, beside their images."""
    return simulate(count=12)


def test_a_map_or_images_for_a_table(simulated, molecule) -> None:
    with pytest.raises(FormatError, match=r"molecule\.mrc holds images or a map, a table of particles is"):
        read_particles(molecule)
    with pytest.raises(FormatError, match=r"particles\.mrcs holds images or a map, a table of particles is"):
        read_particles(simulated["images"])


def test_images_that_are_all_constant_are_refused_at_once(simulated) -> None:
    write_stack(simulated["images"], np.zeros((12, 32, 32), np.float32))
    with pytest.raises(InputError, match="none of the 12 images looked at can be used: they are constant"):
        read_with_images(simulated["particles"], Notices())


def test_one_image_does_not_show_its_contrast(simulated) -> None:
    images = open_stack(simulated["images"]).read(np.arange(12)).copy()
    images[1:] = 0
    write_stack(simulated["images"], images)
    with pytest.raises(InputError, match=r"a single usable image .* --contrast"):
        read_with_images(simulated["particles"], Notices())
    particles, _ = read_with_images(simulated["particles"], Notices(), contrast="black")
    assert len(particles) == 12


@pytest.mark.parametrize(
    ("job", "options", "said"),
    [
        ("class2d", {"classes": 2, "shift_range": 100}, "a shift range of 100 Å"),
        ("class2d", {"classes": 2, "mask_radius": 4000}, "a mask radius of 4000 Å does not fit"),
        ("abinitio", {"shift_range": 100}, "a shift range of 100 Å"),
        ("refine", {"reference": "map", "shift_range": 100}, "a shift range of 100 Å"),
        ("refine_manual", {"references": "map", "shift_range": 100}, "a shift range of 100 Å"),
    ],
)
def test_what_lies_outside_the_images_is_not_searched(simulated, run, job, options, said) -> None:
    """The box of 32 pixels of 4 Å ends 64 Å from its centre."""
    options = {name: simulated["reference"] if value == "map" else value for name, value in options.items()}
    with pytest.raises(ParameterError, match=said):
        run(job, input=simulated["particles"], diameter=80, contrast="white", **options)


@pytest.mark.parametrize(
    ("job", "name", "options"),
    [("refine", "reference", {"max_rounds": 1}), ("refine_manual", "references", {"align": "none"})],
)
def test_a_reference_with_black_protein_is_told(
    simulated, run, molecule, tmp_path, job, name, options
) -> None:
    write_volume(tmp_path / "black.mrc", Volume(data=-read_volume(molecule).data, pixel_size_angstrom=4.0))
    said = {}
    for colour, reference in (("white", molecule), ("black", tmp_path / "black.mrc")):
        words = {name: reference, "diameter": 80, "contrast": "white", **options}
        said[colour] = run(job, input=simulated["truth"], output=tmp_path / colour, **words).notices
    assert any("the reference looks black" in note for note in said["black"])
    assert not any("looks black" in note for note in said["white"])
