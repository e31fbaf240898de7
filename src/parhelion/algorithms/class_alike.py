"""Whether classes are two structures or one: what particles of one half say in maps of the other."""

from dataclasses import dataclass

import numpy as np
import torch

from parhelion.engine.class_posterior import belongs_to
from parhelion.engine.classes import ClassState
from parhelion.engine.halves import crossing_shell
from parhelion.fourier.shells import fsc

LEAST_KNOWN = 0.1
"""Classes are alike where posteriors know less than this share of what there is to know."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two classes (from 1): ``known`` (0 to 1) of what there is to know about which of the two a particle
    belongs to, and down to how many Å their maps are the same (FSC 0.5)."""

    first: int
    second: int
    known: float
    same_angstrom: float

    @property
    def alike(self) -> bool:
        """Whether nothing tells the two apart."""
        return self.known < LEAST_KNOWN


def pairs_of(state: ClassState, order: np.ndarray, extent_angstrom: float) -> tuple[Pair, ...]:
    """All pairs of classes, numbered by ``order``."""
    belongs = belongs_to(state.kept, len(state.share), len(state.half)).numpy()
    found = []
    for i in range(len(order)):
        for j in range(i + 1, len(order)):
            k, m = int(order[i]), int(order[j])
            one, other = state.halves[k], state.halves[m]
            mask = torch.maximum(one.mask, other.mask)
            curve = fsc(sum(one.unfiltered) * mask, sum(other.unfiltered) * mask)
            last = min(len(one.fsc), len(curve))
            same = crossing_shell(curve[:last], 0.5)
            found.append(
                Pair(
                    first=i + 1,
                    second=j + 1,
                    known=known_of(belongs[:, [k, m]]),
                    same_angstrom=extent_angstrom / max(same, 1.0),
                )
            )
    return tuple(found)


def known_of(belongs: np.ndarray) -> float:
    """The share of the entropy of two classes that the posteriors ``(n, 2)`` of their particles resolve."""
    weight = belongs.sum(1)
    some = weight > 0
    total = weight.sum()
    if not total > 0:
        return 0.0
    share = belongs.sum(0) / total
    to_know = -float(np.sum(share * np.log(share.clip(1e-300))))
    # a class that holds next to nothing leaves nothing to know
    if share.min() * total < 1:
        return 0.0
    within = belongs[some] / weight[some, None]
    open_still = -np.sum(within * np.log(within.clip(1e-300)), axis=1)
    return float(1 - (weight[some] * open_still).sum() / total / to_know)


def verdict(pairs: tuple[Pair, ...]) -> str | None:
    """What the user is told; None where all classes differ."""
    alike = [f"{one.first} and {one.second}" for one in pairs if one.alike]
    if not alike:
        return None
    return (
        f"classes {', '.join(alike)} are alike: particles of either half are told apart by the other half's "
        f"maps no better than by chance; ask for fewer classes, or take them as one"
    )
