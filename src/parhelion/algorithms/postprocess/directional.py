"""Directional Fourier shell correlation: the FSC of half maps in cones about many axes.

A particle that was seen from few sides is resolved well across its preferred views and badly along them. The
FSC inside a cone says how well along its axis (Tan et al. 2017, Nat. Methods 14, 793).
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial import ConvexHull

from parhelion.errors import InputError, ParameterError
from parhelion.fourier.fft import as_tensor, rfft3
from parhelion.fourier.grids import rfft_frequencies, rfft_weight
from parhelion.fourier.shells import fsc, resolution_at
from parhelion.geometry.so3 import sphere_grid

DIRECTION_ORDER = 2
LEAST_SHELL = 3
LEAST_COEFFICIENTS = 8.0
"""A shell with fewer independent ones in a cone takes the correlation of the whole shell."""
ROWS_AT_ONCE = 1 << 16


@dataclass(frozen=True, kw_only=True)
class DirectionalFsc:
    """FSC curves ``fsc (directions, shells)`` about ``directions (directions, 3)`` (x, y, z, one of each
    pair), and where each falls below the threshold and below 0.5, in Å.

    ``area_ratio`` is the smallest area under a cone's curve divided by the largest, over the shells up to
    the finest resolution of any cone: 1 for a map resolved alike along all axes, near 0 where one is
    missing. ``sphericity`` is that of the surface where the directional FSC is 0.5 (Tan et al. 2017): the
    surface of a sphere of its volume over its own, 1 for an even map.
    """

    directions: np.ndarray
    fsc: np.ndarray
    resolution_angstrom: np.ndarray
    half_angstrom: np.ndarray
    area_ratio: float
    sphericity: float

    @property
    def best_to_worst(self) -> float:
        """The finest resolution of any axis over the coarsest: 1 for an even map."""
        return float(self.resolution_angstrom.min() / self.resolution_angstrom.max())


def directional_fsc(
    half1: np.ndarray,
    half2: np.ndarray,
    pixel_size_angstrom: float,
    *,
    cone_deg: float = 20.0,
    threshold: float = 0.143,
) -> DirectionalFsc:
    """FSC of two cubic maps ``(n, n, n)`` in double cones of half angle ``cone_deg`` about 96 axes.

    Raises ParameterError for an angle outside 5 … 60 degrees, InputError for maps that differ in shape.
    """
    if not 5 <= cone_deg <= 60:
        raise ParameterError(f"the half angle of a cone lies between 5 and 60 degrees, found {cone_deg}")
    if half1.shape != half2.shape or len(set(half1.shape)) != 1:
        raise InputError(f"two cubic maps of one box are needed, found {half1.shape} and {half2.shape}")
    box = half1.shape[0]
    directions = sphere_grid(DIRECTION_ORDER)
    directions = directions[_upper(directions)]
    sums = _cone_sums(half1, half2, directions, np.cos(np.radians(cone_deg)))
    cross, power = sums[0], np.sqrt(sums[1] * sums[2])
    curves = np.divide(cross, power, out=np.zeros_like(cross), where=power > 0)
    curves[:, :LEAST_SHELL] = 1.0
    shell = np.arange(curves.shape[1])
    few = 2 * np.pi * shell**2 * (1 - np.cos(np.radians(cone_deg))) < LEAST_COEFFICIENTS
    few[:LEAST_SHELL] = False
    curves[:, few] = fsc(half1, half2)[few]
    resolution = np.array([resolution_at(curve, threshold, box, pixel_size_angstrom) for curve in curves])
    half = np.array([resolution_at(curve, 0.5, box, pixel_size_angstrom) for curve in curves])
    last = int(np.ceil(box * pixel_size_angstrom / resolution.min()))
    areas = np.clip(curves[:, LEAST_SHELL : max(last, LEAST_SHELL) + 1], 0, None).sum(axis=1)
    return DirectionalFsc(
        directions=directions,
        fsc=curves,
        resolution_angstrom=resolution,
        half_angstrom=half,
        area_ratio=float(areas.min() / areas.max()) if areas.max() > 0 else 0.0,
        sphericity=sphericity(directions, 1 / half),
    )


def sphericity(directions: np.ndarray, radius: np.ndarray) -> float:
    """Of the star-shaped surface with ``radius (d,)`` along ``directions (d, 3)`` and their opposites.

    ``π^⅓ (6 V)^⅔ / A`` of the polyhedron whose corners these are, relative to that of equal radii.
    """
    corners = np.concatenate([directions, -directions])
    faces = ConvexHull(corners).simplices
    return _roundness(corners * np.tile(radius, 2)[:, None], faces) / _roundness(corners, faces)


def _roundness(corners: np.ndarray, faces: np.ndarray) -> float:
    a, b, c = corners[faces].transpose(1, 0, 2)
    volume = np.abs(np.einsum("fi,fi->f", a, np.cross(b, c))).sum() / 6
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2
    return float(np.cbrt(np.pi) * np.cbrt(6 * volume) ** 2 / area)


def _upper(directions: np.ndarray) -> np.ndarray:
    """One of each pair of opposite directions."""
    x, y, z = directions.T
    flat = np.abs(z) < 1e-9
    return (z > 1e-9) | (flat & ((y > 1e-9) | ((np.abs(y) <= 1e-9) & (x > 0))))


def _cone_sums(half1: np.ndarray, half2: np.ndarray, directions: np.ndarray, cosine: float) -> np.ndarray:
    """Sums ``(3, directions, shells)`` of cross term and both powers over cones and shells."""
    box = half1.shape[0]
    a, b = (rfft3(as_tensor(np.asarray(h, np.float32))) for h in (half1, half2))
    fz, fy, fx = torch.broadcast_tensors(*rfft_frequencies((box,) * 3, dtype=torch.float64))
    radius = (fz**2 + fy**2 + fx**2).sqrt()
    shell = torch.round(radius * box).to(torch.int64)
    shells = box // 2 + 1
    keep = (shell >= 1) & (shell < shells)
    weight = rfft_weight((box,) * 3).expand(radius.shape)[keep]
    order = torch.argsort(shell[keep], stable=True)
    unit = (torch.stack([fx[keep], fy[keep], fz[keep]], dim=1) / radius[keep, None])[order].float()
    ends = torch.bincount(shell[keep], minlength=shells).cumsum(0).tolist()
    terms = torch.stack([(a * b.conj()).real[keep], a.abs()[keep] ** 2, b.abs()[keep] ** 2], dim=1)
    terms = (terms * weight[:, None])[order].double()
    axes = torch.from_numpy(directions.astype(np.float32))
    sums = torch.zeros((shells, len(directions), 3), dtype=torch.float64)
    for number in range(1, shells):
        for start in range(ends[number - 1], ends[number], ROWS_AT_ONCE):
            rows = slice(start, min(start + ROWS_AT_ONCE, ends[number]))
            inside = (unit[rows] @ axes.T).abs() >= cosine
            sums[number] += inside.T.double() @ terms[rows]
    return sums.permute(2, 1, 0).numpy()


def picture_of_directions(directions: np.ndarray, values: np.ndarray, size: int = 160) -> np.ndarray:
    """Values on a hemisphere as an image ``(size, size)``: equal areas, z in the middle, x to the right.

    Each point takes the value of the nearest axis; outside the disc is the smallest value.
    """
    y, x = (np.indices((size, size)) - (size - 1) / 2) / (size / 2)
    r = np.hypot(x, y)
    # Lambert's projection: the edge of the disc is the equator
    z = 1 - r**2
    flat = np.sqrt(np.clip(1 - z**2, 0, None)) / np.maximum(r, 1e-9)
    points = np.stack([x * flat, y * flat, z], axis=-1).reshape(-1, 3)
    nearest = np.abs(points @ directions.T).argmax(axis=1).reshape(size, size)
    return np.where(r <= 1, values[nearest], values.min()).astype(np.float32)
