"""Find the particles of one micrograph."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from parhelion.algorithms.picking.background import Background, BackgroundChoice, find_background
from parhelion.algorithms.picking.correlation import template_score
from parhelion.algorithms.picking.exclusion import (
    LocalMaps,
    abnormal,
    contaminated_region,
    wide_contamination,
)
from parhelion.algorithms.picking.local import local_mean
from parhelion.algorithms.picking.matched import PickingCtf, blob_score, gaussian_score, whitened
from parhelion.algorithms.picking.peaks import find_peaks
from parhelion.algorithms.picking.reduced import ReducedMicrograph, reduce_micrograph
from parhelion.algorithms.picking.templates import Templates
from parhelion.errors import ParameterError

Method = Literal["blob", "template", "gaussian"]
RADIUS_RATIO = 1.2
POLARITY_SIGMAS = 4.0
LARGE_RADII = 1.5
LARGE_SHARE = 0.6
QUIET_NOISE = 1.5
NOISE_WINDOW_RADII = 3.0


@dataclass(frozen=True, kw_only=True)
class PickSettings:
    """What is looked for and what is refused. Raises ParameterError for radii that do not fit.

    ``radius_range_angstrom`` tries discs of radii from the one to the other, a factor 1.2 apart, instead of
    the characteristic radius. ``edge_distance_px`` is in pixels of the micrograph; None is the maximum
    radius.
    """

    method: Method = "blob"
    maximum_radius_angstrom: float = 120.0
    characteristic_radius_angstrom: float = 80.0
    radius_range_angstrom: tuple[float, float] | None = None
    threshold_sigmas: float = 5.0
    highest_resolution_angstrom: float = 30.0
    background_boxes: int = 50
    background_choice: BackgroundChoice = "lowest-variance"
    avoid_high_variance: bool = False
    avoid_abnormal_means: bool = True
    reject_large: bool = True
    edge_distance_px: float | None = None
    limit: int | None = None
    mask_threshold: float = 0.5

    def __post_init__(self) -> None:
        low, high = self.radius_range_angstrom or (self.characteristic_radius_angstrom,) * 2
        if not 0 < low <= high <= self.maximum_radius_angstrom:
            raise ParameterError(
                f"radii are expected in the order 0 < smallest <= largest <= maximum, found {low:g}, "
                f"{high:g} and {self.maximum_radius_angstrom:g} Å; the maximum radius reaches to the "
                "particle's farthest parts, the characteristic radius is that of its body"
            )

    @property
    def radii_angstrom(self) -> tuple[float, ...]:
        """The discs that are tried."""
        if self.radius_range_angstrom is None:
            return (self.characteristic_radius_angstrom,)
        low, high = self.radius_range_angstrom
        steps = int(np.ceil(np.log(high / low) / np.log(RADIUS_RATIO) - 1e-9)) + 1
        return tuple(float(r) for r in np.geomspace(low, high, max(steps, 1)))


@dataclass(frozen=True, kw_only=True)
class Picks:
    """Particles of one micrograph, best first.

    ``xy_px (n, 2)`` in its pixels, ``score (n,)`` in standard deviations of the noise. ``radius_angstrom``
    is that of the best disc (blob), ``template`` and ``psi_deg`` those of the best template. ``refused``
    counts the peaks that were left out, by reason; ``background_xy_px`` are the centres of the background
    boxes of ``background_box_px`` pixels, ``noise_power`` their spectrum per shell up to
    ``1 / (2 pixel_angstrom)``.
    """

    xy_px: np.ndarray
    score: np.ndarray
    radius_angstrom: np.ndarray | None = None
    template: np.ndarray | None = None
    psi_deg: np.ndarray | None = None
    refused: dict[str, int] = field(default_factory=dict)
    background_xy_px: np.ndarray = field(default_factory=lambda: np.zeros((0, 2)))
    background_variance: np.ndarray = field(default_factory=lambda: np.zeros(0))
    background_box_px: float = 0.0
    noise_power: np.ndarray = field(default_factory=lambda: np.zeros(0))
    pixel_angstrom: float = 0.0


@dataclass(frozen=True)
class _Scored:
    """A score map, and which template or radius answered most at given pixels."""

    score: np.ndarray
    choice: Callable[[np.ndarray, np.ndarray], np.ndarray] | None
    background: Background


def pick_micrograph(
    image: np.ndarray,
    pixel_size_angstrom: float,
    ctf: PickingCtf | None,
    settings: PickSettings,
    *,
    white: bool,
    templates: Templates | None = None,
    probability: np.ndarray | None = None,
) -> Picks:
    """Particles in ``image (y, x)``; ``white`` says that protein is brighter than ice.

    ``templates`` are needed for the method template. ``probability (v, u)`` is a map of contaminants over
    the whole micrograph. Raises InputError for an image in which nothing can be looked for.
    """
    micrograph = reduce_micrograph(
        image,
        pixel_size_angstrom,
        highest_resolution_angstrom=settings.highest_resolution_angstrom,
        largest_radius_angstrom=settings.maximum_radius_angstrom,
        white=white,
    )
    radius = settings.maximum_radius_angstrom
    maps = LocalMaps.of(micrograph, radius)
    masked = np.zeros(micrograph.data.shape, bool)
    if probability is not None:
        masked = contaminated_region(
            micrograph, probability, settings.mask_threshold, settings.characteristic_radius_angstrom
        )
    edge = settings.edge_distance_px
    edge = radius / pixel_size_angstrom if edge is None else edge
    # a pixel more, since peaks are finer than pixels
    allowed = (micrograph.distance_from_edge_px() >= edge - max(micrograph.scale_yx)) & ~masked
    scored = _score(micrograph, ctf, settings, maps, masked, templates)
    return _choose(micrograph, scored, settings, maps, allowed, edge, ctf, templates)


def _score(
    micrograph: ReducedMicrograph,
    ctf: PickingCtf | None,
    settings: PickSettings,
    maps: LocalMaps,
    masked: np.ndarray,
    templates: Templates | None,
) -> _Scored:
    background = find_background(
        micrograph,
        radius_angstrom=settings.maximum_radius_angstrom,
        count=settings.background_boxes,
        choice=settings.background_choice,
        excluded=maps.unlike_background() | masked,
    )
    if settings.method == "gaussian":
        score = gaussian_score(micrograph, background, settings.characteristic_radius_angstrom)
        return _Scored(_quietened(score, micrograph, settings.maximum_radius_angstrom), None, background)
    if settings.method == "template":
        if templates is None:
            raise ParameterError("the method template needs templates")
        found = template_score(micrograph, background, templates, ctf)
        return _Scored(found.score, found.best, background)
    transform = whitened(micrograph, background)
    every = np.stack([blob_score(micrograph, background, r, ctf, transform) for r in settings.radii_angstrom])
    choice = every.argmax(axis=0)
    score = np.take_along_axis(every, choice[None], axis=0)[0]
    score = _quietened(score, micrograph, settings.maximum_radius_angstrom)
    return _Scored(score, lambda y, x: choice[y, x], background)


def _quietened(score: np.ndarray, micrograph: ReducedMicrograph, radius_angstrom: float) -> np.ndarray:
    """The score divided by the local noise where that is well above the background's.

    Carbon answers with scores of both signs; particles with high ones only. The noise is that of the
    scores below 0 within three radii, and counts from 1.5 times the background's on.
    """
    below = np.minimum(score, 0.0) ** 2
    wide = local_mean(below, micrograph.pixel_yx_angstrom, NOISE_WINDOW_RADII * radius_angstrom)
    noise = np.sqrt(2.0 * np.maximum(wide, 0.0))
    return np.asarray(score / np.maximum(1.0, noise / QUIET_NOISE), np.float32)


def _choose(
    micrograph: ReducedMicrograph,
    scored: _Scored,
    settings: PickSettings,
    maps: LocalMaps,
    allowed: np.ndarray,
    edge_px: float,
    ctf: PickingCtf | None,
    templates: Templates | None,
) -> Picks:
    radius = settings.maximum_radius_angstrom
    distance_yx = (radius / micrograph.pixel_yx_angstrom[0], radius / micrograph.pixel_yx_angstrom[1])

    def peaks(where: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        yx, height = find_peaks(
            scored.score, where, threshold=settings.threshold_sigmas, distance_yx=distance_yx
        )
        inner = micrograph.edge_distance_of(yx) >= edge_px
        return yx[inner], height[inner]

    yx, height = peaks(allowed)
    found = len(yx)
    refused: dict[str, int] = {}
    if settings.avoid_abnormal_means:
        for _ in range(2):
            strong = yx[: (len(yx) + 1) // 2]  # peaks come in falling order of height
            bad = wide_contamination(maps, micrograph, maps.mean[_at(strong)], radius)
            yx, height = peaks(allowed & ~bad)
        if found > len(yx):
            refused["contamination"] = found - len(yx)
    keep = np.ones(len(yx), bool)
    for reason, bad in _unbelievable(micrograph, scored, settings, maps, yx, height, ctf).items():
        if (bad & keep).any():
            refused[reason] = int((bad & keep).sum())
        keep &= ~bad
    yx, height = yx[keep], height[keep]
    if settings.limit is not None and len(yx) > settings.limit:
        refused["beyond the limit"] = len(yx) - settings.limit
        yx, height = yx[: settings.limit], height[: settings.limit]
    return _picks(micrograph, scored, settings, yx, height, refused, templates)


def _at(yx: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Index of the pixels nearest to these positions."""
    y, x = np.round(yx).astype(np.int64).T
    return y, x


def _unbelievable(
    micrograph: ReducedMicrograph,
    scored: _Scored,
    settings: PickSettings,
    maps: LocalMaps,
    yx: np.ndarray,
    height: np.ndarray,
    ctf: PickingCtf | None,
) -> dict[str, np.ndarray]:
    """Which peaks are left out, by reason."""
    found: dict[str, np.ndarray] = {}
    if len(yx) == 0:
        return found
    if settings.avoid_abnormal_means:
        found["abnormal local mean"] = abnormal(maps.mean[_at(yx)], maps.sigma, height)
    if settings.avoid_high_variance:
        variance = maps.variance[_at(yx)]
        above = variance > np.median(variance)
        found["high local variance"] = abnormal(variance, 0.0, height) & above
    if settings.reject_large and settings.method == "blob":
        large = blob_score(micrograph, scored.background, LARGE_RADII * settings.maximum_radius_angstrom, ctf)
        found["larger than a particle"] = large[_at(yx)] > LARGE_SHARE * scored.score[_at(yx)]
    return found


def _picks(
    micrograph: ReducedMicrograph,
    scored: _Scored,
    settings: PickSettings,
    yx: np.ndarray,
    height: np.ndarray,
    refused: dict[str, int],
    templates: Templates | None,
) -> Picks:
    columns: dict[str, Any] = {}
    if scored.choice is not None and settings.method == "template" and templates is not None:
        best = scored.choice(*_at(yx))
        columns = {"template": templates.number[best], "psi_deg": templates.psi_deg[best]}
    elif scored.choice is not None:
        columns = {"radius_angstrom": np.array(settings.radii_angstrom)[scored.choice(*_at(yx))]}
    return Picks(
        xy_px=micrograph.to_micrograph(yx),
        score=height,
        refused=refused,
        pixel_angstrom=micrograph.pixel_angstrom,
        **columns,
        **_of_background(micrograph, scored.background),
    )


def _of_background(micrograph: ReducedMicrograph, background: Background) -> dict[str, Any]:
    return {
        "background_xy_px": micrograph.to_micrograph(background.centres_yx),
        "background_variance": background.variance,
        "background_box_px": background.box * max(micrograph.scale_yx),
        "noise_power": background.power,
    }


def find_noise_boxes(
    image: np.ndarray,
    pixel_size_angstrom: float,
    settings: PickSettings,
    *,
    white: bool,
    probability: np.ndarray | None = None,
) -> Picks:
    """Boxes without particles as positions, most even first: their score is 1 less the spread of the
    deviations of their quadrants, relative to their mean (SPIDER's choice of noise windows)."""
    micrograph = reduce_micrograph(
        image,
        pixel_size_angstrom,
        highest_resolution_angstrom=settings.highest_resolution_angstrom,
        largest_radius_angstrom=settings.maximum_radius_angstrom,
        white=white,
    )
    maps = LocalMaps.of(micrograph, settings.maximum_radius_angstrom)
    excluded = maps.unlike_background()
    if probability is not None:
        excluded |= contaminated_region(
            micrograph, probability, settings.mask_threshold, settings.characteristic_radius_angstrom
        )
    background = find_background(
        micrograph,
        radius_angstrom=settings.maximum_radius_angstrom,
        count=settings.background_boxes,
        choice=settings.background_choice,
        excluded=excluded,
    )
    evenness = np.array(
        [_evenness(micrograph.data, y, x, background.box // 2) for y, x in background.centres_yx]
    )
    order = np.argsort(-evenness, kind="stable")
    about = _of_background(micrograph, background)
    return Picks(
        xy_px=about["background_xy_px"][order],
        score=evenness[order],
        pixel_angstrom=micrograph.pixel_angstrom,
        **about,
    )


def _evenness(image: np.ndarray, y: int, x: int, half: int) -> float:
    quarters = [
        image[y + dy : y + dy + half, x + dx : x + dx + half].std() for dy in (-half, 0) for dx in (-half, 0)
    ]
    return 1.0 - float(np.std(quarters) / max(float(np.mean(quarters)), 1e-12))


def polarity_evidence(
    image: np.ndarray, pixel_size_angstrom: float, ctf: PickingCtf | None, settings: PickSettings
) -> tuple[float, float]:
    """How much speaks for white and for black protein: what the blobs found in either contrast exceed
    4 σ by, summed. Neighbours of contamination do not count, as they do not as particles."""
    settings = replace(
        settings,
        method="blob",
        threshold_sigmas=POLARITY_SIGMAS,
        avoid_abnormal_means=True,
        reject_large=True,
        limit=None,
    )

    def evidence(white: bool) -> float:
        found = pick_micrograph(image, pixel_size_angstrom, ctf, settings, white=white)
        return float((found.score - POLARITY_SIGMAS).sum())

    return evidence(True), evidence(False)
