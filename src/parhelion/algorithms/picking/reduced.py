"""A micrograph at the pixel size of picking: binned, outliers clipped, Fourier-cropped, mirrored margins.

The pixel is half of the highest resolution used, so that the corners of Fourier space stay intact
(Sigworth 2004, J. Struct. Biol. 145, 111; cisTEM does the same).
"""

from dataclasses import dataclass, field

import numpy as np
import torch

from parhelion.errors import InputError, ParameterError
from parhelion.fourier.grids import rfft_frequencies

CLIP_SIGMAS = 8.0
BINNED_PIXELS_PER_RESOLUTION = 8.0
MAD_TO_SIGMA = 1.4826
LEAST_SIDE = 24


@dataclass(frozen=True, kw_only=True)
class ReducedMicrograph:
    """``data`` ``(y, x)`` float32, protein white, robust mean 0 and deviation 1, with mirrored margins.

    ``pixel_yx_angstrom`` is its pixel size along y and x (they differ by a fraction of a percent, since
    the grid is fitted to the micrograph). Pixel ``(j, i)`` lies at ``scale * (j, i) + origin`` in pixels
    of the micrograph, whose shape and pixel size are kept. ``levelled`` is the same picture before its
    slow background was filtered away (only a plane was removed), for the test of local means.
    """

    data: np.ndarray = field(repr=False)
    levelled: np.ndarray = field(repr=False)
    pixel_yx_angstrom: tuple[float, float]
    scale_yx: tuple[float, float]
    origin_yx: tuple[float, float]
    micrograph_shape: tuple[int, int]
    micrograph_pixel_angstrom: float

    @property
    def pixel_angstrom(self) -> float:
        """The mean of the two pixel sizes."""
        return 0.5 * sum(self.pixel_yx_angstrom)

    def to_micrograph(self, yx: np.ndarray) -> np.ndarray:
        """Positions ``(n, 2)`` (y, x) of this grid as ``(x, y)`` in pixels of the micrograph."""
        return (np.asarray(yx, np.float64) * self.scale_yx + self.origin_yx)[:, ::-1]

    def from_micrograph(self, xy: np.ndarray) -> np.ndarray:
        """Positions ``(n, 2)`` (x, y) of the micrograph as ``(y, x)`` on this grid."""
        return (np.asarray(xy, np.float64)[:, ::-1] - self.origin_yx) / self.scale_yx

    def edge_distance_of(self, yx: np.ndarray) -> np.ndarray:
        """Distance ``(n,)`` of positions ``(n, 2)`` (y, x) of this grid from the nearest edge, in the
        micrograph's pixels."""
        xy = self.to_micrograph(yx)
        far = np.array(self.micrograph_shape[::-1]) - 0.5
        return np.minimum(xy + 0.5, far - xy).min(axis=1)

    def distance_from_edge_px(self) -> np.ndarray:
        """Distance ``(y, x)`` of each pixel from the nearest edge, in the micrograph's pixels; negative
        in the margins."""
        along = []
        for n, scale, origin, size in zip(
            self.data.shape, self.scale_yx, self.origin_yx, self.micrograph_shape, strict=True
        ):
            at = np.arange(n) * scale + origin
            along.append(np.minimum(at + 0.5, size - 0.5 - at))
        return np.minimum(along[0][:, None], along[1][None, :])


def reduce_micrograph(
    image: np.ndarray,
    pixel_size_angstrom: float,
    *,
    highest_resolution_angstrom: float,
    largest_radius_angstrom: float,
    white: bool,
) -> ReducedMicrograph:
    """``image (y, x)`` at half of ``highest_resolution_angstrom`` per pixel (or its own pixel, if coarser).

    Values further than eight robust deviations from the median are clipped; the slow background (beyond
    four ``largest_radius_angstrom``) is removed; black protein is turned white. Margins of the largest
    radius mirror the edges. Raises InputError for an image without contrast or with too few pixels, and
    ParameterError for lengths that are not positive.
    """
    for name, value in (
        ("pixel size", pixel_size_angstrom),
        ("highest resolution", highest_resolution_angstrom),
        ("largest radius", largest_radius_angstrom),
    ):
        if not (np.isfinite(value) and value > 0):
            raise ParameterError(f"{name}: a positive length in Å is needed, found {value}")
    binning = max(1, int(highest_resolution_angstrom / (BINNED_PIXELS_PER_RESOLUTION * pixel_size_angstrom)))
    binned = _clipped(_binned(image, binning))
    if not white:
        binned = -binned
    target = max(0.5 * highest_resolution_angstrom, pixel_size_angstrom)
    pixel = pixel_size_angstrom * binning
    margin = min(int(np.ceil(largest_radius_angstrom / pixel)) + 2, min(binned.shape) - 1)
    if (
        min(binned.shape) * pixel < LEAST_SIDE * target
        or min(binned.shape) * pixel < 4 * largest_radius_angstrom
    ):
        raise InputError(
            f"the micrograph measures {image.shape[1]} x {image.shape[0]} pixels of "
            f"{pixel_size_angstrom:.4g} Å: too small to look for particles of radius "
            f"{largest_radius_angstrom:g} Å at {highest_resolution_angstrom:g} Å; check the pixel size"
        )
    levelled = binned - _plane(binned)
    padded = np.pad(levelled, margin, mode="reflect")
    coarse = _cropped(padded, binning, pixel / target)
    pixel_y, pixel_x = (pixel * old / new for old, new in zip(padded.shape, coarse.shape))
    smooth = _highpassed(coarse, (pixel_y, pixel_x), 2.0 * largest_radius_angstrom)
    sigma = MAD_TO_SIGMA * float(np.median(np.abs(smooth - np.median(smooth))))
    if not sigma > 0:
        raise InputError(
            "most of the micrograph has one value (saturated or blank?): nothing can be found in it"
        )
    start = -margin * binning + 0.5 * (binning - 1)
    return ReducedMicrograph(
        data=((smooth - np.median(smooth)) / sigma).astype(np.float32),
        levelled=(coarse / sigma).astype(np.float32),
        pixel_yx_angstrom=(pixel_y, pixel_x),
        scale_yx=(pixel_y / pixel_size_angstrom, pixel_x / pixel_size_angstrom),
        origin_yx=(start, start),
        micrograph_shape=(int(image.shape[0]), int(image.shape[1])),
        micrograph_pixel_angstrom=float(pixel_size_angstrom),
    )


def _binned(image: np.ndarray, factor: int) -> np.ndarray:
    """Means over squares of ``factor`` pixels; what is left over at the far edges is dropped."""
    image = np.asarray(image, np.float32)
    if image.ndim != 2:
        raise ParameterError(f"one image (y, x) is needed, found shape {image.shape}")
    y, x = (n // factor for n in image.shape)
    if min(y, x) < 4:
        raise InputError(f"an image of {image.shape[1]} x {image.shape[0]} pixels is no micrograph")
    if factor == 1:
        return image
    part = image[: y * factor, : x * factor]
    # rows first: the sum runs over contiguous memory
    rows = part.reshape(y, factor, x * factor).sum(axis=1)
    return rows.reshape(y, x, factor).sum(axis=2) * np.float32(1.0 / factor**2)


def _clipped(image: np.ndarray) -> np.ndarray:
    finite = np.isfinite(image)
    if not finite.all():
        if finite.mean() < 0.5:
            raise InputError("more than half of the pixels are not finite numbers (NaN or infinity)")
        image = np.where(finite, image, np.median(image[finite]))
    middle = float(np.median(image))
    sigma = MAD_TO_SIGMA * float(np.median(np.abs(image - middle)))
    if not sigma > 0:
        sigma = float(image.std())
    if not sigma > 1e-6 * abs(middle) or not sigma > 0:
        raise InputError("the micrograph is constant: nothing can be found in it")
    return np.clip(image - np.float32(middle), -CLIP_SIGMAS * sigma, CLIP_SIGMAS * sigma) / np.float32(sigma)


def _plane(image: np.ndarray) -> np.ndarray:
    """The plane through the medians of 16 x 16 tiles, fitted three times without tiles that lie far off:
    a contaminated corner does not tilt it."""
    y, x = (max(1, n // 16) for n in image.shape)
    rows, columns = image.shape[0] // y, image.shape[1] // x
    tiles = np.median(image[: rows * y, : columns * x].reshape(rows, y, columns, x), axis=(1, 3))
    at_y, at_x = np.mgrid[:rows, :columns]
    design = np.stack([np.ones(tiles.size), at_y.ravel() * y + y / 2, at_x.ravel() * x + x / 2], axis=1)
    values, use = tiles.ravel(), np.ones(tiles.size, bool)
    for _ in range(3):
        fit = np.linalg.lstsq(design[use], values[use], rcond=None)[0]
        off = values - design @ fit
        middle = np.median(off[use])
        spread = MAD_TO_SIGMA * np.median(np.abs(off[use] - middle)) + 1e-6
        use = np.abs(off - middle) < 3 * spread
    full_y, full_x = np.ogrid[: image.shape[0], : image.shape[1]]
    return (fit[0] + fit[1] * full_y + fit[2] * full_x).astype(np.float32)


def _cropped(image: np.ndarray, binning: int, ratio: float) -> np.ndarray:
    """The image with about ``ratio`` times as many pixels, cropped in Fourier space about the first
    pixel; the attenuation that binning left is divided out."""
    shape = tuple(min(n, max(8, 2 * round(0.5 * n * ratio))) for n in image.shape)
    transform = torch.fft.rfft2(torch.from_numpy(np.ascontiguousarray(image)))
    y, x = shape
    keep = x // 2 + 1
    out = torch.cat([transform[: (y + 1) // 2, :keep], transform[image.shape[0] - y // 2 :, :keep]])
    fy = torch.fft.fftfreq(y) * (y / image.shape[0])
    fx = torch.fft.rfftfreq(x) * (x / image.shape[1])
    if binning > 1:
        out = out / (_binning_transfer(fy, binning)[:, None] * _binning_transfer(fx, binning)[None, :])
    out = out * (y * x / (image.shape[0] * image.shape[1]))
    return torch.fft.irfft2(out, s=shape).numpy()


def _binning_transfer(frequency: torch.Tensor, binning: int) -> torch.Tensor:
    """Transfer of the mean over ``binning`` pixels; ``frequency`` in cycles per binned pixel."""
    fine = torch.pi * frequency.double() / binning
    value = torch.sin(binning * fine) / (binning * torch.sin(fine).where(fine != 0, torch.ones_like(fine)))
    return value.where(fine != 0, torch.ones_like(fine)).float()


def _highpassed(image: np.ndarray, pixel_yx: tuple[float, float], sigma_angstrom: float) -> np.ndarray:
    """The image less its convolution with a Gaussian of this standard deviation."""
    fy, fx = rfft_frequencies(image.shape)
    squares = (fy / pixel_yx[0]) ** 2 + (fx / pixel_yx[1]) ** 2
    transform = torch.fft.rfft2(torch.from_numpy(image))
    kept = 1.0 - torch.exp(-2 * (torch.pi * sigma_angstrom) ** 2 * squares)
    return torch.fft.irfft2(transform * kept, s=image.shape).numpy()
