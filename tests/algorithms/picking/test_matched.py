"""Background, whitening and matched filters: scores are in units of the noise."""

import numpy as np
import pytest
import torch

from parhelion.algorithms.picking.background import find_background
from parhelion.algorithms.picking.local import local_mean, local_variance, robust_level, wrapped_distance
from parhelion.algorithms.picking.matched import (
    PickingCtf,
    blob_score,
    gaussian_score,
    soft_disc,
    whitened,
)
from parhelion.algorithms.picking.reduced import reduce_micrograph
from parhelion.errors import InputError
from parhelion.fourier.grids import rfft_radius

PIXEL, RADIUS, LARGEST = 10.0, 60.0, 90.0
CTF = PickingCtf(
    defocus_u_angstrom=15000.0,
    defocus_v_angstrom=14000.0,
    defocus_angle_deg=30.0,
    voltage_kv=300.0,
    spherical_aberration_mm=2.7,
    amplitude_contrast=0.1,
)


def reduced(image, **options):
    return reduce_micrograph(
        np.asarray(image, np.float32),
        PIXEL,
        **{"highest_resolution_angstrom": 20.0, "largest_radius_angstrom": LARGEST, "white": True, **options},
    )


def coloured(shape, seed=0, corner=0.01):
    """Noise whose power falls with frequency to a floor."""
    white = torch.from_numpy(np.random.default_rng(seed).normal(size=shape).astype(np.float32))
    power = 1.0 + 8.0 / (1.0 + (rfft_radius(shape, PIXEL) / corner) ** 2)
    return torch.fft.irfft2(torch.fft.rfft2(white) * power.sqrt(), s=shape).numpy()


def discs(shape, places, radius=RADIUS, height=1.0):
    y, x = np.indices(shape)
    image = np.zeros(shape)
    for at in places:
        distance = torch.from_numpy(np.hypot(x - at[0], y - at[1]) * PIXEL)
        image += height * soft_disc(distance, radius, PIXEL).numpy()
    return image


def test_local_maps_against_their_definition() -> None:
    image = np.random.default_rng(1).normal(size=(40, 50)).astype(np.float32)
    distance = wrapped_distance((40, 50), (2.0, 3.0)).numpy()
    disc = np.clip((12.0 - distance) / 2.5 + 0.5, 0, 1)
    disc /= disc.sum()
    at = np.roll(disc, (7, 9), (0, 1))
    mean = float((at * image).sum())
    assert np.isclose(local_mean(image, (2.0, 3.0), 12.0)[7, 9], mean, atol=1e-5)
    variance = float((at * image**2).sum()) - mean**2
    assert np.isclose(local_variance(image, (2.0, 3.0), 12.0)[7, 9], variance, atol=1e-5)


def test_robust_level_ignores_what_lies_above() -> None:
    values = np.random.default_rng(2).normal(3.0, 2.0, 20000)
    mode, sigma = robust_level(np.concatenate([values, np.full(4000, 50.0)]))
    assert abs(mode - 3.0) < 0.4
    assert abs(sigma - 2.0) < 0.25


def test_whitened_background_has_unit_power_at_every_frequency() -> None:
    micrograph = reduced(coloured((400, 420)))
    background = find_background(micrograph, radius_angstrom=LARGEST, count=200, choice="near-mode")
    shape = micrograph.data.shape
    power = (whitened(micrograph, background).abs() ** 2) / (shape[0] * shape[1])
    radius = rfft_radius(shape, PIXEL)
    for low, high in ((0.006, 0.012), (0.012, 0.025), (0.025, 0.05)):
        band = (radius > low) & (radius < high)
        assert abs(float(power[band].mean()) - 1.0) < 0.2


def test_lowest_variance_boxes_avoid_particles_and_each_other() -> None:
    places = [(x, y) for x in (60, 160, 260, 340) for y in (60, 160, 260, 340)]
    micrograph = reduced(coloured((400, 400)) + 6 * discs((400, 400), places))
    found = find_background(micrograph, radius_angstrom=LARGEST, count=40)
    xy = micrograph.to_micrograph(found.centres_yx)
    distance = np.hypot(*(xy[:, None] - np.array(places)[None]).transpose(2, 0, 1)).min(axis=1)
    assert distance.min() * PIXEL > LARGEST
    apart = np.abs(found.centres_yx[:, None] - found.centres_yx[None]).max(axis=2)
    assert apart[~np.eye(len(apart), dtype=bool)].min() >= 3 * found.box // 4
    near_mode = find_background(micrograph, radius_angstrom=LARGEST, count=40, choice="near-mode")
    assert near_mode.variance.mean() > found.variance.mean()
    with pytest.raises(InputError, match="no background box"):
        find_background(
            micrograph, radius_angstrom=LARGEST, count=5, excluded=np.ones(micrograph.data.shape, bool)
        )


@pytest.mark.parametrize("with_ctf", [False, True])
def test_the_score_is_the_signal_in_units_of_its_noise(with_ctf) -> None:
    """White noise of variance 1 and a disc of known height: the height of the peak is |h| of the disc."""
    shape, height = (400, 400), 1.0
    ctf = CTF if with_ctf else None
    signal = torch.from_numpy(discs(shape, [(200, 200)], height=height)).float()
    if ctf is not None:
        signal = torch.fft.irfft2(torch.fft.rfft2(signal) * ctf.on_grid(shape, (PIXEL, PIXEL)), s=shape)
    expected = float(signal.norm())
    noise = np.random.default_rng(3).normal(size=shape)
    micrograph = reduced(signal.numpy() + noise)
    background = find_background(micrograph, radius_angstrom=LARGEST, count=100, choice="near-mode")
    score = blob_score(micrograph, background, RADIUS, ctf)
    y, x = np.round(micrograph.from_micrograph(np.array([[200.0, 200.0]]))[0]).astype(int)
    assert abs(float(score[y, x]) - expected) < 0.15 * expected + 1.0
    away = micrograph.distance_from_edge_px() * PIXEL > LARGEST
    away[y - 30 : y + 31, x - 30 : x + 31] = False
    assert 0.75 < float(score[away].std()) < 1.15
    assert float(score[away].max()) < 5.0


def test_gaussian_scores_are_in_units_of_the_noise_too() -> None:
    micrograph = reduced(coloured((400, 400), 4) + 1.5 * discs((400, 400), [(150, 240)]))
    background = find_background(micrograph, radius_angstrom=LARGEST, count=100, choice="near-mode")
    score = gaussian_score(micrograph, background, RADIUS)
    inside = micrograph.distance_from_edge_px() * PIXEL > LARGEST
    peak = np.unravel_index(np.argmax(np.where(inside, score, -np.inf)), score.shape)
    assert np.allclose(micrograph.to_micrograph(np.array([peak]))[0], (150, 240), atol=4.0)
    assert 0.7 < robust_level(score[inside])[1] < 1.3


def test_the_ctf_helps_to_find_what_it_made() -> None:
    shape = (360, 360)
    signal = torch.from_numpy(discs(shape, [(180, 180)], radius=35.0, height=3.0)).float()
    strong = PickingCtf(**{**vars(CTF), "defocus_u_angstrom": 60000.0, "defocus_v_angstrom": 60000.0})
    seen = torch.fft.irfft2(torch.fft.rfft2(signal) * strong.on_grid(shape, (PIXEL, PIXEL)), s=shape)
    micrograph = reduced(seen.numpy() + np.random.default_rng(5).normal(size=shape))
    background = find_background(micrograph, radius_angstrom=LARGEST, count=60)
    y, x = np.round(micrograph.from_micrograph(np.array([[180.0, 180.0]]))[0]).astype(int)
    assert (
        blob_score(micrograph, background, 35.0, strong)[y, x]
        > 1.05 * (blob_score(micrograph, background, 35.0, None)[y, x])
    )
