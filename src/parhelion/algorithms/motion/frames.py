"""The frames of a movie as the rest of the package wants them: corrected for the detector and binned.

In this order: dark reference, gain reference, bad pixels, magnification distortion, Fourier binning.

Bad pixels are those of the list of defects, those with gain 0, those that never counted, and hot pixels:
outliers of the mean frame after the gain by more than 12 standard deviations. What is beyond 12 standard
deviations in a single frame (an X-ray, a cosmic ray) is replaced in that frame. The limit is cisTEM's (Grant,
Rohou & Grigorieff 2018, eLife 7, e35383), where the replacement is the mean of the frame; here it is a pixel
drawn from the good ones around, so that neither mean nor noise show where a pixel was replaced.

Magnification distortion (Grant & Grigorieff 2015, J. Struct. Biol. 192, 204-208) is given by cisTEM's three
numbers: an angle in degrees and two scales. In (x, y) of the stored array the image is stretched by the major
scale along (cos angle, -sin angle) and by the minor scale across it, about pixel ``n // 2``, by cubic spline
interpolation. The pixel size becomes smaller by the mean of both scales.
"""

from pathlib import Path

import numpy as np
import scipy.ndimage

from parhelion.algorithms.motion.pixels import calibrate, statistics
from parhelion.contracts import FrameSource
from parhelion.errors import InputError, ParameterError
from parhelion.fourier.crop import binned_shape, fourier_bin
from parhelion.images.bad_pixels import hot_pixels, moments, outlier_limits, replace_pixels
from parhelion.images.frame_survey import FrameSurvey, survey_frames
from parhelion.images.gain_pattern import fit_gain

HOT_SIGMAS = 12.0
SURELY_COUNTED = 20.0
"""Where a pixel should have counted so many electrons, one without any is dead (chance 2e-9)."""
LINE_SHARE, LINE_WINDOW = 0.5, 15
MANY_SHARE = 0.02
"""More bad pixels than this share mean that something else is wrong."""
CREDIBLE_SCALES = (0.8, 1.25)


class CorrectedFrames:
    """``count`` corrected frames of ``shape`` (y, x), computed when asked for (``contracts.FrameSource``).

    ``gain`` (y, x) is multiplied, ``dark`` (y, x) subtracted before, ``defects`` (y, x, bool) marks bad
    pixels, all of the source's shape. ``magnification`` is (angle in degrees, major scale, minor scale).
    ``binning`` of at least 1 shrinks the frames to the even sizes next to it that keep their shape
    (``fourier.crop.binned_shape``); 1 leaves their size alone. ``seed`` and the frame's number decide what
    replaces bad pixels. ``workers`` threads transform and read.

    The whole movie is read once when this is made. ``dead_frames`` are the numbers (from 0) of empty frames,
    ``findings`` say what is wrong with the movie, ``bad_pixels`` (y, x) are the pixels of the detector that
    are replaced in every frame, ``binning_yx`` is the binning that was reached. ``pixel_size_angstrom`` is
    that of the result, None where the source's is unknown. Values stay counts per pixel of the detector.

    Frames of small whole numbers are kept from that first reading until they are asked for, in at most the
    memory of one float32 copy of the binned movie (``keep=False``: never).

    Raises ParameterError for impossible parameters, InputError where references and frames differ in size
    and where no frame was exposed.
    """

    def __init__(
        self,
        source: FrameSource,
        *,
        gain: np.ndarray | None = None,
        dark: np.ndarray | None = None,
        defects: np.ndarray | None = None,
        magnification: tuple[float, float, float] | None = None,
        binning: float = 1.0,
        hot_sigmas: float = HOT_SIGMAS,
        seed: int = 0,
        workers: int = 1,
        keep: bool = True,
    ) -> None:
        if source.count < 1:
            raise InputError(f"{_name(source)} holds no frames")
        if not hot_sigmas > 0:
            raise ParameterError(
                f"the limit of hot pixels is {hot_sigmas} standard deviations, expected above 0"
            )
        for what, reference in (("gain", gain), ("dark", dark), ("defects", defects)):
            if reference is not None and reference.shape != tuple(source.shape):
                raise InputError(
                    f"{what}: the reference has {reference.shape[1]} x {reference.shape[0]} pixels (x, y), "
                    f"the frames of {_name(source)} {source.shape[1]} x {source.shape[0]}"
                )
        self.path: Path | None = getattr(source, "path", None)
        self.count = source.count
        self.shape = binned_shape(source.shape, binning)
        self._source, self._seed, self._sigmas, self._workers = source, seed, hot_sigmas, workers
        self._gain, self._dark = _as_float(gain), _as_float(dark)
        self._transform = None if magnification is None else _distortion(magnification)
        self.binning_yx = (source.shape[0] / self.shape[0], source.shape[1] / self.shape[1])
        self.pixel_size_angstrom = self._pixel_size(magnification)
        room = 4 * self.count * self.shape[0] * self.shape[1] if keep else 0
        survey = survey_frames(source, keep_bytes=room, workers=workers)
        if survey.live == 0:
            raise InputError(
                f"none of the {self.count} frames of {_name(source)} shows anything: each is zero, or of one "
                "value, everywhere"
            )
        self._kept = survey.kept
        self.dead_frames = survey.dead
        self._not_finite = survey.not_finite > 0
        self.bad_pixels, found = self._bad_pixels(survey, defects)
        self._any_bad = bool(self.bad_pixels.any())
        self.findings = (*survey.findings(), *found)

    def frame(self, index: int) -> np.ndarray:
        """Frame ``index`` (from 0), ``(y, x)`` float32; a dead one comes without replacement of outliers."""
        image = self._calibrated(self._raw(index))
        if index not in self.dead_frames:
            self._repair(image, index)
        if self._transform is not None:
            image = _undistorted(image, self._transform)
        if self.shape != image.shape:
            image = fourier_bin(image, self.shape, self._workers)
        return image

    def _raw(self, index: int) -> np.ndarray:
        kept = self._kept.pop(index, None)
        return self._source.frame(index) if kept is None else kept

    def _calibrated(self, raw: np.ndarray) -> np.ndarray:
        """``(raw - dark) * gain``, always a new array."""
        image = np.empty(raw.shape, np.float32)
        calibrate(raw, self._dark, self._gain, image)
        return image

    def _repair(self, image: np.ndarray, index: int) -> None:
        """Replace bad pixels and outliers of one frame, in place."""
        rng = np.random.default_rng((self._seed, index))
        bad = self.bad_pixels
        if self._not_finite[index]:
            bad = bad | ~np.isfinite(image)
        if self._any_bad or self._not_finite[index]:
            replace_pixels(image, bad, rng)
        mean, variance, least, greatest = statistics(image)
        low, high = outlier_limits(mean, variance, self._sigmas)
        if greatest > high or least < low:
            replace_pixels(image, bad | (image > high) | (image < low), rng)

    def _bad_pixels(self, survey: FrameSurvey, defects: np.ndarray | None) -> tuple[np.ndarray, list[str]]:
        """Pixels to replace in every frame, and what is worth saying about them."""
        found = []
        bad = np.zeros(survey.total.shape, bool) if defects is None else defects.astype(bool)
        if self._gain is not None:
            bad = bad | (self._gain == 0)
        if bad.all():
            raise InputError(f"gain and defects leave no good pixel of {_name(self._source)}")
        raw = survey.total / np.float32(survey.live)
        if self._gain is not None and min(raw.shape) >= 16:
            fit = fit_gain(raw if self._dark is None else raw - self._dark, self._gain, bad).finding()
            found += [fit] if fit else []
        if self._dark is None:
            silent = (_silent_pixels(survey, bad) | _silent_lines(raw)) & ~bad
            share = np.count_nonzero(silent) / bad.size
            if share > MANY_SHARE:
                found.append(f"{100 * share:.2g} % of the pixels never counted: a shadow, or cut frames")
            else:
                bad |= silent
        hot = hot_pixels(self._calibrated(raw), bad, self._sigmas)
        share = np.count_nonzero(hot) / bad.size
        if share > MANY_SHARE:
            found.append(
                f"{100 * share:.2g} % of the pixels are hot (above {self._sigmas:g} standard deviations): "
                "check gain and dark reference"
            )
        return bad | hot, found

    def _pixel_size(self, magnification: tuple[float, float, float] | None) -> float | None:
        size = getattr(self._source, "pixel_size_angstrom", None)
        if size is None:
            return None
        scale = 1.0 if magnification is None else 0.5 * (magnification[1] + magnification[2])
        return float(size * np.sqrt(self.binning_yx[0] * self.binning_yx[1]) / scale)


def binning_to(
    pixel_size_angstrom: float,
    wanted_angstrom: float,
    magnification: tuple[float, float, float] | None = None,
) -> float:
    """The binning that leads from a detector's pixel size to the wanted one.

    Raises ParameterError where the wanted pixels are smaller than the detector's.
    """
    scale = 1.0 if magnification is None else 0.5 * (magnification[1] + magnification[2])
    binning = wanted_angstrom * scale / pixel_size_angstrom
    if not binning >= 1 - 1e-3:
        raise ParameterError(
            f"pixels of {wanted_angstrom:g} Å are wanted, the detector's have "
            f"{pixel_size_angstrom / scale:g} Å; movies are not interpolated to smaller pixels"
        )
    return max(binning, 1.0)


def _silent_pixels(survey: FrameSurvey, bad: np.ndarray) -> np.ndarray:
    """Pixels without any count where the others have so many that it cannot be chance."""
    level, _ = moments(survey.total, np.flatnonzero(bad))
    if level < SURELY_COUNTED:
        return np.zeros(bad.shape, bool)
    return survey.total == 0


def _silent_lines(mean_frame: np.ndarray) -> np.ndarray:
    """Whole rows and columns with less than half the counts of those around them."""
    silent = np.zeros(mean_frame.shape, bool)
    for axis in (0, 1):
        line = mean_frame.mean(axis=1 - axis)
        low = line < LINE_SHARE * scipy.ndimage.median_filter(line, LINE_WINDOW, mode="nearest")
        silent |= low[:, None] if axis == 0 else low[None, :]
    return silent


def _name(source: FrameSource) -> str:
    return str(getattr(source, "path", None) or "the movie")


def _as_float(reference: np.ndarray | None) -> np.ndarray | None:
    return None if reference is None else np.ascontiguousarray(reference, dtype=np.float32)


def _distortion(magnification: tuple[float, float, float]) -> np.ndarray:
    """The matrix that leads from a corrected position (y, x about the centre) to the recorded one."""
    angle, major, minor = magnification
    low, high = CREDIBLE_SCALES
    if not (np.isfinite(angle) and low <= major <= high and low <= minor <= high):
        raise ParameterError(
            f"magnification distortion is angle {angle:g}°, scales {major:g} and {minor:g}; "
            f"scales between {low:g} and {high:g} are expected"
        )
    cos, sin = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    to_axes = np.array([[cos, -sin], [sin, cos]])
    matrix_xy = to_axes.T @ np.diag([1 / major, 1 / minor]) @ to_axes
    return matrix_xy[::-1, ::-1]


def _undistorted(image: np.ndarray, matrix_yx: np.ndarray) -> np.ndarray:
    centre = np.array([n // 2 for n in image.shape], float)
    return scipy.ndimage.affine_transform(
        image, matrix_yx, offset=centre - matrix_yx @ centre, order=3, mode="mirror", output=np.float32
    )
