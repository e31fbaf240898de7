"""Simulated movies: what a counting detector records of particles in ice, frame by frame.

The expected electrons per pixel of frame ``t`` are ``N (1 + C_t)`` with ``N`` = dose per frame · pixel area
and, in Fourier space,

    Ĉ_t(k) = MTF(k) · M_t(k) · ( -2 φ̂(k) CTF(k) exp(-D_t / 2 Nc(k)) + ice_t(k) )

``φ`` is the phase shift of the particles (``exposure``), ``Nc`` the critical exposure and ``D_t`` the dose
until the middle of the frame (``optics.dose``), ``ice_t`` the wandering noise of the ice (``ice``), ``M_t``
the phase ramp of the field's displacement and the blur of its motion within the frame. Local motion then
moves the content smoothly (``warp``), and the detector counts (``detector``). Every movie depends on the seed
and its number alone.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from scipy.fft import next_fast_len

from parhelion.algorithms.simulate.detector import Detector, random_detector
from parhelion.algorithms.simulate.exposure import particle_contrast
from parhelion.algorithms.simulate.frames import expected_frames
from parhelion.algorithms.simulate.motion import BeamInducedMotion, random_motion
from parhelion.algorithms.simulate.particles import Microscope, interaction_radian_per_volt_angstrom
from parhelion.algorithms.simulate.placement import (
    Placement,
    molecule_diameter_angstrom,
    particles_that_fit,
    random_placement,
)
from parhelion.algorithms.simulate.project import Projector
from parhelion.algorithms.simulate.warp import MARGIN_PX
from parhelion.errors import ParameterError
from parhelion.model.volume import Volume

USUAL_COVERAGE = 0.5
"""Of the particles that fit, how many are taken where no number is given."""
GOLDEN = (math.sqrt(5.0) - 1) / 2
GREATEST_PHASE_RADIAN = 1.5
DETECTOR_STREAM, DEFOCUS_STREAM, PLAN_STREAM, ICE_STREAM, COUNT_STREAM = range(5)


@dataclass(frozen=True, kw_only=True)
class MovieSettings:
    """The specimen and how it is exposed; lengths in Å. ``shape`` is the field's height and width in pixels;
    ``particles`` None takes half as many as fit, ``edge_angstrom`` None keeps them wholly in the field."""

    shape: tuple[int, int] = (2048, 2048)
    pixel_size_angstrom: float = 1.0
    frames: int = 20
    dose_per_frame: float = 2.0
    pre_exposure: float = 0.0
    particles: int | None = None
    edge_angstrom: float | None = None
    ice_thickness_angstrom: float = 400.0
    ice_noise: float = 1.0
    tilt_deg: float = 0.0
    drift_angstrom: float = 20.0
    local_motion_angstrom: float = 4.0

    def __post_init__(self) -> None:
        checks = (
            ("shape", min(self.shape), 64, 32768),
            ("pixel_size_angstrom", self.pixel_size_angstrom, 0.1, 30.0),
            ("frames", self.frames, 1, 10000),
            ("dose_per_frame", self.dose_per_frame, 1e-4, 1000.0),
            ("pre_exposure", self.pre_exposure, 0.0, 1e4),
            ("particles", self.particles or 0, 0, 10**6),
            ("edge_angstrom", self.edge_angstrom or 0.0, 0.0, 1e6),
            ("ice_thickness_angstrom", self.ice_thickness_angstrom, 1.0, 1e4),
            ("ice_noise", self.ice_noise, 0.0, 100.0),
            ("tilt_deg", self.tilt_deg, 0.0, 70.0),
            ("drift_angstrom", self.drift_angstrom, 0.0, 1000.0),
            ("local_motion_angstrom", self.local_motion_angstrom, 0.0, 100.0),
        )
        for name, value, least, most in checks:
            if not least <= value <= most:
                raise ParameterError(f"{name}: expected {least:g} to {most:g}, found {value:g}")


@dataclass(frozen=True, kw_only=True)
class MovieTruth:
    """What one movie shows: defoci at the middle of field and ice, tilt, particles with their own defoci
    ``(n, 2)`` (U and V), and motion."""

    number: int
    defocus_u_angstrom: float
    defocus_v_angstrom: float
    defocus_angle_deg: float
    tilt_deg: float
    tilt_axis_deg: float
    placement: Placement
    particle_defocus_uv_angstrom: np.ndarray
    motion: BeamInducedMotion


class MovieSimulator:
    """Movies of a molecule ``volume`` (a potential in V on the movies' pixel size).

    Raises ParameterError where the settings cannot be.
    """

    def __init__(
        self,
        volume: Volume,
        settings: MovieSettings,
        microscope: Microscope | None = None,
        *,
        detector: Detector | None = None,
        seed: int = 0,
    ) -> None:
        if abs(volume.pixel_size_angstrom / settings.pixel_size_angstrom - 1) > 1e-4:
            raise ParameterError(
                f"the molecule has {volume.pixel_size_angstrom:g} Å per pixel, the movies "
                f"{settings.pixel_size_angstrom:g} Å; resample it"
            )
        self.settings = settings
        self.microscope = microscope or Microscope()
        self.seed = seed
        self.detector = detector or random_detector(settings.shape, self._stream(DETECTOR_STREAM, 0))
        if self.detector.shape != settings.shape:
            raise ParameterError(f"the detector is {self.detector.shape}, the field {settings.shape} pixels")
        self.diameter_angstrom = molecule_diameter_angstrom(volume)
        self.largest_phase_radian = largest_phase_radian(volume, self.microscope)
        if self.largest_phase_radian > GREATEST_PHASE_RADIAN:
            raise ParameterError(
                f"the molecule shifts the phase by up to {self.largest_phase_radian:.3g} rad, a weak phase "
                f"object by less than {GREATEST_PHASE_RADIAN:g}; is the density in volts?"
            )
        self.projector = Projector(volume.data)
        self.edge_angstrom = (
            self.diameter_angstrom / 2 if settings.edge_angstrom is None else settings.edge_angstrom
        )
        self.particles = settings.particles if settings.particles is not None else self._usual_number()
        self.electrons_per_pixel = settings.dose_per_frame * settings.pixel_size_angstrom**2
        self.count_type = self.detector.count_type(self.electrons_per_pixel)

    def truth(self, number: int) -> MovieTruth:
        """The truth of movie ``number`` (from 0)."""
        s, scope = self.settings, self.microscope
        generator = self._stream(PLAN_STREAM, number)
        low, high = (1e4 * d for d in scope.defocus_range_um)
        # evenly spread over the range for any number of movies, yet independent of that number
        place = (self._stream(DEFOCUS_STREAM, 0).uniform() + number * GOLDEN) % 1.0
        mean = low + (high - low) * place
        half = 0.5 * scope.astigmatism_angstrom * generator.uniform()
        angle, axis = generator.uniform(0.0, 180.0, 2)
        motion = random_motion(
            s.frames, s.pixel_size_angstrom, s.drift_angstrom, s.local_motion_angstrom, generator
        )
        placement = random_placement(
            self.particles,
            s.shape,
            s.pixel_size_angstrom,
            self.diameter_angstrom,
            s.ice_thickness_angstrom,
            self.edge_angstrom,
            generator,
        )
        plane = plane_height_angstrom(placement.xy_px, s.shape, s.pixel_size_angstrom, s.tilt_deg, axis)
        local = mean + placement.height_angstrom + plane
        return MovieTruth(
            number=number,
            defocus_u_angstrom=mean + half,
            defocus_v_angstrom=mean - half,
            defocus_angle_deg=float(angle),
            tilt_deg=s.tilt_deg,
            tilt_axis_deg=float(axis) if s.tilt_deg else 0.0,
            placement=placement,
            particle_defocus_uv_angstrom=np.stack([local + half, local - half], axis=1),
            motion=motion,
        )

    def contrast(self, truth: MovieTruth, margin_px: int = 0) -> np.ndarray:
        """Contrast ``(height, width)`` float32 of the particles before damage, motion and detector, on the
        field enlarged by ``margin_px`` on every side."""
        height, width = self.settings.shape
        return particle_contrast(
            self.projector,
            truth.placement,
            truth.particle_defocus_uv_angstrom,
            truth.defocus_angle_deg,
            self.microscope,
            self.settings.pixel_size_angstrom,
            (height + 2 * margin_px, width + 2 * margin_px),
            (margin_px, margin_px),
        )

    def expected(self, truth: MovieTruth) -> Iterator[np.ndarray]:
        """Expected electrons ``(height, width)`` float32 of each frame on a perfect detector with the MTF."""
        margin = math.ceil(truth.motion.largest_px()) + MARGIN_PX
        size = [next_fast_len(n + 2 * margin, real=True) for n in self.settings.shape]
        canvas = np.zeros(size, np.float32)
        inner = self.contrast(truth, margin)
        canvas[: inner.shape[0], : inner.shape[1]] = inner
        yield from expected_frames(
            torch.from_numpy(canvas),
            margin,
            truth,
            self.settings,
            self.microscope,
            self.detector,
            self._stream(ICE_STREAM, truth.number),
        )

    def frames(self, truth: MovieTruth) -> Iterator[np.ndarray]:
        """Raw counts ``(height, width)`` of each frame, ``count_type``."""
        generator = self._stream(COUNT_STREAM, truth.number)
        for electrons in self.expected(truth):
            yield self.detector.expose(electrons, generator, self.count_type)

    def _usual_number(self) -> int:
        s = self.settings
        fit = particles_that_fit(s.shape, s.pixel_size_angstrom, self.diameter_angstrom, self.edge_angstrom)
        return max(1, int(USUAL_COVERAGE * fit))

    def _stream(self, stream: int, number: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, stream, number])


def largest_phase_radian(volume: Volume, microscope: Microscope) -> float:
    """The greatest phase shift over the projections along the three axes of a potential in V."""
    projected = max(float(np.abs(volume.data.sum(axis=axis)).max()) for axis in range(3))
    sigma = interaction_radian_per_volt_angstrom(microscope.voltage_kv)
    return sigma * projected * volume.pixel_size_angstrom


def plane_height_angstrom(
    xy_px: np.ndarray, shape: tuple[int, int], pixel_size_angstrom: float, tilt_deg: float, axis_deg: float
) -> np.ndarray:
    """Additional underfocus ``(n,)`` in Å at positions ``(n, 2)`` of a specimen tilted about an axis through
    the middle of the field, whose direction counts from +x towards +y; the side towards +90° is further
    underfocused."""
    axis = math.radians(axis_deg)
    x = xy_px[:, 0] - (shape[1] - 1) / 2
    y = xy_px[:, 1] - (shape[0] - 1) / 2
    away = (-math.sin(axis) * x + math.cos(axis) * y) * pixel_size_angstrom
    return np.asarray(math.tan(math.radians(tilt_deg)) * away)
