"""A small movie of known motion, with the noise of counted electrons."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import scipy.fft


@dataclass
class Movie:
    """Frames in memory (``contracts.FrameSource``) and the true shifts ``(n, 2)`` to add to their content."""

    frames: list[np.ndarray]
    true_shift_px: np.ndarray
    specimen: np.ndarray

    @property
    def count(self) -> int:
        return len(self.frames)

    @property
    def shape(self) -> tuple[int, int]:
        return self.frames[0].shape

    def frame(self, index: int) -> np.ndarray:
        return self.frames[index].astype(np.float32)


def track(count: int, drift: float, rng: np.random.Generator) -> np.ndarray:
    """Fast at first, slower later, with a little unsteadiness."""
    time = np.arange(count) / max(count - 1, 1)
    way = drift * (1 - np.exp(-3 * time))[:, None] * np.array([0.8, -0.6])
    return way + np.cumsum(rng.normal(0, 0.15, (count, 2)), axis=0)


def simulated(
    size: tuple[int, int] = (512, 480),
    count: int = 16,
    dose: float = 1.0,
    drift: float = 12.0,
    contrast: float = 0.15,
    pattern: float = 0.0,
    field: np.ndarray | None = None,
    seed: int = 1,
) -> Movie:
    """Poisson counts of a specimen with power at all frequencies; ``field`` ``(n, 2)`` stretches along x."""
    rng = np.random.default_rng(seed)
    y, x = scipy.fft.fftfreq(size[0])[:, None], scipy.fft.rfftfreq(size[1])[None, :]
    radius = np.hypot(y, x)
    spectrum = scipy.fft.rfft2(rng.standard_normal(size)) * np.exp(-30 * radius**2) / (1 + (40 * radius) ** 2)
    spectrum[0, 0] = 0
    specimen = scipy.fft.irfft2(spectrum, s=size)
    spectrum *= contrast / specimen.std()
    specimen *= contrast / specimen.std()
    gain = 1 + pattern * rng.standard_normal(size)
    shifts = track(count, drift, rng)
    frames = []
    rows, columns = np.indices(size).astype(float)
    for i, (dx, dy) in enumerate(shifts):
        moved = scipy.fft.irfft2(spectrum * np.exp(2j * np.pi * (dx * x + dy * y)), s=size)
        if field is not None:
            from scipy.ndimage import map_coordinates

            place = columns / size[1] - 0.5
            moved = map_coordinates(
                moved, [rows + field[i, 1] * place, columns + field[i, 0] * place], order=5
            )
        frames.append(rng.poisson(dose * np.clip((1 + moved) * gain, 0, None)).astype(np.uint8))
    return Movie(frames, shifts, specimen)


def root_mean_square(found: np.ndarray, true: np.ndarray) -> float:
    """Root mean square per axis, means over the frames removed."""
    error = found - true
    return float(np.sqrt(((error - error.mean(axis=0)) ** 2).mean()))


@pytest.fixture(scope="session")
def movie() -> Movie:
    """512 × 480 pixels, 16 frames of 1 e⁻ per pixel."""
    return simulated()


@pytest.fixture(scope="session")
def make_movie() -> Callable[..., Movie]:
    """``make_movie(size=, count=, dose=, drift=, contrast=, pattern=, field=, seed=)``."""
    return simulated


@pytest.fixture(scope="session")
def rms() -> Callable[[np.ndarray, np.ndarray], float]:
    """``rms(found, true)`` per axis, means over the frames removed."""
    return root_mean_square
