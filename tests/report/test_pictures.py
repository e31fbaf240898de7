"""Plots and pictures show the right thing the right way round."""

import base64
import io

import matplotlib.image
import numpy as np
from scipy.spatial.transform import Rotation

from parhelion.geometry.rotations import from_relion
from parhelion.model.volume import Volume
from parhelion.report import angles, images, plots, surface
from parhelion.report.rows import naming_columns


def pixels(address: str) -> np.ndarray:
    """Decoded PNG, first row at the bottom as in the data."""
    raw = base64.b64decode(address.removeprefix("data:image/png;base64,"))
    return matplotlib.image.imread(io.BytesIO(raw))[::-1]


def test_first_row_is_at_the_bottom() -> None:
    picture = np.zeros((10, 10))
    picture[1, 7] = 1.0
    shown = pixels(images.thumbnails([picture], shared=False)[0])[..., 0]
    assert np.unravel_index(shown.argmax(), shown.shape) == (1, 7)


def test_shared_contrast_keeps_images_comparable() -> None:
    faint, strong = np.zeros((20, 20)), np.zeros((20, 20))
    faint[5:10, 5:10], strong[5:10, 5:10] = 1.0, 10.0
    alone = [pixels(p)[..., 0].max() for p in images.thumbnails([faint, strong], shared=False)]
    together = [pixels(p)[..., 0].max() for p in images.thumbnails([faint, strong], shared=True)]
    assert alone == [1.0, 1.0]
    assert together[0] < 0.2
    assert together[1] == 1.0


def test_constant_and_not_finite_images_can_be_shown() -> None:
    bad = np.full((4, 4), np.nan)
    assert len(images.thumbnails([np.ones((4, 4)), bad], shared=True)) == 2
    assert images.thumbnails([], shared=True) == []


def test_large_images_are_averaged_down() -> None:
    big = np.arange(600 * 600, dtype=float).reshape(600, 600)
    small = images.shrink(big)
    assert max(small.shape) <= images.LARGEST
    assert np.isclose(small.mean(), big.mean())


def test_slices_and_projections_are_those_of_the_map() -> None:
    data = np.arange(4 * 6 * 8, dtype=np.float32).reshape(4, 6, 8)
    volume = Volume(data=data, pixel_size_angstrom=1.0)
    assert [s.shape for s in images.central_slices(volume)] == [(6, 8), (4, 8), (4, 6)]
    assert np.array_equal(images.central_slices(volume)[0], data[2])
    assert np.allclose(images.axis_projections(volume)[2], data.sum(axis=2))


def test_view_direction_is_that_of_relions_angles() -> None:
    """RELION's rot and tilt are the longitude and colatitude of the view."""
    rot, tilt = np.array([30.0, -120.0, 10.0]), np.array([20.0, 90.0, 150.0])
    longitude, latitude = angles.view_directions(from_relion(rot, tilt, np.array([0.0, 77.0, -5.0])))
    assert np.allclose(longitude, rot)
    assert np.allclose(90 - latitude, tilt)


def test_angular_plot_takes_one_particle_and_many() -> None:
    for count in (1, 300):
        assert angles.distribution(Rotation.random(count, random_state=2).as_matrix()).startswith("<svg")


def test_fsc_axis_ends_at_nyquist() -> None:
    text = plots.fsc({"corrected": np.linspace(1, 0, 33)}, 64, 3.54)
    assert "7.08" in text
    assert "0.143" in text
    assert "corrected" in text


def test_history_draws_a_line_per_start() -> None:
    rows = [{"start": s, "round": r, "fsc": 0.1 * r} for s in (1, 2) for r in (1, 2, 3)]
    colours = plots.COLOURS[:2]
    text = plots.history(rows)
    assert all(colour in text for colour in colours)


def test_counts_are_measured_and_do_not_name_a_row() -> None:
    rows = [{"start": 1, "round": 2, "particles": 600, "x": 0.5}]
    assert naming_columns(rows) == ["start", "round"]
    assert naming_columns([{"particles": 5, "half": 1, "x": 2}]) == ["particles", "half"]
    assert naming_columns([{"x": 0.5, "round": 1}]) == []
    assert naming_columns([]) == []


def test_surface_shows_the_near_side() -> None:
    """Two balls, one above the other in z: from the top the upper one hides the lower."""
    z, y, x = np.indices((40, 40, 40))

    def ball(cz: int, cx: int) -> np.ndarray:
        return np.clip(8 - np.sqrt((z - cz) ** 2 + (y - 20) ** 2 + (x - cx) ** 2), 0, 1)

    density = np.flip(ball(30, 14) + ball(10, 26), axis=0)
    picture = surface.shade(density, 0.5)
    assert np.array_equal(picture[0, 0], surface.PAPER)
    near, far = picture[20, 14].sum(), picture[20, 26].sum()
    assert near > far
    assert picture.min() >= 0
    assert picture.max() <= 1


def test_surface_without_anything_above_the_level_is_blank() -> None:
    picture = surface.shade(np.zeros((8, 8, 8)), 1.0)
    assert np.all(picture == surface.PAPER)


def test_level_lies_between_solvent_and_molecule() -> None:
    data = np.zeros((20, 20, 20))
    data[5:13, 5:13, 5:12] = 1.0
    assert 0.2 < surface.default_level(data) < 0.8


def test_history_has_no_rounds_between_rounds() -> None:
    text = plots.history([{"round": r, "fsc": 0.1 * r} for r in (1, 2, 3)])
    assert ">1.5<" not in text
    assert ">2<" in text
