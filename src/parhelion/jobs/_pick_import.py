"""Coordinates of other programs and of earlier runs, joined to their micrographs and freed of duplicates."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np

    from parhelion.model.micrographs import Coordinates, Micrographs
    from parhelion.run.context import Context

SHOWN_ROWS = 200


def read_runs(
    context: "Context", paths: "Sequence[Path]", micrographs: "Micrographs"
) -> "tuple[Coordinates, np.ndarray]":
    """Positions of all files, in their order, and the number of the file ``(n,)`` of each.

    A file that names no micrograph belongs to the one it is called after, as RELION's do.
    """
    import numpy as np

    from parhelion.io.coordinates import read_coordinates
    from parhelion.model.micrographs import Coordinates

    notes: list[str] = []
    pixel = [micrographs.optics_of(row).pixel_size_angstrom for row in range(len(micrographs))]
    runs = [
        read_coordinates([path], names=micrographs.name, pixel_size_angstrom=pixel, notes=notes)
        for path in paths
    ]
    for note in notes:
        context.notice(note)
    merit = None
    if all(one.figure_of_merit is not None for one in runs):
        merit = np.concatenate([one.figure_of_merit for one in runs if one.figure_of_merit is not None])
    joined = Coordinates(
        names=micrographs.name,
        micrograph=np.concatenate([one.micrograph for one in runs]),
        xy_px=np.concatenate([one.xy_px for one in runs]),
        figure_of_merit=merit,
    )
    return joined, np.repeat(np.arange(len(runs)), [len(one) for one in runs])


def distinct(
    coordinates: "Coordinates", micrographs: "Micrographs", distance_angstrom: float
) -> "np.ndarray":
    """Numbers of the positions that stay: of those within ``distance_angstrom`` in one micrograph, the one
    of highest merit, or the first."""
    import numpy as np

    from parhelion.io.coordinates import take, without_duplicates
    from parhelion.model.table import Table

    numbered = type(coordinates)(
        names=coordinates.names,
        micrograph=coordinates.micrograph,
        xy_px=coordinates.xy_px,
        figure_of_merit=coordinates.figure_of_merit,
        extra=Table({"number": np.arange(len(coordinates))}),
    )
    pixel = np.array([micrographs.optics_of(row).pixel_size_angstrom for row in range(len(micrographs))])
    kept = [np.zeros(0, np.int64)]
    for size in np.unique(pixel):
        index = np.flatnonzero(pixel[coordinates.micrograph] == size)
        if len(index):
            part = without_duplicates(take(numbered, index), distance_angstrom / float(size))
            kept.append(np.asarray(part.extra["number"], np.int64))
    return np.sort(np.concatenate(kept))


def report_runs(
    context: "Context",
    paths: "Sequence[Path]",
    run: "np.ndarray",
    coordinates: "Coordinates",
    kept: "np.ndarray",
) -> dict[str, Any]:
    """How many positions of each run and each micrograph were kept, in numbers and per cent."""
    import numpy as np

    stays = np.zeros(len(coordinates), bool)
    stays[kept] = True
    lines = []
    for number, path in enumerate(paths):
        of_run = run == number
        lines.append((path.name, int(of_run.sum()), int(stays[of_run].sum()), _percent(stays[of_run])))
    context.report.table(lines, ("run", "read", "kept", "%"))
    section = context.report.section("Micrographs", folded=len(coordinates.names) > 20)
    per_micrograph = []
    for row, name in enumerate(coordinates.names[:SHOWN_ROWS]):
        of_one = stays[coordinates.of(row)]
        per_micrograph.append((name, len(of_one), int(of_one.sum()), _percent(of_one)))
    section.table(per_micrograph, ("micrograph", "read", "kept", "%"))
    return {"read": len(coordinates), "duplicates": int((~stays).sum()), "kept_percent": _percent(stays)}


def _percent(stays: "np.ndarray") -> float:
    return round(100.0 * float(stays.mean()), 1) if len(stays) else 0.0
