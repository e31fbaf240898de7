"""Local resolution: the correlation of two half maps in a window that slides over them, band by band.

The maps are split into bands of radial frequency whose envelopes add up to one. In a band, the products of
the two halves, and of each with itself, are averaged under a Gaussian window around every point: a
convolution, done for all points at once by Fourier transform, on a grid as coarse as the window allows. The
quotient is the FSC of that window (Cardone, Heymann & Steven 2013, J. Struct. Biol. 184, 226, with the order
of window and band exchanged). Where it first falls below a threshold is the resolution there.
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import map_coordinates

from parhelion.contracts import Observer, SilentObserver
from parhelion.errors import ParameterError
from parhelion.fourier.fft import as_tensor, irfft3, rfft3
from parhelion.fourier.filters import bfactor_envelope, gaussian_envelope
from parhelion.fourier.grids import rfft_radius
from parhelion.fourier.resample import resize_rfft
from parhelion.model.volume import Volume

FWHM_OF_SIGMA = 2.3548
STEPS_PER_WINDOW = 4.0
"""Points of the coarse grid along the width of the window: it is smooth on that scale."""
LEAST_GRID = 8


@dataclass(frozen=True, kw_only=True)
class LocalResolution:
    """Resolution in Å at every voxel ``(z, y, x)``, and how it was measured.

    ``fsc (bands, g, g, g)`` is the local correlation on the coarse grid at the frequencies ``(bands,)``
    in 1/Å. Values are between ``finest_angstrom`` and ``coarsest_angstrom``, the limits of the method.
    """

    resolution: Volume
    frequency: np.ndarray
    fsc: np.ndarray
    window_angstrom: float
    finest_angstrom: float
    coarsest_angstrom: float


def local_resolution(
    half1: Volume,
    half2: Volume,
    *,
    window_angstrom: float,
    threshold: float = 0.5,
    observer: Observer | None = None,
) -> LocalResolution:
    """The resolution of two cubic half maps around every voxel.

    ``window_angstrom`` is the full width at half maximum of the window: structure varies over that, and
    nothing coarser than it can be judged. Raises ParameterError for a window that does not fit the map, or a
    threshold outside 0 … 1.
    """
    box, pixel = half1.box, half1.pixel_size_angstrom
    extent = box * pixel
    if not 4 * pixel <= window_angstrom <= extent / 2:
        raise ParameterError(
            f"the window is {window_angstrom:g} Å wide; in this map it can be {4 * pixel:g} to "
            f"{extent / 2:g} Å"
        )
    if not 0 < threshold < 1:
        raise ParameterError(f"the FSC threshold lies between 0 and 1, found {threshold}")
    watch = observer or SilentObserver()
    spacing = band_spacing(box, pixel, window_angstrom)
    grid = max(LEAST_GRID, 2 * int(np.ceil(STEPS_PER_WINDOW * extent / window_angstrom / 2)))
    grid = min(grid, box - box % 2)
    transforms = [rfft3(as_tensor(np.asarray(h.data, np.float32))) for h in (half1, half2)]
    centres = np.arange(spacing, box // 2, spacing)
    window = _window(grid, extent / grid, window_angstrom)
    curves = []
    for number, centre in enumerate(centres.tolist()):
        curves.append(_local_fsc(transforms, box, centre, spacing, window, grid))
        watch.progress("local correlation", number + 1, len(centres))
    fsc = np.stack(curves)
    crossing = first_crossing(fsc, centres.astype(np.float64), threshold)
    finest, coarsest = extent / float(centres[-1]), extent / float(centres[0])
    frequency = _on_voxels(crossing, box) / extent
    return LocalResolution(
        resolution=Volume(data=(1 / frequency).astype(np.float32), pixel_size_angstrom=pixel),
        frequency=centres / extent,
        fsc=fsc,
        window_angstrom=window_angstrom,
        finest_angstrom=finest,
        coarsest_angstrom=coarsest,
    )


def band_spacing(box: int, pixel_size_angstrom: float, window_angstrom: float) -> int:
    """Distance of the bands' centres in Fourier shells: half of the window's own width in Fourier space."""
    return max(1, round(0.5 * box * pixel_size_angstrom / window_angstrom))


def band_envelope(shell: torch.Tensor, centre: float, spacing: float) -> torch.Tensor:
    """A raised cosine about shell ``centre``; envelopes at multiples of ``spacing`` add up to 1."""
    phase = ((shell - centre).abs() / spacing).clamp_max(1.0)
    return 0.5 + 0.5 * torch.cos(torch.pi * phase)


def _window(grid: int, step_angstrom: float, fwhm_angstrom: float) -> torch.Tensor:
    """Transform of the window on the coarse grid."""
    radius = rfft_radius((grid,) * 3, step_angstrom)
    return gaussian_envelope(radius, fwhm_angstrom / FWHM_OF_SIGMA)


def _local_fsc(
    transforms: list[torch.Tensor], box: int, centre: int, spacing: int, window: torch.Tensor, grid: int
) -> np.ndarray:
    """Local correlation ``(grid, grid, grid)`` of one band."""
    # products of a band reach twice its frequency: this box holds them, and low bands are cheap
    size = min(box, 2 * (2 * (centre + spacing) + 2))
    size = max(size, grid)
    shell = rfft_radius((size,) * 3) * size
    envelope = band_envelope(shell, float(centre), float(spacing))
    a, b = (irfft3(resize_rfft(t, (box,) * 3, size) * envelope, (size,) * 3) for t in transforms)
    cross, first, second = (_averaged(product, window, grid) for product in (a * b, a * a, b * b))
    power = (first.clamp_min(0) * second.clamp_min(0)).sqrt()
    floor = 1e-6 * float(power.max())
    return torch.where(power > floor, cross / power.clamp_min(max(floor, 1e-30)), 0.0).clamp(-1, 1).numpy()


def _averaged(product: torch.Tensor, window: torch.Tensor, grid: int) -> torch.Tensor:
    size = product.shape[0]
    transform = rfft3(product)
    small = transform if size == grid else resize_rfft(transform, (size,) * 3, grid)
    return irfft3(small * window, (grid,) * 3)


def first_crossing(fsc: np.ndarray, centres: np.ndarray, threshold: float) -> np.ndarray:
    """Where ``fsc (bands, …)`` first falls below ``threshold``, linear between ``centres (bands,)``.

    The last centre where it never does, the first where it begins below.
    """
    below = fsc < threshold
    at = np.where(below.any(axis=0), below.argmax(axis=0), len(centres))
    inside = np.clip(at, 1, len(centres) - 1)
    high = np.take_along_axis(fsc, inside[None] - 1, axis=0)[0]
    low = np.take_along_axis(fsc, inside[None], axis=0)[0]
    part = np.clip((high - threshold) / np.maximum(high - low, 1e-6), 0, 1)
    between = centres[inside - 1] + part * (centres[inside] - centres[inside - 1])
    return np.where(at == 0, centres[0], np.where(at == len(centres), centres[-1], between))


def _on_voxels(coarse: np.ndarray, box: int) -> np.ndarray:
    """Values of the coarse grid on all voxels, linear; both grids have their centre at ``n // 2``."""
    grid = coarse.shape[0]
    at = (np.arange(box) - box // 2) * (grid / box) + grid // 2
    planes = []
    y, x = np.meshgrid(at, at, indexing="ij")
    for z in at:
        points = np.stack([np.full_like(x, z), y, x])
        planes.append(map_coordinates(coarse, points, order=1, mode="grid-wrap"))
    return np.stack(planes)


def filtered_locally(volume: Volume, found: LocalResolution, bfactor_angstrom2: float = 0.0) -> Volume:
    """A cubic map low-passed at each voxel's own resolution, and sharpened by a B-factor (negative) before.

    Each band of the map enters a voxel as far as it lies below the voxel's resolution.
    """
    box, pixel = volume.box, volume.pixel_size_angstrom
    extent = box * pixel
    spacing = float(found.frequency[0] * extent)
    transform = rfft3(as_tensor(np.asarray(volume.data, np.float32)))
    shell = rfft_radius((box,) * 3) * box
    if bfactor_angstrom2:
        finest = box / 2 / extent
        transform = transform * bfactor_envelope((shell / extent).clamp_max(finest), bfactor_angstrom2)
    limit = extent / np.asarray(found.resolution.data, np.float64)
    result = np.zeros((box,) * 3, np.float32)
    for number in range(len(found.frequency) + 1):
        envelope = band_envelope(shell, number * spacing, spacing)
        band = irfft3(transform * envelope, (box,) * 3).numpy()
        # a band centred on the limit enters by half
        share = np.clip((limit - number * spacing) / spacing + 0.5, 0.0, 1.0)
        result += (share * band).astype(np.float32)
    return Volume(data=result, pixel_size_angstrom=pixel)
