"""How a specimen moves while a movie is taken: drift of the whole field, and smooth local motion.

A point at ``r`` in the first frame lies at ``r + global(t) + local(t, r)`` in frame ``t`` (counted from 0).
The local part is the model of RELION's motion correction: a polynomial of second order in the position and
third order in time without a constant (Zheng et al. 2017, Nat. Methods 14, 331; Zivanov et al. 2018,
eLife 7, e42166).
"""

from dataclasses import dataclass

import numpy as np

SETTLING_FRAMES_SHARE = 0.2
SLOW_SHARE = 0.35
BEND_DEG = 60.0
JITTER_SHARE = 0.004
SAMPLES_PER_FRAME = 16
SPATIAL_TERMS = 6
TIME_TERMS = 3


@dataclass(frozen=True, kw_only=True)
class BeamInducedMotion:
    """Displacements of the content, in pixels of the detector.

    ``global_xy_px`` ``(frames, 2)``: of the whole field, averaged over each frame, relative to the first;
    ``blur_xy_px`` ``(frames, 2)``: how far the field moves while the frame is taken; ``local_px``
    ``(2, 6, 3)``: coefficients of the local motion of x and y, for the terms 1, x, x², y, y², xy of the
    position (``x / width - ½``, likewise y) and t, t², t³ of the frame number.
    """

    global_xy_px: np.ndarray
    blur_xy_px: np.ndarray
    local_px: np.ndarray

    def local_coefficients(self, frame: int) -> np.ndarray:
        """Coefficients ``(2, 6)`` of the position's terms in this frame."""
        return np.asarray(self.local_px @ (float(frame) ** np.arange(1, TIME_TERMS + 1)))

    def displacement_px(self, frame: int, xy_px: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
        """Whole displacement ``(n, 2)`` in this frame of points ``(n, 2)`` in a field ``(height, width)``."""
        terms = spatial_terms(xy_px[:, 0] / shape[1] - 0.5, xy_px[:, 1] / shape[0] - 0.5)
        return np.asarray(self.global_xy_px[frame] + terms @ self.local_coefficients(frame).T)

    def largest_px(self) -> float:
        """A bound of the displacement along x or y over all frames and positions."""
        edge = np.array([1.0, 0.5, 0.25, 0.5, 0.25, 0.25])
        local = max(
            float((np.abs(self.local_coefficients(t)) @ edge).max()) for t in range(len(self.global_xy_px))
        )
        return float(np.abs(self.global_xy_px).max() + local)


def spatial_terms(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The terms ``(n, 6)`` 1, x, x², y, y², xy."""
    return np.stack([np.ones_like(x), x, x * x, y, y * y, x * y], axis=-1)


def random_motion(
    frames: int,
    pixel_size_angstrom: float,
    drift_angstrom: float,
    local_angstrom: float,
    generator: np.random.Generator,
) -> BeamInducedMotion:
    """A track whose end is ``drift_angstrom`` from its start, fast at first and bending; local motion of at
    most ``local_angstrom`` in the last frame, none on average over the field."""
    track, blur = _track(frames, drift_angstrom, generator)
    local = np.zeros((2, SPATIAL_TERMS, TIME_TERMS))
    if frames > 1 and local_angstrom > 0:
        local = _local(frames, local_angstrom, generator)
    return BeamInducedMotion(
        global_xy_px=track / pixel_size_angstrom,
        blur_xy_px=blur / pixel_size_angstrom,
        local_px=local / pixel_size_angstrom,
    )


def _track(
    frames: int, drift_angstrom: float, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Mean positions in the frames and the way within each, ``(frames, 2)`` in Å."""
    if frames == 1:
        return np.zeros((1, 2)), np.zeros((1, 2))
    direction = generator.uniform(0, 2 * np.pi)
    bend = np.deg2rad(generator.uniform(-BEND_DEG, BEND_DEG))
    edges = _path(np.arange(frames + 1) - 0.5, frames, direction, bend)
    within = (np.arange(SAMPLES_PER_FRAME) + 0.5) / SAMPLES_PER_FRAME - 0.5
    samples = (np.arange(frames)[:, None] + within).ravel()
    middle = _path(samples, frames, direction, bend).reshape(frames, SAMPLES_PER_FRAME, 2).mean(axis=1)
    middle += JITTER_SHARE * generator.standard_normal((frames, 2))
    middle -= middle[0]
    scale = drift_angstrom / float(np.linalg.norm(middle[-1]))
    return middle * scale, np.diff(edges, axis=0) * scale


def _path(time: np.ndarray, frames: int, direction: float, bend: float) -> np.ndarray:
    """Points ``(n, 2)`` of a bent path of length about 1: a burst that settles, and a steady rest."""
    share = time / (frames - 1)
    length = (1 - SLOW_SHARE) * (1 - np.exp(-share / SETTLING_FRAMES_SHARE)) + SLOW_SHARE * share
    angle = direction + bend * length
    return np.stack([length * np.cos(angle), length * np.sin(angle)], axis=1)


def _local(frames: int, local_angstrom: float, generator: np.random.Generator) -> np.ndarray:
    """Coefficients ``(2, 6, 3)`` in Å: a random second-order field that grows as the drift does."""
    time = np.arange(frames, dtype=float)
    wanted = 1 - np.exp(-time / (SETTLING_FRAMES_SHARE * 2 * (frames - 1)))
    powers = np.stack([time, time**2, time**3], axis=1) / (frames - 1.0) ** np.arange(1, 4)
    fitted = np.linalg.lstsq(powers, wanted, rcond=None)[0]
    fitted /= (powers @ fitted)[-1]
    space = generator.standard_normal((2, SPATIAL_TERMS)) * np.array([0.0, 1.0, 1.5, 1.0, 1.5, 1.5])
    space[:, 0] = -(space[:, 2] + space[:, 4]) / 12  # the mean of x² over the field is 1/12
    corner = np.linspace(-0.5, 0.5, 21)
    x, y = (g.ravel() for g in np.meshgrid(corner, corner))
    largest = np.linalg.norm(spatial_terms(x, y) @ space.T, axis=1).max()
    in_time = fitted / (frames - 1.0) ** np.arange(1, 4)
    return np.asarray((space * local_angstrom / largest)[:, :, None] * in_time)
