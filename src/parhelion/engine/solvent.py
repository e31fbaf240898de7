"""Where the molecule may be: a sphere, a given mask, or a generous mask that follows the map.

What lies in the solvent can only be noise, and noise in a reference misleads the next round's poses. On
600 simulated particles an automatic mask brought the median angular error from 4.4° (sphere) to 3.3°.
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from parhelion.fourier.filters import apply_envelope, lowpass_envelope
from parhelion.fourier.grids import rfft_radius
from parhelion.images.masks import cosine_edge, radius_grid, soft_dilation, spherical_mask

# Smoothing before the threshold, and the margin around what lies above it.
SMOOTHING_ANGSTROM = 6.0
EXTEND_ANGSTROM = 6.0
EDGE_ANGSTROM = 12.0
# Above this share of the molecule's own density and this many deviations of the half maps' difference.
LEVEL = 0.1
SIGMAS = 5.0
SMALLEST_PART = 0.1


@dataclass(frozen=True, kw_only=True)
class Solvent:
    """How references are masked: ``sphere`` always, ``given`` if there is one, else ``automatic`` or not.

    ``edge_angstrom`` is the width of the soft edge of a mask that follows the map (None: 12 Å, at least four
    pixels). What lies outside that mask, but inside the sphere, stays with ``outside_weight``, low-passed to
    ``outside_lowpass_angstrom``.
    """

    sphere: np.ndarray
    pixel_size_angstrom: float
    automatic: bool = True
    given: np.ndarray | None = None
    edge_angstrom: float | None = None
    outside_weight: float = 0.0
    outside_lowpass_angstrom: float | None = None

    @staticmethod
    def within(
        box: int,
        pixel_size_angstrom: float,
        diameter_angstrom: float,
        automatic: bool = True,
        given: np.ndarray | None = None,
        *,
        outer_radius_angstrom: float | None = None,
        inner_radius_angstrom: float = 0.0,
        edge_angstrom: float | None = None,
        outside_weight: float = 0.0,
        outside_lowpass_angstrom: float | None = None,
    ) -> "Solvent":
        """Masks within a sphere of 0.55 diameters, or of ``outer_radius_angstrom``, with a soft edge of five
        pixels, or of ``edge_angstrom``; hollow inside ``inner_radius_angstrom``."""
        edge = 5 * pixel_size_angstrom if edge_angstrom is None else edge_angstrom
        wanted = outer_radius_angstrom or 0.55 * diameter_angstrom
        radius = min(wanted, (box / 2 - 1) * pixel_size_angstrom)
        sphere = spherical_mask(box, pixel_size_angstrom, radius, edge)
        if inner_radius_angstrom > 0:
            distance = radius_grid(sphere.shape) * pixel_size_angstrom
            soft = min(edge, inner_radius_angstrom)
            sphere = sphere * (1 - cosine_edge(distance, inner_radius_angstrom - soft, soft))
        return Solvent(
            sphere=sphere,
            pixel_size_angstrom=pixel_size_angstrom,
            automatic=automatic,
            given=given,
            edge_angstrom=edge_angstrom,
            outside_weight=outside_weight,
            outside_lowpass_angstrom=outside_lowpass_angstrom,
        )

    def applied(self, volume: Tensor, mask: Tensor) -> Tensor:
        """``volume`` inside ``mask``, and as much of what is outside as is wanted."""
        if not self.outside_weight:
            return volume * mask
        outside = volume
        if self.outside_lowpass_angstrom is not None:
            shape = tuple(volume.shape)
            width = 2 / (shape[0] * self.pixel_size_angstrom)
            radius = rfft_radius(shape, self.pixel_size_angstrom)
            outside = apply_envelope(volume, lowpass_envelope(radius, self.outside_lowpass_angstrom, width))
        sphere = torch.from_numpy(self.sphere).to(volume)
        return volume * mask + self.outside_weight * (sphere - mask).clamp_min(0) * outside

    def mask(self, first: Tensor, second: Tensor) -> Tensor:
        """Mask ``(box, box, box)`` float32 in [0, 1] for two half maps.

        The noise is what the halves differ by. A mask so generous, from maps smoothed to about 15 Å, is
        shared by the halves without making their fine detail agree.
        """
        if self.given is not None:
            return torch.from_numpy(self.given * self.sphere)
        if not self.automatic:
            return torch.from_numpy(self.sphere)
        pixel = self.pixel_size_angstrom
        sigma = max(SMOOTHING_ANGSTROM / pixel, 1.0)
        a, b = (ndimage.gaussian_filter(half.cpu().numpy(), sigma) for half in (first, second))
        inside = self.sphere > 0.5
        mean, noise = (a + b) / 2, float(((a - b) / 2)[inside].std())
        threshold = max(SIGMAS * noise, LEVEL * float(np.percentile(mean[inside], 99)))
        body = (mean > threshold) & inside
        labels, parts = ndimage.label(body)
        if parts == 0:
            return torch.from_numpy(self.sphere)
        sizes = np.bincount(labels.ravel())
        sizes[0] = 0
        body = (sizes >= SMALLEST_PART * sizes.max())[labels]
        extend, edge = max(EXTEND_ANGSTROM, 2 * pixel), max(EDGE_ANGSTROM, 4 * pixel)
        edge = edge if self.edge_angstrom is None else self.edge_angstrom
        return torch.from_numpy(soft_dilation(body, pixel, extend, edge) * self.sphere)
