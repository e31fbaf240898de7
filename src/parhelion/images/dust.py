"""Pixels that no specimen explains: cosmic rays and dirt, replaced by noise of the background."""

import numpy as np


def remove_dust(
    images: np.ndarray,
    background: np.ndarray,
    *,
    white_sigmas: float | None,
    black_sigmas: float | None,
    generator: np.random.Generator,
) -> tuple[np.ndarray, int]:
    """Images ``(n, y, x)`` float32 without pixels far from their image's mean, and how many there were.

    A pixel more than ``white_sigmas`` standard deviations of its image above the image's mean, or
    ``black_sigmas`` below (None: any), is replaced by Gaussian noise with mean and deviation of the clean
    pixels in ``background`` (boolean ``(y, x)``). Mean and deviation are those of the image without the
    outermost thousandth, so that bright dust does not hide itself.
    """
    out = np.array(images, dtype=np.float32)
    low, high = np.percentile(out, [0.05, 99.95], axis=(1, 2))
    replaced = 0
    for image, least, most in zip(out, low, high):
        core = image[(image >= least) & (image <= most)]
        mean, deviation = float(core.mean(dtype=np.float64)), float(core.std(dtype=np.float64))
        dust = np.zeros(image.shape, bool)
        if white_sigmas is not None:
            dust |= image > mean + white_sigmas * deviation
        if black_sigmas is not None:
            dust |= image < mean - black_sigmas * deviation
        count = int(np.count_nonzero(dust))
        if not count:
            continue
        clean = image[background & ~dust]
        # an image that is dust throughout keeps its own mean
        around = (float(clean.mean()), float(clean.std())) if len(clean) > 1 else (mean, deviation)
        image[dust] = generator.normal(*around, count)
        replaced += count
    return out, replaced
