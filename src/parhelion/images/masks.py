"""Soft masks: spheres, circles, and masks that follow a molecule."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from parhelion.errors import InputError, ParameterError
from parhelion.fourier.filters import lowpass
from parhelion.model.volume import Volume

LOWPASS_ANGSTROM = 15.0
NOISE_SIGMAS = 3.0
LEVEL_FRACTION = 0.3
COMPONENT_FRACTION = 0.1


def cosine_edge(distance: np.ndarray, radius: float, edge: float) -> np.ndarray:
    """1 up to ``radius``, 0 beyond ``radius + edge``, a half cosine between; all in one unit."""
    if edge <= 0:
        return (distance <= radius).astype(np.float32)
    phase = np.clip((distance - radius) / edge, 0.0, 1.0)
    return (0.5 + 0.5 * np.cos(np.pi * phase)).astype(np.float32)


def radius_grid(shape: tuple[int, ...]) -> np.ndarray:
    """Distance of each pixel from pixel ``n // 2``, in pixels, float32."""
    axes = np.ogrid[tuple(slice(-(n // 2), n - n // 2) for n in shape)]
    squares = [axis.astype(np.float32) ** 2 for axis in axes]
    return np.sqrt(sum(squares[1:], squares[0]))


def _round_mask(
    shape: tuple[int, ...], pixel_size_angstrom: float, radius_angstrom: float, edge_angstrom: float
) -> np.ndarray:
    if not radius_angstrom > 0 or edge_angstrom < 0:
        raise ParameterError(
            f"a mask needs a positive radius and an edge of at least 0 Å, found {radius_angstrom} and "
            f"{edge_angstrom}"
        )
    return cosine_edge(radius_grid(shape) * pixel_size_angstrom, radius_angstrom, edge_angstrom)


def circular_mask(
    box: int, pixel_size_angstrom: float, radius_angstrom: float, edge_angstrom: float
) -> np.ndarray:
    """Mask ``(box, box)`` float32: 1 inside ``radius_angstrom``, a cosine edge outside it."""
    return _round_mask((box, box), pixel_size_angstrom, radius_angstrom, edge_angstrom)


def spherical_mask(
    box: int, pixel_size_angstrom: float, radius_angstrom: float, edge_angstrom: float
) -> np.ndarray:
    """Mask ``(box, box, box)`` float32: 1 inside ``radius_angstrom``, a cosine edge outside it."""
    return _round_mask((box, box, box), pixel_size_angstrom, radius_angstrom, edge_angstrom)


@dataclass(frozen=True, kw_only=True)
class AutomaticMask:
    """A mask that follows the molecule, and how it was made.

    ``threshold`` applies to the map low-passed to ``lowpass_angstrom``; ``volume_angstrom3`` is what
    lies above it in the parts that were kept (``components``), before they were extended.
    """

    mask: Volume
    threshold: float
    lowpass_angstrom: float
    extend_angstrom: float
    edge_angstrom: float
    volume_angstrom3: float
    components: int


def automatic_threshold(filtered: np.ndarray) -> float:
    """Density that separates molecule from solvent in a low-passed map ``(z, y, x)``.

    Solvent is what most voxels are: its level is the mode of the histogram inside the inscribed sphere,
    its spread that of the values below it. The molecule's level is the density-weighted mean of what
    stands out. The threshold is 0.3 of the way between the two, and at least three standard deviations
    above the solvent. Raises InputError for a map without contrast.
    """
    inside = radius_grid(filtered.shape) <= min(filtered.shape) / 2
    values = filtered[inside].astype(np.float64)
    solvent = _mode(values)
    below = values[values < solvent]
    sigma = float(np.sqrt(np.mean((below - solvent) ** 2))) if len(below) else 0.0
    excess = values - solvent
    standing_out = excess[excess > max(NOISE_SIGMAS * sigma, 1e-6 * float(np.ptp(values)))]
    if len(standing_out) == 0:
        raise InputError(
            "no density stands out from the solvent, so no mask can be made automatically; give a threshold "
            "or a mask, and check that the molecule is white (positive)"
        )
    level = float((standing_out**2).sum() / standing_out.sum())
    return solvent + max(NOISE_SIGMAS * sigma, LEVEL_FRACTION * level)


def _mode(values: np.ndarray) -> float:
    """The densest half, halved again and again (half-sample mode; Bickel & Frühwirth 2006)."""
    ordered = np.sort(values)
    while len(ordered) > 3:
        half = (len(ordered) + 1) // 2
        widths = ordered[half - 1 :] - ordered[: len(ordered) - half + 1]
        narrowest = np.flatnonzero(widths == widths.min())
        start = int(narrowest[len(narrowest) // 2])
        ordered = ordered[start : start + half]
    return float(np.median(ordered))


def automatic_mask(
    volume: Volume,
    *,
    lowpass_angstrom: float = LOWPASS_ANGSTROM,
    threshold: float | None = None,
    extend_angstrom: float | None = None,
    edge_angstrom: float | None = None,
) -> AutomaticMask:
    """A soft mask around the molecule in a map (protein white).

    The map is low-passed, thresholded (see automatic_threshold unless ``threshold`` is given), freed of
    parts smaller than a tenth of the largest, extended by ``extend_angstrom`` (default 6 Å, at least
    2 voxels) and given a cosine edge of ``edge_angstrom`` (default 12 Å, at least 4 voxels). Raises
    InputError when nothing lies above the threshold.
    """
    pixel = volume.pixel_size_angstrom
    if not np.isfinite(volume.data).all():
        raise InputError("the map holds values that are not numbers; a mask cannot be made from it")
    cutoff = max(lowpass_angstrom, 2.2 * pixel)
    extend = max(6.0, 2 * pixel) if extend_angstrom is None else extend_angstrom
    edge = max(12.0, 4 * pixel) if edge_angstrom is None else edge_angstrom
    if extend < 0 or edge < 0:
        raise ParameterError(f"extension and edge of a mask are at least 0 Å, found {extend} and {edge}")
    filtered = lowpass(volume, cutoff).data
    level = automatic_threshold(filtered) if threshold is None else float(threshold)
    body, components = _large_components(filtered > level)
    if components == 0:
        raise InputError(
            f"no voxel of the map, low-passed to {cutoff:.1f} Å, is above the threshold {level:.4g} "
            f"(largest value {filtered.max():.4g}); choose a lower one"
        )
    mask = soft_dilation(body, pixel, extend, edge)
    return AutomaticMask(
        mask=Volume(data=mask, pixel_size_angstrom=pixel),
        threshold=level,
        lowpass_angstrom=cutoff,
        extend_angstrom=extend,
        edge_angstrom=edge,
        volume_angstrom3=float(body.sum()) * pixel**3,
        components=components,
    )


def _large_components(above: np.ndarray) -> tuple[np.ndarray, int]:
    """The connected parts of at least a tenth of the largest one's volume, and their number."""
    labels, found = ndimage.label(above)
    if found == 0:
        return above, 0
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    keep = sizes >= COMPONENT_FRACTION * sizes.max()
    return keep[labels], int(keep.sum())


def soft_dilation(
    body: np.ndarray, pixel_size_angstrom: float, extend_angstrom: float, edge_angstrom: float
) -> np.ndarray:
    """Mask float32 of a boolean ``body``: 1 up to ``extend_angstrom`` from it, then a cosine edge."""
    margin = int(np.ceil((extend_angstrom + edge_angstrom) / pixel_size_angstrom)) + 1
    region = tuple(
        slice(max(0, part.start - margin), part.stop + margin)
        for part in ndimage.find_objects(body.astype(np.int8))[0]
    )
    distance = ndimage.distance_transform_edt(~body[region]) * pixel_size_angstrom
    mask = np.zeros(body.shape, np.float32)
    mask[region] = cosine_edge(distance, extend_angstrom, edge_angstrom)
    return mask
