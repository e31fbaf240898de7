"""What is chosen where the user does not choose, and why."""

import math

import numpy as np
import pytest

from parhelion.algorithms import first_run
from parhelion.errors import ParameterError


def test_only_small_pixels_are_binned() -> None:
    assert first_run.movie_binning(1.3, None).value == 1
    assert first_run.movie_binning(0.65, None).value == 1
    assert first_run.movie_binning(0.35, None).value == pytest.approx(2)
    coarse = first_run.movie_binning(0.85, 3.4)
    assert coarse.value == pytest.approx(2)
    assert "3.4 Å" in coarse.why


def test_boxes_hold_what_defocus_spreads() -> None:
    near = first_run.box_extent(150, 2.0, 1_000, 300)
    assert near.value == 225
    far = first_run.box_extent(150, 2.0, 50_000, 300)
    assert far.value == 300
    between = first_run.box_extent(150, 2.0, 15_000, 300)
    # λ Δf / d on either side: 0.0197 Å · 15,000 Å / 6 Å
    assert between.value == pytest.approx(150 + 2 * 0.01969 * 15_000 / 6, rel=1e-3)
    assert "49 Å" in between.why


def test_the_final_pixel_is_as_wanted_or_gives_the_usual_box() -> None:
    assert first_run.final_pixel(300, 1.0, None).value == pytest.approx(450 / 128)
    assert first_run.final_pixel(100, 1.3, None).value == 1.3
    assert first_run.final_pixel(3000, 1.0, None).value == 5.0
    assert first_run.final_pixel(300, 1.0, 2.5).value == 2.5
    assert first_run.final_pixel(300, 6.0, None).value == 6.0
    with pytest.raises(ParameterError, match="only made coarser"):
        first_run.final_pixel(300, 1.0, 0.9)


@pytest.mark.parametrize(("pixel", "final", "extent"), [(1.0, 2.5, 230), (1.06, 3.5, 470), (2.0, 2.0, 260)])
def test_boxes_keep_within_the_final_pixel(pixel, final, extent) -> None:
    found = first_run.boxes(first_run.Choice(extent, "so"), pixel, final)
    assert found.box % 2 == found.final_box % 2 == 0
    assert found.box * pixel >= extent * 0.99
    assert final * 0.97 < found.pixel_size_angstrom <= final + 1e-9
    assert found.pixel_size_angstrom == pytest.approx(pixel * found.box / found.final_box)


def test_picks_far_below_the_others_are_not_believed() -> None:
    weak = first_run.merit_cut(np.linspace(3, 6, 100))
    assert weak.value == first_run.LOWEST_MERIT
    strong = first_run.merit_cut(np.array([20.0] * 50 + [4.0] * 30))
    assert strong.value == pytest.approx(8)
    assert first_run.merit_cut(np.array([np.nan])).value == first_run.LOWEST_MERIT


def test_fits_far_from_the_others_are_left_out() -> None:
    fits = np.array([4.0, 4.2, 4.1, 4.3, 4.2, 12.0])
    cut = first_run.fit_resolution_cut(fits, None)
    assert 4.3 < cut.value < 12
    assert first_run.fit_resolution_cut(fits, 5.0).value == 15
    assert first_run.fit_resolution_cut(np.array([np.nan, 0.0]), None).value == math.inf
    even = first_run.fit_resolution_cut(np.full(5, 4.0), None)
    assert even.value == pytest.approx(5.2)


def test_radii_follow_the_diameter() -> None:
    farthest, low, high = first_run.pick_radii(200)
    assert (farthest, low, high) == pytest.approx((100, 50, 90))
