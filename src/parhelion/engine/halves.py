"""Gold standard: two half sets that never see each other, and what their maps say together."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from parhelion.engine.update import MapSums, solve
from parhelion.fourier.shells import fsc


def split_halves(count: int, rng: np.random.Generator, given: np.ndarray | None = None) -> np.ndarray:
    """Half set 1 or 2 per particle ``(count,)``: as given where every particle has one, else at random."""
    if given is not None and np.isin(given, (1, 2)).all() and len(np.unique(given)) == 2:
        return given.astype(np.int8)
    half = np.ones(count, np.int8)
    half[rng.permutation(count)[: count // 2]] = 2
    return half


@dataclass(frozen=True, kw_only=True)
class HalfMaps:
    """Two filtered maps ``(box, box, box)``, the FSC between them and the shell where it passes 0.143."""

    maps: tuple[Tensor, Tensor]
    fsc: np.ndarray
    resolved_shell: int


def solve_halves(sums: tuple[MapSums, MapSums], mask: Tensor, max_shell: int) -> HalfMaps:
    """Both half maps, each Wiener-filtered with the signal-to-noise ratio that their FSC shows.

    The FSC is taken between maps with a prior so small that it only keeps empty voxels finite. SNR of
    one half map = FSC / (1 - FSC): Scheres, J. Mol. Biol. 415, 406 (2012), eq. 10, without the factor
    for the combined map.
    """
    light = torch.full((max_shell + 1,), 0.05, dtype=torch.float64)
    a, b = (solve(s, light, max_shell) * mask for s in sums)
    curve = fsc(a, b)
    usable = curve[: max_shell + 1].clip(0.001, 0.999)
    below = np.flatnonzero(usable[2:] < 0.143)
    resolved = int(below[0]) + 2 if len(below) else max_shell
    inverse_snr = torch.from_numpy((1 - usable) / usable)
    limit = min(resolved + 4, max_shell)
    filtered = tuple(solve(s, inverse_snr, limit) * mask for s in sums)
    return HalfMaps(maps=(filtered[0], filtered[1]), fsc=curve, resolved_shell=resolved)
