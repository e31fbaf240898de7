"""Gold standard: two half sets that never see each other, and what their maps say together."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from parhelion.engine.solvent import Solvent
from parhelion.engine.update import MapSums, solve
from parhelion.fourier.shells import fsc

# Share of a shell's mean denominator that keeps voxels without data finite.
LIGHT_PRIOR = 0.05


def split_halves(count: int, rng: np.random.Generator, given: np.ndarray | None = None) -> np.ndarray:
    """Half set 1 or 2 per particle ``(count,)``: as given where every particle has one, else at random."""
    if given is not None and np.isin(given, (1, 2)).all() and len(np.unique(given)) == 2:
        return given.astype(np.int8)
    half = np.ones(count, np.int8)
    half[rng.permutation(count)[: count // 2]] = 2
    return half


@dataclass(frozen=True, kw_only=True)
class HalfMaps:
    """Two filtered, masked maps ``(box, box, box)``, the unfiltered ones, their mask and FSC inside it.

    ``resolved_shell`` is where the FSC first falls below 0.143, ``half_shell`` where it crosses 0.5 between
    shells.
    """

    maps: tuple[Tensor, Tensor]
    unfiltered: tuple[Tensor, Tensor]
    mask: Tensor
    fsc: np.ndarray
    resolved_shell: int
    half_shell: float = 0.0


def crossing_shell(curve: np.ndarray, threshold: float) -> float:
    """Where ``curve`` (one value per shell) first falls below ``threshold``, linear between shells; from
    shell 2 on, the last shell where it never does."""
    below = np.flatnonzero(curve[2:] < threshold)
    if not len(below):
        return float(len(curve) - 1)
    at = int(below[0]) + 2
    high, low = float(curve[at - 1]), float(curve[at])
    return at - 1 + (high - threshold) / (high - low) if high > threshold else float(at)


def solve_halves(sums: tuple[MapSums, MapSums], solvent: Solvent, max_shell: int) -> HalfMaps:
    """Both half maps, each Wiener-filtered with the signal-to-noise ratio that their FSC shows.

    The FSC is taken inside the mask between maps with a prior so small that it only keeps empty voxels
    finite. SNR of one half map = FSC / (1 - FSC): Scheres, J. Mol. Biol. 415, 406 (2012), eq. 10,
    without the factor for the combined map. Beyond ``max_shell`` nothing counts.
    """
    light = torch.full((max_shell + 1,), LIGHT_PRIOR, dtype=torch.float64)
    a, b = (solve(s, light, max_shell) for s in sums)
    mask = solvent.mask(a, b).to(a.device)
    curve = fsc(a * mask, b * mask)
    curve[max_shell + 1 :] = 0.0  # what a mask brings there from coarser shells
    usable = curve[: max_shell + 1].clip(0.001, 0.999)
    below = np.flatnonzero(usable[2:] < 0.143)
    resolved = int(below[0]) + 2 if len(below) else max_shell
    inverse_snr = torch.from_numpy((1 - usable) / usable)
    limit = min(resolved + 4, max_shell)
    first, second = (solvent.applied(solve(s, inverse_snr, limit), mask) for s in sums)
    return HalfMaps(
        maps=(first, second),
        unfiltered=(a, b),
        mask=mask,
        fsc=curve,
        resolved_shell=resolved,
        half_shell=crossing_shell(usable, 0.5),
    )


def solve_combined(sums: tuple[MapSums, MapSums], halves: HalfMaps, max_shell: int) -> Tensor:
    """The map of all particles, Wiener-filtered; not masked.

    SNR of the combined map = 2 FSC / (1 - FSC): Scheres, J. Mol. Biol. 415, 406 (2012), eq. 10.
    """
    first, second = sums
    both = replace(
        first,
        numerator=first.numerator + second.numerator,
        denominator=first.denominator + second.denominator,
    )
    usable = halves.fsc[: max_shell + 1].clip(0.001, 0.999)
    inverse_snr = torch.from_numpy((1 - usable) / (2 * usable))
    return solve(both, inverse_snr, min(halves.resolved_shell + 4, max_shell))
