"""Local fast correlation of a micrograph with many templates.

Each answer is the correlation coefficient of a template with what lies under its mask, where mean and
deviation of the image under the mask come from Fourier transforms (Roseman 2003, Ultramicroscopy 94, 225;
Rath & Frank 2004, J. Struct. Biol. 145, 84), times the square root of the number of pixels under the mask:
with white noise it has variance 1. Image and CTF-modulated templates are whitened by the background's noise.

The templates of one micrograph span a space of few dimensions. A principal basis of it is correlated by
Fourier transforms, and all templates' answers are linear combinations: one matrix product per block of pixels
instead of one transform per template.
"""

from dataclasses import dataclass, field

import numpy as np
import torch

from parhelion.algorithms.picking.background import Background
from parhelion.algorithms.picking.local import disc_transform
from parhelion.algorithms.picking.matched import PickingCtf, whitened
from parhelion.algorithms.picking.reduced import ReducedMicrograph
from parhelion.algorithms.picking.templates import Templates
from parhelion.errors import InputError

KEPT_ENERGY = 0.95
PIXELS_AT_ONCE = 2048
TEMPLATES_AT_ONCE = 512
SPECTRA_AT_ONCE = 2048


@dataclass(frozen=True, kw_only=True)
class TemplateScore:
    """The best template's ``score (y, x)`` in standard deviations of white noise."""

    score: np.ndarray
    fields: torch.Tensor = field(repr=False)
    coefficients: torch.Tensor = field(repr=False)

    def best(self, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        """The row ``(n,)`` of the templates that answers most at each of these pixels."""
        at = torch.from_numpy(y.astype(np.int64) * self.score.shape[1] + x)
        return (self.coefficients @ self.fields[:, at]).argmax(dim=0).numpy()


def template_score(
    micrograph: ReducedMicrograph,
    background: Background,
    templates: Templates,
    ctf_values: PickingCtf | None,
) -> TemplateScore:
    """Correlate every template with every position. Raises InputError where templates have no contrast."""
    shape = (int(micrograph.data.shape[0]), int(micrograph.data.shape[1]))
    box = templates.images.shape[-1]
    mask = _mask(box, templates)
    patches = _patches(templates, background, ctf_values, mask)
    basis, coefficients = _principal(patches)
    transform = whitened(micrograph, background)
    scale = _local_scale(transform, shape, micrograph, templates.radius_angstrom)
    fields = _fields(transform, shape, basis, mask, box)
    count = float(mask.sum())
    score = _largest(fields, coefficients).reshape(shape) * scale * np.sqrt((count - 1) / count)
    return TemplateScore(score=score.astype(np.float32), fields=fields, coefficients=coefficients)


def _mask(box: int, templates: Templates) -> torch.Tensor:
    axis = (torch.arange(box) - box // 2).float() * templates.pixel_angstrom
    return torch.hypot(axis[:, None], axis[None, :]) <= templates.radius_angstrom


def _patches(
    templates: Templates, background: Background, ctf_values: PickingCtf | None, mask: torch.Tensor
) -> torch.Tensor:
    """``(m, pixels of the mask)``: templates with CTF and whitened noise, mean 0 and norm 1 in the mask."""
    box = templates.images.shape[-1]
    pixel = (templates.pixel_angstrom,) * 2
    factor = background.whitening((box, box), pixel)
    if ctf_values is not None:
        factor = factor * ctf_values.on_grid((box, box), pixel)
    out = torch.empty((len(templates), int(mask.sum())))
    for start in range(0, len(templates), SPECTRA_AT_ONCE):
        images = torch.from_numpy(templates.images[start : start + SPECTRA_AT_ONCE])
        # both transforms keep the first pixel as origin: the factor is symmetric
        made = torch.fft.irfft2(torch.fft.rfft2(images) * factor, s=(box, box))
        out[start : start + SPECTRA_AT_ONCE] = made[:, mask]
    out -= out.mean(dim=1, keepdim=True)
    norm = out.norm(dim=1, keepdim=True)
    if not bool((norm > 0).all()):
        raise InputError("a template has no contrast inside its circle; check the radius and the templates")
    return out / norm


def _principal(patches: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Orthonormal rows ``(k, p)`` that hold nearly all of the templates, and their coefficients ``(m, k)``
    with norm 1."""
    values, vectors = torch.linalg.eigh((patches.T @ patches).double())
    energy = torch.cumsum(values.flip(0).clamp_min(0), 0)
    keep = int((energy < KEPT_ENERGY * energy[-1]).sum()) + 1
    basis = vectors.flip(1)[:, :keep].T.float().contiguous()
    coefficients = patches @ basis.T
    return basis, coefficients / coefficients.norm(dim=1, keepdim=True)


def _local_scale(
    transform: torch.Tensor, shape: tuple[int, int], micrograph: ReducedMicrograph, radius_angstrom: float
) -> np.ndarray:
    """1 / deviation of the whitened image under the mask, at most 1 / half the median deviation: an empty
    patch is no reason to believe in a particle."""
    image = torch.fft.irfft2(transform, s=shape)
    kernel = disc_transform(shape, micrograph.pixel_yx_angstrom, radius_angstrom)
    pair = torch.fft.irfft2(torch.fft.rfft2(torch.stack([image, image**2])) * kernel, s=shape)
    deviation = (pair[1] - pair[0] ** 2).clamp_min(0.0).sqrt()
    return (1.0 / deviation.clamp_min(0.5 * float(deviation.median()))).numpy()


def _fields(
    transform: torch.Tensor, shape: tuple[int, int], basis: torch.Tensor, mask: torch.Tensor, box: int
) -> torch.Tensor:
    """``(k, pixels)``: correlation of the whitened image with each row of the basis."""
    out = torch.empty((len(basis), shape[0] * shape[1]))
    for k, row in enumerate(basis):
        patch = torch.zeros((box, box))
        patch[mask] = row
        padded = torch.zeros(shape)
        padded[:box, :box] = patch
        # the patch's centre to the first pixel
        padded = torch.roll(padded, (-(box // 2), -(box // 2)), (0, 1))
        out[k] = torch.fft.irfft2(transform * torch.fft.rfft2(padded).conj(), s=shape).reshape(-1)
    return out


def _largest(fields: torch.Tensor, coefficients: torch.Tensor) -> np.ndarray:
    """The largest combination at each pixel, in blocks that fit the cache."""
    score = torch.empty(fields.shape[1])
    rows = coefficients.split(TEMPLATES_AT_ONCE)
    for at in range(0, fields.shape[1], PIXELS_AT_ONCE):
        part = fields[:, at : at + PIXELS_AT_ONCE].contiguous()
        best = torch.full((part.shape[1],), -torch.inf)
        for some in rows:
            best = torch.maximum(best, (some @ part).amax(dim=0))
        score[at : at + PIXELS_AT_ONCE] = best
    return score.numpy()
