"""Planar references: class averages as transforms, turned in the plane, summed and solved.

A class average is a reference of which only in-plane turns are seen. With ψ the angle and A = Rz(ψ)ᵀ, the
image frequency k is the average's frequency Aᵀk. Turned transforms are taken from, and inserted into, a
transform sampled twice as finely as the images' by bilinear interpolation; taking and inserting are adjoint.

A turn by 180° takes k to -k, where the transform of a real image has its complex conjugate. Angles therefore
come as half a circle, and the other half costs a sign.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from parhelion.engine.points import FourierPoints
from parhelion.engine.predict import PADDING, half_size, interpolation_envelope, padded_box


@dataclass(frozen=True, kw_only=True)
class PlanarGrid:
    """Where the points of images, turned by each of ``a`` angles, lie in an average's transform.

    ``angles_deg`` ``(a,)``; ``corners`` and ``weights`` ``(4, a k)`` are the rows of the flattened half
    transform around each point and their bilinear weights; ``mate`` ``(a k, 1)`` is -1 where the point's
    Friedel mate is meant, else 1.
    """

    angles_deg: Tensor
    corners: Tensor
    weights: Tensor
    mate: Tensor
    max_shell: int

    @property
    def points(self) -> int:
        """Fourier points of one image."""
        return self.corners.shape[1] // len(self.angles_deg)


def planar_grid(angles_deg: Tensor, points: FourierPoints, count: int, padding: float) -> PlanarGrid:
    """The first ``count`` points turned by ``angles_deg`` ``(a,)`` float64, on the device of the angles."""
    device = angles_deg.device
    kx, ky = points.kx[:count].double().to(device), points.ky[:count].double().to(device)
    psi = torch.deg2rad(angles_deg.double())[:, None]
    x = ((psi.cos() * kx - psi.sin() * ky) * padding).reshape(-1)
    y = ((psi.sin() * kx + psi.cos() * ky) * padding).reshape(-1)
    mate = torch.where(x < 0, -1.0, 1.0)
    x, y = x * mate, y * mate
    h = half_size(points.max_shell, padding)
    x0, y0 = x.floor(), y.floor()
    fx, fy = (x - x0).float(), (y - y0).float()
    first = (y0.long() + h) * (h + 1) + x0.long()
    corners = torch.stack((first, first + 1, first + h + 1, first + h + 2))
    weights = torch.stack(((1 - fy) * (1 - fx), (1 - fy) * fx, fy * (1 - fx), fy * fx))
    return PlanarGrid(
        angles_deg=angles_deg,
        corners=corners,
        weights=weights,
        mate=mate.float()[:, None],
        max_shell=points.max_shell,
    )


def planar_transform(images: Tensor, max_shell: int, padding: float) -> Tensor:
    """Transforms of ``(m, box, box)`` averages, ready for ``turned``: ``(g, m)`` complex64.

    Scaled so that a turned transform equals the unitary transform of the turned image.
    """
    box = images.shape[-1]
    size = padded_box(box, padding)
    before = size // 2 - box // 2
    padded = images.new_zeros((len(images), size, size))
    envelope = _envelope(box, padding, images.device)
    padded[:, before : before + box, before : before + box] = images / envelope
    full = torch.fft.rfft2(torch.fft.ifftshift(padded, dim=(-2, -1))) / box
    h = half_size(max_shell, padding)
    inner = min(h, (size - 1) // 2)
    rows = torch.arange(-inner, inner + 1, device=images.device) % size
    half = full.new_zeros((len(images), 2 * h + 1, h + 1))
    half[:, h - inner : h + inner + 1, : inner + 1] = full[:, rows, : inner + 1]
    return half.flatten(1).T.contiguous()


def turned(transform: Tensor, grid: PlanarGrid) -> Tensor:
    """Each of ``m`` transforms ``(g, m)`` turned by each angle: ``(m, a, k)`` complex64."""
    parts = torch.view_as_real(transform).flatten(1)  # (g, 2m): rows are gathered whole
    found = parts.new_zeros((grid.corners.shape[1], parts.shape[1]))
    for corner, weight in zip(grid.corners, grid.weights):
        found.addcmul_(parts[corner], weight[:, None])
    found = found.view(len(found), -1, 2)
    found[..., 1] *= grid.mate
    pieces = torch.view_as_complex(found).T
    return pieces.reshape(transform.shape[1], len(grid.angles_deg), grid.points)


@dataclass(frozen=True, kw_only=True)
class PlanarSums:
    """Numerators and denominators of ``m`` averages: ``(g, m, 3)`` float32 (real, imaginary, denominator)."""

    sums: Tensor
    box: int
    max_shell: int
    padding: float

    @staticmethod
    def zeros(
        averages: int, box: int, max_shell: int, device: torch.device, padding: float = PADDING
    ) -> "PlanarSums":
        """Empty sums, sampled ``padding`` times as finely as the images' transforms."""
        padding = exact_padding(box, padding)
        h = half_size(max_shell, padding)
        shape = ((2 * h + 1) * (h + 1), averages, 3)
        return PlanarSums(
            sums=torch.zeros(shape, device=device), box=box, max_shell=max_shell, padding=padding
        )

    def insert(self, first: int, values: Tensor, weights: Tensor, grid: PlanarGrid) -> None:
        """Adds ``values`` ``(m, a, k)`` complex and ``weights`` ``(m, a, k)`` to averages from ``first`` on.

        The adjoint of ``turned``; the one operation here that mutates.
        """
        m = len(values)
        rows = torch.stack((values.real, values.imag, weights), -1).permute(1, 2, 0, 3).reshape(-1, m, 3)
        rows[..., 1] *= grid.mate
        mine = self.sums.new_zeros((len(self.sums), m, 3))
        for corner, weight in zip(grid.corners, grid.weights):
            mine.index_add_(0, corner, rows * weight[:, None, None])
        self.sums[:, first : first + m] += mine

    def completed(self) -> tuple[Tensor, Tensor]:
        """Numerator ``(m, 2h+1, h+1)`` complex and denominator, with Friedel mates in the column x = 0.

        Scaled by the number of samples per point of the images, so that a denominator is the sum of C²/σ²
        over images and one over it the variance of the average.
        """
        h = half_size(self.max_shell, self.padding)
        halves = self.sums.permute(1, 0, 2).reshape(-1, 2 * h + 1, h + 1, 3) * self.padding**2
        numerator = torch.complex(halves[..., 0], halves[..., 1])
        denominator = halves[..., 2].clone()
        numerator[:, :, 0] += numerator[:, :, 0].flip(1).conj()
        denominator[:, :, 0] += denominator[:, :, 0].flip(1)
        return numerator, denominator


def exact_padding(box: int, padding: float = PADDING) -> float:
    """About ``padding``, such that the parity of the box is kept."""
    return padded_box(box, padding) / box


def radii(max_shell: int, padding: float, device: torch.device) -> Tensor:
    """Distance of every point of a half transform from the origin, in shells: ``(2h+1, h+1)``."""
    h = half_size(max_shell, padding)
    axis = torch.arange(-h, h + 1, device=device, dtype=torch.float32) / padding
    return torch.hypot(axis[:, None], axis[h:])


def ring_means(values: Tensor, max_shell: int, padding: float) -> Tensor:
    """Means ``(m, max_shell + 1)`` float64 of ``(m, 2h+1, h+1)`` over the shells of the images' transform."""
    shell = radii(max_shell, padding, values.device).round().long().clamp_max(max_shell + 1).reshape(-1)
    total = values.new_zeros((len(values), max_shell + 2), dtype=torch.float64)
    total.index_add_(1, shell, values.flatten(1).double())
    return (total / torch.bincount(shell, minlength=max_shell + 2).clamp_min(1))[:, : max_shell + 1]


def planar_solve(
    numerator: Tensor,
    denominator: Tensor,
    inverse_signal: Tensor,
    band_shells: tuple[float, float],
    box: int,
    max_shell: int,
    padding: float,
    soft_shells: float = 2.0,
) -> Tensor:
    """Averages ``(m, box, box)`` by Wiener filtering completed sums.

    ``inverse_signal`` ``(m, max_shell + 1)`` is added to the denominator: one over the signal's power per
    shell. Frequencies outside ``band_shells`` (low, high) are left out, the upper end falls off softly.
    """
    radius = radii(max_shell, padding, numerator.device)
    shell = radius.round().long().clamp_max(max_shell)
    prior = inverse_signal.float()[:, shell]
    mean = denominator.flatten(1).mean(1).clamp_min(1e-20)[:, None, None]
    estimate = numerator / (denominator + prior + 1e-6 * mean)
    low, high = band_shells
    # A high-pass in the transform that is sampled finely spreads over the box, as the band of the images'
    # own points does: at half a sample below it.
    keep = ((high + soft_shells - radius) / soft_shells).clamp(0, 1) * (radius >= low - 0.5)
    return planar_image(estimate * keep, box, max_shell, padding)


def planar_image(half: Tensor, box: int, max_shell: int, padding: float) -> Tensor:
    """The central box of averages' transforms ``(m, 2h+1, h+1)``, freed of the interpolation's envelope."""
    size = padded_box(box, padding)
    h = half_size(max_shell, padding)
    inner = min(h, (size - 1) // 2)
    rows = torch.arange(-inner, inner + 1, device=half.device) % size
    full = half.new_zeros((len(half), size, size // 2 + 1))
    full[:, rows, : inner + 1] = half[:, h - inner : h + inner + 1, : inner + 1] * box
    images = torch.fft.fftshift(torch.fft.irfft2(full, s=(size, size)), dim=(-2, -1))
    before = size // 2 - box // 2
    return images[:, before : before + box, before : before + box] / _envelope(box, padding, half.device)


def _envelope(box: int, padding: float, device: torch.device) -> Tensor:
    s = interpolation_envelope(box, padding, device).float()
    return s[:, None] * s
