"""What a refinement knows between two rounds; what a checkpoint holds."""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from parhelion.engine.candidates import Candidates
from parhelion.engine.cistem_searches import Searches
from parhelion.engine.schedule import Plan, Progress


@dataclass(frozen=True, kw_only=True)
class RefineState:
    """Maps, poses, noise and schedule after a round.

    ``maps`` are the two half maps, filtered and masked, ``unfiltered`` and ``mask`` what they were made
    from (None before the first round); ``kept`` the candidate poses of all particles (``particle`` is the
    table row); ``noise`` ``(groups, shells)``; ``plan`` the round to come; ``history`` one dict a round.
    ``log_likelihood`` and ``uncertainty_deg`` ``(n,)`` say how well each best pose fits (``engine.fit``);
    ``combined`` is the filtered map of all particles, made where it is needed and in the last round;
    ``curves`` ``(rounds, shells)`` the FSC of every round, ``searches`` those that each particle had.
    """

    maps: tuple[Tensor, Tensor]
    kept: Candidates
    noise: Tensor
    half: np.ndarray
    plan: Plan
    progress: Progress
    fsc: np.ndarray
    history: tuple[dict[str, float | int], ...] = field(default=())
    unfiltered: tuple[Tensor, Tensor] | None = None
    mask: Tensor | None = None
    log_likelihood: np.ndarray | None = None
    uncertainty_deg: np.ndarray | None = None
    combined: Tensor | None = None
    curves: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    searches: Searches | None = None
    finished: str = ""


def best_poses(kept: Candidates, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rotation ``(n, 3, 3)``, shift ``(n, 3)`` and weight ``(n,)`` of each particle's likeliest pose.

    Particles without a candidate (bad images) have the identity, no shift and weight 0.
    """
    rotation = np.tile(np.eye(3), (count, 1, 1))
    shift, weight = np.zeros((count, 3)), np.zeros(count)
    if kept.weight is not None and len(kept):
        order = torch.argsort(kept.weight, stable=True)  # ascending: the likeliest is written last
        rows = kept.particle[order].cpu().numpy()
        rotation[rows] = kept.rotation[order].cpu().numpy()
        shift[rows] = kept.shift[order].cpu().numpy()
        weight[rows] = kept.weight[order].cpu().numpy()
    return rotation, shift, weight
