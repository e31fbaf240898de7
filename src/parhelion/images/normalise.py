"""Bring particle images to a common scale, and tell white protein from black."""

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from parhelion.errors import InputError, ParameterError
from parhelion.images.masks import radius_grid


def background_pixels(box: int, radius_pixels: float) -> np.ndarray:
    """Boolean ``(box, box)``: pixels further than ``radius_pixels`` from pixel ``box // 2``.

    Raises ParameterError when fewer than 20 pixels remain to measure the background.
    """
    outside = radius_grid((box, box)) > radius_pixels
    if radius_pixels <= 0 or outside.sum() < 20:
        raise ParameterError(
            f"the background radius is {radius_pixels:g} pixels in a box of {box}: fewer than 20 pixels "
            "are left outside it, or it is not positive; use a smaller one or a larger box"
        )
    return outside


def normalise_background(
    images: np.ndarray,
    background_radius_pixels: float,
    *,
    ramp: bool = True,
    dust_sigmas: float | None = None,
    generator: np.random.Generator | None = None,
) -> np.ndarray:
    """Images ``(n, y, x)`` float32 whose background, outside the radius, has mean 0 and variance 1.

    ``ramp`` subtracts the plane fitted to the background first. ``dust_sigmas`` replaces pixels
    further than that many standard deviations (of the whole image) from its mean by Gaussian noise of
    the background (``generator`` is needed then). Raises InputError naming the images that are not
    finite or have a constant background.
    """
    work = np.array(images, dtype=np.float32)
    if work.ndim != 3 or work.shape[1] != work.shape[2]:
        raise ParameterError(f"square images (n, y, x) are needed, found shape {work.shape}")
    broken = np.flatnonzero(~np.isfinite(work).all(axis=(1, 2)))
    if len(broken):
        raise InputError(
            f"{len(broken)} images hold values that are not numbers, first image {broken[0] + 1}"
        )
    outside = background_pixels(work.shape[1], background_radius_pixels)
    if ramp:
        work -= _ramps(work, outside)
    if dust_sigmas is not None:
        if generator is None:
            raise ParameterError("removing dust needs a random generator, so that a run can be repeated")
        _remove_dust(work, outside, dust_sigmas, generator)
    values = work[:, outside]
    mean, deviation = values.mean(axis=1, dtype=np.float64), values.std(axis=1, dtype=np.float64)
    flat = np.flatnonzero(deviation <= 1e-6 * np.abs(work).max(axis=(1, 2)))
    if len(flat):
        raise InputError(
            f"{len(flat)} images have a constant background and cannot be normalised, first image "
            f"{flat[0] + 1}; remove them or choose a smaller background radius"
        )
    return (work - mean[:, None, None].astype(np.float32)) / deviation[:, None, None].astype(np.float32)


def _ramps(images: np.ndarray, outside: np.ndarray) -> np.ndarray:
    """The planes ``(n, y, x)`` that fit the background pixels best."""
    box = images.shape[1]
    y, x = np.mgrid[:box, :box] - box // 2
    design = np.stack([np.ones(box * box), y.ravel(), x.ravel()], axis=1)
    solver = np.linalg.pinv(design[outside.ravel()])
    coefficients = images[:, outside].astype(np.float64) @ solver.T
    return (coefficients @ design.T).reshape(images.shape).astype(np.float32)


def _remove_dust(
    images: np.ndarray, outside: np.ndarray, sigmas: float, generator: np.random.Generator
) -> None:
    mean = images.mean(axis=(1, 2), keepdims=True)
    deviation = images.std(axis=(1, 2), keepdims=True)
    dust = np.abs(images - mean) > sigmas * deviation
    for i in np.flatnonzero(dust.any(axis=(1, 2))):
        clean = images[i][outside & ~dust[i]]
        if len(clean) < 2:
            raise InputError(
                f"image {i + 1}: the whole background lies beyond {sigmas:g} standard deviations"
            )
        noise = generator.normal(clean.mean(), clean.std(), int(dust[i].sum()))
        images[i][dust[i]] = noise


@dataclass(frozen=True, kw_only=True)
class ContrastGuess:
    """Whether protein is white, how sure that is (0.5 to 1), and the statistic behind it.

    ``z_score`` is the mean over images of their contrast (centre minus surroundings at low frequency)
    in units of its standard error.
    """

    white: bool
    confidence: float
    z_score: float


def contrast_sign(images: np.ndarray, *, radius_fraction: float = 0.25) -> ContrastGuess:
    """Guess from images ``(n, y, x)`` of centred particles whether protein is white or black.

    Below the first zero of the CTF the transfer has one sign, so that the centre of an average image is
    brighter than its surroundings where protein is white. Each image is multiplied by a Gaussian of
    ``radius_fraction`` of the box less its mean over the inscribed circle. Raises InputError for fewer
    than 2 images.
    """
    if len(images) < 2:
        raise InputError(
            f"at least 2 images are needed to tell white from black protein, found {len(images)}"
        )
    box = images.shape[-1]
    radius = radius_grid((box, box))
    inside = radius < box / 2
    weight = np.where(inside, np.exp(-0.5 * (radius / (radius_fraction * box)) ** 2), 0.0)
    weight[inside] -= weight[inside].mean()
    flat = images.reshape(len(images), -1).astype(np.float32)
    scale = flat.std(axis=1)
    contrast = flat @ weight.ravel().astype(np.float32) / np.where(scale > 0, scale, 1)
    error = float(contrast.std(ddof=1)) / np.sqrt(len(contrast))
    z = float(contrast.mean() / error) if error > 0 else 0.0
    return ContrastGuess(white=bool(z >= 0), confidence=float(ndtr(abs(z))), z_score=z)
