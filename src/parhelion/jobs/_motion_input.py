"""The movies of ``motion``: reading their table, opening one, and what a run will need."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from parhelion.errors import InputError, MetadataError
from parhelion.jobs._micrographs import read
from parhelion.registry import Estimate

if TYPE_CHECKING:
    from parhelion.contracts import Observer
    from parhelion.io.movie_file import MovieFile
    from parhelion.jobs.motion import Params
    from parhelion.model.micrographs import Micrographs

LOOKED_AT = 20
"""Movies whose headers are looked at before the first is aligned."""


def read_movies(observer: "Observer", params: "Params") -> "Micrographs":
    """The movies of the input; MetadataError where what the exposure filter needs is missing."""
    movies = read(
        observer,
        params.input,
        pixel_size=params.pixel_size,
        voltage=params.voltage,
        movies=True,
        needs=("pixel_size", "voltage") if params.exposure_filter else ("pixel_size",),
    )
    if params.exposure_filter and params.dose_per_frame is None:
        dose = movies.dose_per_frame
        if dose is None or not all(math.isfinite(d) and d > 0 for d in dose):
            raise MetadataError(
                f"{params.input[0]} does not say how many electrons each frame received, which the exposure "
                "filter needs; give --dose-per-frame (e⁻/Å²), or --no-exposure-filter"
            )
    return movies


@dataclass(frozen=True, kw_only=True)
class MotionPlan:
    """Size of the largest movie that was looked at: frames, pixels of a frame as stored and as binned."""

    movies: int
    frames: int
    stored_pixels: int
    pixels: int
    pixel_size_angstrom: float
    params: "Params"

    def estimate(self) -> Estimate:
        """Memory and disk space."""
        copy = 4 * self.frames * self.pixels
        band = min((2 * self.pixel_size_angstrom / self.params.alignment_resolution) ** 2, 1.0)
        kept = 0.0 if self.params.low_memory else 1.05
        # counts of one byte wait for their transform; band and patches, and the band's copy while it shrinks
        raw = self.frames * self.stored_pixels
        memory = int(copy * (kept + 2.2 * band) + min(raw, copy) + 40 * self.pixels + 12 * self.stored_pixels)
        sums = 1 + self.params.unweighted + 2 * self.params.even_odd
        return Estimate(
            memory_bytes=memory,
            per_thread_bytes=20 * self.pixels + 12 * self.stored_pixels,
            disk_bytes=self.movies * (4 * self.pixels * sums + 6_000_000),
        )


def plan_of(params: "Params") -> MotionPlan:
    """What a run will need, from the headers of the first movies."""
    from parhelion.contracts import SilentObserver

    movies = read_movies(SilentObserver(), params)
    largest: tuple[int, int] | None = None
    problem: InputError | None = None
    for path in movies.path[:LOOKED_AT]:
        try:
            movie = open_source(path, params)
        except InputError as error:
            problem = problem or error
            continue
        size = (math.prod(movie.shape) * movie.count, movie.count)
        largest = max(largest, size) if largest else size
    if largest is None:
        raise problem or InputError("no movie is named")
    total, count = largest
    stored = total // count
    pixel = float(movies.optics_of(0).pixel_size_angstrom) / int(params.eer_upsampling)
    binning = params.output_pixel_size / pixel if params.output_pixel_size else params.binning
    return MotionPlan(
        movies=len(movies),
        frames=count,
        stored_pixels=stored,
        pixels=int(stored / max(binning, 1.0) ** 2),
        pixel_size_angstrom=pixel * binning,
        params=params,
    )


def open_source(path: Path, params: "Params") -> "MovieFile":
    """The movie as the options say."""
    from parhelion.io.movies import open_movie

    upsampling = int(params.eer_upsampling) if path.suffix.lower() == ".eer" else 1
    return open_movie(path, eer_upsampling=upsampling, eer_grouping=params.eer_grouping)
