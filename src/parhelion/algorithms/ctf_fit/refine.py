"""Least-squares refinement of defocus, astigmatism and phase shift on every Fourier pixel of the annulus.

    power(k) ≈ C(s) + E(s) · a(s) · CTF²(k)

C (background) and E (envelope of the rings) are smooth splines fitted along, ``a`` is what averaging over a
Fourier pixel leaves of the rings. All are linear but mean defocus, astigmatism and phase shift, for which the
Levenberg–Marquardt step of the joint problem is taken (variable projection, Golub & Pereyra 1973).
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from parhelion.algorithms.ctf_fit.flatten import SPLINES_PER_ANNULUS, Annulus, splines
from parhelion.algorithms.ctf_fit.linear import dot, product
from parhelion.algorithms.ctf_fit.phases import attenuation, ring_rate, sine_and_cosine
from parhelion.algorithms.ctf_fit.search import Candidate, reach_of
from parhelion.algorithms.ctf_fit.settings import FitSettings, Optics
from parhelion.optics.ctf import electron_wavelength_angstrom

ITERATIONS = 12
CONVERGED_ANGSTROM = 0.5
ENVELOPE_INTERVALS = 3
REACH_FACTOR = 1.25
"""Astigmatism may grow to this many times the largest that the search tried."""


@dataclass(frozen=True, kw_only=True)
class Refined:
    """The best parameters, the fall of the squared residuals by the rings and what is left per pixel."""

    defocus: float
    astigmatism: tuple[float, float]
    phase_shift_deg: float
    correlation: float
    significance: float
    cost: float


class Refiner:
    """Fits one annulus from any number of starting points."""

    def __init__(self, ring: Annulus, optics: Optics, settings: FitSettings) -> None:
        self._ring, self._optics, self._settings = ring, optics, settings
        # one row per function, so that products run along memory
        self._smooth = np.ascontiguousarray(splines(ring.s, ring.low, ring.high, SPLINES_PER_ANNULUS).T)
        self._hats = np.ascontiguousarray(
            splines(ring.s, ring.low, ring.high, ENVELOPE_INTERVALS, degree=1).T
        )
        self._inverse = np.linalg.pinv(product(self._smooth, self._smooth.T))
        self._data = self._without_background(ring.power[None])[0]
        self._total = dot(self._data, self._data)
        wavelength = electron_wavelength_angstrom(optics.voltage_kv)
        slope = math.pi * wavelength
        self._slopes = slope * np.stack(
            [ring.s**2, ring.kx**2 - ring.ky**2, 2.0 * ring.kx * ring.ky, np.full_like(ring.s, 1.0 / slope)]
        )
        fixed = settings.phase_shift_range_deg
        free_phase = fixed is not None and fixed[1] > fixed[0]
        free_astigmatism = settings.known_astigmatism is None
        self._reach = REACH_FACTOR * reach_of(settings) + settings.defocus_step_angstrom
        self._free = np.array([True, free_astigmatism, free_astigmatism, free_phase])

    def refine(self, start: Candidate) -> Refined:
        """The nearest best fit to ``start``, inside the ranges of the settings."""
        best = self._evaluate(self._inside(_as_array(start)))
        damping = 1e-3
        for _ in range(ITERATIONS):
            step = self._step(best, damping)
            trial = self._evaluate(self._inside(best.parameters + step))
            if trial.cost >= best.cost:
                damping *= 10.0
                if damping > 1e3:
                    break
                continue
            moved = np.abs(trial.parameters[:3] - best.parameters[:3]).max()
            best, damping = trial, damping * 0.1
            if moved < CONVERGED_ANGSTROM:
                break
        return self._result(best)

    def _step(self, at: "_State", damping: float) -> np.ndarray:
        """The damped Gauss–Newton step, zero in the parameters that are held."""
        slopes = (at.seen * at.envelope * at.sine * at.cosine * 2.0) * self._slopes[self._free]
        basis = np.concatenate([self._smooth, self._hats * at.model])
        inner = np.linalg.lstsq(product(basis, basis.T), product(basis, slopes.T), rcond=1e-10)[0]
        slopes -= product(np.ascontiguousarray(inner.T), basis)
        normal = product(slopes, slopes.T) / at.variance
        slope = product(slopes, at.residual[:, None])[:, 0] / at.variance
        weight = self._prior_weight()
        if weight and self._free[1]:
            normal[[1, 2], [1, 2]] += weight
            slope[1:3] -= weight * at.parameters[1:3]
        normal[np.diag_indices_from(normal)] *= 1.0 + damping
        step = np.zeros(4)
        step[self._free] = np.linalg.lstsq(normal, slope, rcond=1e-12)[0]
        return step

    def _evaluate(self, parameters: np.ndarray) -> "_State":
        """The best background and envelope for these parameters, and what is left."""
        ring = self._ring
        sine, cosine = sine_and_cosine(
            ring.kx,
            ring.ky,
            parameters[:1],
            parameters[None, 1:3],
            np.rad2deg(parameters[3:]),
            self._optics,
        )
        seen = attenuation(ring_rate(ring.s, parameters[0], self._optics) * ring.step)
        model = seen * (sine[0].astype(np.float64) ** 2 - 0.5)
        rings = self._without_background(self._hats * model)
        normal = product(rings, rings.T) + 1e-9 * len(model) * np.eye(len(rings))
        lower = np.linalg.cholesky(normal)
        towards = product(rings, self._data[:, None])[:, 0]
        heights, _ = nnls(lower.T, np.linalg.solve(lower, towards))
        residual = self._data - product(heights[None], rings)[0]
        squares = dot(residual, residual)
        variance = max(squares / len(model), 1e-12)
        cost = len(model) * math.log(variance) + self._prior_weight() * float(
            parameters[1:3] @ parameters[1:3]
        )
        return _State(
            parameters=parameters,
            cost=cost,
            variance=variance,
            residual=residual,
            envelope=product(heights[None], self._hats)[0],
            model=model,
            seen=seen,
            sine=sine[0],
            cosine=cosine[0],
        )

    def _prior_weight(self) -> float:
        """Inverse variance of half of U − V, times what a cost of −2 log likelihood needs."""
        tolerance = self._settings.astigmatism_tolerance_angstrom
        if tolerance is None or self._settings.known_astigmatism is not None:
            return 0.0
        return (2.0 / tolerance) ** 2

    def _without_background(self, values: np.ndarray) -> np.ndarray:
        """Rows of ``values`` ``(n, k)`` without what the background's splines describe."""
        weights = product(product(values, self._smooth.T), self._inverse)
        return values - product(weights, self._smooth)

    def _inside(self, parameters: np.ndarray) -> np.ndarray:
        """The parameters brought into their ranges."""
        inside = parameters.copy()
        inside[0] = np.clip(inside[0], *self._settings.defocus_range_angstrom)
        inside[1:3] *= min(1.0, self._reach / max(float(np.hypot(*inside[1:3])), 1e-9))
        span = self._settings.phase_shift_range_deg
        if span is not None:
            low, high = np.deg2rad(span)
            # CTF² repeats after half a turn
            whole = high - low >= math.pi - 1e-9
            inside[3] = low + (inside[3] - low) % math.pi if whole else np.clip(inside[3], low, high)
        return inside

    def _result(self, at: "_State") -> Refined:
        fall = self._total / at.variance - len(self._data)
        rings = self._without_background(at.model[None])[0]
        size = math.sqrt(dot(rings, rings) * self._total)
        return Refined(
            defocus=float(at.parameters[0]),
            astigmatism=(float(at.parameters[1]), float(at.parameters[2])),
            phase_shift_deg=float(np.rad2deg(at.parameters[3])),
            correlation=dot(rings, self._data) / size if size > 0 else 0.0,
            significance=math.sqrt(max(0.0, fall - 4.0)),
            cost=at.cost,
        )


@dataclass(frozen=True, kw_only=True)
class _State:
    """One evaluation: ``parameters`` are defocus, two of astigmatism (Å) and the phase shift (rad)."""

    parameters: np.ndarray
    cost: float
    variance: float
    residual: np.ndarray
    envelope: np.ndarray
    model: np.ndarray
    seen: np.ndarray
    sine: np.ndarray
    cosine: np.ndarray


def _as_array(start: Candidate) -> np.ndarray:
    return np.array([start.defocus, *start.astigmatism, math.radians(start.phase_shift_deg)])
