"""What a CTF fit is told and what it finds."""

from dataclasses import dataclass

import numpy as np

from parhelion.errors import ParameterError


@dataclass(frozen=True, kw_only=True)
class Optics:
    """Of the microscope. ``amplitude_contrast`` between 0 and 1."""

    voltage_kv: float
    spherical_aberration_mm: float
    amplitude_contrast: float


@dataclass(frozen=True, kw_only=True)
class FitSettings:
    """Ranges and choices of a fit; the defaults are cisTEM's.

    ``phase_shift_range_deg`` None fits no phase shift; equal ends fix it. ``astigmatism_tolerance_angstrom``
    is the standard deviation of a Gaussian prior on ``U - V``; None leaves it free. ``known_astigmatism`` is
    ``(U - V in Å, angle in degrees)`` and is not fitted.
    ``thickness`` also estimates the specimen's. ``exhaustive`` searches astigmatism up to 10,000 Å
    (otherwise 1,600 Å) and refines up to ten places (otherwise five). Raises ParameterError for ranges that
    cannot be.
    """

    min_resolution_angstrom: float = 30.0
    max_resolution_angstrom: float = 5.0
    defocus_range_angstrom: tuple[float, float] = (5000.0, 50000.0)
    defocus_step_angstrom: float = 100.0
    exhaustive: bool = False
    astigmatism_tolerance_angstrom: float | None = None
    phase_shift_range_deg: tuple[float, float] | None = None
    phase_shift_step_deg: float = 10.0
    known_astigmatism: tuple[float, float] | None = None
    thickness: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.max_resolution_angstrom < self.min_resolution_angstrom:
            raise ParameterError(
                f"the resolution range of the fit must run from a larger to a smaller spacing, found "
                f"{self.min_resolution_angstrom:g} to {self.max_resolution_angstrom:g} Å"
            )
        low, high = self.defocus_range_angstrom
        if not low <= high or self.defocus_step_angstrom <= 0:
            raise ParameterError(
                f"the defocus search needs a range from low to high and a positive step, found {low:g} to "
                f"{high:g} Å by {self.defocus_step_angstrom:g} Å"
            )
        if self.phase_shift_range_deg is not None and (
            self.phase_shift_range_deg[0] > self.phase_shift_range_deg[1] or self.phase_shift_step_deg <= 0
        ):
            raise ParameterError(
                f"the phase shift search needs a range from low to high and a positive step, found "
                f"{self.phase_shift_range_deg} by {self.phase_shift_step_deg:g}°"
            )


@dataclass(frozen=True, kw_only=True)
class Curves:
    """One-dimensional curves ``(bins,)`` from zero frequency on, for plots and the ``avrot`` file.

    ``average`` is the rotational average of the amplitudes without regard to astigmatism, ``experiment`` the
    average along lines of equal phase, background removed and scaled to 0…1 like ``fit`` (|CTF|), ``quality``
    their local correlation, ``noise`` twice its standard deviation for pure noise.
    """

    frequency_per_angstrom: np.ndarray
    average: np.ndarray
    experiment: np.ndarray
    fit: np.ndarray
    quality: np.ndarray
    noise: np.ndarray


@dataclass(frozen=True, kw_only=True)
class CtfFit:
    """A fitted CTF. ``defocus_u_angstrom ≥ defocus_v_angstrom``; the angle of U counts from +x towards +y.

    ``correlation`` is the correlation coefficient of the flattened spectrum with CTF²,
    ``significance`` how many standard deviations of noise the fit lies above no fit, ``fit_resolution`` up
    to where rings were found and ``alias_resolution`` from where the box is too small to show them (None:
    nowhere). ``confident`` sums this up; ``iciness`` compares the 3.7 Å band with its surroundings (None
    where the spectrum does not reach it). ``thickness_angstrom`` is None where it was not asked for or
    left no trace in the rings.
    """

    defocus_u_angstrom: float
    defocus_v_angstrom: float
    defocus_angle_deg: float
    phase_shift_deg: float
    correlation: float
    significance: float
    fit_resolution_angstrom: float
    alias_resolution_angstrom: float | None
    iciness: float | None
    thickness_angstrom: float | None
    confident: bool
    curves: Curves

    @property
    def defocus_angstrom(self) -> float:
        """The mean of U and V."""
        return 0.5 * (self.defocus_u_angstrom + self.defocus_v_angstrom)

    @property
    def astigmatism_angstrom(self) -> float:
        """U − V."""
        return self.defocus_u_angstrom - self.defocus_v_angstrom
