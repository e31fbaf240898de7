"""The track of whole frames: candidates from the search, refined by likelihood, smoothed where warranted."""

from dataclasses import dataclass, replace

import numpy as np

from parhelion.algorithms.motion.likelihood import Frames, Likelihood, Powers, measure_powers, useful_limit
from parhelion.algorithms.motion.search import SearchSettings, first_tracks

STAGES = 6
"""Times that the powers of signal and noise are measured anew at the best track."""
PATTERN_PRICE = 15.0
"""Natural logarithms of likelihood per frame that a fixed pattern must gain: the best of all tracks through
noise gains up to about half of that."""
SAME_PX = 0.5
"""Candidates that agree to this are one."""
ROUGH = 6
"""Most rounds of each refinement of a candidate, which is to rank it only."""
CONVERGED = 0.02
"""Relative change of the information about shifts below which the powers count as settled."""


@dataclass(frozen=True, kw_only=True)
class TrackSettings:
    """How frames are aligned; lengths in pixels of the frames as given.

    ``detail_px`` is the period of the finest detail of the first search, ``threshold_px`` ends the
    refinement; ``smooth`` adds the prior of steady motion.
    """

    min_shift_px: float
    max_shift_px: float
    threshold_px: float
    max_iterations: int
    bfactor_px2: float
    detail_px: float
    smooth: bool = True


@dataclass(frozen=True, kw_only=True)
class Track:
    """What was found for ``n`` frames.

    ``shift_px`` ``(n, 2)`` x, y is to be added to a frame's content to bring it onto the middle frame;
    ``error_px`` ``(n,)`` the expected error per axis. ``roughness_px`` is the standard deviation of the
    motion's change from frame to frame that smoothing allows, infinite without. ``gain`` is how much more
    likely the track makes the frames than no motion, in natural logarithms.
    """

    shift_px: np.ndarray
    error_px: np.ndarray
    powers: Powers
    iterations: int
    roughness_px: float
    gain: float


def find_track(frames: Frames, settings: TrackSettings) -> Track:
    """Align ``n`` frames; one frame stays where it is.

    Raises nothing for frames without signal: the errors then say that nothing is known.
    """
    count = len(frames.data)
    still = np.zeros((count, 2))
    if count == 1:
        powers = measure_powers(frames, still)
        return Track(
            shift_px=still,
            error_px=np.full(1, np.nan),
            powers=powers,
            iterations=0,
            roughness_px=np.inf,
            gain=0.0,
        )
    at_rest = measure_powers(frames, still)
    tracks = first_tracks(
        frames,
        at_rest.noise,
        SearchSettings(
            detail_px=settings.detail_px,
            max_shift_px=settings.max_shift_px,
            min_shift_px=settings.min_shift_px,
            bfactor_px2=settings.bfactor_px2,
        ),
    )
    best = _best(frames.up_to(1 / settings.detail_px), _distinct(tracks), settings)
    final = _refine(frames, best.shift, settings, STAGES, best.pattern)
    rest = Likelihood(frames=frames, powers=at_rest)
    base = rest.constant() + rest.evaluate(still)[0]
    if settings.smooth and count > 3:
        final = _smoothed(final, settings)
    information = final.likelihood.information() + final.prior
    covariance = np.linalg.pinv(information, rcond=1e-9, hermitian=True)
    middle = count // 2
    return Track(
        shift_px=final.shift - final.shift[middle],
        error_px=np.sqrt(np.maximum(np.diag(covariance), 0)) if information.any() else np.full(count, np.inf),
        powers=final.likelihood.powers,
        iterations=best.iterations + final.iterations,
        roughness_px=final.roughness,
        gain=final.value - base,
    )


@dataclass(frozen=True, kw_only=True)
class _Fit:
    shift: np.ndarray
    value: float
    likelihood: Likelihood
    prior: np.ndarray
    roughness: float
    iterations: int
    pattern: bool

    def worth(self) -> float:
        """What candidates are compared by: a pattern, which frees the track, must explain clearly more."""
        return self.value - (PATTERN_PRICE * len(self.shift) if self.pattern else 0.0)


def _distinct(tracks: list[np.ndarray]) -> list[np.ndarray]:
    """The candidates that differ from the earlier ones."""
    kept: list[np.ndarray] = []
    for track in tracks:
        centred = track - track.mean(axis=0)
        if all(np.abs(centred - (k - k.mean(axis=0))).max() > SAME_PX for k in kept):
            kept.append(track)
    return kept


def _best(coarse: Frames, tracks: list[np.ndarray], settings: TrackSettings) -> _Fit:
    """The candidate that explains the coarse frames best, without a pattern or with one where one shows."""
    rough = replace(settings, max_iterations=min(ROUGH, settings.max_iterations))

    def leader(starts: list[np.ndarray], pattern: bool) -> _Fit:
        first = max((_refine(coarse, track, rough, 1, pattern) for track in starts), key=_Fit.worth)
        return _refine(coarse, first.shift, rough, 1, pattern)

    best = leader(tracks, False)
    starts = [track for track in (*tracks, best.shift) if measure_powers(coarse, track).pattern.any()]
    return max(best, leader(starts, True), key=_Fit.worth) if starts else best


def _refine(frames: Frames, start: np.ndarray, settings: TrackSettings, stages: int, pattern: bool) -> _Fit:
    """Powers and shifts in turn, a fixed pattern allowed or not.

    Fine rings have no measurable signal before frames are roughly aligned, and take part as soon as they do.
    """
    shift, iterations, information = start, 0, -1.0
    prior = np.zeros((len(start), len(start)))
    for _ in range(stages):
        measured = measure_powers(frames, shift, pattern)
        told = Likelihood(frames=_useful(frames, measured), powers=measured)
        now = float(np.trace(told.information()))
        if abs(now - information) <= CONVERGED * now:
            break
        powers, likelihood, information = measured, told, now
        shift, value, used = likelihood.climb(
            shift, prior, threshold_px=settings.threshold_px, iterations=settings.max_iterations
        )
        iterations += used
    return _Fit(
        shift=shift,
        value=value + Likelihood(frames=frames, powers=powers).constant(),
        likelihood=likelihood,
        prior=prior,
        roughness=np.inf,
        iterations=iterations,
        pattern=pattern and bool(powers.pattern.any()),
    )


def _useful(frames: Frames, powers: Powers) -> Frames:
    """The frames up to the last ring that matters."""
    limit = useful_limit(frames, powers)
    return frames if limit is None else frames.up_to(limit)


def _smoothed(fit: _Fit, settings: TrackSettings) -> _Fit:
    """The track under a prior of steady motion whose strength the track itself shows.

    Second differences of the unsmoothed track hold the motion's own changes and the known errors of
    the shifts; what exceeds the errors is the prior's variance (empirical Bayes). A steady stage is smoothed,
    a jerky one is not.
    """
    information = fit.likelihood.information()
    if not information.any():
        return fit
    covariance = np.linalg.pinv(information, rcond=1e-9, hermitian=True)
    differences = second_differences(len(fit.shift))
    expected = np.diag(differences @ covariance @ differences.T)
    seen = ((differences @ fit.shift) ** 2).mean(axis=1)
    own = float(np.median(seen - expected)) if len(seen) > 8 else float((seen - expected).mean())
    variance = max(own, float((seen - expected).mean()), 0.05 * float(expected.mean()))
    prior = differences.T @ differences / variance
    shift, _, used = fit.likelihood.climb(
        fit.shift, prior, threshold_px=settings.threshold_px, iterations=settings.max_iterations
    )
    return replace(
        fit, shift=shift, prior=prior, roughness=float(np.sqrt(variance)), iterations=fit.iterations + used
    )


def second_differences(count: int) -> np.ndarray:
    """``(count - 2, count)``: rows 1, −2, 1."""
    out = np.zeros((max(count - 2, 0), count))
    for row in range(len(out)):
        out[row, row : row + 3] = (1.0, -2.0, 1.0)
    return out
