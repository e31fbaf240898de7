"""Sharpening of a map without half maps: spectral flattening, two B-factors, figures of merit, a low-pass.

At low resolution the spectrum of a molecule is that of its shape and is kept (with a B-factor); from about 8
Å on it is that of randomly placed atoms, which is flat: there the map's amplitudes are divided by their mean
per shell. That is more robust than a straight line through a Guinier plot.
"""

from dataclasses import dataclass

import numpy as np
import torch

from parhelion.errors import ParameterError
from parhelion.fourier.fft import as_tensor, rfft3
from parhelion.fourier.filters import apply_envelope, lowpass_envelope
from parhelion.fourier.grids import rfft_radius
from parhelion.fourier.shells import shell_mean
from parhelion.model.volume import Volume


@dataclass(frozen=True, kw_only=True)
class FlattenSettings:
    """What is done to the amplitudes.

    Up to ``flatten_from_angstrom`` they are multiplied by exp(−B s²/4) with ``pre_bfactor_angstrom2``; from
    there on they are made flat (None: left as they are) and fall with ``post_bfactor_angstrom2``. The
    low-pass at ``cutoff_angstrom`` (None: none) has a cosine edge of ``1 / edge_angstrom``.
    """

    flatten_from_angstrom: float | None = 8.0
    pre_bfactor_angstrom2: float = -90.0
    post_bfactor_angstrom2: float = 0.0
    cutoff_angstrom: float | None = None
    edge_angstrom: float = 20.0

    def __post_init__(self) -> None:
        for name in ("flatten_from_angstrom", "cutoff_angstrom", "edge_angstrom"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ParameterError(f"{name}: a positive number of Å is needed, found {value}")


@dataclass(frozen=True, kw_only=True)
class FlattenedMap:
    """The sharpened map, and curves ``(shells,)``: frequency in 1/Å, root mean square amplitudes of the map
    inside the mask before and after, and the figures of merit that were applied (None: none)."""

    map: Volume
    frequency: np.ndarray
    before: np.ndarray
    after: np.ndarray
    figure_of_merit: np.ndarray | None


def amplitude_spectrum(data: np.ndarray) -> np.ndarray:
    """Root mean square amplitude ``(shells,)`` of a cubic map (unitary transform)."""
    transform = rfft3(as_tensor(np.asarray(data, np.float32)), unitary=True)
    return shell_mean(transform.abs() ** 2, tuple(data.shape)).sqrt().numpy()


def flattened(
    volume: Volume,
    mask: np.ndarray | None,
    settings: FlattenSettings,
    figure_of_merit: np.ndarray | None = None,
) -> FlattenedMap:
    """Sharpen a cubic map; the amplitudes that are flattened are measured inside ``mask`` (z, y, x).

    ``figure_of_merit (shells,)`` weights the shells. The result is not masked. Raises ParameterError for
    curves of another length, MetadataError for a map that is not cubic.
    """
    box, pixel = volume.box, volume.pixel_size_angstrom
    data = np.asarray(volume.data, np.float32)
    inside = data if mask is None else data * np.asarray(mask, np.float32)
    before = amplitude_spectrum(inside)
    frequency = np.arange(len(before)) / (box * pixel)
    if figure_of_merit is not None and len(figure_of_merit) != len(before):
        raise ParameterError(
            f"the map has {len(before)} shells, the figures of merit {len(figure_of_merit)}; they "
            "belong together"
        )
    radius = rfft_radius(data.shape, pixel, dtype=torch.float64)
    gain = _gain(radius, frequency, before, settings)
    if figure_of_merit is not None:
        gain = gain * _interpolated(radius, frequency, figure_of_merit)
    if settings.cutoff_angstrom is not None:
        gain = gain * lowpass_envelope(radius, settings.cutoff_angstrom, 1 / settings.edge_angstrom)
    result = apply_envelope(data, gain.to(torch.float32))
    result = result.astype(np.float32)
    after = amplitude_spectrum(result if mask is None else result * np.asarray(mask, np.float32))
    return FlattenedMap(
        map=Volume(data=result, pixel_size_angstrom=pixel),
        frequency=frequency,
        before=before,
        after=after,
        figure_of_merit=figure_of_merit,
    )


def _gain(
    radius: torch.Tensor, frequency: np.ndarray, amplitude: np.ndarray, settings: FlattenSettings
) -> torch.Tensor:
    """B-factors and flattening, continuous where one passes into the other."""
    last = float(frequency[-1])
    # beyond the last whole shell (the corners) the gain stays what it is there
    s = radius.clamp_max(last)
    start = settings.flatten_from_angstrom
    edge = last if start is None else min(1 / start, last)
    below, beyond = s.clamp_max(edge) ** 2, (s**2 - edge**2).clamp_min(0.0)
    exponent = settings.pre_bfactor_angstrom2 * below + settings.post_bfactor_angstrom2 * beyond
    gain = torch.exp(-0.25 * exponent)
    if start is None or edge >= last:
        return gain
    floor = 1e-6 * float(amplitude.max())
    at_edge = float(np.interp(edge, frequency, amplitude))
    flat = _interpolated(s, frequency, max(at_edge, floor) / np.maximum(amplitude, floor))
    return torch.where(s > edge, gain * flat, gain)


def _interpolated(radius: torch.Tensor, frequency: np.ndarray, curve: np.ndarray) -> torch.Tensor:
    """A curve per shell at any radius, linear between shells."""
    return torch.from_numpy(np.interp(radius.numpy(), frequency, curve))
