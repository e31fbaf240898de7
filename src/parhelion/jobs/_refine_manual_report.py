"""``refine-manual``: key figures, the report, and the table of what changed for each particle."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from parhelion.jobs._refine_manual_work import Work
    from parhelion.run.context import Context

BINS = 40


def figures_of(work: "Work") -> dict[str, float | int | str | None]:
    """The key figures."""
    import numpy as np

    result = work.result
    score = np.asarray(result.particles.extra["cisTEMScore"], np.float64)
    figures: dict[str, float | int | str | None] = {
        "resolution_angstrom": min(one.resolution_angstrom for one in result.classes),
        "used_particles": len(result.particles),
        "cycles": len(result.history),
        "mean_score": float(score.mean()),
    }
    if len(result.classes) > 1:
        for number, one in enumerate(result.classes, 1):
            figures[f"class_{number}_share"] = one.share
            figures[f"class_{number}_resolution_angstrom"] = one.resolution_angstrom
    return figures


def show(context: "Context", work: "Work") -> None:
    """Maps, curves, angles, scores and cycles."""
    from parhelion.report.images import axis_projections

    report, classes = context.report, work.result.classes
    several = len(classes) > 1
    if several:
        report.table(
            [(k, one.share, one.resolution_angstrom) for k, one in enumerate(classes, 1)],
            heads=("class", "mean occupancy", "resolution (Å)"),
        )
    for k, one in enumerate(classes, 1):
        title = f"Class {k}" if several else "Map"
        report.gallery(axis_projections(one.map), ["along z", "along y", "along x"], title)
    like = classes[0].curves_like
    report.fsc(
        {f"class {k}": one.curves.corrected for k, one in enumerate(classes, 1)},
        like.box,
        like.pixel_size_angstrom,
        "Half maps",
    )
    rotation = work.result.particles.rotation
    if rotation is not None:
        number = work.result.particles.class_number
        for k in range(1, len(classes) + 1):
            mine = rotation if number is None else rotation[number == k]
            if len(mine):
                report.angular_distribution(mine, f"View directions of class {k}" if several else "")
    _histograms(context, work)
    report.history(context.history.get("cycles", []), "Cycles")


def _histograms(context: "Context", work: "Work") -> None:
    """Scores and, with several classes, the highest occupancies, as curves."""
    import numpy as np

    particles, report = work.result.particles, context.report
    score = np.asarray(particles.extra["cisTEMScore"], np.float64)
    report.curve({"particles": histogram(score)}, x_label="score", y_label="particles", title="Scores")
    if len(work.result.classes) > 1:
        highest = np.asarray(particles.extra["cisTEMOccupancy"], np.float64)
        report.curve(
            {"particles": histogram(highest)},
            x_label="highest occupancy (%)",
            y_label="particles",
            title="How surely particles belong to their class",
        )


def histogram(values: "np.ndarray") -> "tuple[np.ndarray, np.ndarray]":
    """Centres of bins and how many values lie in each."""
    import numpy as np

    count, edge = np.histogram(values, bins=BINS)
    return (edge[1:] + edge[:-1]) / 2, count.astype(float)


def write_changes(path: Path, work: "Work") -> None:
    """A row per particle of ``particles.star``: how far its pose moved from the input's, and its score.

    Angles are the smallest over the symmetry of its class; NaN where the input had no pose.
    """
    import numpy as np

    from parhelion.geometry.rotations import angle_between
    from parhelion.geometry.symmetry import symmetry_group
    from parhelion.io.star_writer import write_star
    from parhelion.model.table import Table

    result, given = work.result, work.given.take(work.result.rows)
    found = result.particles
    count = len(found)
    angle, moved = np.full(count, np.nan), np.full((count, 2), np.nan)
    old, new = given.rotation, found.rotation
    if old is not None and new is not None and found.class_number is not None:
        for number, name in enumerate(work.settings.symmetry, 1):
            mine = found.class_number == number
            operators = symmetry_group(name).operators
            if mine.any():
                angle[mine] = np.min([angle_between(new[mine], old[mine] @ g) for g in operators], axis=0)
    if given.shift_xyz_angstrom is not None and found.shift_xyz_angstrom is not None:
        moved = (found.shift_xyz_angstrom - given.shift_xyz_angstrom)[:, :2]
    first_view = np.unique(found.views.particle, return_index=True)[1]
    before = np.unique(given.views.particle, return_index=True)[1]
    columns = {
        "parhelionInputRow": result.rows + 1,
        "parhelionAngleChangeDegrees": angle,
        "parhelionShiftChangeXAngstrom": moved[:, 0],
        "parhelionShiftChangeYAngstrom": moved[:, 1],
        "parhelionDefocusChangeAngstrom": found.views.defocus_u_angstrom[first_view]
        - given.views.defocus_u_angstrom[before],
        "rlnClassNumber": found.class_number,
        "cisTEMOccupancy": found.extra["cisTEMOccupancy"],
        "cisTEMScore": found.extra["cisTEMScore"],
        "cisTEMScoreChange": found.extra["cisTEMScoreChange"],
    }
    write_star(path, {"changes": Table({name: np.asarray(values) for name, values in columns.items()})})
