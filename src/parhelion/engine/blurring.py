"""With which weights a particle's poses go into the map: likelihood blurring."""

from dataclasses import replace

import torch

from parhelion.engine.candidates import Candidates, weighted


def insertion_poses(poses: Candidates, blurring: bool, smoothing: float) -> Candidates:
    """The refined, weighted ``poses`` of a chunk with the weights that they are inserted with.

    With ``blurring`` every pose counts by its posterior to the power ``smoothing`` (the tempered posterior's
    Laplace weight: the volume of a mode shrinks alike for all), otherwise the likeliest alone.
    """
    if not len(poses) or (blurring and smoothing == 1.0):
        return poses
    if poses.chi2 is None or poses.weight is None:
        raise ValueError("poses are inserted after refinement and weighting")
    if blurring:
        return weighted(replace(poses, chi2=smoothing * poses.chi2))
    order = torch.argsort(poses.weight, descending=True, stable=True)
    order = order[torch.argsort(poses.particle[order], stable=True)]
    first = torch.ones(len(order), dtype=torch.bool, device=order.device)
    first[1:] = poses.particle[order][1:] != poses.particle[order][:-1]
    best = poses.take(order[first])
    return replace(best, weight=torch.ones_like(poses.weight[order[first]]))
