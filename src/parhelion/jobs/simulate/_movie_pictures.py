"""The report of simulated movies: pictures of the first one, its motion, and a table of all."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from parhelion.algorithms.simulate.movies import MovieSimulator, MovieTruth
    from parhelion.model.volume import Volume
    from parhelion.report import Report

SHOWN_PX = 512
TABLE_ROWS = 100


def show(
    report: "Report",
    simulator: "MovieSimulator",
    volume: "Volume",
    movies: Sequence[Path],
    truths: Sequence["MovieTruth"],
    counts: Sequence[float],
) -> None:
    """Add everything to ``report``; ``counts`` are per pixel and frame."""
    first = truths[0]
    clean = simulator.contrast(first)
    one, plain, aligned = _sums(simulator, movies[0], first)
    report.gallery(
        [_small(picture) for picture in (clean, aligned, plain, one)],
        ["noise-free contrast", "all frames, drift undone", "all frames as they are", "first frame"],
        f"{movies[0].name}, gain-corrected",
    )
    report.gallery([_small(simulator.detector.gain())], ["gain reference"], "Detector")
    tracks = {
        movie.name: (t.motion.global_xy_px[:, 0], t.motion.global_xy_px[:, 1])
        for movie, t in list(zip(movies, truths, strict=True))[:10]
    }
    if simulator.settings.frames > 1:
        report.curve(tracks, x_label="x (pixels)", y_label="y (pixels)", title="Drift of the field")
    report.surface(volume, "Molecule")
    rows = [
        (
            movie.name,
            t.defocus_u_angstrom,
            t.defocus_v_angstrom,
            t.defocus_angle_deg,
            len(t.placement),
            count,
        )
        for movie, t, count in list(zip(movies, truths, counts, strict=True))[:TABLE_ROWS]
    ]
    heads = (
        "movie",
        "defocus U (Å)",
        "defocus V (Å)",
        "angle (°)",
        "particles",
        "counts per pixel and frame",
    )
    report.table(rows, heads)


def _sums(
    simulator: "MovieSimulator", movie: Path, truth: "MovieTruth"
) -> "tuple[np.ndarray, np.ndarray, np.ndarray]":
    """The first frame, the plain sum and the sum with whole-pixel drift undone, as read from the file."""
    import numpy as np

    from parhelion.io.movies import open_movie

    source = open_movie(movie)
    good = simulator.detector.gain()
    good[simulator.detector.hot_xy[:, 1], simulator.detector.hot_xy[:, 0]] = 0
    plain, aligned = np.zeros(source.shape, np.float32), np.zeros(source.shape, np.float32)
    for number in range(source.count):
        frame = source.frame(number) * good
        dx, dy = np.rint(truth.motion.global_xy_px[number]).astype(int)
        plain += frame
        aligned += np.roll(frame, (-dy, -dx), axis=(0, 1))
    return source.frame(0) * good, plain, aligned


def _small(picture: "np.ndarray") -> "np.ndarray":
    """The picture averaged over blocks of pixels to at most SHOWN_PX along an edge."""
    import numpy as np

    step = -(-max(picture.shape) // SHOWN_PX)
    height, width = (n // step * step for n in picture.shape)
    blocks = picture[:height, :width].reshape(height // step, step, width // step, step)
    return np.asarray(blocks.mean(axis=(1, 3), dtype=np.float32))
