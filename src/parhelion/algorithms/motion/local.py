"""Local motion: a smooth model of it, fitted to all patches of all frames at once.

Patches are too weak for tracks of their own at low dose. Hence no tracks are measured: the likelihood of
all patches (likelihood.py) is climbed in the 36 coefficients of the model themselves. A patch that the
fitted model makes less likely (a crack, a moving contaminant) is left out of a second fit; a model that
gains less than its number of coefficients (Akaike's criterion) is not used.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from parhelion.algorithms.motion.climb import climb
from parhelion.algorithms.motion.likelihood import Frames, Likelihood, Powers, powers_of_rings, useful_limit
from parhelion.algorithms.motion.patches import Patches, cut_patches
from parhelion.algorithms.motion.polynomial import TERMS, LocalMotion, basis
from parhelion.contracts import Executor

STAGES = 3
CONVERGED = 0.05
"""Relative change of the information about shifts below which the powers count as settled."""
MOST_GROUPS = 8
"""Frames, already aligned as wholes, are added up in runs to at most so many: local motion is slow."""
PARAMETERS = 2 * TERMS
PARTS = 6
"""Portions of the patches that are worked on one by one, whatever the number of threads."""
OUTLIER = 8.0
"""A patch is left out where the model makes it less likely by this many natural logarithms."""


@dataclass(frozen=True, kw_only=True)
class LocalFit:
    """The model, if it is worth having, and what speaks for it.

    ``gain`` natural logarithms of likelihood over whole-frame motion; ``left_out`` patches of ``patches``;
    ``largest_px`` the largest local shift at any patch and frame.
    """

    motion: LocalMotion | None
    gain: float
    patches: int
    left_out: int
    largest_px: float


def fit_local_motion(
    frames: Frames,
    shift_px: np.ndarray,
    times: np.ndarray,
    grid: tuple[int, int],
    *,
    pattern: np.ndarray | None = None,
    amplitude: Callable[[np.ndarray], np.ndarray],
    detail_px: float,
    prior_px: float,
    threshold_px: float,
    iterations: int,
    executor: Executor,
) -> LocalFit:
    """Fit the model to frames at ``times`` ``(n,)`` (numbers from the first), aligned by ``shift_px``.

    ``prior_px`` is the size of local motion that is expected before the data speak. Other arguments as for
    ``cut_patches`` and ``TrackSettings``.
    """
    groups = np.arange(len(times)) // -(-len(times) // MOST_GROUPS)
    patches = cut_patches(frames, shift_px, grid, groups, pattern, amplitude, executor)
    times = np.array([times[groups == group].mean() for group in range(int(groups.max()) + 1)])
    count = len(patches.frames)
    # time from 0 to 1 keeps the powers of similar size
    length = max(float(times.max()), 1.0)
    terms = basis((times / length)[None, :], patches.centre[:, :1], patches.centre[:, 1:])
    fit = _Fit(patches, terms, prior_px, executor)
    kept = np.ones(count, bool)
    coefficients = fit.best(kept, detail_px, threshold_px, iterations)
    gains = fit.gains(coefficients, kept)
    if np.any(gains < -OUTLIER) and (gains >= -OUTLIER).sum() > count / 2:
        kept = gains >= -OUTLIER
        coefficients = fit.best(kept, detail_px, threshold_px, iterations)
        gains = fit.gains(coefficients, kept)
    gain = float(gains[kept].sum())
    shifts = terms @ coefficients * patches.scale
    whole = coefficients.T * patches.scale[:, None]
    motion = LocalMotion(coefficients=whole / np.tile(length ** np.arange(1, 4), TERMS // 3)[None, :])
    return LocalFit(
        motion=motion if gain > PARAMETERS else None,
        gain=gain,
        patches=count,
        left_out=int((~kept).sum()),
        largest_px=float(np.hypot(shifts[..., 0], shifts[..., 1]).max()),
    )


def _furthest(terms: np.ndarray, step: np.ndarray) -> float:
    """The most that a step of the coefficients moves any patch."""
    return float(np.abs(terms @ step).max())


class _Fit:
    """Coefficients ``(18, 2)``, in pixels of the patches, that the patches like best."""

    def __init__(self, patches: Patches, terms: np.ndarray, prior_px: float, executor: Executor) -> None:
        self.patches, self.terms, self.executor = patches, terms, executor
        expected = np.einsum("pim,pil->ml", terms, terms) / (terms.shape[0] * terms.shape[1])
        # each of the terms then contributes alike, and all together prior_px
        self.prior = expected * TERMS / (prior_px / patches.scale.mean()) ** 2

    def best(self, kept: np.ndarray, detail_px: float, threshold_px: float, iterations: int) -> np.ndarray:
        """Climb with the detail of the first search, then with all that shows signal."""
        coarse = float(self.patches.scale.mean() / detail_px)
        found, before = np.zeros((TERMS, 2)), 0.0
        for stage in range(STAGES):
            powers = self.powers(found, kept)
            limit = coarse if stage == 0 else useful_limit(self.patches.frames[0], powers)
            if limit is None:
                return found
            likelihoods = [
                Likelihood(frames=f.up_to(limit), powers=powers)
                for f, keep in zip(self.patches.frames, kept, strict=True)
                if keep
            ]
            terms = self.terms[kept]
            information = likelihoods[0].information()
            if abs(np.trace(information) - before) < CONVERGED * before:
                return found
            before = float(np.trace(information))
            curvature = np.einsum("pim,ij,pjl->ml", terms, information, terms)
            found, _, _ = climb(
                partial(self._value, parts=likelihoods, terms=terms),
                curvature + self.prior,
                self.prior,
                found,
                threshold_px,
                iterations,
                centred=False,
                furthest=partial(_furthest, terms),
            )
        return found

    def _value(
        self, coefficients: np.ndarray, parts: list[Likelihood], terms: np.ndarray
    ) -> tuple[float, np.ndarray]:
        value, slope = 0.0, np.zeros_like(coefficients)

        def some(first: int) -> tuple[float, np.ndarray]:
            found, by_term = 0.0, np.zeros_like(coefficients)
            for part, own in zip(parts[first::PARTS], terms[first::PARTS], strict=True):
                likely, by_frame = part.evaluate(own @ coefficients)
                found += likely
                by_term += own.T @ by_frame
            return found, by_term

        for found, by_term in self.executor.map(some, range(min(PARTS, len(parts)))):
            value += found
            slope += by_term
        return value, slope

    def powers(self, coefficients: np.ndarray, kept: np.ndarray) -> Powers:
        """Powers of all kept patches together, under this model; a pattern was taken away before."""
        rings = np.zeros((len(self.patches.band.shell_count), 4))

        def some(numbers: np.ndarray) -> np.ndarray:
            out = np.zeros_like(rings)
            for number in numbers:
                frames = self.patches.frames[number]
                out[:, 0] += frames.each
                out[:, 1] += frames.ring_powers(frames.sums(self.terms[number] @ coefficients))
            return out

        for part in self.executor.map(some, np.array_split(np.flatnonzero(kept), PARTS)):
            rings += part
        points = self.patches.band.shell_count * int(kept.sum())
        return powers_of_rings(rings, points, self.patches.frames[0].amplitude, allow_pattern=False)

    def gains(self, coefficients: np.ndarray, kept: np.ndarray) -> np.ndarray:
        """How much more likely the model makes each patch ``(patches,)`` than whole-frame motion does."""
        powers = self.powers(coefficients, kept)

        def some(numbers: np.ndarray) -> list[float]:
            found = []
            for number in numbers:
                part = Likelihood(frames=self.patches.frames[number], powers=powers)
                still = np.zeros((self.terms.shape[1], 2))
                moved = self.terms[number] @ coefficients
                found.append(float(part.evaluate(moved)[0] - part.evaluate(still)[0]))
            return found

        parts = np.array_split(np.arange(len(self.patches.frames)), PARTS)
        return np.concatenate(list(self.executor.map(some, parts)))
