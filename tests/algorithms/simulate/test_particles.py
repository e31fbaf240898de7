"""Simulated images: signal to noise, poses, noise, repeatability; and the model against RELION's stack."""

import mrcfile
import numpy as np
import pytest
import starfile

from parhelion.algorithms.simulate.particles import (
    Microscope,
    colour_noise,
    interaction_radian_per_volt_angstrom,
    simulate_particles,
)
from parhelion.algorithms.simulate.project import Projector
from parhelion.algorithms.simulate.views import images_of_particles
from parhelion.errors import ParameterError
from parhelion.fourier.resample import shift_images
from parhelion.fourier.shells import shell_mean
from parhelion.geometry.rotations import from_relion
from parhelion.model.particles import OpticsGroup, ParticleSet, Views
from parhelion.model.volume import Volume

BOX, PIXEL = 32, 3.0
ALL = np.arange(60)


@pytest.fixture(scope="module")
def volume():
    points = np.random.default_rng(0).normal(0, 9, (25, 3))
    axis = (np.arange(BOX) - BOX // 2) * PIXEL
    factors = [np.exp(-((axis[None] - points[:, i, None]) ** 2) / 30) for i in range(3)]
    data = np.einsum("pz,py,px->zyx", factors[2], factors[1], factors[0]).astype(np.float32)
    return Volume(data=data, pixel_size_angstrom=PIXEL)


def test_snr_is_signal_variance_over_noise_variance(volume):
    made = simulate_particles(volume, 60, snr=0.2, seed=1)
    signal, images = made.signal(ALL), made.images(ALL)
    assert signal.reshape(60, -1).var(axis=1).mean() == pytest.approx(0.2, rel=1e-3)
    noise = images - signal
    assert noise.var() == pytest.approx(1, rel=0.02)
    assert abs(noise.mean()) < 0.01
    assert abs((noise * signal).mean()) < 0.01


def test_images_depend_on_the_seed_and_their_number_only(volume):
    made = simulate_particles(volume, 60, snr=0.2, seed=1)
    whole = np.concatenate([images for _, images in made.chunks(60)])
    pieces = np.concatenate([images for _, images in made.chunks(7)])
    np.testing.assert_allclose(whole, pieces, atol=1e-5)
    again = simulate_particles(volume, 60, snr=0.2, seed=1)
    np.testing.assert_array_equal(again.particles.rotation, made.particles.rotation)
    other = simulate_particles(volume, 60, snr=0.2, seed=2)
    assert np.abs(other.particles.rotation - made.particles.rotation).max() > 0.1
    assert abs(np.corrcoef(other.images(ALL[:5]).ravel(), whole[:5].ravel())[0, 1]) < 0.2


def test_poses_and_optics_lie_in_their_ranges(volume):
    microscope = Microscope(defocus_range_um=(0.6, 0.9), astigmatism_angstrom=200.0, voltage_kv=200.0)
    made = simulate_particles(volume, 60, snr=1.0, microscope=microscope, shift_angstrom=4.0)
    views, particles = made.particles.views, made.particles
    mean = (views.defocus_u_angstrom + views.defocus_v_angstrom) / 2
    assert mean.min() >= 6000
    assert mean.max() <= 9000
    assert np.ptp(mean) > 2000
    assert 0 < (views.defocus_u_angstrom - views.defocus_v_angstrom).max() <= 200
    assert 3 < np.abs(particles.shift_xyz_angstrom[:, :2]).max() <= 4
    assert (particles.shift_xyz_angstrom[:, 2] == 0).all()
    np.testing.assert_allclose(np.linalg.det(particles.rotation), 1)
    assert particles.optics[0].voltage_kv == 200


def test_the_image_is_the_projection_moved_by_minus_the_shift(volume):
    """A phase plate of 90° and next to no defocus make the CTF a constant 1 at these frequencies."""
    flat = Microscope(
        defocus_range_um=(0.0, 0.0),
        astigmatism_angstrom=0.0,
        spherical_aberration_mm=0.0,
        phase_shift_deg=90.0,
        amplitude_contrast=0.0,
    )
    made = simulate_particles(volume, 5, snr=1.0, microscope=flat, shift_angstrom=9.0)
    plain = Projector(volume.data).images(made.particles.rotation)
    moved = shift_images(plain, -made.particles.shift_xyz_angstrom[:, :2] / PIXEL)
    np.testing.assert_allclose(
        made.signal(np.arange(5)), moved * made.signal_scale * PIXEL, atol=0.02 * float(np.abs(moved).max())
    )


def test_signal_that_the_ctf_spreads_beyond_the_box_is_lost():
    data = np.zeros((BOX,) * 3, np.float32)
    data[12:20:2, 13:20:3, 12:20:2] = 1
    volume = Volume(data=data, pixel_size_angstrom=PIXEL)
    far = Microscope(defocus_range_um=(3.0, 3.0))
    wrapped = simulate_particles(volume, 20, snr=1.0, microscope=far, padding=1)
    cropped = simulate_particles(volume, 20, snr=1.0, microscope=far, padding=2)
    energy = [np.square(s.signal(ALL[:20]) / s.signal_scale).sum() for s in (wrapped, cropped)]
    assert energy[1] < 0.95 * energy[0]


def test_dose_gives_poisson_noise_of_a_weak_phase_object(volume):
    made = simulate_particles(volume, 60, dose_per_angstrom2=20.0, seed=3)
    signal, images = made.signal(ALL), made.images(ALL)
    assert made.signal_scale == pytest.approx(
        2 * interaction_radian_per_volt_angstrom(300.0) * np.sqrt(20.0 * PIXEL**2)
    )
    counts = images * np.sqrt(20.0 * PIXEL**2) + 20.0 * PIXEL**2
    np.testing.assert_allclose(counts, np.rint(counts), atol=1e-3)
    assert (images - signal).var() == pytest.approx(1, rel=0.05)
    assert made.snr == pytest.approx(signal.reshape(60, -1).var(axis=1).mean(), rel=1e-3)


def test_interaction_parameter():
    """Kirkland, Advanced Computing in Electron Microscopy, table: 0.6526, 0.7288 and 0.9244 mrad/(V·Å)."""
    found = [1e3 * interaction_radian_per_volt_angstrom(kv) for kv in (300, 200, 100)]
    np.testing.assert_allclose(found, [0.6526, 0.7288, 0.9244], rtol=1e-3)


def test_coloured_noise_has_the_spectrum_asked_for(volume):
    shape = np.exp(-np.arange(BOX // 2 + 1) / 6.0)
    made = simulate_particles(volume, 60, snr=0.01, noise_spectrum=shape)
    noise = made.images(ALL) - made.signal(ALL)
    assert noise.var() == pytest.approx(1, rel=0.03)
    from parhelion.fourier.fft import as_tensor, rfft2

    power = (rfft2(as_tensor(noise), unitary=True).abs() ** 2).mean(0)
    found = shell_mean(power, (BOX, BOX)).numpy()
    ratio = found[2:] / shape[2:]
    np.testing.assert_allclose(ratio / ratio.mean(), 1, atol=0.15)
    white = np.random.default_rng(0).standard_normal((BOX, BOX), dtype=np.float32)
    np.testing.assert_allclose(colour_noise(white, np.ones(BOX // 2 + 1)), white, atol=1e-5)


def test_what_cannot_be_is_refused(volume):
    with pytest.raises(ParameterError, match="not both"):
        simulate_particles(volume, 5, snr=1.0, dose_per_angstrom2=20.0)
    with pytest.raises(ParameterError, match="not neither"):
        simulate_particles(volume, 5)
    with pytest.raises(ParameterError, match="at least one particle"):
        simulate_particles(volume, 0, snr=1.0)
    with pytest.raises(ParameterError, match="snr"):
        simulate_particles(volume, 5, snr=-1.0)
    with pytest.raises(ParameterError, match="Poisson"):
        simulate_particles(volume, 5, dose_per_angstrom2=1.0, noise_spectrum=np.ones(17))
    with pytest.raises(ParameterError, match="17 powers"):
        simulate_particles(volume, 5, snr=1.0, noise_spectrum=np.ones(4))
    with pytest.raises(ParameterError, match="constant"):
        simulate_particles(Volume(data=np.zeros((16,) * 3, np.float32), pixel_size_angstrom=2.0), 5, snr=1.0)
    with pytest.raises(ParameterError, match="turns images over"):
        Microscope(magnification=(-1.0, 0.0, 0.0, 1.0))
    with pytest.raises(ParameterError, match="voltage_kv"):
        Microscope(voltage_kv=3000)
    with pytest.raises(ParameterError, match="rotation"):
        simulate_particles(volume, 5, snr=1.0, rotation=np.eye(3)[None])


def test_the_model_explains_relions_simulated_stack(test_data):
    """``blob_particles``, by relion_project at SNR 0.15: model and image correlate by √(SNR / (1 + SNR))."""
    folder, count = test_data / "blob_particles", 100
    blocks = starfile.read(folder / "truth.star", always_dict=True)
    optics, table = blocks["optics"].iloc[0], blocks["particles"][:count]
    with mrcfile.mmap(folder / "particles.mrcs") as stack:
        images = stack.data[:count].astype(np.float32)
    truth = mrcfile.read(folder / "truth.mrc").astype(np.float32)
    pixel = float(optics["rlnImagePixelSize"])
    particles = ParticleSet(
        optics=(
            OpticsGroup(
                name="all",
                pixel_size_angstrom=pixel,
                voltage_kv=float(optics["rlnVoltage"]),
                spherical_aberration_mm=float(optics["rlnSphericalAberration"]),
                amplitude_contrast=float(optics["rlnAmplitudeContrast"]),
            ),
        ),
        views=Views(
            image_path=(folder / "particles.mrcs",),
            path_id=np.zeros(count, int),
            image_index=np.arange(count),
            particle=np.arange(count),
            optics_group=np.zeros(count, int),
            defocus_u_angstrom=table["rlnDefocusU"].to_numpy(float),
            defocus_v_angstrom=table["rlnDefocusV"].to_numpy(float),
            defocus_angle_deg=table["rlnDefocusAngle"].to_numpy(float),
            phase_shift_deg=np.zeros(count),
            ctf_bfactor_angstrom2=np.zeros(count),
            ctf_scale=np.ones(count),
            noise_group=np.zeros(count, int),
        ),
        count=count,
        rotation=from_relion(*(table[f"rlnAngle{a}"] for a in ("Rot", "Tilt", "Psi"))),
        shift_xyz_angstrom=np.stack(
            [table["rlnOriginXAngst"], table["rlnOriginYAngst"], np.zeros(count)], axis=1
        ),
    )
    model = images_of_particles(
        Projector(truth), particles, np.arange(count), truth.shape[0], pixel, with_ctf=True, padding=1
    )
    found = [np.corrcoef(m.ravel(), i.ravel())[0, 1] for m, i in zip(model, images)]
    assert np.mean(found) == pytest.approx(np.sqrt(0.15 / 1.15), abs=0.02)
