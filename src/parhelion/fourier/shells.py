"""Sums over Fourier shells, power spectra and Fourier shell correlation."""

import numpy as np
import torch

from parhelion.errors import ParameterError
from parhelion.fourier.fft import as_tensor, rfft3
from parhelion.fourier.grids import rfft_radius, rfft_weight


def shell_count(shape: tuple[int, ...]) -> int:
    """Number of whole shells, 0 to ``n // 2``, of a cubic or square array of this shape."""
    if len(set(shape)) != 1:
        raise ParameterError(f"shells need a cubic or square array, found shape {tuple(shape)}")
    return shape[0] // 2 + 1


def shell_index(shape: tuple[int, ...]) -> torch.Tensor:
    """Shell of each half-layout coefficient of a cubic or square real array: |k| in cycles per box, rounded.

    Coefficients beyond the last whole shell get larger numbers (the corners).
    """
    shell_count(shape)
    return torch.round(rfft_radius(shape, dtype=torch.float64) * shape[0]).to(torch.int64)


def shell_sums(values: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """Sums ``(shells,)`` in float64 over the whole Fourier shells of half-layout ``values``; both
    members of each Friedel pair count. ``shape`` is that of the real array."""
    shells = shell_count(shape)
    index = shell_index(shape).to(values.device)
    weight = rfft_weight(shape).to(values.device)
    weighted = (values.to(torch.float64) * weight).reshape(-1)
    sums = torch.zeros(int(index.max()) + 1, dtype=torch.float64, device=values.device)
    sums.index_add_(0, index.reshape(-1), weighted)
    return sums[:shells]


def shell_mean(values: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """Means ``(shells,)`` in float64 over whole Fourier shells; see shell_sums."""
    return shell_sums(values, shape) / shell_sums(torch.ones_like(values, dtype=torch.float64), shape)


def spectrum(volume: np.ndarray | torch.Tensor) -> np.ndarray:
    """Mean power ``(shells,)`` per coefficient of a cubic volume (unitary transform)."""
    transform = rfft3(as_tensor(volume), unitary=True)
    return shell_mean(transform.abs() ** 2, tuple(volume.shape)).cpu().numpy()


def fsc(a: np.ndarray | torch.Tensor, b: np.ndarray | torch.Tensor) -> np.ndarray:
    """Fourier shell correlation ``(n // 2 + 1,)`` in float64 of two cubic volumes of one shape.

    Shells without power in one of the maps give 0. Harauz & van Heel, Optik 73, 146 (1986). Raises
    ParameterError when the shapes differ or are not cubic.
    """
    if tuple(a.shape) != tuple(b.shape):
        raise ParameterError(
            f"FSC needs two maps of one box, found {tuple(a.shape)} and {tuple(b.shape)}; resample one"
        )
    return fsc_of_transforms(rfft3(as_tensor(a)), rfft3(as_tensor(b)), tuple(a.shape))


def fsc_of_transforms(fa: torch.Tensor, fb: torch.Tensor, shape: tuple[int, ...]) -> np.ndarray:
    """FSC ``(shells,)`` of two half-layout transforms of real volumes of this ``shape``."""
    cross = shell_sums((fa * fb.conj()).real, shape)
    power = shell_sums(fa.abs() ** 2, shape) * shell_sums(fb.abs() ** 2, shape)
    curve = torch.where(power > 0, cross / power.clamp_min(1e-300).sqrt(), torch.zeros_like(cross))
    return curve.cpu().numpy()


def shell_resolution(shells: int, box: int, pixel_size_angstrom: float) -> np.ndarray:
    """Resolution ``(shells,)`` in Å of each shell; infinite for shell 0."""
    index = np.arange(shells, dtype=np.float64)
    with np.errstate(divide="ignore"):
        return box * pixel_size_angstrom / index


def resolution_at(curve: np.ndarray, threshold: float, box: int, pixel_size_angstrom: float) -> float:
    """Resolution in Å where ``curve (shells,)`` first falls below ``threshold``, linear between shells.

    The last shell's resolution where it never does, the box's extent where it starts below.
    """
    extent = box * pixel_size_angstrom
    below = np.flatnonzero(np.asarray(curve[1:]) < threshold) + 1
    if len(below) == 0:
        return extent / (len(curve) - 1)
    at = int(below[0])
    if at == 1:
        return extent
    high, low = float(curve[at - 1]), float(curve[at])
    return extent / (at - 1 + (high - threshold) / (high - low))
