"""Boxes of a micrograph: where they lie, what fills them, and that scale and contrast are as asked."""

import numpy as np
import pytest

from parhelion.algorithms.extraction import (
    ExtractSettings,
    box_centres,
    cut_boxes,
    defocus_on_plane,
    even_box,
    particle_images,
    place_boxes,
)
from parhelion.errors import ParameterError

IMAGE = np.arange(40 * 50, dtype=np.float32).reshape(40, 50)


def test_the_box_centre_is_the_nearest_pixel() -> None:
    found = box_centres(np.array([[10.4, 10.5], [9.6, 10.49]]))
    assert found.tolist() == [[10, 11], [10, 10]]
    (box,) = cut_boxes(IMAGE, found[:1], 8)
    assert box[4, 4] == IMAGE[11, 10]
    np.testing.assert_array_equal(box, IMAGE[7:15, 6:14])


def test_edges_are_skipped_or_filled() -> None:
    xy = np.array(
        [[25.0, 20.0], [4.0, 4.0], [3.0, 20.0], [46.0, 36.0], [47.0, 20.0], [-1.0, 5.0], [50.0, 5.0]]
    )
    skipped = place_boxes(IMAGE, xy, 8, "skip")
    assert skipped.kept.tolist() == [0, 1, 3]
    assert (skipped.at_edge, skipped.outside, skipped.broken) == (2, 2, 0)
    filled = place_boxes(IMAGE, xy, 8, "fill")
    assert filled.kept.tolist() == [0, 1, 2, 3, 4]
    box = cut_boxes(IMAGE, filled.centres, 8)[2]
    np.testing.assert_array_equal(box[:, 1:], IMAGE[16:24, :7])
    np.testing.assert_allclose(box[:, 0], IMAGE[16:24, :7].mean())


def test_boxes_without_information_are_left_out() -> None:
    image = IMAGE.copy()
    image[10:30, 5:25] = 7
    image[35, 45] = np.inf
    found = place_boxes(image, np.array([[15.0, 20.0], [44.0, 34.0], [35.0, 15.0]]), 8, "skip")
    assert found.kept.tolist() == [2]
    assert found.broken == 2


def test_contrast_and_scale() -> None:
    rng = np.random.default_rng(1)
    boxes = rng.normal(100, 5, (3, 32, 32)).astype(np.float32)
    boxes[:, 12:20, 12:20] -= 20
    made, dust = particle_images(boxes, ExtractSettings(box=32, final_box=16), rng)
    assert made.shape == (3, 16, 16)
    assert made.dtype == np.float32
    assert dust == 0
    assert (made[:, 8, 8] > 2).all()
    plain, _ = particle_images(
        boxes, ExtractSettings(box=32, final_box=16, invert=False, background_radius=None), rng
    )
    np.testing.assert_allclose(plain.mean(axis=(1, 2)), boxes.mean(axis=(1, 2)), rtol=1e-5)


@pytest.mark.parametrize(("box", "final"), [(31, 16), (32, 15), (32, 64), (0, 0)])
def test_impossible_boxes_are_refused(box, final) -> None:
    with pytest.raises(ParameterError, match="box"):
        ExtractSettings(box=box, final_box=final)


def test_defocus_changes_along_the_slope() -> None:
    added = defocus_on_plane(np.array([[25.0, 20.0], [35.0, 20.0], [25.0, 10.0]]), (40, 50), (2.0, -3.0))
    assert added.tolist() == [0, 20, 30]


def test_boxes_are_even_and_fast() -> None:
    assert [even_box(n) for n in (2, 31, 32, 33, 211, 257.2)] == [2, 32, 32, 36, 216, 270]
