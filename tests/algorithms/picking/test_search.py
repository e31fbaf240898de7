"""A whole micrograph: what is found, what is refused, and real micrographs."""

import numpy as np
import pytest
from scipy import ndimage

from parhelion.algorithms.picking.exclusion import abnormal, contaminated_region
from parhelion.algorithms.picking.overlay import overlay
from parhelion.algorithms.picking.reduced import reduce_micrograph
from parhelion.algorithms.picking.search import (
    PickSettings,
    find_noise_boxes,
    pick_micrograph,
    polarity_evidence,
)
from parhelion.errors import InputError, ParameterError
from parhelion.io.formats import open_images

PIXEL, SHAPE = 5.0, (500, 520)
SIZES = {"maximum_radius_angstrom": 80.0, "characteristic_radius_angstrom": 60.0}
SPOTS = np.array([(x, y) for x in range(60, 500, 60) for y in range(50, 480, 60)], dtype=float)


def disc(at, radius, edge=20.0):
    y, x = np.indices(SHAPE)
    return np.clip((radius - np.hypot(x - at[0], y - at[1]) * PIXEL) / edge + 0.5, 0, 1)


def micrograph(spots=SPOTS, height=1.0, seed=0):
    """Black discs in white noise."""
    image = np.random.default_rng(seed).normal(size=SHAPE)
    for at in spots:
        image -= height * disc(at, 60.0)
    return image.astype(np.float32)


def pick(image, **options):
    return pick_micrograph(image, PIXEL, None, PickSettings(**{**SIZES, **options}), white=False)


def found_of(picks, spots=SPOTS, within=4.0):
    """How many spots were found, and how many picks are none."""
    if len(picks.xy_px) == 0:
        return 0, 0
    distance = np.hypot(*(picks.xy_px[:, None] - spots[None]).transpose(2, 0, 1))
    return int((distance.min(axis=0) < within).sum()), int((distance.min(axis=1) >= within).sum())


@pytest.mark.parametrize("method", ["blob", "gaussian"])
def test_all_particles_and_nothing_else(method) -> None:
    found = pick(micrograph(), method=method)
    assert found_of(found) == (len(SPOTS), 0)
    assert np.all(np.diff(found.score) <= 0)
    assert found.score.min() >= 5.0


@pytest.mark.parametrize("method", ["blob", "gaussian"])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_ice_alone_gives_nothing_much(method, seed) -> None:
    """White noise, and noise whose power falls with frequency as that of ice does."""
    white = micrograph(spots=[], seed=seed)
    slow = ndimage.gaussian_filter(np.random.default_rng(10 + seed).normal(size=SHAPE), 3.0)
    assert len(pick(white, method=method).score) <= 1
    assert len(pick(white + 5 * slow.astype(np.float32), method=method).score) <= 1
    assert len(pick(white, method=method, threshold_sigmas=6.0).score) == 0


def test_carbon_is_not_flooded() -> None:
    """Half of the field is a film of strong texture: no more is picked there than its particles."""
    spots = SPOTS[SPOTS[:, 0] < 200]
    image = micrograph(spots)
    texture = ndimage.gaussian_filter(np.random.default_rng(4).normal(size=SHAPE), 1.5)
    film = np.indices(SHAPE)[1] > 300
    image += film * (3.0 * texture / texture.std()).astype(np.float32)
    found = pick(image)
    on_film = found.xy_px[:, 0] > 290
    assert on_film.sum() <= 3
    assert found_of(found, spots)[0] >= 0.9 * len(spots)


def test_a_large_contaminant_gives_no_particles() -> None:
    spots = SPOTS[np.hypot(SPOTS[:, 0] - 380, SPOTS[:, 1] - 130) > 150]
    image = micrograph(spots)
    image -= 12 * disc((380, 130), 450.0).astype(np.float32)
    found = pick(image)
    near = np.hypot(found.xy_px[:, 0] - 380, found.xy_px[:, 1] - 130) * PIXEL < 470
    assert near.sum() == 0
    assert found_of(found, spots)[0] >= 0.85 * len(spots)


def test_blobs_larger_than_particles_are_refused() -> None:
    spots = SPOTS[np.hypot(SPOTS[:, 0] - 250, SPOTS[:, 1] - 250) > 70]
    image = micrograph(spots) - (0.8 * disc((250, 250), 170.0)).astype(np.float32)
    kept = pick(image, avoid_abnormal_means=False, reject_large=False)
    refused = pick(image, avoid_abnormal_means=False)
    at = np.array([[250.0, 250.0]])
    assert found_of(kept, at, within=30.0)[0] == 1
    assert found_of(refused, at, within=30.0)[0] == 0
    assert refused.refused["larger than a particle"] >= 1


def test_high_variance_is_avoided_where_asked() -> None:
    image = micrograph()
    texture = np.random.default_rng(5).normal(size=SHAPE).astype(np.float32)
    rough = np.hypot(*(np.indices(SHAPE) - np.array([230, 240])[:, None, None])) < 25
    image += 1.5 * rough * texture
    usual, careful = pick(image), pick(image, avoid_high_variance=True)
    assert careful.refused.get("high local variance", 0) >= 1
    assert len(careful.score) < len(usual.score)


def test_edges_limit_and_threshold() -> None:
    image = micrograph()
    inner = pick(image, edge_distance_px=100)
    assert np.all((inner.xy_px > 99) & (inner.xy_px < np.array([419, 399]) + 1))
    best = pick(image, limit=5)
    assert np.allclose(best.score, pick(image).score[:5])
    assert best.refused["beyond the limit"] == len(SPOTS) - 5
    assert len(pick(image, threshold_sigmas=60.0).score) == 0


def test_a_range_of_radii_finds_both_sizes_and_tells_them() -> None:
    image = np.random.default_rng(6).normal(size=SHAPE)
    small, large = SPOTS[::6], SPOTS[3::6]
    for at in small:
        image -= 2.0 * disc(at, 35.0, 10.0)
    for at in large:
        image -= 1.0 * disc(at, 75.0, 10.0)
    found = pick(
        image.astype(np.float32), radius_range_angstrom=(30.0, 80.0), highest_resolution_angstrom=15.0
    )
    assert found_of(found, np.concatenate([small, large]))[0] >= 0.95 * (len(small) + len(large))
    assert found.radius_angstrom is not None
    size = {}
    for name, spots in (("small", small), ("large", large)):
        distance = np.hypot(*(found.xy_px[:, None] - spots[None]).transpose(2, 0, 1)).min(axis=1)
        size[name] = np.median(found.radius_angstrom[distance < 4])
    assert size["small"] < 48 < size["large"]


def test_polarity_is_plain() -> None:
    white, black = polarity_evidence(micrograph(), PIXEL, None, PickSettings(**SIZES))
    assert black > 10 * max(white, 1.0)
    white, black = polarity_evidence(-micrograph(), PIXEL, None, PickSettings(**SIZES))
    assert white > 10 * max(black, 1.0)


def test_noise_boxes_are_even_and_empty() -> None:
    found = find_noise_boxes(
        micrograph(SPOTS[::3], height=3.0), PIXEL, PickSettings(**SIZES, background_boxes=15), white=False
    )
    distance = np.hypot(*(found.xy_px[:, None] - SPOTS[::3][None]).transpose(2, 0, 1)).min(axis=1)
    assert len(found.xy_px) == 15
    assert distance.min() * PIXEL > 75
    assert np.all(np.diff(found.score) <= 0)


def test_masks_of_any_binning_cover_the_same_area() -> None:
    image = micrograph()
    made = reduce_micrograph(
        image, PIXEL, highest_resolution_angstrom=30.0, largest_radius_angstrom=80.0, white=False
    )
    areas = []
    for binning in (2, 5, 10):
        mask = np.zeros((SHAPE[0] // binning, SHAPE[1] // binning))
        mask[:, : 260 // binning] = 0.9
        bad = contaminated_region(made, mask, 0.5, 0.0)
        inside = made.distance_from_edge_px() >= 0
        areas.append(bad[inside].mean())
    assert np.allclose(areas, 0.5, atol=0.03)
    assert not contaminated_region(made, mask, 0.95, 0.0).any()
    with pytest.raises(InputError, match="proportions"):
        contaminated_region(made, mask[:20], 0.5, 0.0)


def test_outliers_of_peaks() -> None:
    values = np.concatenate([np.random.default_rng(0).normal(size=200), [9.0, -9.0]])
    even = np.ones(202)
    assert list(np.flatnonzero(abnormal(values, 0.1, even))) == [200, 201]
    assert not abnormal(np.array([1.0, 100.0]), 0.1, even[:2]).any()


def test_peaks_of_noise_do_not_say_what_is_usual() -> None:
    """Many weak peaks about 0, fewer strong ones at 10: the strong are kept, what is far from both is not."""
    rng = np.random.default_rng(1)
    values = np.concatenate([rng.normal(0, 1, 150), rng.normal(10, 1, 100), [30.0, -12.0]])
    height = np.concatenate([rng.uniform(3, 4, 150), rng.uniform(7, 9, 100), [9.0, 3.0]])
    assert list(np.flatnonzero(abnormal(values, 0.1, height))) == [250, 251]


@pytest.mark.parametrize("threshold", [3.0, 3.5])
def test_a_low_threshold_loses_no_particle(threshold) -> None:
    found = pick(micrograph(), threshold_sigmas=threshold)
    assert found_of(found)[0] == len(SPOTS)


def test_radii_that_do_not_fit() -> None:
    with pytest.raises(ParameterError, match="maximum radius"):
        PickSettings(maximum_radius_angstrom=50.0, characteristic_radius_angstrom=60.0)


def test_overlay_marks_where_particles_are() -> None:
    picture = overlay(np.zeros((200, 300)) + np.arange(300), np.array([[150.0, 60.0]]), 30.0, largest=300)
    assert picture.shape == (200, 300, 3)
    marked = np.argwhere(picture[..., 1] > picture[..., 0] + 0.3)
    assert np.allclose(marked.mean(axis=0), (60, 150), atol=1)
    assert np.allclose(np.hypot(*(marked - (60, 150)).T), 30, atol=2)
    assert overlay(np.ones((900, 900)), np.zeros((0, 2)), 5.0, largest=300).shape == (300, 300, 3)


def test_real_particles_are_found_where_a_person_sees_them(test_data) -> None:
    """Positions read off the picture by eye; the micrograph shows some hundred particles."""
    image = open_images(test_data / "micrographs" / "k2_300kv_0.854A.mrc").read(np.array([0]))[0]
    settings = PickSettings(maximum_radius_angstrom=90.0, characteristic_radius_angstrom=60.0)
    white, black = polarity_evidence(image, 0.85378, None, settings)
    assert black > 10 * max(white, 1.0)
    found = pick_micrograph(image, 0.85378, None, settings, white=False)
    assert 85 <= len(found.score) <= 130
    seen = np.array([(262, 1043), (1008, 891), (2101, 463), (3464, 2741), (2402, 566)])
    distance = np.hypot(*(found.xy_px[:, None] - seen[None]).transpose(2, 0, 1)).min(axis=0)
    assert np.all(distance * 0.854 < 40)


def test_a_real_contaminant_is_left_alone(test_data) -> None:
    folder = test_data / "micrographs"
    image, mask = (
        open_images(folder / f"contaminated_bin8{end}.mrc").read(np.array([0]))[0] for end in ("", "_mask")
    )
    settings = PickSettings(maximum_radius_angstrom=80.0, characteristic_radius_angstrom=60.0)
    free = pick_micrograph(image, 8.0, None, settings, white=False)
    assert len(free.score) < 30
    masked = pick_micrograph(image, 8.0, None, settings, white=False, probability=mask)
    at = np.round(masked.xy_px).astype(int)
    assert np.all(mask[at[:, 1], at[:, 0]] < 0.5)
