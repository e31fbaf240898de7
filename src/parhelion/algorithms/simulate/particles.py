"""Simulated particle images with known poses, in chunks."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from parhelion.algorithms.simulate.project import Projector
from parhelion.algorithms.simulate.views import images_of_particles
from parhelion.errors import ParameterError
from parhelion.fourier.fft import irfft2, rfft2
from parhelion.fourier.shells import shell_index
from parhelion.model.particles import OpticsGroup, ParticleSet, Views
from parhelion.model.volume import Volume

CALIBRATION_IMAGES = 200
PLANCK_OVER_2PI_JS = 1.054571817e-34
ELECTRON_MASS_KG = 9.1093837015e-31
ELEMENTARY_CHARGE_C = 1.602176634e-19
LIGHT_SPEED_M_PER_S = 299792458.0


@dataclass(frozen=True, kw_only=True)
class Microscope:
    """How the images are taken. Raises ParameterError for a value outside its physical range."""

    voltage_kv: float = 300.0
    spherical_aberration_mm: float = 2.7
    amplitude_contrast: float = 0.1
    phase_shift_deg: float = 0.0
    ctf_bfactor_angstrom2: float = 0.0
    defocus_range_um: tuple[float, float] = (0.8, 2.5)
    astigmatism_angstrom: float = 300.0
    beam_tilt_xy_mrad: tuple[float, float] = (0.0, 0.0)
    trefoil_rad_angstrom3: tuple[float, float] = (0.0, 0.0)
    magnification: tuple[float, float, float, float] = (1.0, 0.0, 0.0, 1.0)

    @property
    def odd_zernike(self) -> tuple[float, ...]:
        """RELION's odd terms: trefoil ``a s³ cos 3θ + b s³ sin 3θ`` of ``trefoil_rad_angstrom3 (a, b)``."""
        cosine, sine = self.trefoil_rad_angstrom3
        return (0.0, 0.0, sine, 0.0, 0.0, cosine) if cosine or sine else ()

    def __post_init__(self) -> None:
        low, high = self.defocus_range_um
        stretch = np.linalg.svd(np.reshape(self.magnification, (2, 2)), compute_uv=False)
        checks = (
            ("voltage_kv", self.voltage_kv, 60.0, 400.0),
            ("spherical_aberration_mm", self.spherical_aberration_mm, 0.0, 10.0),
            ("amplitude_contrast", self.amplitude_contrast, 0.0, 1.0),
            ("defocus_range_um (low)", low, -1.0, high),
            ("defocus_range_um (high)", high, low, 10.0),
            ("astigmatism_angstrom", self.astigmatism_angstrom, 0.0, 20000.0),
            *(("beam_tilt_xy_mrad", tilt, -50.0, 50.0) for tilt in self.beam_tilt_xy_mrad),
            *(("trefoil_rad_angstrom3", term, -1e4, 1e4) for term in self.trefoil_rad_angstrom3),
            ("magnification (least stretch)", float(stretch.min()), 0.8, 1.25),
            ("magnification (largest stretch)", float(stretch.max()), 0.8, 1.25),
        )
        if np.linalg.det(np.reshape(self.magnification, (2, 2))) <= 0:
            raise ParameterError(
                f"the magnification matrix {self.magnification} turns images over; its determinant must be "
                "positive"
            )
        for name, value, least, most in checks:
            if not least <= value <= most:
                raise ParameterError(f"{name}: expected {least:g} to {most:g}, found {value:g}")


def interaction_radian_per_volt_angstrom(voltage_kv: float) -> float:
    """Phase shift of the electron wave per projected potential, σ = m e λ / (2π ħ²), relativistic
    (0.00065 rad/(V·Å) at 300 kV)."""
    energy = voltage_kv * 1e3 * ELEMENTARY_CHARGE_C
    rest = ELECTRON_MASS_KG * LIGHT_SPEED_M_PER_S**2
    momentum = math.sqrt(energy * (energy + 2 * rest)) / LIGHT_SPEED_M_PER_S
    mass = ELECTRON_MASS_KG + energy / LIGHT_SPEED_M_PER_S**2
    sigma = mass * ELEMENTARY_CHARGE_C / (PLANCK_OVER_2PI_JS * momentum)
    return sigma * 1e-10


@dataclass(frozen=True, kw_only=True)
class SimulatedParticles:
    """Poses and views of simulated images, and the images themselves, chunk by chunk.

    ``particles`` carries the true poses; its images are named ``particles.mrcs``. Noise has variance 1
    per pixel; ``signal_scale`` is what a projection in V·Å was multiplied by, ``snr`` the variance of
    the CTF-modulated signal over the whole box, averaged over images, per noise variance.
    """

    particles: ParticleSet
    box: int
    pixel_size_angstrom: float
    signal_scale: float
    snr: float
    seed: int
    dose_per_angstrom2: float | None
    padding: int
    noise_spectrum: np.ndarray | None
    projector: Projector = field(repr=False)

    def signal(self, index: np.ndarray) -> np.ndarray:
        """Noise-free images ``(len(index), box, box)`` float32 of these particles, scaled like the images."""
        images = images_of_particles(
            self.projector,
            self.particles,
            np.asarray(index),
            self.box,
            self.pixel_size_angstrom,
            with_ctf=True,
            padding=self.padding,
        )
        return images * np.float32(self.signal_scale * self.pixel_size_angstrom)

    def chunks(self, size: int = 256) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Particle numbers ``(m,)`` and images ``(m, box, box)`` float32, in order, whatever ``size``."""
        for start in range(0, self.particles.count, size):
            index = np.arange(start, min(start + size, self.particles.count))
            yield index, self.images(index)

    def images(self, index: np.ndarray) -> np.ndarray:
        """Images ``(len(index), box, box)`` float32 with noise, by seed and number only."""
        images = self.signal(index)
        for row, particle in enumerate(index):
            generator = np.random.default_rng([self.seed, 1, int(particle)])
            images[row] = self._noisy(images[row], generator)
        return images

    def _noisy(self, signal: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        if self.dose_per_angstrom2 is not None:
            counts = self.dose_per_angstrom2 * self.pixel_size_angstrom**2
            # signal is contrast · sqrt(counts), so that Poisson noise has variance 1
            expected = np.clip(counts + signal * math.sqrt(counts), 0.0, None)
            return np.asarray((generator.poisson(expected) - counts) / math.sqrt(counts), np.float32)
        noise = generator.standard_normal(signal.shape, dtype=np.float32)
        if self.noise_spectrum is not None:
            noise = colour_noise(noise, self.noise_spectrum)
        return signal + noise


def colour_noise(white: np.ndarray, noise_spectrum: np.ndarray) -> np.ndarray:
    """White noise ``(y, x)`` with this power per Fourier shell ``(shells,)``, variance kept at 1."""
    shape = white.shape
    index = shell_index(shape).clamp_max(len(noise_spectrum) - 1)
    power = torch.from_numpy(np.asarray(noise_spectrum, np.float64))[index]
    weight = torch.ones_like(power)
    weight[:, 1 : (shape[-1] + 1) // 2] = 2.0
    power = power / ((power * weight).sum() / weight.sum())
    transform = rfft2(torch.from_numpy(white)) * power.sqrt().to(torch.float32)
    return irfft2(transform, (shape[0], shape[1])).numpy()


def random_poses(
    count: int, shift_angstrom: float, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Uniform orientations ``(n, 3, 3)`` and shifts ``(n, 3)`` in Å, uniform within ± ``shift_angstrom``
    along x and y."""
    rotation = Rotation.random(count, rng=generator).as_matrix().reshape(count, 3, 3)
    shift = np.zeros((count, 3))
    shift[:, :2] = generator.uniform(-shift_angstrom, shift_angstrom, (count, 2))
    return rotation, shift


def random_views(count: int, box: int, microscope: Microscope, generator: np.random.Generator) -> Views:
    """One view per particle: uniform defocus, astigmatism up to the largest, any angle."""
    low, high = microscope.defocus_range_um
    mean = generator.uniform(low * 1e4, high * 1e4, count)
    difference = generator.uniform(0.0, 1.0, count) * microscope.astigmatism_angstrom
    return Views(
        image_path=(Path("particles.mrcs"),),
        path_id=np.zeros(count, np.int64),
        image_index=np.arange(count),
        particle=np.arange(count),
        optics_group=np.zeros(count, np.int64),
        defocus_u_angstrom=mean + difference / 2,
        defocus_v_angstrom=mean - difference / 2,
        defocus_angle_deg=generator.uniform(0.0, 180.0, count),
        phase_shift_deg=np.full(count, microscope.phase_shift_deg),
        ctf_bfactor_angstrom2=np.full(count, microscope.ctf_bfactor_angstrom2),
        ctf_scale=np.ones(count),
        noise_group=np.zeros(count, np.int64),
    )


def simulate_particles(
    volume: Volume,
    count: int,
    *,
    snr: float | None = None,
    dose_per_angstrom2: float | None = None,
    microscope: Microscope | None = None,
    shift_angstrom: float = 5.0,
    rotation: np.ndarray | None = None,
    noise_spectrum: np.ndarray | None = None,
    padding: int = 2,
    seed: int = 0,
) -> SimulatedParticles:
    """``count`` images of ``volume`` (a potential in V for ``dose_per_angstrom2``, any unit for ``snr``).

    Exactly one of ``snr`` (variance of the CTF-modulated noise-free image over the whole box, averaged
    over the particles, per noise variance) and ``dose_per_angstrom2`` (e⁻/Å², Poisson noise, weak
    phase object) sets the noise, which has variance 1 in either case. ``rotation (count, 3, 3)``
    replaces uniformly random orientations. ``noise_spectrum (box // 2 + 1,)``, relative power per
    shell, colours the noise of ``snr``. The CTF acts in a frame ``padding`` times the box, so that
    what it spreads beyond the box is lost, as in an extracted particle; 1 wraps it around. Raises
    ParameterError for counts, values or combinations that cannot be.
    """
    _check(count, snr, dose_per_angstrom2, noise_spectrum, rotation, volume.box, padding)
    microscope = microscope or Microscope()
    generator = np.random.default_rng([seed, 0])
    poses, shift = random_poses(count, shift_angstrom, generator)
    if rotation is not None:
        poses = np.asarray(rotation, np.float64)
    particles = ParticleSet(
        optics=(_optics(volume, microscope),),
        views=random_views(count, volume.box, microscope, generator),
        count=count,
        rotation=poses,
        shift_xyz_angstrom=shift,
    )
    draft = SimulatedParticles(
        particles=particles,
        box=volume.box,
        pixel_size_angstrom=volume.pixel_size_angstrom,
        signal_scale=1.0,
        snr=0.0,
        seed=seed,
        dose_per_angstrom2=dose_per_angstrom2,
        padding=padding,
        noise_spectrum=noise_spectrum,
        projector=Projector(volume.data),
    )
    variance = _mean_signal_variance(draft)
    if variance <= 0:
        raise ParameterError("the map is constant: its projections carry no signal, an SNR cannot be set")
    if snr is not None:
        return replace(draft, signal_scale=math.sqrt(snr / variance), snr=snr)
    counts = float(dose_per_angstrom2 or 0.0) * volume.pixel_size_angstrom**2
    scale = 2 * interaction_radian_per_volt_angstrom(microscope.voltage_kv) * math.sqrt(counts)
    return replace(draft, signal_scale=scale, snr=scale**2 * variance)


def _optics(volume: Volume, microscope: Microscope) -> OpticsGroup:
    """The optics group of images on the grid of ``volume``."""
    return OpticsGroup(
        name="simulated",
        pixel_size_angstrom=volume.pixel_size_angstrom,
        voltage_kv=microscope.voltage_kv,
        spherical_aberration_mm=microscope.spherical_aberration_mm,
        amplitude_contrast=microscope.amplitude_contrast,
        box=volume.box,
        beam_tilt_xy_mrad=microscope.beam_tilt_xy_mrad,
        odd_zernike=microscope.odd_zernike,
        magnification=microscope.magnification,
    )


def _mean_signal_variance(draft: SimulatedParticles) -> float:
    """Variance over the box of the noise-free images at signal scale 1, averaged over the first images."""
    total, used = 0.0, min(draft.particles.count, CALIBRATION_IMAGES)
    for start in range(0, used, 50):
        images = draft.signal(np.arange(start, min(start + 50, used)))
        total += float(images.reshape(len(images), -1).var(axis=1, dtype=np.float64).sum())
    return total / used


def _check(
    count: int,
    snr: float | None,
    dose_per_angstrom2: float | None,
    noise_spectrum: np.ndarray | None,
    rotation: np.ndarray | None,
    box: int,
    padding: int,
) -> None:
    if count < 1:
        raise ParameterError(f"count: at least one particle is needed, found {count}")
    if (snr is None) == (dose_per_angstrom2 is None):
        raise ParameterError("give either an SNR or a dose (e⁻/Å²), not both and not neither")
    for name, value in (("snr", snr), ("dose_per_angstrom2", dose_per_angstrom2)):
        if value is not None and not (math.isfinite(value) and value > 0):
            raise ParameterError(f"{name}: a positive number is needed, found {value}")
    if padding not in (1, 2, 3, 4):
        raise ParameterError(f"padding: expected 1 to 4, found {padding}")
    if rotation is not None and np.shape(rotation) != (count, 3, 3):
        raise ParameterError(f"rotation: expected shape {(count, 3, 3)}, found {np.shape(rotation)}")
    if noise_spectrum is None:
        return
    if dose_per_angstrom2 is not None:
        raise ParameterError("a noise spectrum colours the noise of an SNR; with a dose the noise is Poisson")
    if np.shape(noise_spectrum) != (box // 2 + 1,) or np.min(noise_spectrum) < 0:
        raise ParameterError(
            f"noise_spectrum: {box // 2 + 1} powers of at least 0 are needed for a box of {box}, "
            f"found shape {np.shape(noise_spectrum)}"
        )
