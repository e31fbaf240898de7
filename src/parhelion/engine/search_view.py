"""Particles as the search sees them: in a mask of its own, cropped to what the mask holds.

An image is zero outside its mask, so that its transform may be sampled as coarsely as the mask is wide: a
search over cropped images compares the same numbers on fewer Fourier points.
"""

import math
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from parhelion.contracts import ParticleSource
from parhelion.engine.batch import ParticleBatch
from parhelion.engine.loader import EDGE_PIXELS, ParticleLoader, normalise, soft_circle
from parhelion.engine.points import FourierPoints
from parhelion.engine.schedule import Plan
from parhelion.model.particles import ParticleSet

WORTH_WHILE = 0.9
"""A box that is not smaller than this share of the whole one saves too little."""


@dataclass
class Cropped:
    """The middle ``box`` pixels of another source's images."""

    whole: ParticleSource
    box: int

    def images(self, views: np.ndarray) -> np.ndarray:
        """Images ``(m, box, box)``."""
        inner = middle(self.whole.box, self.box)
        return self.whole.images(views)[:, inner, inner]


@dataclass(eq=False, kw_only=True)
class SearchLoader(ParticleLoader):
    """Batches of cropped images, normalised as the whole images are: by the background outside ``usual``,
    the diameter in Å of the mask that the refinement uses."""

    whole: ParticleSource
    usual_diameter_angstrom: float
    _background: Tensor = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        radius = self.usual_diameter_angstrom / 2 / self.pixel_size_angstrom
        self._background = soft_circle(self.whole.box, radius)

    def normalised(self, views: np.ndarray) -> tuple[Tensor, Tensor]:
        """See ParticleLoader."""
        images, good = normalise(torch.from_numpy(self.whole.images(views)), self._background)
        inner = middle(self.whole.box, self.box)
        return images[:, inner, inner].contiguous(), good


@dataclass(frozen=True, kw_only=True)
class SearchView:
    """The loader of the search. Lengths in units of its own, smaller extent are ``ratio`` times those in
    units of the images'."""

    loader: SearchLoader
    ratio: float

    def plan(self, plan: Plan) -> Plan:
        """``plan`` with its limits in shells of the smaller extent."""
        top = float(self.loader.points.max_shell)
        return replace(
            plan,
            search_shell=min(plan.search_shell / self.ratio, top),
            refine_shell=min(plan.search_shell / self.ratio, top),
        )

    def noise(self, noise: Tensor) -> Tensor:
        """Noise power ``(groups, shells)`` at the shells of the smaller extent."""
        given = np.arange(noise.shape[1])
        wanted = np.arange(self.loader.points.max_shell + 1) * self.ratio
        return torch.from_numpy(np.stack([np.interp(wanted, given, row) for row in noise.cpu().numpy()]))

    def volume(self, volume: Tensor) -> Tensor:
        """The middle of a map."""
        inner = middle(volume.shape[-1], self.loader.box)
        return volume[inner, inner, inner].contiguous()


def search_view(
    particles: ParticleSet,
    source: ParticleSource,
    *,
    usual_diameter_angstrom: float,
    diameter_angstrom: float,
    crop: bool,
    search_angstrom: float,
    cache_bytes: int,
    device: torch.device,
) -> SearchView | None:
    """How the search sees the particles, None where it is as the refinement does.

    ``diameter_angstrom`` is that of its circular mask, ``usual_diameter_angstrom`` of the refinement's;
    nothing finer than ``search_angstrom`` is searched.
    """
    pixel = particles.optics[0].pixel_size_angstrom
    points = search_points(source.box, pixel, diameter_angstrom, crop, search_angstrom)
    if points.box == source.box and diameter_angstrom == usual_diameter_angstrom:
        return None
    loader = SearchLoader(
        particles=particles,
        source=Cropped(source, points.box),
        points=points,
        diameter_angstrom=diameter_angstrom,
        cache_bytes=cache_bytes,
        device=device,
        whole=source,
        usual_diameter_angstrom=usual_diameter_angstrom,
    )
    return SearchView(loader=loader, ratio=source.box / points.box)


def search_points(
    box: int, pixel_size_angstrom: float, diameter_angstrom: float, crop: bool, search_angstrom: float
) -> FourierPoints:
    """What is searched on: the transform of the whole box, or of what a circular mask needs."""
    size = cropped_box(box, diameter_angstrom / pixel_size_angstrom) if crop else box
    shell = min(size // 2 - 1, math.ceil(size * pixel_size_angstrom / search_angstrom))
    return FourierPoints(size, shell)


def cropped_box(box: int, mask_pixels: float) -> int:
    """The smallest box of the same parity that holds a mask and its soft edge; ``box`` where that saves
    little."""
    needed = math.ceil(mask_pixels + 2 * EDGE_PIXELS)
    needed += (needed - box) % 2
    return needed if needed <= WORTH_WHILE * box else box


def middle(size: int, box: int) -> slice:
    """The middle ``box`` of ``size`` pixels; n // 2 stays the centre."""
    first = size // 2 - box // 2
    return slice(first, first + box)


def without_low(batch: ParticleBatch, points: FourierPoints, low_shell: float) -> ParticleBatch:
    """The batch blind to what is coarser than ``low_shell``; the same batch where nothing is."""
    first = int(np.searchsorted(points.radius, low_shell, side="left"))
    if not first:
        return batch
    data, ctf = batch.data.clone(), batch.ctf.clone()
    data[..., :first] = 0
    ctf[..., :first] = 0
    return batch.with_data(data, ctf)
