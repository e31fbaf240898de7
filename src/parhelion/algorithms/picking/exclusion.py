"""Where no particle is looked for, and which peaks are not believed."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from parhelion.algorithms.picking.local import local_mean, local_variance, robust_level
from parhelion.algorithms.picking.reduced import ReducedMicrograph
from parhelion.errors import InputError

BACKGROUND_SIGMAS = 8.0
PEAK_SIGMAS = 4.0
WIDE_RADII = 2.5
WIDE_SIGMAS = 6.0
LARGEST_ASPECT_ERROR = 0.02
MAD_TO_SIGMA = 1.4826


@dataclass(frozen=True, kw_only=True)
class LocalMaps:
    """Local statistics of a reduced micrograph under a disc of the maximum radius, and under one 2.5 times
    wider; ``mode`` and ``sigma`` are the level and spread of the local means, ``inside`` the micrograph
    without its margins."""

    mean: np.ndarray
    wide_mean: np.ndarray
    variance: np.ndarray
    inside: np.ndarray
    mode: float
    sigma: float

    @classmethod
    def of(cls, micrograph: ReducedMicrograph, radius_angstrom: float) -> "LocalMaps":
        """The maps of one micrograph."""
        pixel = micrograph.pixel_yx_angstrom
        mean = local_mean(micrograph.levelled, pixel, radius_angstrom)
        inside = micrograph.distance_from_edge_px() >= 0
        mode, sigma = robust_level(mean[inside])
        return cls(
            mean=mean,
            wide_mean=local_mean(micrograph.levelled, pixel, WIDE_RADII * radius_angstrom),
            variance=local_variance(micrograph.data, pixel, radius_angstrom),
            inside=inside,
            mode=mode,
            sigma=max(sigma, 1e-6),
        )

    def unlike_background(self) -> np.ndarray:
        """Where the local mean is far from the mode: no place for a background box. Nothing, where that
        would leave less than a tenth of the micrograph."""
        far = np.abs(self.mean - self.mode) > BACKGROUND_SIGMAS * self.sigma
        return far if float((~far & self.inside).mean()) > 0.1 else np.zeros_like(far)


def contaminated_region(
    micrograph: ReducedMicrograph, probability: np.ndarray, threshold: float, reach_angstrom: float
) -> np.ndarray:
    """Boolean ``(y, x)`` on the reduced grid: within ``reach_angstrom`` of a pixel of ``probability`` above
    ``threshold``.

    The map covers the whole micrograph with pixels of any size. Raises InputError where its proportions
    are not the micrograph's.
    """
    ratio = [n / m for n, m in zip(probability.shape, micrograph.micrograph_shape, strict=True)]
    if abs(ratio[0] / ratio[1] - 1) > LARGEST_ASPECT_ERROR:
        raise InputError(
            f"the mask has {probability.shape[1]} x {probability.shape[0]} pixels, the micrograph "
            f"{micrograph.micrograph_shape[1]} x {micrograph.micrograph_shape[0]}: their proportions differ"
        )
    axes = []
    for n, scale, origin, size, part in zip(
        micrograph.data.shape,
        micrograph.scale_yx,
        micrograph.origin_yx,
        probability.shape,
        ratio,
        strict=True,
    ):
        at = (np.arange(n) * scale + origin + 0.5) * part - 0.5
        axes.append(np.clip(np.round(at), 0, size - 1).astype(np.int64))
    # small spots must not fall between the pixels of the coarser grid
    spots = ndimage.maximum_filter(probability, size=max(1, int(0.5 + ratio[0] * micrograph.scale_yx[0])))
    bad = spots[np.ix_(*axes)] > threshold
    if not bad.any() or reach_angstrom <= 0:
        return bad
    distance = ndimage.distance_transform_edt(~bad, sampling=micrograph.pixel_yx_angstrom)
    return np.asarray(distance <= reach_angstrom)


def wide_contamination(
    maps: LocalMaps, micrograph: ReducedMicrograph, peak_means: np.ndarray, radius_angstrom: float
) -> np.ndarray:
    """Boolean ``(y, x)``: large areas that are darker than particles are, or much brighter than the ice.

    Ice crystals, carbon and thick ice: the mean over 2.5 maximum radii lies twice as far from the ice as a
    typical peak's mean over one radius, where a field full of particles cannot reach. They are extended by
    the radius.
    """
    typical = float(np.median(peak_means)) - maps.mode if len(peak_means) else 0.0
    limit = max(WIDE_SIGMAS * maps.sigma, 2.0 * typical)
    off = maps.wide_mean - maps.mode
    far = (off > limit) | (off < -limit)
    if not far.any():
        return far
    distance = ndimage.distance_transform_edt(~far, sampling=micrograph.pixel_yx_angstrom)
    return np.asarray(distance <= radius_angstrom)


def abnormal(values: np.ndarray, least_sigma: float, height: np.ndarray) -> np.ndarray:
    """Which of the peaks' ``values (n,)`` lie more than four robust deviations from what is usual.

    Usual is the median of all, and that of the stronger half by ``height (n,)``: at a low threshold most
    peaks are noise, and the median of all is theirs.
    """
    if len(values) < 3:
        return np.zeros(len(values), bool)
    far = np.ones(len(values), bool)
    for group in (values, values[height >= np.median(height)]):
        middle = np.median(group)
        sigma = max(MAD_TO_SIGMA * float(np.median(np.abs(group - middle))), least_sigma)
        far &= np.abs(values - middle) > PEAK_SIGMAS * sigma
    return far
