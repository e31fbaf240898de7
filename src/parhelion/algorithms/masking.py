"""A map inside a mask, with what lies outside it dampened, low-passed or removed; the gridding correction."""

import numpy as np

from parhelion.errors import ParameterError
from parhelion.fourier.filters import lowpass
from parhelion.images.masks import cosine_edge
from parhelion.model.volume import Volume


def apply_mask(
    volume: Volume,
    mask: np.ndarray,
    *,
    outside_weight: float = 0.0,
    outside_lowpass_angstrom: float | None = None,
) -> Volume:
    """``mask · map + (1 − mask) · outside``, ``mask`` (z, y, x) from 0 to 1.

    The outside is the map, low-passed if asked for, times ``outside_weight``, about the mean density far
    outside the mask, to which it falls off for a weight of 0. Raises ParameterError for shapes that differ
    and a weight outside 0 … 1.
    """
    if mask.shape != volume.data.shape:
        raise ParameterError(f"the mask has shape {mask.shape}, the map {volume.data.shape}; they must agree")
    if not 0 <= outside_weight <= 1:
        raise ParameterError(f"the weight outside a mask lies between 0 and 1, found {outside_weight}")
    data = np.asarray(volume.data, np.float32)
    weight = np.asarray(mask, np.float32)
    outside = data
    if outside_lowpass_angstrom is not None:
        outside = lowpass(volume, outside_lowpass_angstrom).data
    if outside_weight < 1:
        level = _solvent_level(data, weight)
        outside = level + outside_weight * (outside - level)
    result = weight * data + (1 - weight) * outside
    return Volume(data=result.astype(np.float32), pixel_size_angstrom=volume.pixel_size_angstrom)


def _solvent_level(data: np.ndarray, weight: np.ndarray) -> float:
    """Mean density where the mask is less than half; 0 where it is so nowhere."""
    far = weight < 0.5
    return float(data[far].mean(dtype=np.float64)) if far.any() else 0.0


def shell_mask(
    shape: tuple[int, int, int],
    pixel_size_angstrom: float,
    outer_radius_angstrom: float,
    inner_radius_angstrom: float,
    edge_angstrom: float,
    centre_xyz_angstrom: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> np.ndarray:
    """A sphere, hollow inside ``inner_radius_angstrom`` (0: solid), float32; cosine edges outwards and
    inwards.

    ``centre_xyz_angstrom`` counts from voxel ``n // 2``. Raises ParameterError unless 0 ≤ inner < outer.
    """
    if not 0 <= inner_radius_angstrom < outer_radius_angstrom:
        raise ParameterError(
            f"the inner radius ({inner_radius_angstrom:g} Å) must be smaller than the outer one "
            f"({outer_radius_angstrom:g} Å)"
        )
    squares = np.zeros(shape, np.float32)
    # arrays are z, y, x
    for axis, (n, centre) in enumerate(zip(shape, centre_xyz_angstrom[::-1])):
        view = [1, 1, 1]
        view[axis] = n
        offset = (np.arange(n) - n // 2) * pixel_size_angstrom - centre
        squares += (offset**2).astype(np.float32).reshape(view)
    distance = np.sqrt(squares)
    mask = cosine_edge(distance, outer_radius_angstrom, edge_angstrom)
    if inner_radius_angstrom > 0:
        hollow = max(inner_radius_angstrom - edge_angstrom, 0.0)
        mask = mask * (1 - cosine_edge(distance, hollow, min(edge_angstrom, inner_radius_angstrom)))
    return np.asarray(mask, np.float32)


def undo_gridding(volume: Volume) -> Volume:
    """The map divided by the envelope of trilinear interpolation in Fourier space, Π sinc²(x/n).

    For maps of programs that insert slices by trilinear interpolation and leave its envelope in the map.
    """
    data = np.asarray(volume.data, np.float32)
    for axis, n in enumerate(data.shape):
        envelope = np.sinc((np.arange(n) - n // 2) / n) ** 2
        view = [1, 1, 1]
        view[axis] = n
        data = data / envelope.reshape(view).astype(np.float32)
    return Volume(data=data, pixel_size_angstrom=volume.pixel_size_angstrom)
