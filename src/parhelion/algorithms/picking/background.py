"""Boxes without particles, their noise spectrum, and the filter that makes that noise white.

Sigworth (2004, J. Struct. Biol. 145, 111) whitens with the spectrum of background areas; as in cisTEM these
are the boxes of least variance, or those whose variance is nearest to its mode.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from parhelion.algorithms.picking.local import local_variance, robust_level
from parhelion.algorithms.picking.reduced import ReducedMicrograph
from parhelion.errors import InputError
from parhelion.fourier.grids import rfft_frequencies

BackgroundChoice = Literal["lowest-variance", "near-mode"]
LEAST_BOX = 8


@dataclass(frozen=True, kw_only=True)
class Background:
    """``centres_yx (n, 2)`` of boxes of ``box`` pixels on the reduced grid, their local ``variance (n,)``
    and the mean ``power (box // 2 + 1,)`` per Fourier shell (unitary) of what they hold."""

    centres_yx: np.ndarray
    box: int
    variance: np.ndarray
    power: np.ndarray

    def whitening(self, shape: tuple[int, int], pixel_yx_angstrom: tuple[float, float]) -> torch.Tensor:
        """Factors (half layout) that give this noise unit power, on a grid of ``shape``."""
        fy, fx = rfft_frequencies(shape)
        pixel = 0.5 * sum(pixel_yx_angstrom)
        y, x = (f.numpy() * (pixel / along) for f, along in zip((fy, fx), pixel_yx_angstrom, strict=True))
        shell = np.hypot(y, x) * self.box
        power = np.interp(shell, np.arange(len(self.power)), self.power)
        return torch.from_numpy((1.0 / np.sqrt(power)).astype(np.float32))


def find_background(
    micrograph: ReducedMicrograph,
    *,
    radius_angstrom: float,
    count: int,
    choice: BackgroundChoice = "lowest-variance",
    excluded: np.ndarray | None = None,
) -> Background:
    """Up to ``count`` boxes, two ``radius_angstrom`` wide, that hardly overlap, and their spectrum.

    ``lowest-variance`` takes the boxes of least variance, ``near-mode`` those nearest to the mode of all
    local variances. No box is centred where ``excluded (y, x)`` is True. Raises InputError where there
    is no room for a box.
    """
    box = max(LEAST_BOX, 2 * round(radius_angstrom / micrograph.pixel_angstrom))
    variance = local_variance(micrograph.data, micrograph.pixel_yx_angstrom, radius_angstrom)
    allowed = _room_for(micrograph, box)
    if excluded is not None:
        allowed &= ~excluded
    if not allowed.any():
        raise InputError(
            f"no background box of {2 * radius_angstrom:g} Å fits into the micrograph or the part of it "
            "that is not excluded; check the pixel size, the maximum radius and the mask"
        )
    rank = variance
    if choice == "near-mode":
        rank = np.abs(variance - robust_level(variance[allowed])[0])
    centres = _spread(np.where(allowed, rank, np.inf), count, box)
    power = _mean_power(micrograph.data, centres, box)
    return Background(
        centres_yx=centres, box=box, variance=variance[centres[:, 0], centres[:, 1]], power=power
    )


def _room_for(micrograph: ReducedMicrograph, box: int) -> np.ndarray:
    """Where a whole box lies inside the micrograph, not in the mirrored margins."""
    inside = micrograph.distance_from_edge_px() / max(micrograph.scale_yx) >= box / 2
    reach = np.zeros(inside.shape, bool)
    half = box // 2
    reach[half : inside.shape[0] - half, half : inside.shape[1] - half] = True
    return inside & reach


def _spread(rank: np.ndarray, count: int, box: int) -> np.ndarray:
    """Up to ``count`` pixels of least ``rank``, no two within three quarters of a box of each other."""
    order = np.argsort(rank, axis=None)
    free = np.isfinite(rank)
    reach = max(1, (3 * box) // 4)
    found: list[tuple[int, int]] = []
    for flat in order[: int(free.sum())]:
        y, x = divmod(int(flat), rank.shape[1])
        if not free[y, x]:
            continue
        found.append((y, x))
        if len(found) == count:
            break
        free[max(0, y - reach + 1) : y + reach, max(0, x - reach + 1) : x + reach] = False
    return np.array(found, np.int64).reshape(-1, 2)


def _mean_power(image: np.ndarray, centres_yx: np.ndarray, box: int) -> np.ndarray:
    """Mean power per shell of the boxes, each less its mean, under a Hann window of unit mean power."""
    half = box // 2
    taper = np.hanning(box + 1)[:box]
    window = np.outer(taper, taper)
    window /= np.sqrt(np.mean(window**2))
    boxes = np.stack([image[y - half : y - half + box, x - half : x - half + box] for y, x in centres_yx])
    boxes = (boxes - boxes.mean(axis=(1, 2), keepdims=True)) * window
    power = np.mean(np.abs(np.fft.rfft2(boxes, norm="ortho")) ** 2, axis=0)
    radius = np.hypot(np.fft.fftfreq(box)[:, None], np.fft.rfftfreq(box)[None, :]) * box
    shell = np.round(radius).astype(np.int64)
    weight = np.full(power.shape, 2.0)
    weight[:, 0] = 1.0
    weight[:, -1] = 1.0
    sums = np.bincount(shell.ravel(), (power * weight).ravel())
    counts = np.bincount(shell.ravel(), weight.ravel())
    mean = (sums / counts)[: half + 1]
    # the mean was taken away: the first shell speaks for it
    mean[0] = mean[1]
    floor = 1e-6 * float(mean.max())
    if not floor > 0:
        raise InputError("the background of the micrograph is constant: its noise cannot be measured")
    return np.maximum(mean, floor)
