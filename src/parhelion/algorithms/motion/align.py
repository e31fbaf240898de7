"""From the frames of a movie to their motion: track of whole frames, local motion."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from parhelion.algorithms.motion.band import band_of
from parhelion.algorithms.motion.exposure import Exposure
from parhelion.algorithms.motion.fixed_pattern import fixed_pattern
from parhelion.algorithms.motion.kept import KeptFrames
from parhelion.algorithms.motion.likelihood import Frames, frames_of
from parhelion.algorithms.motion.local import LocalFit, fit_local_motion
from parhelion.algorithms.motion.patches import grid_of
from parhelion.algorithms.motion.polynomial import LocalMotion
from parhelion.algorithms.motion.track import Track, TrackSettings, find_track
from parhelion.contracts import Cancel, Executor, SerialExecutor
from parhelion.fourier.crop import low_transform

SEARCH_DETAIL_ANGSTROM = 15.0
PATCH_PITCH_ANGSTROM = 450.0
LOCAL_PRIOR_ANGSTROM = 5.0
CHANCE_PER_FRAME = 8.0
"""The most that a track through mere noise gains per frame, in natural logarithms of likelihood."""


@dataclass(frozen=True, kw_only=True)
class MotionSettings:
    """How a movie is aligned; lengths in Å, defaults as of the job ``motion``.

    ``patches`` are (columns, rows); None chooses them by the size of the field.
    """

    min_shift_angstrom: float = 2.0
    max_shift_angstrom: float = 80.0
    threshold_angstrom: float = 0.1
    max_iterations: int = 20
    bfactor_angstrom2: float = 1500.0
    resolution_angstrom: float = 5.0
    mask_vertical: int = 1
    mask_horizontal: int = 1
    smooth: bool = True
    local: bool = True
    patches: tuple[int, int] | None = None


@dataclass(frozen=True, kw_only=True)
class MovieMotion:
    """The motion in a movie of ``n`` frames.

    ``shift_px`` ``(n, 2)`` x, y is added to a frame's content to bring it onto the middle frame, in pixels
    of the frames as given; ``error_px`` ``(n,)`` what is expected of its error per axis (infinite where a
    frame had nothing to say). ``local`` is the motion beyond that, None where it was not wanted or not
    warranted. ``findings`` are worth telling the user.
    """

    shift_px: np.ndarray
    error_px: np.ndarray
    dead: tuple[int, ...]
    track: Track
    local: LocalMotion | None = None
    local_fit: LocalFit | None = None
    findings: tuple[str, ...] = field(default=())


def align_movie(
    movie: KeptFrames,
    pixel_size_angstrom: float,
    settings: MotionSettings,
    *,
    exposure: Exposure | None = None,
    dead: tuple[int, ...] = (),
    executor: Executor | None = None,
    cancel: Cancel | None = None,
) -> MovieMotion:
    """Find the motion between frames of ``pixel_size_angstrom``.

    With an ``exposure`` damage is taken into account: late frames say little about fine detail. ``dead``
    frames take no part, their shifts are interpolated. Raises ParameterError where the frames are too small
    for the resolution limit.
    """
    executor = executor or SerialExecutor()
    live = np.array([i for i in range(movie.count) if i not in dead], np.int64)
    band = band_of(
        movie.shape,
        pixel_size_angstrom / settings.resolution_angstrom,
        mask_vertical=settings.mask_vertical,
        mask_horizontal=settings.mask_horizontal,
    )
    data = np.empty((len(live), 2, *band.shell.shape), np.float32)

    def fill(row: int) -> None:
        if cancel is not None:
            cancel.check()
        data[row] = band.crop(low_transform(movie(int(live[row])), band.shell.shape[1]))

    for _ in executor.map(fill, range(len(live))):
        pass

    def amplitude(cycles_per_pixel: np.ndarray) -> np.ndarray:
        if exposure is None:
            return np.ones((len(live), len(cycles_per_pixel)), np.float32)
        return exposure.amplitudes(live, cycles_per_pixel)

    frames = frames_of(band, data, amplitude(band.shell_frequency), executor)
    track = find_track(frames, track_settings(settings, pixel_size_angstrom))
    shift, findings = _believed(track)
    local_fit = None
    if settings.local and len(live) > 3 and np.isfinite(track.error_px).all():
        local_fit = _local(frames, track, shift, live, settings, pixel_size_angstrom, amplitude, findings)
    whole, error = _all_frames(shift, track.error_px, live, movie.count)
    return MovieMotion(
        shift_px=whole,
        error_px=error,
        dead=tuple(dead),
        track=track,
        local=local_fit.motion if local_fit else None,
        local_fit=local_fit,
        findings=tuple(findings),
    )


def track_settings(settings: MotionSettings, pixel_size_angstrom: float) -> TrackSettings:
    """The settings in pixels."""
    return TrackSettings(
        min_shift_px=settings.min_shift_angstrom / pixel_size_angstrom,
        max_shift_px=settings.max_shift_angstrom / pixel_size_angstrom,
        threshold_px=settings.threshold_angstrom / pixel_size_angstrom,
        max_iterations=settings.max_iterations,
        bfactor_px2=settings.bfactor_angstrom2 / pixel_size_angstrom**2,
        detail_px=max(SEARCH_DETAIL_ANGSTROM, settings.resolution_angstrom) / pixel_size_angstrom,
        smooth=settings.smooth,
    )


def _believed(track: Track) -> tuple[np.ndarray, list[str]]:
    """The track, or no motion where it may be one through noise; and what to tell."""
    count = len(track.shift_px)
    if count == 1:
        return track.shift_px, ["the movie has one frame: there is nothing to align"]
    small = float(np.ptp(track.shift_px, axis=0).max()) < 2.0
    needed = 2.0 * (count - 1) if small else CHANCE_PER_FRAME * count
    if track.gain > needed and np.isfinite(track.error_px).all():
        return track.shift_px, []
    if small and np.isfinite(track.error_px).all():
        return np.zeros_like(track.shift_px), []
    return np.zeros_like(track.shift_px), [
        "the frames share too little signal to be aligned: they are summed as they are"
    ]


def _local(
    frames: Frames,
    track: Track,
    shift_px: np.ndarray,
    live: np.ndarray,
    settings: MotionSettings,
    pixel_size_angstrom: float,
    amplitude: Callable[[np.ndarray], np.ndarray],
    findings: list[str],
) -> LocalFit | None:
    grid = settings.patches[::-1] if settings.patches else None
    grid = grid or grid_of(
        frames.band.shape,
        PATCH_PITCH_ANGSTROM / pixel_size_angstrom,
        settings.resolution_angstrom / pixel_size_angstrom,
    )
    if grid is None:
        return None
    fit = fit_local_motion(
        frames,
        shift_px,
        live.astype(np.float64),
        grid,
        pattern=fixed_pattern(frames, shift_px, track.powers),
        amplitude=amplitude,
        detail_px=max(SEARCH_DETAIL_ANGSTROM, settings.resolution_angstrom) / pixel_size_angstrom,
        prior_px=LOCAL_PRIOR_ANGSTROM / pixel_size_angstrom,
        threshold_px=settings.threshold_angstrom / pixel_size_angstrom,
        iterations=settings.max_iterations,
        executor=frames.executor,
    )
    if fit.motion is None:
        findings.append("local motion is not measurable: the frames are moved as a whole")
    return fit


def _all_frames(
    shift_px: np.ndarray, error_px: np.ndarray, live: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Shifts of all frames, dead ones between their neighbours, relative to the middle frame."""
    frame = np.arange(count)
    whole = np.stack([np.interp(frame, live, shift_px[:, axis]) for axis in (0, 1)], axis=1)
    error = np.full(count, np.inf)
    error[live] = error_px
    return whole - whole[count // 2], error
