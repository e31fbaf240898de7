"""Local resolution of half maps whose two sides are known to different resolutions."""

import numpy as np
import pytest

from parhelion.algorithms.postprocess.local_resolution import (
    LocalResolution,
    band_envelope,
    filtered_locally,
    first_crossing,
    local_resolution,
)
from parhelion.errors import ParameterError
from parhelion.fourier.filters import lowpass
from parhelion.fourier.grids import rfft_radius
from parhelion.model.volume import Volume

BOX, PIXEL = 64, 2.0
COARSE, FINE = 16.0, 6.0


def as_volume(data: np.ndarray) -> Volume:
    return Volume(data=data.astype(np.float32), pixel_size_angstrom=PIXEL)


def white(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(BOX,) * 3).astype(np.float32)


@pytest.fixture(scope="module")
def halves() -> tuple[Volume, Volume, Volume]:
    """Signal common to both halves to 16 Å where x < 0 and to 6 Å where x > 0; noise of equal power
    beyond."""
    signal = as_volume(white(1))
    right = (np.arange(BOX) >= BOX // 2)[None, None, :]
    truth = np.where(right, lowpass(signal, FINE).data, lowpass(signal, COARSE).data)
    made = []
    for seed in (2, 3):
        noise = as_volume(white(seed))
        beyond = [noise.data - lowpass(noise, limit).data for limit in (FINE, COARSE)]
        made.append(as_volume(truth + np.where(right, *beyond)))
    return made[0], made[1], as_volume(truth)


@pytest.fixture(scope="module")
def found(halves: tuple[Volume, Volume, Volume]) -> LocalResolution:
    return local_resolution(halves[0], halves[1], window_angstrom=26.0)


def test_each_side_has_its_own_resolution(found: LocalResolution) -> None:
    left, right = found.resolution.data[:, :, 8:24], found.resolution.data[:, :, 40:56]
    assert np.median(left) == pytest.approx(COARSE, rel=0.12)
    assert np.median(right) == pytest.approx(FINE, rel=0.08)
    assert np.percentile(left, 10) > np.percentile(right, 90)
    assert found.resolution.data.shape == (BOX,) * 3


def test_a_stricter_threshold_gives_a_coarser_resolution(
    halves: tuple[Volume, Volume, Volume], found: LocalResolution
) -> None:
    strict = local_resolution(halves[0], halves[1], window_angstrom=26.0, threshold=0.8)
    assert np.median(strict.resolution.data) > np.median(found.resolution.data)


def test_a_wider_window_sees_less_detail(
    halves: tuple[Volume, Volume, Volume], found: LocalResolution
) -> None:
    """At 9 Å one side correlates and the other does not; the step between is as wide as the window."""
    wide = local_resolution(halves[0], halves[1], window_angstrom=60.0)

    def steepest(result: LocalResolution) -> float:
        band = result.fsc[int(np.argmin(np.abs(result.frequency - 1 / 9)))]
        profile = band.mean(axis=(0, 1))
        return float(np.diff(profile).max()) * len(profile)

    assert steepest(found) > 1.5 * steepest(wide)


def test_noise_alone_is_at_the_coarse_end() -> None:
    result = local_resolution(as_volume(white(5)), as_volume(white(6)), window_angstrom=30.0)
    assert np.percentile(result.resolution.data, 10) > 0.6 * result.coarsest_angstrom


def test_identical_maps_reach_the_fine_end() -> None:
    one = as_volume(white(7))
    result = local_resolution(one, one, window_angstrom=30.0)
    np.testing.assert_allclose(result.resolution.data, result.finest_angstrom, rtol=1e-4)


def test_the_locally_filtered_map_is_nearer_to_the_truth(
    halves: tuple[Volume, Volume, Volume], found: LocalResolution
) -> None:
    average = as_volume(0.5 * (halves[0].data + halves[1].data))
    truth = halves[2].data

    def error(volume: Volume) -> float:
        return float(((volume.data - truth) ** 2).mean())

    local = error(filtered_locally(average, found))
    assert local < 0.75 * min(error(lowpass(average, d)) for d in (COARSE, 10.0, 8.0, FINE))
    sharper = filtered_locally(average, found, -100.0)
    assert sharper.data.std() > 1.2 * filtered_locally(average, found).data.std()


def test_bands_add_up_to_one() -> None:
    shell = rfft_radius((32,) * 3) * 32
    total = sum(band_envelope(shell, k * 3.0, 3.0) for k in range(10))
    np.testing.assert_allclose(total[shell < 27], 1.0, atol=1e-6)


def test_first_crossing_is_linear_between_bands() -> None:
    fsc = np.array([[0.9, 0.3, 0.9], [0.7, 0.9, 0.8], [0.1, 0.9, 0.7]])
    np.testing.assert_allclose(first_crossing(fsc, np.array([2.0, 4.0, 6.0]), 0.5), [4 + 2 / 3, 2, 6])


@pytest.mark.parametrize("options", [{"window_angstrom": 3.0}, {"window_angstrom": 100.0}])
def test_windows_that_do_not_fit(halves: tuple[Volume, Volume, Volume], options: dict[str, float]) -> None:
    with pytest.raises(ParameterError, match="window"):
        local_resolution(halves[0], halves[1], **options)
    with pytest.raises(ParameterError, match="threshold"):
        local_resolution(halves[0], halves[1], window_angstrom=26.0, threshold=1.5)
