"""Candidate poses of a chunk of particles: a flat list with the particle each belongs to."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """``m`` poses: batch row ``particle`` ``(m,)``, ``rotation`` ``(m, 3, 3)``, ``shift`` ``(m, 3)``.

    Shifts are in units of the extent. ``chi2`` and ``hessian`` are there once refined; ``weight`` is
    the posterior share within the particle. ``reference`` ``(m,)`` numbers the map of each pose where there
    are several.
    """

    particle: Tensor
    rotation: Tensor
    shift: Tensor
    chi2: Tensor | None = None
    hessian: Tensor | None = None
    weight: Tensor | None = None
    reference: Tensor | None = None

    def __len__(self) -> int:
        return len(self.particle)

    def take(self, index: Tensor) -> "Candidates":
        """The candidates at ``index`` (integers or a mask)."""

        def rows(values: Tensor | None) -> Tensor | None:
            return None if values is None else values[index]

        return Candidates(
            particle=self.particle[index],
            rotation=self.rotation[index],
            shift=self.shift[index],
            chi2=rows(self.chi2),
            hessian=rows(self.hessian),
            weight=rows(self.weight),
            reference=rows(self.reference),
        )

    def moved_to(self, device: torch.device) -> "Candidates":
        """The same candidates on another device."""
        if self.particle.device == device:
            return self
        moved = {
            name: None if getattr(self, name) is None else getattr(self, name).to(device)
            for name in self.__dataclass_fields__
        }
        return Candidates(**moved)  # type: ignore[arg-type]


def joined(first: Candidates, second: Candidates) -> Candidates:
    """Both lists' poses, sorted by particle; chi² and weights are dropped."""
    particle = torch.cat((first.particle, second.particle))
    order = torch.argsort(particle, stable=True)
    return Candidates(
        particle=particle[order],
        rotation=torch.cat((first.rotation, second.rotation))[order],
        shift=torch.cat((first.shift, second.shift))[order],
    )


def ranked(candidates: Candidates) -> Candidates:
    """Sorted by particle, then by chi²."""
    if candidates.chi2 is None:
        raise ValueError("candidates are ranked after refinement")
    order = torch.argsort(candidates.chi2, stable=True)
    order = order[torch.argsort(candidates.particle[order], stable=True)]
    return candidates.take(order)


def rank_within_particle(particle: Tensor) -> Tensor:
    """0, 1, 2 … within each run of a sorted ``particle`` list."""
    start = torch.ones_like(particle, dtype=torch.bool)
    start[1:] = particle[1:] != particle[:-1]
    position = torch.arange(len(particle), device=particle.device)
    first = torch.where(start, position, torch.zeros_like(position)).cummax(0).values
    return position - first


def pruned(
    candidates: Candidates,
    most: int,
    worse_by: float,
    same_angle_rad: float,
    same_shift: float,
    operators: Tensor | None = None,
) -> Candidates:
    """Distinct poses only, at most ``most`` per particle, none worse than the best by ``worse_by``.

    Poses that the symmetry ``operators`` ``(g, 3, 3)`` carry into each other are one pose: at a border of
    the asymmetric unit its mates would otherwise take the places of real alternatives.
    """
    ordered = ranked(candidates)
    if operators is None:
        operators = torch.eye(3, dtype=ordered.rotation.dtype, device=ordered.rotation.device)[None]
    ordered = ordered.take(~_repeats(ordered, same_angle_rad, same_shift, operators))
    rank = rank_within_particle(ordered.particle)
    position = torch.arange(len(ordered), device=rank.device)
    if (chi2 := ordered.chi2) is None:
        raise ValueError("candidates are pruned after refinement")
    best = chi2[position - rank]
    return ordered.take((rank < most) & (chi2 - best <= worse_by))


def _repeats(ordered: Candidates, angle_rad: float, shift: float, operators: Tensor) -> Tensor:
    """True for a pose within ``angle_rad`` and ``shift`` of a better one of its particle, or of its mates."""
    rank = rank_within_particle(ordered.particle)
    repeat = torch.zeros(len(ordered), dtype=torch.bool, device=rank.device)
    trace = 1 + 2 * torch.cos(torch.tensor(angle_rad)).item()
    for back in range(1, int(rank.max()) + 1 if len(rank) else 1):
        later = torch.nonzero(rank >= back).squeeze(1)
        earlier = later - back
        # trace(A'ᵀ A g) = Σ (A'ᵀ A)_ij g_ji is 1 + 2 cos of the angle between A' and the mate A g
        between = ordered.rotation[later].mT @ ordered.rotation[earlier]
        nearest = (between.flatten(1) @ operators.mT.flatten(1).T).amax(1)
        near = nearest > trace
        near &= (ordered.shift[later] - ordered.shift[earlier]).norm(dim=1) < shift
        repeat[later] |= near & ~repeat[earlier]
    return repeat


def weighted(
    candidates: Candidates, least: float = 0.01, log_prior: Tensor | None = None, volumes: bool = True
) -> Candidates:
    """Posterior weights by Laplace's approximation: exp(-chi²) / sqrt det(normal matrix).

    Every candidate stands for the mode around it, whose volume is the determinant's root; without
    ``volumes`` for itself alone, as where poses are given. ``log_prior`` ``(m,)`` is added to the logarithm.
    Candidates below ``least`` of their particle's total are dropped and the rest sum to one. Fixed parameters
    have a unit diagonal in the normal matrix and do not matter.
    """
    if candidates.chi2 is None or candidates.hessian is None:
        raise ValueError("candidates are weighted after refinement")
    if not len(candidates):
        return replace(candidates, weight=candidates.chi2)
    log_weight = -candidates.chi2
    if volumes:
        ridge = 1e-9 * torch.eye(6, dtype=candidates.hessian.dtype, device=candidates.hessian.device)
        log_weight = log_weight - 0.5 * torch.linalg.slogdet(candidates.hessian + ridge)[1]
    if log_prior is not None:
        log_weight = log_weight + log_prior
    enough = _softmax(candidates.particle, log_weight) >= least
    kept = candidates.take(enough)
    return replace(kept, weight=_softmax(kept.particle, log_weight[enough]))


def _softmax(particle: Tensor, log_weight: Tensor) -> Tensor:
    """exp(log_weight), normalised within each particle."""
    size = int(particle.max()) + 1
    peak = torch.full((size,), -torch.inf, dtype=log_weight.dtype, device=log_weight.device)
    peak.scatter_reduce_(0, particle, log_weight, "amax")
    share = torch.exp(log_weight - peak[particle])
    total = torch.zeros(size, dtype=share.dtype, device=share.device).index_add_(0, particle, share)
    return share / total[particle]
