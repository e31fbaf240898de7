"""The sums of a movie's moved frames: weighted by exposure and plain, all, even and odd frames."""

from dataclasses import dataclass, field

import numpy as np
import scipy.fft

from parhelion.algorithms.motion.align import MovieMotion, Transforms
from parhelion.algorithms.motion.exposure import Exposure
from parhelion.algorithms.motion.polynomial import LocalMotion
from parhelion.algorithms.motion.power_spectrum import SPECTRUM_BOX, GroupSpectra
from parhelion.algorithms.motion.warp import add_moved, warped, weight_frequencies
from parhelion.contracts import Cancel, Executor, SerialExecutor
from parhelion.errors import ParameterError

WEIGHT_POINTS = 4096
SAME_FIELD_PX = 0.2
"""Neighbouring frames whose local motion differs less than this are warped together, as one image."""


@dataclass(frozen=True, kw_only=True)
class SumSettings:
    """Which sums are made. ``first`` and ``last`` count frames from 1, 0 for the last there is.

    ``exposure_filter`` weights frames by what signal they carry, ``restore_power`` then keeps the noise's
    power that of a plain sum. ``unweighted`` makes the plain sum too, ``halves`` sums of even and odd
    frames. ``spectrum_dose`` (e⁻/Å²) is what the frames of one power spectrum carry together, 0 for no
    spectrum.
    """

    first: int = 1
    last: int = 0
    exposure_filter: bool = True
    restore_power: bool = True
    unweighted: bool = False
    halves: bool = False
    spectrum_dose: float = 4.0
    spectrum_box: int = SPECTRUM_BOX

    def frames(self, count: int, dead: tuple[int, ...]) -> np.ndarray:
        """Numbers (from 0) of the frames to sum; ParameterError where none is left."""
        last = self.last or count
        if not 1 <= self.first <= last <= count:
            raise ParameterError(
                f"frames {self.first} to {last} are to be summed, the movie has frames 1 to {count}"
            )
        chosen = np.array([i for i in range(self.first - 1, last) if i not in dead], np.int64)
        if not len(chosen):
            raise ParameterError(f"frames {self.first} to {last} are all empty: nothing is left to sum")
        return chosen


@dataclass(frozen=True, kw_only=True)
class MovieSums:
    """Images ``(y, x)`` float32: the sum (weighted if asked for), and what else was asked for.

    ``even`` and ``odd`` hold the 2nd, 4th … and the 1st, 3rd … frame of the movie. ``spectrum`` is the
    amplitude spectrum ``(box, box)`` of groups of frames, zero frequency at ``box // 2``, for
    ``spectrum_pixel_angstrom``.
    """

    total: np.ndarray
    frames: int
    unweighted: np.ndarray | None = None
    even: np.ndarray | None = None
    odd: np.ndarray | None = None
    spectrum: np.ndarray | None = None
    spectrum_pixel_angstrom: float = field(default=0.0)


def sum_movie(
    transforms: Transforms,
    motion: MovieMotion,
    settings: SumSettings,
    pixel_size_angstrom: float,
    *,
    exposure: Exposure | None = None,
    executor: Executor | None = None,
    cancel: Cancel | None = None,
) -> MovieSums:
    """Move, weight and add the frames. The transforms are used up.

    Whole-frame motion is undone in Fourier space, local motion by spline interpolation of the moved
    frame. Raises ParameterError where the exposure filter is wanted without an exposure, or no frame is.
    """
    chosen = settings.frames(transforms.count, motion.dead)
    if settings.exposure_filter and exposure is None:
        raise ParameterError("the exposure filter needs the dose per frame and the voltage")
    weights = _weights(chosen, settings, exposure)
    spectra = GroupSpectra(
        transforms.shape,
        pixel_size_angstrom,
        settings.spectrum_box,
        _group_size(settings, exposure, len(chosen)),
    )
    adder = _Adder(transforms, motion, weights, settings, spectra)
    executor = executor or SerialExecutor()

    def work(rows: list[int]) -> _Moved:
        if cancel is not None:
            cancel.check()
        return adder.move(rows, chosen)

    for moved in executor.map(work, runs_of_frames(chosen, motion.local)):
        adder.add(moved)
    return adder.sums(len(chosen))


def runs_of_frames(chosen: np.ndarray, local: LocalMotion | None) -> list[list[int]]:
    """Rows of ``chosen`` frames that are summed before they are warped; one by one without local motion."""
    if local is None:
        return [[row] for row in range(len(chosen))]
    edge = np.linspace(-0.5, 0.5, 5)
    x, y = np.meshgrid(edge, edge)
    fields = np.stack([local.shift_px(float(frame), x, y) for frame in chosen])
    runs: list[list[int]] = []
    for row in range(len(chosen)):
        if runs:
            run = [*runs[-1], row]
            middle = local.shift_px(float(chosen[run].mean()), x, y)
            if np.abs(fields[run] - middle).max() <= SAME_FIELD_PX:
                runs[-1] = run
                continue
        runs.append([row])
    return runs


def _weights(chosen: np.ndarray, settings: SumSettings, exposure: Exposure | None) -> np.ndarray | None:
    if not settings.exposure_filter or exposure is None:
        return None
    return exposure.weights(chosen, weight_frequencies(WEIGHT_POINTS), settings.restore_power)


def _group_size(settings: SumSettings, exposure: Exposure | None, count: int) -> int:
    """Frames per power spectrum: those that carry the wanted dose together; a fifth without a dose."""
    if settings.spectrum_dose == 0:
        return 0
    wanted = settings.spectrum_dose / exposure.dose_per_frame if exposure else count / 5
    return int(np.clip(round(wanted), 1, count))


@dataclass(frozen=True, kw_only=True)
class _Moved:
    """A run of frames in place, by the name of the sum they go to, and each one's band for the spectrum."""

    parts: dict[str, np.ndarray]
    bands: list[np.ndarray | None]


class _Adder:
    """Adds moved frames, in Fourier space while there is no local motion, else as images."""

    def __init__(
        self,
        transforms: Transforms,
        motion: MovieMotion,
        weights: np.ndarray | None,
        settings: SumSettings,
        spectra: GroupSpectra,
    ) -> None:
        self.transforms, self.motion, self.weights, self.settings = transforms, motion, weights, settings
        self.spectra = spectra
        self._sums: dict[str, np.ndarray] = {}

    def move(self, rows: list[int], chosen: np.ndarray) -> _Moved:
        """Bring a run of frames into place."""
        local, shape = self.motion.local, self.transforms.shape
        parts: dict[str, np.ndarray] = {}
        bands = []
        for row in rows:
            index = int(chosen[row])
            transform, shift = self.transforms.take(index), self.motion.shift_px[index]
            bands.append(self.spectra.cropped(transform, shift))
            for name, weight in self._kinds(row, index):
                if name not in parts:
                    parts[name] = np.zeros(transform.shape, np.complex64)
                add_moved(parts[name], transform, shape, shift, weight, spline=local is not None)
        if local is not None:
            frame = float(chosen[rows].mean())
            for name, part in parts.items():
                image = scipy.fft.irfft2(part, s=shape, workers=1, overwrite_x=True)
                parts[name] = warped(image, local, frame)
        return _Moved(parts=parts, bands=bands)

    def _kinds(self, row: int, index: int) -> list[tuple[str, np.ndarray | None]]:
        """Name and weights of the sums that a frame goes to; the total of halves is made of them."""
        weight = None if self.weights is None else self.weights[row]
        half = "odd" if index % 2 == 0 else "even"
        kinds = [(half if self.settings.halves else "total", weight)]
        if weight is not None and self.settings.unweighted:
            kinds.append(("unweighted", None))
        return kinds

    def add(self, moved: _Moved) -> None:
        """Add the next run, in the order of the frames."""
        for name, part in moved.parts.items():
            self._add(name, part)
        for band in moved.bands:
            self.spectra.add(band)

    def _add(self, name: str, part: np.ndarray) -> None:
        if name in self._sums:
            self._sums[name] += part
        else:
            self._sums[name] = part

    def sums(self, count: int) -> MovieSums:
        """The images, whatever space they were added in."""
        halves = [self._sums[name] for name in ("odd", "even") if name in self._sums]
        if halves:
            self._sums["total"] = halves[0] + halves[1] if len(halves) > 1 else halves[0].copy()
        images: dict[str, np.ndarray | None] = {}
        for name in ("total", "unweighted", "even", "odd"):
            found = self._sums.pop(name, None)
            if found is not None and np.iscomplexobj(found):
                found = scipy.fft.irfft2(found, s=self.transforms.shape, workers=1, overwrite_x=True)
            images[name] = found
        if self.settings.unweighted and images["unweighted"] is None:
            images["unweighted"] = images["total"]
        total = images.pop("total")
        if total is None:
            raise ParameterError("no frame was summed")
        return MovieSums(
            total=total,
            frames=count,
            spectrum=self.spectra.spectrum(),
            spectrum_pixel_angstrom=self.spectra.pixel_size_angstrom,
            **images,
        )
