"""Simulated movies: contrast, motion, damage, ice, detector and counts, each against its own formula."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from parhelion.algorithms.simulate.detector import random_detector
from parhelion.algorithms.simulate.ice import WanderingIce, persistence, phase_power
from parhelion.algorithms.simulate.motion import random_motion
from parhelion.algorithms.simulate.movies import MovieSettings, MovieSimulator, plane_height_angstrom
from parhelion.algorithms.simulate.particles import Microscope, interaction_radian_per_volt_angstrom
from parhelion.algorithms.simulate.placement import random_placement
from parhelion.algorithms.simulate.warp import MARGIN_PX, warp
from parhelion.errors import ParameterError
from parhelion.fourier.grids import rfft_radius
from parhelion.model.volume import Volume

PIXEL, SHAPE = 2.0, (224, 288)
WAVELENGTH_300 = 0.0196875
INSIDE = {"edge_angstrom": 120.0, "particles": 5, "defocus_range_um": (0.4, 0.4)}
STILL = {"drift_angstrom": 0.0, "local_motion_angstrom": 0.0}


def simulator(volume, *, detector=None, seed=1, **settings):
    scope = {name: settings.pop(name) for name in list(settings) if name in Microscope.__dataclass_fields__}
    made = MovieSettings(shape=SHAPE, pixel_size_angstrom=PIXEL, **settings)
    return MovieSimulator(volume, made, Microscope(**scope), detector=detector, seed=seed)


@pytest.fixture(scope="module")
def volume():
    """An asymmetric molecule of blobs, up to about 10 V."""
    box = 40
    points = np.random.default_rng(0).normal(0, 9, (25, 3))
    axis = (np.arange(box) - box // 2) * PIXEL
    factors = [np.exp(-((axis[None] - points[:, i, None]) ** 2) / 10) for i in range(3)]
    data = np.einsum("pz,py,px->zyx", factors[2], factors[1], factors[0])
    return Volume(data=(8 * data).astype(np.float32), pixel_size_angstrom=PIXEL)


def flat_detector(**changes):
    given = {"gain_variation": 0.0, "dead_pixels": 0, "hot_pixels": 0, "mtf_at_nyquist": 1.0} | changes
    return random_detector(SHAPE, np.random.default_rng(0), **given)


def displacement(moved, reference):
    """Shift (x, y) of the content, from the slope of the cross spectrum's phase at low frequencies."""
    cross = np.fft.fft2(moved - moved.mean()) * np.conj(np.fft.fft2(reference - reference.mean()))
    peak = np.unravel_index(np.fft.ifft2(cross).real.argmax(), cross.shape)
    whole = [p - n if p > n / 2 else p for p, n in zip(peak, cross.shape)]
    fy, fx = np.fft.fftfreq(cross.shape[0])[:, None], np.fft.fftfreq(cross.shape[1])[None]
    left = cross * np.exp(2j * np.pi * (fy * whole[0] + fx * whole[1]))
    near = np.hypot(fx, fy) < 0.15
    weight = np.abs(left)[near]
    design = (
        -2 * np.pi * np.stack([np.broadcast_to(fx, near.shape)[near], np.broadcast_to(fy, near.shape)[near]])
    )
    normal = (design * weight) @ design.T
    dx, dy = np.linalg.solve(normal, (design * weight) @ np.angle(left[near]))
    return np.array([whole[1] + dx, whole[0] + dy])


def test_counts_are_poisson_with_the_dose_as_mean(volume):
    made = simulator(
        volume,
        detector=flat_detector(efficiency=0.8),
        particles=0,
        ice_noise=0.0,
        frames=4,
        dose_per_frame=0.9,
    )
    frames = np.stack(list(made.frames(made.truth(0)))).astype(float)
    mean = 0.9 * PIXEL**2 * 0.8
    assert frames.mean() == pytest.approx(mean, rel=0.01)
    assert frames.var() == pytest.approx(mean, rel=0.02)
    assert (frames == 0).mean() == pytest.approx(math.exp(-mean), rel=0.05)
    assert abs(np.corrcoef(frames[0].ravel(), frames[1].ravel())[0, 1]) < 0.02


def test_drift_is_found_again_in_noise_free_frames(volume):
    made = simulator(
        volume, frames=14, ice_noise=0.0, drift_angstrom=25.0, local_motion_angstrom=0.0, **INSIDE
    )
    truth = made.truth(0)
    frames = list(made.expected(truth))
    track = truth.motion.global_xy_px
    assert np.linalg.norm(track[-1]) * PIXEL == pytest.approx(25.0)
    steps = np.linalg.norm(np.diff(track, axis=0), axis=1)
    assert steps[0] > 2 * steps[-1]
    for number in range(13):
        found = displacement(frames[number], frames[13])
        assert np.abs(found - track[number] + track[13]).max() < 0.1


def test_local_motion_carries_each_particle_where_the_truth_says(volume):
    made = simulator(volume, frames=5, ice_noise=0.0, drift_angstrom=6.0, local_motion_angstrom=12.0)
    truth = made.truth(2)
    first, *_, last = made.expected(truth)
    places = truth.placement.xy_px
    moved = truth.motion.displacement_px(4, places, SHAPE)
    assert np.ptp(moved, axis=0).max() > 1.0
    checked = 0
    for (x, y), wanted in zip(np.rint(places).astype(int), moved):
        if 28 <= x < SHAPE[1] - 28 and 28 <= y < SHAPE[0] - 28:
            window = np.outer(np.hanning(56), np.hanning(56))
            cut = [(f[y - 28 : y + 28, x - 28 : x + 28] - f.mean()) * window for f in (last, first)]
            assert np.abs(displacement(*cut) - wanted).max() < 0.6
            checked += 1
    assert checked >= 3


def test_local_motion_averages_to_nothing_and_reaches_what_was_asked():
    motion = random_motion(12, 1.5, 10.0, 4.0, np.random.default_rng(3))
    y, x = (g.ravel() for g in np.mgrid[0:200, 0:300])
    field = motion.displacement_px(11, np.stack([x, y], axis=1), (200, 300)) - motion.global_xy_px[11]
    assert np.linalg.norm(field, axis=1).max() * 1.5 == pytest.approx(4.0, rel=0.02)
    assert np.abs(field.mean(axis=0)).max() < 0.03
    assert motion.largest_px() >= np.abs(field + motion.global_xy_px[11]).max()
    assert not motion.local_coefficients(0).any()


def test_damage_dampens_as_the_critical_exposure_says(volume):
    made = simulator(
        volume, frames=3, ice_noise=0.0, dose_per_frame=10.0, detector=flat_detector(), **STILL, **INSIDE
    )
    frames = [np.fft.rfft2(f - 10.0 * PIXEL**2) for f in made.expected(made.truth(0))]
    radius = (
        np.hypot(*np.meshgrid(np.fft.fftfreq(SHAPE[0]), np.fft.rfftfreq(SHAPE[1]), indexing="ij")) / PIXEL
    )
    for low, high in ((0.04, 0.05), (0.11, 0.115), (0.19, 0.195)):
        ring = (radius > low) & (radius < high)
        ratio = np.abs(frames[2][ring]).sum() / np.abs(frames[0][ring]).sum()
        k = (low + high) / 2
        critical = 0.245 * k**-1.665 + 2.81
        assert ratio == pytest.approx(math.exp(-20.0 / (2 * critical)), rel=0.03)


def test_protein_is_dark_and_the_mean_is_the_dose(volume):
    made = simulator(volume, detector=flat_detector(), frames=1, ice_noise=0.0, dose_per_frame=1.0, **STILL)
    truth = made.truth(0)
    contrast = made.contrast(truth)
    x, y = np.rint(truth.placement.xy_px).astype(int).T
    assert contrast[y, x].mean() < -0.02
    frame = next(made.expected(truth))
    left = math.exp(-0.5 / (2 * 2.81))  # at least this much is left of every frequency
    assert frame.mean() == pytest.approx(PIXEL**2 * (1 + contrast.mean()), rel=1e-3)
    inside = (slice(40, -40), slice(40, -40))
    slope = np.polyfit(contrast[inside].ravel(), frame[inside].ravel() / PIXEL**2 - 1, 1)[0]
    assert left < slope < 1


def test_contrast_is_minus_two_ctf_phase(volume):
    """One particle in the middle against the definition: projection by summing voxels, CTF by formula."""
    made = simulator(
        volume,
        particles=1,
        frames=1,
        astigmatism_angstrom=0.0,
        defocus_range_um=(0.5, 0.5),
        edge_angstrom=80.0,
    )
    truth = made.truth(0)
    place = np.array([[SHAPE[1] // 2, SHAPE[0] // 2]], float)
    placement = replace(truth.placement, xy_px=place, rotation=np.eye(3)[None])
    truth = replace(truth, placement=placement, particle_defocus_uv_angstrom=np.full((1, 2), 5000.0))
    projected = np.zeros(SHAPE)
    y0, x0 = SHAPE[0] // 2 - 20, SHAPE[1] // 2 - 20
    projected[y0 : y0 + 40, x0 : x0 + 40] = volume.data.sum(axis=0) * PIXEL
    k = np.hypot(*np.meshgrid(np.fft.fftfreq(SHAPE[0]), np.fft.rfftfreq(SHAPE[1]), indexing="ij")) / PIXEL
    chi = np.pi * WAVELENGTH_300 * 5000 * k**2 - 0.5 * np.pi * 2.7e7 * WAVELENGTH_300**3 * k**4
    ctf = math.sqrt(0.99) * np.sin(chi) + 0.1 * np.cos(chi)
    phase = interaction_radian_per_volt_angstrom(300.0) * projected
    wanted = np.fft.irfft2(-2 * ctf * np.fft.rfft2(phase), SHAPE)
    found = made.contrast(truth)
    assert np.abs(found - wanted).max() < 0.02 * np.abs(wanted).max()


def test_thon_rings_lie_where_the_defocus_puts_them(volume):
    """The power of noise-free frames of ice alone, free of its own falling power, is the mean CTF²."""
    made = simulator(
        volume,
        detector=flat_detector(),
        particles=0,
        frames=6,
        ice_noise=3.0,
        ice_thickness_angstrom=100.0,
        defocus_range_um=(1.2, 1.2),
        astigmatism_angstrom=0.0,
        dose_per_frame=8.0,
        **STILL,
    )
    frames = np.stack(list(made.expected(made.truth(0)))) / (8.0 * PIXEL**2) - 1
    power = (np.abs(np.fft.rfft2(frames)) ** 2).mean(axis=0) / frames[0].size * PIXEL**2
    k = np.hypot(*np.meshgrid(np.fft.fftfreq(SHAPE[0]), np.fft.rfftfreq(SHAPE[1]), indexing="ij")) / PIXEL
    chi = np.pi * WAVELENGTH_300 * 12000 * k**2 - 0.5 * np.pi * 2.7e7 * WAVELENGTH_300**3 * k**4
    ctf2 = (math.sqrt(0.99) * np.sin(chi) + 0.1 * np.cos(chi)) ** 2
    sigma = interaction_radian_per_volt_angstrom(300.0)
    relative = power / (4 * 9.0 * phase_power(k, 100.0, sigma))
    ring = (k > 0.03) & (k < 0.15)
    shell = np.round(k[ring] * 400).astype(int)
    found, wanted = (np.bincount(shell, v[ring])[12:] / np.bincount(shell)[12:] for v in (relative, ctf2))
    assert np.corrcoef(found, wanted)[0, 1] > 0.97
    assert relative[ring & (ctf2 > 0.9)].mean() == pytest.approx(0.97, abs=0.06)
    # the field is cut from a larger one, which smears power over neighbouring frequencies
    assert relative[ring & (ctf2 < 0.02)].mean() < 0.12


def test_ice_forgets_its_pattern_faster_at_high_frequency():
    keep = persistence(rfft_radius(SHAPE, PIXEL), 2.0)
    assert float(keep[0, 0]) == 1.0
    at_5_angstrom = math.exp(-2 * math.pi**2 * 1.1 / 3 * 2.0 * 0.2**2)
    assert float(keep[0, round(0.2 * PIXEL * SHAPE[1])]) == pytest.approx(at_5_angstrom, rel=0.02)
    ice = WanderingIce(SHAPE, keep, np.random.default_rng(1))
    first, second = ice.next_frame().clone(), ice.next_frame()
    ring = (keep > 0.45) & (keep < 0.55)
    correlation = (first[ring] * second[ring].conj()).real.mean() / first[ring].abs().square().mean()
    assert float(correlation) == pytest.approx(0.5, abs=0.05)
    assert float(second.abs().square().mean()) == pytest.approx(math.prod(SHAPE), rel=0.03)


def test_tilt_makes_a_plane_of_defocus(volume):
    made = simulator(volume, tilt_deg=20.0, frames=1, ice_thickness_angstrom=120.0, **STILL)
    truth = made.truth(0)
    mean = (truth.defocus_u_angstrom + truth.defocus_v_angstrom) / 2
    axis = math.radians(truth.tilt_axis_deg)
    middle = np.array([(SHAPE[1] - 1) / 2, (SHAPE[0] - 1) / 2])
    away = (truth.placement.xy_px - middle) @ np.array([-math.sin(axis), math.cos(axis)]) * PIXEL
    extra = truth.particle_defocus_uv_angstrom.mean(axis=1) - mean - math.tan(math.radians(20)) * away
    assert np.allclose(extra, truth.placement.height_angstrom)
    along = middle + 30 * np.array([[math.cos(axis), math.sin(axis)]])
    assert abs(plane_height_angstrom(along, SHAPE, PIXEL, 20.0, truth.tilt_axis_deg)[0]) < 1e-9


def test_ice_of_a_tilted_specimen_shows_the_local_defocus(volume):
    """At the first zero of one side's CTF, that side has little power, the other has much."""
    made = simulator(
        volume,
        detector=flat_detector(),
        particles=0,
        frames=16,
        tilt_deg=60.0,
        ice_thickness_angstrom=100.0,
        ice_noise=3.0,
        defocus_range_um=(0.3, 0.3),
        astigmatism_angstrom=0.0,
        dose_per_frame=8.0,
        **STILL,
    )
    truth = replace(made.truth(0), tilt_axis_deg=90.0)
    frames = np.stack(list(made.expected(truth))) / (8.0 * PIXEL**2) - 1
    middle, width = SHAPE[1] / 2, 60
    left, right = frames[:, :, :width], frames[:, :, -width:]
    offset = math.tan(math.radians(60)) * (middle - width / 2) * PIXEL
    k = np.hypot(*np.meshgrid(np.fft.fftfreq(SHAPE[0]), np.fft.rfftfreq(width), indexing="ij")) / PIXEL
    power = [(np.abs(np.fft.rfft2(part * np.hanning(width))) ** 2).mean(axis=0) for part in (left, right)]
    for side, (here, there) in ((1.0, (0, 1)), (-1.0, (1, 0))):
        # underfocus grows away from the axis' left: towards -x for an axis along +y
        defocus = 3000.0 + side * offset
        phase = np.pi * WAVELENGTH_300 * defocus * k**2 - 0.5 * np.pi * 2.7e7 * WAVELENGTH_300**3 * k**4
        zero = np.abs(phase + math.asin(0.1) - np.pi) < 0.2
        assert power[here][zero].mean() < 0.5 * power[there][zero].mean()


def test_gain_makes_counts_flat_and_defects_are_what_they_say():
    detector = random_detector(
        SHAPE, np.random.default_rng(4), gain_variation=0.1, dead_pixels=9, hot_pixels=7
    )
    generator = np.random.default_rng(5)
    raw = sum(
        detector.expose(np.full(SHAPE, 30.0, np.float32), generator, np.uint8).astype(float)
        for _ in range(40)
    )
    gain = detector.gain()
    assert np.array_equal(
        np.argwhere(gain == 0)[:, ::-1], sorted(detector.dead_xy.tolist(), key=lambda p: p[::-1])
    )
    assert (raw[detector.dead_xy[:, 1], detector.dead_xy[:, 0]] == 0).all()
    hot = raw[detector.hot_xy[:, 1], detector.hot_xy[:, 0]] / 40
    assert np.allclose(
        hot,
        30 * detector.sensitivity[detector.hot_xy[:, 1], detector.hot_xy[:, 0]] + detector.hot_counts,
        rtol=0.1,
    )
    good = gain > 0
    good[detector.hot_xy[:, 1], detector.hot_xy[:, 0]] = False
    flat = (raw * gain)[good] / 40
    assert flat.mean() == pytest.approx(30.0, rel=0.005)
    assert (raw[good] / 40).std() > 2.0
    assert flat.std() == pytest.approx(math.sqrt(30 / 40), rel=0.1)
    assert detector.sensitivity[good].std() == pytest.approx(0.1, rel=0.25)


def test_many_electrons_are_counted_in_16_bits():
    detector = flat_detector()
    assert detector.count_type(3.0) is np.uint8
    assert detector.count_type(400.0) is np.uint16
    counts = detector.expose(np.full(SHAPE, 400.0, np.float32), np.random.default_rng(0), np.uint16)
    assert counts.dtype == np.uint16
    assert counts.mean() == pytest.approx(400, rel=0.01)


def test_warp_moves_by_what_is_asked():
    generator = np.random.default_rng(2)
    image = generator.normal(size=(140, 160))
    k = np.hypot(np.fft.fftfreq(140)[:, None], np.fft.rfftfreq(160))
    transform = np.fft.rfft2(image) * (k < 0.3)
    image = np.fft.irfft2(transform, image.shape)
    coefficients = np.zeros((2, 6))
    plain = warp(image, (100, 110), coefficients, (20, 15))
    assert np.abs(plain - image[15:115, 20:130]).max() < 1e-5
    coefficients[:, 0] = (1.3, -0.6)
    ramp = np.exp(-2j * np.pi * (np.fft.rfftfreq(160) * 1.3 + np.fft.fftfreq(140)[:, None] * -0.6))
    wanted = np.fft.irfft2(transform * ramp, image.shape)[15:115, 20:130]
    assert np.abs(warp(image, (100, 110), coefficients, (20, 15)) - wanted).max() < 0.02 * wanted.std()
    assert MARGIN_PX >= 4


def test_particles_keep_apart_and_inside():
    placed = random_placement(20, SHAPE, PIXEL, 60.0, 150.0, 30.0, np.random.default_rng(1))
    distance = np.linalg.norm(placed.xy_px[:, None] - placed.xy_px[None], axis=2) * PIXEL
    assert distance[~np.eye(20, dtype=bool)].min() >= 60.0
    assert placed.xy_px.min() >= 15.0
    assert (placed.xy_px <= np.array([SHAPE[1], SHAPE[0]]) - 1 - 15).all()
    assert np.abs(placed.height_angstrom).max() <= 45.0


def test_a_movie_depends_on_seed_and_number_only(volume):
    one = simulator(volume, frames=2)
    again = simulator(volume, frames=2)
    assert np.array_equal(
        np.stack(list(one.frames(one.truth(3)))), np.stack(list(again.frames(again.truth(3))))
    )
    other = simulator(volume, frames=2, seed=2)
    assert not np.allclose(other.truth(3).placement.xy_px, one.truth(3).placement.xy_px)
    defoci = sorted(one.truth(i).defocus_u_angstrom for i in range(5))
    assert np.diff(defoci).min() > 500.0


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"particles": 200}, "do not fit"),
        ({"ice_thickness_angstrom": 20.0}, "thinner than the molecule"),
    ],
)
def test_what_cannot_be_placed_is_refused(volume, settings, what):
    with pytest.raises(ParameterError, match=what):
        simulator(volume, **settings).truth(0)


def test_impossible_values_are_refused(volume):
    for name, value in (("frames", 0), ("dose_per_frame", 0.0), ("tilt_deg", 80.0), ("shape", (20, 300))):
        with pytest.raises(ParameterError, match=name):
            MovieSettings(**{name: value})
    with pytest.raises(ParameterError, match="resample"):
        MovieSimulator(volume, MovieSettings(shape=SHAPE, pixel_size_angstrom=1.0))
    strong = Volume(data=volume.data * 100, pixel_size_angstrom=PIXEL)
    with pytest.raises(ParameterError, match="volts"):
        simulator(strong)
    with pytest.raises(ParameterError, match="no positive density"):
        simulator(Volume(data=0 * volume.data, pixel_size_angstrom=PIXEL))
    small = random_detector((100, 100), np.random.default_rng(0))
    with pytest.raises(ParameterError, match="detector"):
        simulator(volume, detector=small)
    with pytest.raises(ParameterError, match="1 %"):
        random_detector((100, 100), np.random.default_rng(0), dead_pixels=200)


def test_transfer_function_dampens_towards_nyquist():
    mtf = flat_detector(mtf_at_nyquist=0.5).mtf(SHAPE)
    assert float(mtf[0, 0]) == 1.0
    assert float(mtf[0, -1]) == pytest.approx(0.5)
    assert float(mtf[SHAPE[0] // 2, 0]) == pytest.approx(0.5)
    assert isinstance(mtf, torch.Tensor)
