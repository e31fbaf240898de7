"""How defocus changes across a micrograph: a plane through the defoci of overlapping patches.

Astigmatism, phase shift and the mean are known from the whole micrograph. Each patch gives one curve, its
score against defocus; the plane is the one along which the sum of all curves is largest. Patches too noisy to
be fitted alone still count.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

from parhelion.algorithms.ctf_fit.flatten import annulus
from parhelion.algorithms.ctf_fit.search import (
    SECTORS,
    Models,
    ring_models,
    sector_offsets,
    sector_profiles,
)
from parhelion.algorithms.ctf_fit.settings import CtfFit, FitSettings, Optics
from parhelion.algorithms.ctf_fit.spectrum import checked_image, spectrum_of_image, tile_size

LARGEST_TILT_DEG = 65.0
STEP_ANGSTROM = 40.0
SHIFT_ANGSTROM = 400.0
GRID_ANGSTROM = 200.0
DECAY_ANGSTROM2 = 100.0
LEAST_PATCHES = 4
SIZES = (512, 384, 256, 192, 128)
LEAST_GAIN = 8.0
"""Log-likelihood that a plane must bring over a constant defocus to be believed (two more parameters)."""


@dataclass(frozen=True, kw_only=True)
class DefocusPlane:
    """Δf(x, y) = ``defocus_angstrom`` + ``slope_x`` (x − x₀) + ``slope_y`` (y − y₀), in Å and Å per pixel.

    ``(x₀, y₀)`` is pixel ``n // 2`` of both axes. ``gain`` is the log-likelihood ratio against a constant
    defocus; below LEAST_GAIN the slopes are 0 and ``believed`` is False. ``tilt_deg`` is the angle
    between the plane and the image, ``axis_deg`` the direction of constant defocus, from +x towards +y.
    """

    defocus_angstrom: float
    slope_x: float
    slope_y: float
    tilt_deg: float
    axis_deg: float
    gain: float
    believed: bool
    patches: int


@dataclass(frozen=True, kw_only=True)
class _Patches:
    """Positions ``(p, 2)`` (x, y) in Å from the centre, products ``(p, defoci)`` with rings and the rings'
    own squared sums ``(defoci,)``, for defoci in steps of STEP_ANGSTROM from ``first`` on.
    """

    position: np.ndarray
    scores: np.ndarray
    norm: np.ndarray
    variance: float
    first: float

    def gain(self, parameters: np.ndarray) -> float:
        """Log-likelihood ratio of (mean in Å, slopes along x and y in Å per Å) against no rings at all."""
        defocus = parameters[0] + self.position @ parameters[1:]
        place = np.clip((defocus - self.first) / STEP_ANGSTROM, 0.0, len(self.norm) - 1.001)
        low = place.astype(np.int64)
        part = place - low
        row = np.arange(len(low))
        total = float((self.scores[row, low] * (1 - part) + self.scores[row, low + 1] * part).sum())
        norm = float((self.norm[low] * (1 - part) + self.norm[low + 1] * part).sum())
        return 0.5 * max(total, 0.0) ** 2 / max(norm * self.variance, 1e-12)


def defocus_plane(
    image: np.ndarray,
    pixel_size_angstrom: float,
    fit: CtfFit,
    optics: Optics,
    settings: FitSettings,
    *,
    resample: bool = True,
    what: str = "the image",
    check: Callable[[], None] = lambda: None,
) -> DefocusPlane:
    """The plane that describes the defocus of ``image`` ``(y, x)`` best, near the ``fit`` of the whole.

    ``check`` may raise between patches. Raises FormatError for an image that cannot be fitted.
    """
    image = checked_image(image, what)
    patches = _patches(image, pixel_size_angstrom, fit, optics, settings, resample, check)
    start = _best_of_grid(patches, fit.defocus_angstrom)
    best = _climb(patches, start, (0, 1, 2))
    flat = _climb(patches, _best_mean(patches, fit.defocus_angstrom), (0,))
    gained = patches.gain(best) - patches.gain(flat)
    believed = gained >= LEAST_GAIN
    slope = best[1:] if believed else np.zeros(2)
    return DefocusPlane(
        defocus_angstrom=float(best[0]) if believed else fit.defocus_angstrom,
        slope_x=float(slope[0]) * pixel_size_angstrom,
        slope_y=float(slope[1]) * pixel_size_angstrom,
        tilt_deg=math.degrees(math.atan(float(np.hypot(*slope)))),
        axis_deg=(math.degrees(math.atan2(slope[1], slope[0])) + 90.0) % 180.0 if believed else 0.0,
        gain=gained,
        believed=believed,
        patches=len(patches.position),
    )


def _patches(
    image: np.ndarray,
    pixel: float,
    fit: CtfFit,
    optics: Optics,
    settings: FitSettings,
    resample: bool,
    check: Callable[[], None],
) -> _Patches:
    """Scores of all patches against defoci within what the largest tilt can make of them."""
    size = _spectrum_size(image.shape, pixel, resample)
    tile = tile_size(size, pixel, resample)
    corners = [(y, x) for y in _starts(image.shape[0], tile) for x in _starts(image.shape[1], tile)]
    middle = 0.5 * (tile - 1) - np.array(image.shape) // 2
    position = np.array([((x + middle[1]) * pixel, (y + middle[0]) * pixel) for y, x in corners])
    half, twice = 0.5 * fit.astigmatism_angstrom, 2.0 * math.radians(fit.defocus_angle_deg)
    offsets = sector_offsets(half * math.cos(twice), half * math.sin(twice), STEP_ANGSTROM)
    margin = int(np.abs(offsets).max())
    reach = float(np.hypot(*np.abs(position).max(axis=0))) * math.tan(math.radians(LARGEST_TILT_DEG))
    steps = math.ceil((reach + SHIFT_ANGSTROM) / STEP_ANGSTROM)
    defoci = fit.defocus_angstrom + STEP_ANGSTROM * np.arange(-steps - margin, steps + margin + 1)
    scores = np.empty((len(corners), 2 * steps + 1))
    models: Models | None = None
    variances = []
    shift = np.array([fit.phase_shift_deg])
    for number, (y, x) in enumerate(corners):
        check()
        patch = image[y : y + tile, x : x + tile]
        ring = annulus(spectrum_of_image(patch, pixel, size, resample=resample), settings)
        profiles = sector_profiles(ring)
        models = models or ring_models(profiles, defoci, shift, DECAY_ANGSTROM2, ring, optics)
        cross = models.cross(profiles.power)[:, 0]
        scores[number] = sum(
            cross[sector, margin + offset : margin + offset + 2 * steps + 1]
            for sector, offset in enumerate(offsets)
        )
        variances.append(profiles.noise_variance)
    norm = models.norm if models is not None else np.zeros((1, len(defoci)))
    return _Patches(
        position=position,
        scores=scores,
        norm=SECTORS * norm[0, margin : margin + 2 * steps + 1],
        variance=float(np.mean(variances)),
        first=float(defoci[margin]),
    )


def _spectrum_size(shape: tuple[int, ...], pixel: float, resample: bool) -> int:
    """The largest spectrum whose tile fits LEAST_PATCHES times into the shorter edge, or the smallest."""
    for size in SIZES:
        if tile_size(size, pixel, resample) * LEAST_PATCHES <= min(shape):
            return size
    return SIZES[-1]


def _starts(length: int, tile: int) -> list[int]:
    """First pixels of patches that overlap by about a half and cover the edge."""
    if length <= tile:
        return [0]
    count = 1 + math.ceil((length - tile) / (0.5 * tile))
    return [int(start) for start in np.rint(np.linspace(0, length - tile, count))]


def _best_mean(patches: _Patches, mean: float) -> np.ndarray:
    steps = np.arange(-SHIFT_ANGSTROM, SHIFT_ANGSTROM + 1.0, STEP_ANGSTROM)
    return max((np.array([mean + step, 0.0, 0.0]) for step in steps), key=patches.gain)


def _best_of_grid(patches: _Patches, mean: float) -> np.ndarray:
    """The best mean and slopes of a polar grid of tilts."""
    reach = float(np.hypot(*np.abs(patches.position).max(axis=0)))
    step = GRID_ANGSTROM / max(reach, 1.0)
    best = _best_mean(patches, mean)
    score = patches.gain(best)
    for slope in np.arange(step, math.tan(math.radians(LARGEST_TILT_DEG)), step):
        for angle in np.arange(0.0, 2 * math.pi, min(step / slope, math.pi / 6)):
            for shift in (-200.0, -100.0, 0.0, 100.0, 200.0):
                trial = np.array([mean + shift, slope * math.cos(angle), slope * math.sin(angle)])
                if (found := patches.gain(trial)) > score:
                    best, score = trial, found
    return best


def _climb(patches: _Patches, start: np.ndarray, free: tuple[int, ...]) -> np.ndarray:
    """The maximum next to ``start``, with these parameters free."""
    index = list(free)
    scale = np.array([STEP_ANGSTROM, 0.02, 0.02])[index]

    def loss(moves: np.ndarray) -> float:
        trial = start.copy()
        trial[index] += moves * scale
        return -patches.gain(trial)

    simplex = np.vstack([np.zeros(len(index)), np.eye(len(index))])
    found = minimize(
        loss,
        np.zeros(len(index)),
        method="Nelder-Mead",
        options={"initial_simplex": simplex, "xatol": 1e-2, "fatol": 1e-4},
    )
    best = start.copy()
    best[index] += found.x * scale
    return best
