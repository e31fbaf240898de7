"""Local means and variances of an image under a disc, as maps, by Fourier transforms."""

import numpy as np
import torch


def disc_transform(
    shape: tuple[int, int], pixel_yx_angstrom: tuple[float, float], radius_angstrom: float
) -> torch.Tensor:
    """Transform (half layout) of a disc about pixel (0, 0) whose sum is 1; its edge is one pixel wide."""
    distance = wrapped_distance(shape, pixel_yx_angstrom)
    pixel = 0.5 * sum(pixel_yx_angstrom)
    disc = ((radius_angstrom - distance) / pixel + 0.5).clamp(0.0, 1.0)
    disc[0, 0] = 1.0
    return torch.fft.rfft2(disc / disc.sum())


def wrapped_distance(shape: tuple[int, int], pixel_yx_angstrom: tuple[float, float]) -> torch.Tensor:
    """Distance ``(y, x)`` in Å of each pixel from pixel (0, 0), the shorter way around."""
    axes = [
        torch.fft.fftfreq(n, dtype=torch.float64) * n * pixel
        for n, pixel in zip(shape, pixel_yx_angstrom, strict=True)
    ]
    return torch.sqrt(axes[0][:, None] ** 2 + axes[1][None, :] ** 2).float()


def local_mean(
    image: np.ndarray, pixel_yx_angstrom: tuple[float, float], radius_angstrom: float
) -> np.ndarray:
    """Mean of ``image (y, x)`` under a disc about each pixel; the image is periodic."""
    shape = (int(image.shape[0]), int(image.shape[1]))
    kernel = disc_transform(shape, pixel_yx_angstrom, radius_angstrom)
    return torch.fft.irfft2(torch.fft.rfft2(torch.from_numpy(image)) * kernel, s=shape).numpy()


def local_variance(
    image: np.ndarray, pixel_yx_angstrom: tuple[float, float], radius_angstrom: float
) -> np.ndarray:
    """Variance of ``image (y, x)`` under a disc about each pixel, at least 0; the image is periodic."""
    shape = (int(image.shape[0]), int(image.shape[1]))
    kernel = disc_transform(shape, pixel_yx_angstrom, radius_angstrom)
    pair = torch.stack([torch.from_numpy(image), torch.from_numpy(image) ** 2])
    mean, square = torch.fft.irfft2(torch.fft.rfft2(pair) * kernel, s=shape)
    return (square - mean**2).clamp_min(0.0).numpy()


def robust_level(values: np.ndarray) -> tuple[float, float]:
    """Mode of ``values`` and the deviation of what lies below it, twice as many below as a Gaussian's
    share: outliers above count neither for the one nor for the other.

    The mode is the middle of the densest half (Rousseeuw's shorth). The deviation is that which makes
    68 % of the values below the mode lie within it.
    """
    ordered = np.sort(np.asarray(values, np.float64).ravel())
    half = (len(ordered) + 1) // 2
    widths = ordered[half - 1 :] - ordered[: len(ordered) - half + 1]
    start = int(np.argmin(widths))
    mode = float(ordered[start : start + half].mean())
    below = mode - ordered[ordered < mode]
    return mode, float(np.quantile(below, 0.6827)) if len(below) else 0.0
