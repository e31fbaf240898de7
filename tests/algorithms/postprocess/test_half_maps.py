"""Post-processing finds the resolution and the B-factor that the half maps were made with."""

import numpy as np
import pytest

from parhelion.algorithms.postprocess.gold_standard import correct_for_mask, gold_standard_fsc
from parhelion.algorithms.postprocess.half_maps import postprocess
from parhelion.algorithms.postprocess.sharpen import DetectorMtf, fsc_weight
from parhelion.errors import InputError, ParameterError
from parhelion.fourier.fft import irfft3, rfft3
from parhelion.fourier.filters import apply_bfactor, apply_envelope, lowpass
from parhelion.fourier.grids import rfft_radius
from parhelion.fourier.shells import fsc, spectrum
from parhelion.images.masks import spherical_mask
from parhelion.model.volume import Volume

BOX, PIXEL = 64, 2.5


def molecule(bfactor=0.0, seed=0):
    """Point atoms in a ball of 45 Å: a flat spectrum beyond the ball's own, damped by ``bfactor``."""
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(600, 3))
    points *= (45 * rng.uniform(0, 1, (600, 1)) ** (1 / 3)) / np.linalg.norm(points, axis=1, keepdims=True)
    data = np.zeros((BOX,) * 3, np.float32)
    np.add.at(data, tuple((np.rint(points / PIXEL).astype(int) + BOX // 2).T), 10.0)
    return apply_bfactor(Volume(data=data, pixel_size_angstrom=PIXEL), bfactor)


def volume(data):
    return Volume(data=np.asarray(data, np.float32), pixel_size_angstrom=PIXEL)


def halves(truth, noise, seed=1):
    rng = np.random.default_rng(seed)
    return [volume(truth.data + rng.normal(0, noise, truth.data.shape)) for _ in range(2)]


@pytest.fixture(scope="module")
def result():
    return postprocess(*halves(molecule(300.0), 0.4))


def test_the_sharpened_map_resembles_the_truth_where_the_fsc_says_so(result):
    agreement = fsc(result.map.data * result.mask.data, molecule().data * result.mask.data)
    shell = int(BOX * PIXEL / result.resolution_angstrom)
    assert 14 < shell < 32
    assert agreement[5 : shell - 6].min() > 0.7
    assert agreement[shell - 1] < agreement[8] - 0.1


def test_bfactor_is_the_one_the_map_was_damped_with():
    found = postprocess(*halves(molecule(150.0), 0.05), spherical(60.0))
    assert found.bfactor_angstrom2 == pytest.approx(-150, rel=0.1)
    assert found.guinier.correlation < -0.9


def test_masked_fsc_is_better_than_unmasked_and_the_correction_small_for_a_soft_mask(result):
    curves = result.curves
    assert curves.resolution_angstrom < curves.unmasked_resolution_angstrom
    low = curves.randomised_from_shell
    np.testing.assert_array_equal(curves.corrected[:low], curves.masked[:low])
    assert np.abs(curves.randomised[low + 2 :]).max() < 0.25


def test_nothing_beyond_the_low_pass(result):
    cut = int(np.ceil(BOX * PIXEL / result.resolution_angstrom)) + 2
    power = spectrum(result.map.data)
    assert power[cut:].sum() < 1e-6 * power.sum()


def test_a_tight_mask_cannot_raise_the_corrected_resolution_of_pure_noise():
    """A sharp, tiny mask correlates any two maps: the masked FSC is fooled, the corrected one is not."""
    rng = np.random.default_rng(5)
    shared = lowpass(molecule(), 25.0).data
    a, b = (volume(shared + rng.normal(0, 0.02, shared.shape)) for _ in range(2))
    points = np.argwhere(molecule().data > 1)[::40]
    tight = np.zeros((BOX,) * 3, np.float32)
    tight[tuple(points.T)] = 1
    curves = gold_standard_fsc(a, b, volume(tight))
    beyond = slice(curves.randomised_from_shell + 2, None)
    assert curves.masked[beyond].mean() > 0.6
    assert abs(curves.corrected[beyond].mean()) < 0.3
    assert any("too tight" in note for note in postprocess(a, b, volume(tight), bfactor_angstrom2=0.0).notes)


def test_the_correction_follows_chen():
    masked, random = np.array([1, 0.9, 0.8, 0.6, 0.3]), np.array([1, 0.9, 0.5, 0.2, 0.4])
    np.testing.assert_allclose(correct_for_mask(masked, random, 0), [1, 0.9, 0.6, 0.5, 0.0])
    np.testing.assert_allclose(correct_for_mask(masked, random, 2), [1, 0.9, 0.8, 0.6, 0.0])


def test_fsc_weights():
    np.testing.assert_allclose(
        fsc_weight(np.array([1, 0.5, 1 / 3, -0.1, 0.2])), [1, np.sqrt(2 / 3), np.sqrt(0.5), 0, 0]
    )


def test_a_coarse_map_is_not_sharpened_and_says_so():
    truth = lowpass(molecule(), 14.0)
    found = postprocess(*halves(truth, 0.02), spherical(60.0))
    assert found.resolution_angstrom > 10
    assert found.bfactor_angstrom2 == 0
    assert any("not sharpened" in note for note in found.notes)
    given = postprocess(*halves(truth, 0.02), spherical(60.0), bfactor_angstrom2=-100.0)
    assert given.bfactor_angstrom2 == -100


def spherical(radius):
    return volume(spherical_mask(BOX, PIXEL, radius, 15.0))


def test_the_detectors_response_is_divided_out():
    truth = molecule(50.0)
    frequency = np.linspace(0, 0.5, 20)
    mtf = DetectorMtf(frequency_inverse_pixel=frequency, value=1 - frequency, pixel_size_angstrom=PIXEL)
    response = 1 - rfft_radius(truth.data.shape)
    blurred = volume(apply_envelope(truth.data, response.clamp_min(0.5)))
    common = {"bfactor_angstrom2": 0.0, "weight_by_fsc": False, "lowpass_angstrom": 6.0}
    plain = postprocess(*halves(truth, 1e-4), spherical(60.0), **common)
    restored = postprocess(*halves(blurred, 1e-4), spherical(60.0), mtf=mtf, **common)
    np.testing.assert_allclose(restored.map.data, plain.map.data, atol=0.01 * plain.map.data.max())


def test_maps_and_masks_that_do_not_fit_are_refused():
    first, second = halves(molecule(), 0.1)
    small = volume(np.random.default_rng(0).normal(size=(32,) * 3))
    flat = volume(np.zeros((BOX,) * 3))
    with pytest.raises(InputError, match="one box"):
        postprocess(first, small)
    with pytest.raises(InputError, match="identical"):
        postprocess(first, first)
    with pytest.raises(InputError, match="constant"):
        postprocess(first, flat)
    with pytest.raises(InputError, match="pixel sizes"):
        postprocess(first, Volume(data=second.data, pixel_size_angstrom=2.6))
    with pytest.raises(InputError, match="mask has"):
        postprocess(first, second, Volume(data=np.ones((BOX, 60, BOX)), pixel_size_angstrom=PIXEL))
    with pytest.raises(InputError, match="from 0 to 1"):
        postprocess(first, second, volume(7 * np.ones((BOX,) * 3)))
    with pytest.raises(ParameterError, match="coarse to a fine"):
        postprocess(first, second, fit_from_angstrom=5.0, fit_to_angstrom=8.0)


def test_phase_randomisation_is_repeatable():
    first, second = halves(molecule(), 0.3)
    a, b = (gold_standard_fsc(first, second, spherical(60.0), seed=4) for _ in range(2))
    np.testing.assert_array_equal(a.corrected, b.corrected)


def test_a_map_that_needs_no_sharpening_is_left_alone():
    """Amplitudes that rise with frequency would give a B-factor that blurs."""
    radius = rfft_radius((BOX,) * 3, PIXEL)
    rising = irfft3(rfft3(molecule().data) * (1 + 40 * radius**2 * 6).numpy(), (BOX,) * 3)
    found = postprocess(*halves(volume(rising), 1e-3), spherical(60.0), weight_by_fsc=False)
    assert found.bfactor_angstrom2 == 0
    assert any("would blur" in note for note in found.notes)


def test_a_bfactor_steeper_than_maps_need_is_bounded_and_said():
    from parhelion.algorithms.postprocess.half_maps import STEEPEST_BFACTOR, _choose_bfactor
    from parhelion.algorithms.postprocess.sharpen import GuinierFit

    fit = GuinierFit(
        **{
            name: -927.0 if name == "bfactor_angstrom2" else np.zeros(1)
            for name in GuinierFit.__dataclass_fields__
        }
    )
    notes: list[str] = []
    assert _choose_bfactor(None, fit, 10.0, 7.0, notes) == -STEEPEST_BFACTOR * 49
    assert "-927" in notes[0] and "-490" in notes[0]
    assert _choose_bfactor(-927.0, fit, 10.0, 7.0, notes) == -927.0


def test_maps_that_do_not_agree_are_told() -> None:
    truth = molecule()
    one, other = halves(truth, 0.3)
    rng = np.random.default_rng(11)
    noise = volume(rng.normal(size=truth.data.shape).astype(np.float32))
    mask = spherical(50)
    inverse = postprocess(one, volume(-other.data), mask)
    assert any("one shows protein white, the other black" in note for note in inverse.notes)
    unlike = postprocess(one, noise, mask)
    assert any("hardly agree even in their coarsest shells" in note for note in unlike.notes)
    assert not any("coarsest" in note or "inverse" in note for note in postprocess(one, other, mask).notes)


def test_a_low_pass_that_does_nothing_or_leaves_nothing() -> None:
    one, other = halves(molecule(), 0.3)
    mask = spherical(10)
    pixel = one.pixel_size_angstrom
    beyond = postprocess(one, other, mask, lowpass_angstrom=pixel)
    assert any("does nothing: the pixels end at" in note for note in beyond.notes)
    finer = postprocess(one, other, mask, lowpass_angstrom=0.8 * beyond.resolution_angstrom)
    assert any("finer than its resolution" in note for note in finer.notes) == (
        0.8 * beyond.resolution_angstrom > 2 * pixel
    )
    with pytest.raises(ParameterError, match="leaves nothing of a map"):
        postprocess(one, other, mask, lowpass_angstrom=2 * one.box * pixel)
