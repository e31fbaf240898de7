"""The table that ``motion`` writes, and its report."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from parhelion.jobs._micrographs import Outcome
    from parhelion.model.micrographs import Micrographs
    from parhelion.run.context import Context

SHOWN = 12
DETAILED = 1
THUMBNAIL_PX = 512
LABELS = {
    "shifts": "rlnMicrographMetadata",
    "spectrum": "rlnCtfPowerSpectrum",
    "unweighted": "rlnMicrographNameNoDW",
    "even": "rlnMicrographNameEven",
    "odd": "rlnMicrographNameOdd",
}


def table_of(context: "Context", movies: "Micrographs", outcome: "Outcome") -> Path:
    """Write ``micrographs.star`` for the movies that were done."""
    from dataclasses import replace

    import numpy as np

    from parhelion.io.relion import OPTICS_PREFIX
    from parhelion.io.relion_micrographs import write_micrographs
    from parhelion.model.micrographs import Micrographs
    from parhelion.model.table import Table

    rows = outcome.done()
    kept = movies.take(outcome.kept)
    columns: dict[str, Any] = {
        label: np.array([row["files"][name] for row in rows], dtype=object)
        for name, label in LABELS.items()
        if all(name in row["files"] for row in rows)
    }
    for k, label in enumerate(("rlnAccumMotionTotal", "rlnAccumMotionEarly", "rlnAccumMotionLate")):
        columns[label] = np.array([row["motion_angstrom"][k] for row in rows])
    columns |= {k: v for k, v in kept.extra.items() if k not in columns and not k.startswith("rlnMicrograph")}
    # movies of one optics group may come out with different pixel sizes: then they are several groups
    pixels = np.round([row["pixel_size_angstrom"] for row in rows], 6)
    pairs = list(zip(kept.optics_group.tolist(), pixels.tolist(), strict=True))
    different = sorted(set(pairs))
    original = np.array([kept.optics[group].pixel_size_angstrom for group, _ in pairs])
    columns[OPTICS_PREFIX + "rlnMicrographOriginalPixelSize"] = original
    optics = tuple(replace(kept.optics[group], pixel_size_angstrom=size) for group, size in different)
    names = tuple(row["files"]["sum"] for row in rows)
    path = context.path("micrographs")
    write_micrographs(
        path,
        Micrographs(
            optics=optics,
            path=tuple(context.folder / name for name in names),
            name=names,
            optics_group=np.array([different.index(pair) for pair in pairs]),
            extra=Table(columns, length=len(rows)),
        ),
    )
    return path


def report_motion(context: "Context", outcome: "Outcome") -> None:
    """Overview of all movies, then track, local motion, sum and spectrum of the first."""
    numbers, rows = outcome.kept[:SHOWN], outcome.done()
    report = context.report
    _overview(context, outcome)
    for kind, title in (("scaled", "Micrographs"), ("spectrum", "Power spectra")):
        pictures = [_picture(context, row, kind) for row in rows[:SHOWN]]
        found = [(p, outcome.names[int(i)]) for p, i in zip(pictures, numbers) if p is not None]
        if found:
            report.gallery([p for p, _ in found], [name for _, name in found], title)
    tracks = report.section("Tracks")
    _tracks(tracks, {outcome.names[int(i)]: row for i, row in zip(numbers, rows)})
    for i, row in list(zip(numbers, rows))[:DETAILED]:
        _local(tracks, outcome.names[int(i)], row)
    if len(rows) > DETAILED:
        tracks.text("All shifts are in the files *_shifts.star.")


def _overview(context: "Context", outcome: "Outcome") -> None:
    import numpy as np

    rows = outcome.done()
    section = context.report.section("Motion of all movies")
    if len(rows) > 1:
        total = np.array([row["motion_angstrom"] for row in rows])
        number = np.arange(1, len(rows) + 1)
        lines = {name: (number, total[:, k]) for k, name in enumerate(("total", "early", "late"))}
        section.curve(lines, x_label="movie", y_label="motion (Å)")
    heads = ("movie", "motion (Å)", "early", "late", "error (Å)", "local (Å)", "frames", "empty frames")
    table = [
        (
            outcome.names[int(i)],
            *(round(m, 2) for m in row["motion_angstrom"]),
            "" if row["error_angstrom"] is None else round(row["error_angstrom"], 3),
            "whole frames" if row["local_angstrom"] is None else round(row["local_angstrom"], 2),
            row["summed_frames"],
            ", ".join(str(d) for d in row["dead_frames"]),
        )
        for i, row in zip(outcome.kept, rows)
    ]
    (section if len(rows) <= SHOWN else section.section("All movies", folded=True)).table(table, heads)


def _tracks(section: Any, rows: dict[str, dict[str, Any]]) -> None:
    """The ways of whole frames."""
    import numpy as np

    shifts = {name: np.array(row["shift_angstrom"]) for name, row in rows.items()}
    lines = {name: (shift[:, 0], shift[:, 1]) for name, shift in shifts.items() if len(shift) > 1}
    if lines:
        section.curve(
            lines, x_label="x (Å)", y_label="y (Å)", title="Shift of whole frames from the middle one"
        )


def _local(section: Any, name: str, row: dict[str, Any]) -> None:
    """Shifts of five places of the field beyond those of the whole frames."""
    import numpy as np

    from parhelion.algorithms.motion.polynomial import LocalMotion

    if row["local"] is None:
        return
    frame = np.arange(1, len(row["shift_angstrom"]) + 1)
    local = LocalMotion(coefficients=np.array(row["local"]))
    # pictures show the first row at the bottom
    places = {"left bottom": (-0.4, -0.4), "right bottom": (0.4, -0.4), "middle": (0.0, 0.0)}
    places |= {"left top": (-0.4, 0.4), "right top": (0.4, 0.4)}
    lines = {}
    for place, (x, y) in places.items():
        moved = local.shift_px(frame - 1.0, np.full(len(frame), x), np.full(len(frame), y))
        lines[place] = (moved[:, 0], moved[:, 1])
    section.curve(lines, x_label="x (Å)", y_label="y (Å)", title=f"{name}: local shifts")


def _picture(context: "Context", row: dict[str, Any], kind: str) -> Any:
    """An image of a movie, spectra as logarithms; the full sum where no scaled one was written."""
    import numpy as np

    from parhelion.io.mrc import open_stack

    name = row["files"].get(kind) or (row["files"]["sum"] if kind == "scaled" else None)
    if name is None:
        return None
    image = np.array(open_stack(context.folder / name).read(np.array([0]))[0], dtype=np.float32)
    if kind == "spectrum":
        return np.log(np.maximum(image, np.percentile(image, 1)))
    step = max(image.shape) // THUMBNAIL_PX
    if step < 2:
        return image
    # means of blocks: a dozen pictures of full size would cost as much as the alignment of a movie
    rows, columns = (n // step for n in image.shape)
    return image[: rows * step, : columns * step].reshape(rows, step, columns, step).mean(axis=(1, 3))
