"""What the particles of one set are compared with in one round: a map, its slices and how poses are found."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from parhelion.engine import noise as noise_model
from parhelion.engine.loader import ParticleLoader
from parhelion.engine.predict import FourierVolume, fourier_volume
from parhelion.engine.schedule import Plan
from parhelion.engine.score import ScoreSettings, stages_between
from parhelion.engine.search import SliceBank, search_precision, shift_grid, slice_bank
from parhelion.geometry.rotations import random_rotations
from parhelion.geometry.so3 import so3_grid
from parhelion.geometry.symmetry import SymmetryGroup

SAME_ANGLE_DEG = 1.0
"""Poses closer than this, and than a tenth of the resolution, are the same mode."""


@dataclass(frozen=True, kw_only=True)
class Reference:
    """One map in one round.

    ``bank`` holds its slices where the round searches everywhere; ``noise`` ``(groups, k)`` is the noise
    power on the points; ``shifts`` ``(s, 3)`` are searched, in units of the extent; ``points`` are refined
    on.
    """

    volume: FourierVolume
    bank: SliceBank | None
    noise: Tensor
    shifts: Tensor
    settings: ScoreSettings
    points: int


def make_reference(
    loader: ParticleLoader,
    map_: Tensor,
    noise: Tensor,
    plan: Plan,
    symmetry: SymmetryGroup,
    *,
    shift_spread: float,
    top: int,
    kept: int,
    rng: np.random.Generator,
) -> Reference:
    """``map_`` ``(box, box, box)`` made ready for the round ``plan``.

    ``noise`` ``(groups, shells)``; ``shift_spread`` is the prior's standard deviation of shifts per axis in
    units of the extent; ``top`` hits of the search are refined and ``kept`` poses survive. The grid of
    orientations is turned at random by ``rng``.
    """
    points, device, extent = loader.points, loader.device, loader.extent_angstrom
    volume = fourier_volume(map_.to(device), points.max_shell)
    bank = None
    if plan.search:
        turn = random_rotations(1, rng)[0]
        grid = so3_grid(step_deg=plan.grid_step_deg, symmetry=symmetry, turn=turn)
        bank = slice_bank(
            volume,
            torch.from_numpy(grid).to(device),
            torch.from_numpy(loader.tilts).to(device),
            points,
            points.count(plan.search_shell),
            search_precision(device),
        )
    settings = ScoreSettings(
        top=top,
        stages=stages_between(plan.search_shell, plan.refine_shell, kept),
        # log p = -chi²: a Gaussian of variance s² adds |t|² / (2 s²) to chi².
        shift_precision=0.5 / shift_spread**2,
        same_angle_rad=np.radians(SAME_ANGLE_DEG),
        same_shift=0.1 / plan.refine_shell,
        operators=torch.from_numpy(symmetry.operators).to(device),
        three_dimensional_shift=len(loader.tilts) > 1,
    )
    return Reference(
        volume=volume,
        bank=bank,
        noise=noise_model.on_points(noise, points).to(device),
        shifts=shift_grid(plan.shift_radius_angstrom / extent, plan.shift_step_angstrom / extent).to(device),
        settings=settings,
        points=points.count(plan.refine_shell),
    )
