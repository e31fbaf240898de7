"""Templates for the search: projections of a map, or given class averages, turned in the plane.

They are made once; the CTF, the noise and the mask of a micrograph are put on them by ``correlation``.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from scipy import ndimage

from parhelion.algorithms.simulate.project import Projector
from parhelion.errors import InputError, ParameterError
from parhelion.fourier.fft import irfft2
from parhelion.fourier.resample import fourier_resize_images, resample_volume
from parhelion.geometry.rotations import from_relion
from parhelion.geometry.so3 import so3_grid
from parhelion.geometry.symmetry import symmetry_group
from parhelion.images.masks import cosine_edge, radius_grid
from parhelion.model.volume import Volume

PROJECTIONS_AT_ONCE = 256
MAX_TEMPLATES = 200_000


@dataclass(frozen=True, kw_only=True)
class Templates:
    """``images (m, box, box)`` float32, protein white, centre ``box // 2``, at ``pixel_angstrom``.

    ``number (m,)`` is the projection or class (from 0), ``psi_deg (m,)`` its turn in the plane (RELION's
    psi). ``radius_angstrom`` is that of the circle in which they are compared.
    """

    images: np.ndarray = field(repr=False)
    number: np.ndarray
    psi_deg: np.ndarray
    pixel_angstrom: float
    radius_angstrom: float

    def __len__(self) -> int:
        return len(self.images)


def template_box(radius_angstrom: float, pixel_angstrom: float) -> int:
    """An even box with room for the circle and for what the CTF spreads beyond it."""
    return 2 * int(np.ceil(1.5 * radius_angstrom / pixel_angstrom)) + 4


def templates_from_map(
    volume: Volume,
    *,
    radius_angstrom: float,
    pixel_angstrom: float,
    symmetry: str = "C1",
    step_deg: float,
    rotations: int,
    radial_average: bool = False,
) -> Templates:
    """Projections of ``volume`` (protein white) from a HEALPix grid, at most ``step_deg`` apart, over the
    asymmetric unit of ``symmetry``, each at ``rotations`` angles in the plane.

    ``radial_average`` replaces each projection by its mean over circles; one angle is enough then.
    Raises ParameterError for a grid of more than 200,000 templates.
    """
    box = template_box(radius_angstrom, pixel_angstrom)
    views = _views(step_deg, symmetry)
    rotations = 1 if radial_average else rotations
    _check_count(len(views) * rotations)
    small = resample_volume(volume, box, pixel_angstrom)
    ground = small.data[radius_grid(small.data.shape) > 0.45 * box]
    data = (small.data - np.float32(np.median(ground))) * cosine_edge(
        radius_grid(small.data.shape) * pixel_angstrom, radius_angstrom, 2 * pixel_angstrom
    )
    projector = Projector(data)
    psi = np.arange(rotations) * 360.0 / rotations
    turns = from_relion(0.0, 0.0, psi).reshape(-1, 3, 3)
    poses = np.einsum("rij,vjk->vrik", turns, views).reshape(-1, 3, 3)
    slices = [
        projector.slices(poses[start : start + PROJECTIONS_AT_ONCE], box)
        for start in range(0, len(poses), PROJECTIONS_AT_ONCE)
    ]
    images = irfft2(torch.from_numpy(np.concatenate(slices)), (box, box)).numpy()
    if radial_average:
        images = _radially_averaged(images)
    return Templates(
        images=np.asarray(images, np.float32),
        number=np.repeat(np.arange(len(views)), rotations),
        psi_deg=np.tile(psi, len(views)),
        pixel_angstrom=pixel_angstrom,
        radius_angstrom=radius_angstrom,
    )


def templates_from_classes(
    classes: np.ndarray,
    class_pixel_angstrom: float,
    *,
    radius_angstrom: float,
    pixel_angstrom: float,
    rotations: int,
    radial_average: bool = False,
) -> Templates:
    """Class averages ``(n, y, x)`` (protein white, square) at ``pixel_angstrom``, each at ``rotations``
    angles in the plane. Empty classes (constant images) are left out; raises InputError where all are."""
    if classes.ndim != 3 or classes.shape[1] != classes.shape[2]:
        raise InputError(f"square class averages (n, y, x) are needed, found shape {classes.shape}")
    filled = np.flatnonzero(np.ptp(classes.reshape(len(classes), -1), axis=1) > 0)
    if len(filled) == 0:
        raise InputError("all templates are constant images: there is nothing to look for")
    rotations = 1 if radial_average else rotations
    _check_count(len(filled) * rotations)
    old = classes.shape[1]
    reach = radius_angstrom / class_pixel_angstrom
    if old < 8 or reach > 0.75 * old:
        raise InputError(
            f"the templates measure {old * class_pixel_angstrom:.4g} Å, a radius of {radius_angstrom:g} Å "
            "needs larger ones; check their pixel size and the radius"
        )
    # a pixel a little finer than wanted, by Fourier cropping; the rest with the turn, by splines
    fine = min(old, 2 * int(np.ceil(0.5 * old * class_pixel_angstrom / pixel_angstrom)) + 2)
    small = fourier_resize_images(np.asarray(classes[filled], np.float32), fine)
    fine_pixel = class_pixel_angstrom * old / fine
    distance = radius_grid((fine, fine)) * fine_pixel
    mask = cosine_edge(distance, min(radius_angstrom, 0.5 * fine * fine_pixel), 2 * fine_pixel)
    rim = (distance > 0.85 * 0.5 * fine * fine_pixel) & (distance <= 0.5 * fine * fine_pixel)
    small = (small - small[:, rim].mean(axis=1)[:, None, None]) * mask
    if radial_average:
        small = _radially_averaged(small)
    box = template_box(radius_angstrom, pixel_angstrom)
    psi = np.arange(rotations) * 360.0 / rotations
    images = np.stack(
        [_turned(image, angle, pixel_angstrom / fine_pixel, box) for image in small for angle in psi]
    )
    return Templates(
        images=images,
        number=np.repeat(filled, rotations),
        psi_deg=np.tile(psi, len(filled)),
        pixel_angstrom=pixel_angstrom,
        radius_angstrom=radius_angstrom,
    )


def _views(step_deg: float, symmetry: str) -> np.ndarray:
    """Matrices ``(v, 3, 3)`` that look from the points of a grid, without a turn in the plane."""
    grid = so3_grid(step_deg=step_deg, symmetry=symmetry_group(symmetry))
    return grid[:: int(np.ceil(360.0 / step_deg - 1e-9))]


def _check_count(count: int) -> None:
    if count > MAX_TEMPLATES:
        raise ParameterError(
            f"{count:,} templates are more than the {MAX_TEMPLATES:,} that are searched; use a larger "
            "angular step or fewer rotations"
        )


def _turned(image: np.ndarray, psi_deg: float, scale: float, box: int) -> np.ndarray:
    """The image seen after the turn psi, ``scale`` old pixels per new one: a projection at (rot, tilt, 0)
    becomes that at (rot, tilt, psi)."""
    turn = from_relion(0.0, 0.0, psi_deg).reshape(3, 3)[:2, :2]
    # x_new = turn · x_old; the spline wants old from new, in the order y, x
    back = scale * turn.T[::-1, ::-1]
    offset = image.shape[0] // 2 - back @ np.full(2, box // 2)
    return ndimage.affine_transform(image, back, offset, (box, box), np.float32, order=3)


def _radially_averaged(images: np.ndarray) -> np.ndarray:
    radius = radius_grid(images.shape[-2:])
    low = radius.astype(np.int64)
    part = (radius - low).ravel()
    weights = np.bincount(low.ravel(), 1 - part, low.max() + 2) + np.bincount(low.ravel() + 1, part)
    out = np.empty_like(images)
    for i, image in enumerate(images):
        sums = np.bincount(low.ravel(), (1 - part) * image.ravel(), low.max() + 2)
        sums += np.bincount(low.ravel() + 1, part * image.ravel())
        mean = sums / np.maximum(weights, 1e-12)
        out[i] = (1 - (radius - low)) * mean[low] + (radius - low) * mean[low + 1]
    return out
