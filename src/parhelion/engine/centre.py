"""Maps brought to the middle of their box, by whole voxels, and poses with them."""

from dataclasses import replace

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from parhelion.engine.candidates import Candidates
from parhelion.engine.loader import ParticleLoader
from parhelion.engine.state import RefineState

SMOOTHING_ANGSTROM = 6.0
LEVEL = 0.25
"""Of the smoothed map's largest density: what is lower is no part of the molecule's centre."""


def offset_voxels(volume: np.ndarray, pixel_size_angstrom: float, operators: np.ndarray) -> np.ndarray:
    """How far the centre of mass of a map ``(z, y, x)`` lies from voxel n // 2: whole voxels (x, y, z).

    Only along directions that the symmetry ``operators`` ``(g, 3, 3)`` leave alone.
    """
    smooth = ndimage.gaussian_filter(volume, max(SMOOTHING_ANGSTROM / pixel_size_angstrom, 1.0))
    body = np.clip(smooth - LEVEL * smooth.max(), 0, None)
    if not body.sum() > 0:
        return np.zeros(3, int)
    centre = np.array(ndimage.center_of_mass(body)[::-1]) - volume.shape[0] // 2
    return np.rint(operators.mean(axis=0) @ centre).astype(int)


def rolled(volume: Tensor, offset: np.ndarray) -> Tensor:
    """The map moved by minus ``offset`` voxels (x, y, z)."""
    return torch.roll(volume, tuple(int(-o) for o in offset[::-1]), dims=(0, 1, 2))


def moved_poses(kept: Candidates, offset: np.ndarray, box: int, tilted: bool) -> Candidates:
    """Poses for a map moved by minus ``offset`` voxels: shifts change by minus the rotated offset."""
    along = torch.from_numpy(offset / box).to(kept.rotation)
    change = kept.rotation @ along
    if not tilted:
        change[:, 2] = 0
    return replace(kept, shift=kept.shift - change)


def centred(state: RefineState, loader: ParticleLoader, operators: np.ndarray) -> RefineState:
    """The state with its molecule in the middle of the box."""
    mean = (state.maps[0] + state.maps[1]).cpu().numpy()
    offset = offset_voxels(mean, loader.pixel_size_angstrom, operators)
    if not offset.any():
        return state

    def both(pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return rolled(pair[0], offset), rolled(pair[1], offset)

    return replace(
        state,
        maps=both(state.maps),
        unfiltered=None if state.unfiltered is None else both(state.unfiltered),
        mask=None if state.mask is None else rolled(state.mask, offset),
        combined=None if state.combined is None else rolled(state.combined, offset),
        kept=moved_poses(state.kept, offset, loader.box, len(loader.tilts) > 1),
    )
