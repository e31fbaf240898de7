"""Whose particles are whose: posteriors over classes and poses together, and what they know."""

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from parhelion.engine.candidates import Candidates, weighted

COLDEST, HOTTEST, BISECTIONS = 0.02, 1e4, 24
LEAST_SHARE = 1e-3
"""No class has a smaller prior: one that lost its particles may win some back."""


def log_priors(share: np.ndarray, orders: tuple[int, ...], volumes: bool) -> np.ndarray:
    """Of a pose in each class: its share, times the order of its group where poses are searched.

    A class with symmetry holds its particles' orientations in one asymmetric unit, where they lie as many
    times as densely as those of a class without.
    """
    prior = np.log(np.maximum(share, LEAST_SHARE))
    return np.asarray(prior + np.log(orders)) if volumes else np.asarray(prior)


def weighted_over_classes(
    found: list[Candidates],
    share: np.ndarray,
    orders: tuple[int, ...],
    volumes: bool,
    target_nats: float | None,
) -> tuple[Candidates, float, float, float]:
    """Joint posterior weights of all classes' poses, what they know about the class, at what temperature,
    and the mean log-evidence of the particles.

    ``orders`` are those of the classes' groups. The temperature is 1, or what posteriors of ``target_nats``
    on average need.
    """
    names = ("particle", "rotation", "shift", "chi2", "hessian", "reference")
    every = Candidates(**{name: torch.cat([getattr(one, name) for one in found]) for name in names})
    every = every.take(torch.argsort(every.particle, stable=True))
    chi2 = every.chi2
    if every.reference is None or chi2 is None or not len(every):
        return replace(every, weight=chi2), 0.0, 1.0, 0.0
    prior = torch.from_numpy(log_priors(share, orders, volumes)).to(every.rotation.device)
    prior = prior[every.reference]

    def at(temperature: float) -> Candidates:
        softer = replace(every, chi2=chi2 / temperature)
        return weighted(softer, least=1e-3, log_prior=prior, volumes=volumes)

    low, high = COLDEST, HOTTEST
    if target_nats is None:
        poses, low = at(1.0), 1.0
    else:
        for _ in range(BISECTIONS):
            middle = math.sqrt(low * high)
            if information_of(at(middle), share) > target_nats:
                low = middle
            else:
                high = middle
        poses = at(high)
        low = high
    return poses, information_of(poses, share), low, _evidence(every, prior)


def _evidence(every: Candidates, log_prior: Tensor) -> float:
    """Mean over particles of the logarithm of the sum of exp(-χ²) times the prior, over their poses."""
    if every.chi2 is None:
        raise ValueError("evidence comes from scored poses")
    value = log_prior - every.chi2
    owner = every.particle.unique(return_inverse=True)[1]
    count = int(owner.max()) + 1
    peak = torch.full((count,), -torch.inf, dtype=value.dtype, device=value.device)
    peak.scatter_reduce_(0, owner, value, "amax")
    total = torch.zeros_like(peak).index_add_(0, owner, torch.exp(value - peak[owner]))
    return float((peak + total.log()).mean())


def information_of(poses: Candidates, share: np.ndarray) -> float:
    """Mean over particles of what their posteriors know about the class, in nats more than ``share``."""
    if poses.weight is None or poses.reference is None or not len(poses):
        return 0.0
    rows = poses.particle.unique(return_inverse=True)[1]
    belongs = poses.weight.new_zeros((int(rows.max()) + 1, len(share)))
    belongs.index_put_((rows, poses.reference), poses.weight, accumulate=True)
    prior = torch.from_numpy(np.maximum(share, LEAST_SHARE)).to(belongs)
    return float((belongs * torch.log(belongs.clamp_min(1e-300) / prior)).sum(1).mean())


def of_class(poses: Candidates, number: int) -> Candidates:
    """The poses in one class."""
    if poses.reference is None:
        raise ValueError("poses of a classification have classes")
    return poses.take(poses.reference == number)


def likeliest(poses: Candidates) -> Candidates:
    """Of each particle the one pose with the largest weight; the order of particles stays."""
    if not len(poses) or poses.weight is None:
        return poses
    order = torch.argsort(poses.weight, descending=True, stable=True)
    order = order[torch.argsort(poses.particle[order], stable=True)]
    first = torch.ones(len(order), dtype=torch.bool, device=order.device)
    first[1:] = poses.particle[order][1:] != poses.particle[order][:-1]
    return poses.take(order[first])


def shares_of(kept: Candidates, classes: int) -> np.ndarray:
    """The share of all particles in each class."""
    if kept.weight is None or kept.reference is None:
        raise ValueError("shares are known of weighted poses with classes")
    total = torch.zeros(classes, dtype=kept.weight.dtype).index_add_(0, kept.reference, kept.weight)
    return (total / total.sum()).numpy()


def belongs_to(kept: Candidates, classes: int, count: int) -> Tensor:
    """What the poses of each of ``count`` particles say together about its class ``(count, classes)``."""
    if kept.weight is None or kept.reference is None:
        raise ValueError("poses of a classification have weights and classes")
    belongs = torch.zeros((count, classes), dtype=torch.float64)
    return belongs.index_put_((kept.particle, kept.reference), kept.weight.double(), accumulate=True)


def unsure(kept: Candidates, classes: int) -> np.ndarray:
    """The mean covariance of the particles' posteriors over the classes."""
    belongs = belongs_to(kept, classes, int(kept.particle.max()) + 1)
    belongs = belongs[belongs.sum(1) > 0]
    return (torch.diag(belongs.mean(0)) - belongs.T @ belongs / max(len(belongs), 1)).numpy()
