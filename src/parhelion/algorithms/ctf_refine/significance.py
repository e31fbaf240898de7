"""Which changes of an optics group are kept: each block of its parameters is tested against chance."""

from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import chi2 as chi2_distribution

from parhelion.algorithms.ctf_refine.settings import NUISANCE
from parhelion.algorithms.ctf_refine.solve import Solution
from parhelion.algorithms.ctf_refine.state import Changes, Start, corrected

SIGNIFICANCE = 0.01
"""A block of parameters is changed where chance would do as much in fewer than one of a hundred runs."""
NOT_SIGNIFICANT = "not significant"


@dataclass(frozen=True, kw_only=True)
class BlockResult:
    """One block of parameters of one optics group: total change, standard errors, and whether it was kept.

    The errors are those of the images' noise; what a reference from few or wrongly focused particles adds is
    not in them.
    """

    group: int
    block: str
    change: np.ndarray
    error: np.ndarray
    p_value: float
    kept: bool
    why: str


def tested_blocks(
    start: Start, changes: Changes, solution: Solution, frozen: np.ndarray, reasons: dict[int, str]
) -> tuple[BlockResult, ...]:
    """Every block of every optics group, tested by Wald's χ².

    ``frozen (groups, columns)`` did not move, for the ``reasons`` of whole groups.
    """
    first = len(start.layout.columns) - len(start.layout.group)
    out = []
    for number, group in enumerate(start.particles.optics):
        for block in start.layout.blocks:
            if block in NUISANCE:
                continue
            at = _columns_of(start, block)
            change = changes.group[number, at]
            if frozen[number, first + at[0]]:
                p, why = 1.0, reasons.get(number, "it has no effect")
            else:
                inverse = np.linalg.inv(solution.covariance[number][np.ix_(at, at)])
                p = float(chi2_distribution.sf(change @ inverse @ change, len(at)))
                why = "" if p < SIGNIFICANCE or corrected(group, block) else NOT_SIGNIFICANT
            out.append(
                BlockResult(
                    group=number,
                    block=block,
                    change=change,
                    error=solution.errors.group[number, at],
                    p_value=p,
                    kept=not why,
                    why=why,
                )
            )
    return tuple(out)


def notices_of(start: Start, blocks: tuple[BlockResult, ...]) -> list[str]:
    """What a user is told of blocks that are put back."""
    return [
        f"{found.block.replace('_', ' ')} of optics group {start.particles.optics[found.group].name}: the "
        f"change is not significant (p = {found.p_value:.2g}), the value stays as it was"
        for found in blocks
        if found.why == NOT_SIGNIFICANT
    ]


def dropped_columns(start: Start, blocks: tuple[BlockResult, ...]) -> np.ndarray:
    """Columns ``(groups, columns)`` of blocks that go back, and of nuisances that nobody needs."""
    layout = start.layout
    first = len(layout.columns) - len(layout.group)
    dropped = np.zeros((len(start.particles.optics), len(layout.columns)), bool)
    for number in range(len(start.particles.optics)):
        kept = {found.block for found in blocks if found.group == number and found.kept}
        for at, column in enumerate(layout.group):
            needed = NUISANCE.get(column.block, (column.block,))
            dropped[number, first + at] = not kept.intersection(needed)
    return dropped


def put_back(changes: Changes, dropped: np.ndarray) -> Changes:
    """``changes`` without those of the ``dropped (groups, columns)``."""
    first = dropped.shape[1] - changes.group.shape[1]
    return replace(changes, group=np.where(dropped[:, first:], 0.0, changes.group))


def refreshed(start: Start, found: BlockResult, changes: Changes, solution: Solution) -> BlockResult:
    """A block that was kept, after the others were put back and it was refined without them."""
    if not found.kept:
        return found
    at = _columns_of(start, found.block)
    return replace(found, change=changes.group[found.group, at], error=solution.errors.group[found.group, at])


def _columns_of(start: Start, block: str) -> list[int]:
    return [at for at, column in enumerate(start.layout.group) if column.block == block]
