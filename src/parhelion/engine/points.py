"""The Fourier points that a likelihood sums over: one of each Friedel pair, sorted by radius."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class FourierPoints:
    """Points of a ``box`` x ``box`` transform whose nearest shell is 1 … ``max_shell`` (shells of 1/extent).

    DC is left out; the column kx = 0 contributes only ky > 0. Because points are sorted by radius,
    every lower resolution limit is a prefix: ``count(limit)``.
    """

    box: int
    max_shell: int

    @cached_property
    def _sorted(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        m = self.max_shell
        ky, kx = np.meshgrid(np.arange(-m, m + 1), np.arange(m + 1), indexing="ij")
        radius = np.hypot(kx, ky)
        keep = (radius < m + 0.5) & (radius >= 1) & ~((kx == 0) & (ky < 0))
        order = np.argsort(radius[keep], kind="stable")
        return kx[keep][order], ky[keep][order], radius[keep][order]

    @cached_property
    def kx(self) -> Tensor:
        """Integer frequency along x, ``(k,)`` float32."""
        return torch.from_numpy(self._sorted[0].astype(np.float32))

    @cached_property
    def ky(self) -> Tensor:
        """Integer frequency along y, ``(k,)`` float32."""
        return torch.from_numpy(self._sorted[1].astype(np.float32))

    @cached_property
    def radius(self) -> np.ndarray:
        """Distance from the origin in shells, ``(k,)``, ascending."""
        return self._sorted[2]

    @cached_property
    def shell(self) -> Tensor:
        """Nearest shell of each point, ``(k,)`` int64."""
        return torch.from_numpy(np.rint(self.radius).astype(np.int64))

    def __len__(self) -> int:
        return len(self._sorted[0])

    def count(self, limit: float) -> int:
        """How many points have radius <= ``limit`` shells."""
        return int(np.searchsorted(self.radius, limit, side="right"))

    def shell_mean(self, values: Tensor) -> Tensor:
        """Mean of ``(..., k)`` per shell, ``(..., max_shell + 1)`` float64; 0 where a shell is empty."""
        shell = self.shell[: values.shape[-1]].to(values.device)
        size = self.max_shell + 1
        sums = torch.zeros((*values.shape[:-1], size), dtype=torch.float64, device=values.device)
        sums.index_add_(-1, shell, values.double())
        return sums / torch.bincount(shell, minlength=size).clamp_min(1)
