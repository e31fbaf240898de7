"""mask: follows the molecule, or is a sphere."""

import numpy as np
import pytest

from parhelion.errors import InputError, ParameterError
from parhelion.io.mrc import read_volume, write_volume
from parhelion.model.volume import Volume


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


def grid(pixel: float = 4.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    z, y, x = (np.indices((32,) * 3) - 16) * pixel
    return x, y, z


def test_sphere_off_the_centre_and_hollow(run, molecule, tmp_path) -> None:
    x, y, z = grid()
    result = run("mask", input=molecule, radius=20, edge=0, centre=(20.0, -8.0, 12.0))
    mask = read_volume(result.outputs["mask"]).data
    distance = np.sqrt((x - 20) ** 2 + (y + 8) ** 2 + (z - 12) ** 2)
    np.testing.assert_array_equal(mask, distance <= 20)
    result = run("mask", input=molecule, radius=40, edge=4, inner_radius=20, output=tmp_path / "hollow")
    mask, radius = read_volume(result.outputs["mask"]).data, np.sqrt(x**2 + y**2 + z**2)
    assert mask[radius < 15].max() < 0.01
    assert mask[(radius > 21) & (radius < 39)].min() > 0.99


def test_inverted(run, molecule, tmp_path) -> None:
    masks = [
        read_volume(
            run("mask", input=molecule, radius=30, invert=i, output=tmp_path / str(i)).outputs["mask"]
        )
        for i in (False, True)
    ]
    np.testing.assert_allclose(masks[0].data + masks[1].data, 1, atol=1e-6)


def test_map_inside_the_mask(run, molecule, tmp_path) -> None:
    """What cisTEM's apply_mask does: a given mask with a cosine edge, the outside dampened and low-passed."""
    density = read_volume(molecule).data
    ball = run("mask", input=molecule, radius=24, edge=0, output=tmp_path / "ball").outputs["mask"]
    x, y, z = grid()
    radius = np.sqrt(x**2 + y**2 + z**2)
    far, inner = radius > 46, radius <= 24

    def masked(name: str, **options):
        result = run("mask", input=molecule, mask=ball, apply=True, output=tmp_path / name, **options)
        return read_volume(result.outputs["map"]).data

    hard = masked("hard")
    np.testing.assert_allclose(hard[inner], density[inner], atol=1e-6)
    assert np.ptp(hard[~inner]) < 1e-6
    soft = masked("soft", edge=20.0)
    between = (radius > 26) & (radius < 40)
    assert np.ptp(soft[between]) > 0.01
    half = masked("half", outside_weight=0.5)
    assert half[~inner].std() == pytest.approx(0.5 * density[~inner].std(), rel=1e-3)
    smooth = masked("smooth", outside_weight=1.0, outside_lowpass=60.0)
    assert smooth[~inner].std() < 0.9 * density[~inner].std()
    np.testing.assert_allclose(smooth[inner], density[inner], atol=1e-5)
    assert far.any() and np.isfinite(smooth).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inner_radius": 10.0}, "--inner-radius belongs to a sphere"),
        ({"centre": (1.0, 2.0, 3.0)}, "--centre belongs to a sphere"),
        ({"outside_weight": 0.5}, "ask for it with --apply"),
        ({"apply": True, "outside_lowpass": 20.0}, "give a weight"),
        ({"radius": 5.0, "centre": (500.0, 0.0, 0.0), "edge": 0.0}, "the mask is empty"),
    ],
)
def test_options_that_make_no_sense_are_refused(run, molecule, options, message) -> None:
    with pytest.raises(InputError, match=message):
        run("mask", input=molecule, **options)


def test_masks_that_hardly_mask_or_follow_noise_are_told(run, molecule, tmp_path) -> None:
    whole = run("mask", input=molecule, radius=500.0, output=tmp_path / "whole")
    assert any("covers 100 % of the box" in note for note in whole.notices)
    noise = np.random.default_rng(2).normal(size=(48, 48, 48)).astype(np.float32)
    write_volume(tmp_path / "noise.mrc", Volume(data=noise, pixel_size_angstrom=4.0))
    followed = run("mask", input=tmp_path / "noise.mrc", output=tmp_path / "noise")
    assert any("separate parts, as noise has" in note for note in followed.notices)
    assert not run("mask", input=molecule, output=tmp_path / "usual").notices
