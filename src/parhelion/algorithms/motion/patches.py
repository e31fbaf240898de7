"""Pieces of aligned frames: their transforms, window by window."""

from collections.abc import Callable
from dataclasses import dataclass

import numba as nb
import numpy as np
import scipy.fft

from parhelion.algorithms.motion.band import Band, band_of
from parhelion.algorithms.motion.likelihood import Frames, frames_of
from parhelion.contracts import Executor

OVERLAP = 0.25
"""Share of a patch's pitch over which neighbours fade into each other."""
SHELLS = 24
LEAST_POINTS = 24
"""A patch has at least so many points along each edge at the band's resolution."""


@dataclass(frozen=True, kw_only=True)
class Patches:
    """Transforms of patches of aligned frames, one ``Frames`` per patch, all in one band.

    ``centre`` ``(patches, 2)`` x, y relative to the field (−½ to ½); ``scale`` pixels of the frames per
    pixel of the patches, along x and y. Windows fade into each other such that their squares add up to 1:
    information of the field counts once.
    """

    frames: tuple[Frames, ...]
    band: Band
    centre: np.ndarray
    scale: np.ndarray


def cut_patches(
    frames: Frames,
    shift_px: np.ndarray,
    grid: tuple[int, int],
    groups: np.ndarray,
    pattern: np.ndarray | None,
    amplitude: Callable[[np.ndarray], np.ndarray],
    executor: Executor,
) -> Patches:
    """Cut frames, brought together by their shifts ``(n, 2)``, into ``grid`` (rows, columns) of patches.

    Frames of one number in ``groups`` ``(n,)`` are added up; ``pattern`` ``(2, ny, nx)`` is taken away from
    each before. ``amplitude(frequency)`` gives the amplitude after damage ``(n, len(frequency))`` at cycles
    per pixel.
    """
    ny, nx = frames.band.shell.shape
    size = (scipy.fft.next_fast_len(ny, real=True), scipy.fft.next_fast_len(2 * nx - 1, real=True))
    scale = np.array(frames.band.shape[::-1]) / size[::-1]
    windows = [_windows(length, count) for length, count in zip(size, grid, strict=True)]
    starts_y, window_y = windows[0]
    starts_x, window_x = windows[1]
    limit = float(frames.band.shell_frequency.max() * scale.mean())
    band = band_of((len(window_y), len(window_x)), limit, shells=SHELLS)
    ramp_y, ramp_x = frames.band.ramps(shift_px)
    members = [np.flatnonzero(groups == group) for group in range(int(groups.max()) + 1)]
    cut = np.empty((len(starts_y) * len(starts_x), len(members), 2, *band.shell.shape), np.float32)

    still = np.zeros((2, ny, nx), np.float32) if pattern is None else pattern

    def work(group: int) -> None:
        spectrum = np.zeros((size[0], size[1] // 2 + 1), np.complex64)
        for i in members[group].tolist():
            _add_moved(
                frames.data[i], frames.amplitude[i], frames.band.shell, still, ramp_y[i], ramp_x[i], spectrum
            )
        image = scipy.fft.irfft2(spectrum, s=size)
        for number, (y, x) in enumerate((y, x) for y in starts_y for x in starts_x):
            piece = image[y : y + len(window_y), x : x + len(window_x)]
            piece = (piece - piece.mean()) * window_y[:, None] * window_x[None, :]
            cut[number, group] = band.crop(scipy.fft.rfft2(piece))

    for _ in executor.map(work, range(len(members))):
        pass
    single = amplitude(band.shell_frequency / scale.mean())
    left = np.stack([single[rows].mean(axis=0) for rows in members])
    centre_y = (starts_y + len(window_y) / 2) / size[0] - 0.5
    centre_x = (starts_x + len(window_x) / 2) / size[1] - 0.5
    return Patches(
        frames=tuple(frames_of(band, data, left) for data in cut),
        band=band,
        centre=np.array([(x, y) for y in centre_y for x in centre_x]),
        scale=scale,
    )


@nb.njit(nogil=True, fastmath=True, cache=True, error_model="numpy")
def _add_moved(frame, amplitude, shell, pattern, ramp_y, ramp_x, spectrum):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Add a frame ``(2, ny, nx)``, without its amplitude and the pattern, to a finer grid, moved by ramps."""
    ny, nx = shell.shape
    upper, beyond = (ny + 1) // 2, spectrum.shape[0] - ny
    for y in range(ny):
        target = spectrum[y if y < upper else y + beyond]
        by = complex(ramp_y[0, y], ramp_y[1, y])
        for x in range(nx):
            left = amplitude[shell[y, x]] if shell[y, x] >= 0 else np.float32(1.0)
            value = complex(
                frame[0, y, x] / left - pattern[0, y, x], frame[1, y, x] / left - pattern[1, y, x]
            )
            target[x] += value * by * complex(ramp_x[0, x], ramp_x[1, x])


def _windows(length: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """First points of ``count`` windows over ``length`` points, and the window: flat, with sine flanks."""
    pitch = length / (count + OVERLAP)
    flank = round(OVERLAP * pitch)
    size = scipy.fft.prev_fast_len(min(int(pitch) + flank, length), real=True)
    starts = np.rint(np.linspace(0, length - size, count)).astype(int)
    window = np.ones(size, np.float32)
    rise = np.sin(0.5 * np.pi * (np.arange(flank) + 0.5) / max(flank, 1))
    window[:flank] = rise
    window[size - flank :] = rise[::-1]
    return starts, window


def grid_of(
    shape: tuple[int, int], pitch_px: float, finest_px: float, most: int = 8
) -> tuple[int, int] | None:
    """Rows and columns of patches about ``pitch_px`` apart; None where frames are too small for 2 × 2.

    ``finest_px`` is the period of the finest detail that is aligned.
    """
    rows, columns = (int(np.clip(round(n / pitch_px), 2, most)) for n in shape)
    points = [2 * n / finest_px / c for n, c in zip(shape, (rows, columns), strict=True)]
    return (rows, columns) if min(points) >= LEAST_POINTS else None
