"""What a refinement leaves: files, key figures, and a report that says why it ended where it did."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from parhelion.registry import Result

if TYPE_CHECKING:
    import numpy as np

    from parhelion.algorithms.postprocess.directional import DirectionalFsc
    from parhelion.algorithms.refine3d import RefineResult
    from parhelion.report.document import Report
    from parhelion.run.context import Context

Figures = dict[str, float | int | str | None]
Row = Mapping[str, float | int | str]
LIMITED = "the most allowed"
"""In the reason of a schedule that ended for no other."""
SETTLED_DEG = 0.5
LEAST_SAID = 0.005
JUMPED = 0.05
"""More particles than that at other poses, and the search goes on while it may."""
FILES = ("map", "half1", "half2", "mask", "fsc", "statistics", "orientations")


def finished(context: "Context", found: "RefineResult", mass: float | None, rounds: bool) -> Result:
    """Write, show, and what to tell of a refinement of one structure."""
    from parhelion.io.particles import write_particles

    paths = {name: context.path(name) for name in FILES}
    directions, figures = write(context, paths, found, mass)
    outputs: dict[str, Path | list[Path]] = dict(paths)
    outputs["particles"] = context.path("particles")
    write_particles(context.path("particles"), found.particles)
    if rounds:
        outputs["rounds"] = files_of_rounds(context)
    if LIMITED in found.reason:
        context.notice(f"stopped before it converged: {found.reason} (--max-rounds)")
    show(context.report, found, directions, context.history.get("rounds", []))
    return Result(figures=figures_of(found) | figures, outputs=outputs)


def files_of_rounds(context: "Context") -> list[Path]:
    """What ``_refine_input.round_keeper`` wrote, of earlier runs as well where this one was resumed."""
    return sorted(context.path("rounds", "x", "x").parent.iterdir())


def write(
    context: "Context", to: Mapping[str, Path], found: "RefineResult", mass: float | None
) -> "tuple[DirectionalFsc, Figures]":
    """All files but the particles at ``to`` (names of FILES), and the figures that come with them."""
    from parhelion.fourier.shells import resolution_at
    from parhelion.io import mrc
    from parhelion.jobs import _orientation as orientation
    from parhelion.jobs._fsc import curves_by_kind, share_or_notice, write_cistem_statistics, write_fsc

    half1, half2 = found.half_maps
    for name, volume in (("map", found.map), ("half1", half1), ("half2", half2), ("mask", found.mask)):
        mrc.write_volume(to[name], volume)
    box, pixel = found.map.box, found.map.pixel_size_angstrom
    write_fsc(to["fsc"], curves_by_kind(found.curves), box, pixel)
    share = share_or_notice(context, mass, found.map, found.mask)
    table = write_cistem_statistics(to["statistics"], found.curves.corrected, found.map, share)
    directions = orientation.directions_of(half1, half2, found.mask)
    figures = orientation.figures_of(directions)
    if mass is not None:
        figures["particle_resolution_angstrom"] = resolution_at(table.part_fsc, 0.143, box, pixel)
    if found.particles.rotation is not None:
        orientation.write_orientations(
            to["orientations"], directions, found.particles.rotation, found.symmetry
        )
    return directions, figures


def figures_of(found: "RefineResult") -> Figures:
    """The key figures."""
    import numpy as np

    mask = found.mask
    return {
        "resolution_angstrom": found.resolution_angstrom,
        "unmasked_resolution_angstrom": found.curves.unmasked_resolution_angstrom,
        "used_particles": len(found.particles),
        "rounds": len(found.history),
        "angular_uncertainty_deg": float(np.nanmedian(found.uncertainty_deg)),
        "diameter_angstrom": found.diameter_angstrom,
        "mask_volume_angstrom3": float(mask.data.sum(dtype=np.float64)) * mask.pixel_size_angstrom**3,
        "scheme": found.scheme,
    }


def show(
    report: "Report", found: "RefineResult", directions: "DirectionalFsc", history: Sequence[Row]
) -> None:
    """Curves, map, directions, and how it came to this."""
    from parhelion.jobs import _orientation as orientation
    from parhelion.jobs._fsc import curves_by_kind
    from parhelion.model.volume import Volume

    masked = Volume(data=found.map.data * found.mask.data, pixel_size_angstrom=found.map.pixel_size_angstrom)
    report.text(f"Stopped: {found.reason}.")
    report.text(SCHEMES[found.scheme])
    report.fsc(curves_by_kind(found.curves), found.map.box, found.map.pixel_size_angstrom, "Half maps")
    report.surface(masked, "Map")
    report.slices(found.map, "Central slices")
    report.projections(masked, "Projections")
    report.slices(found.mask, "Mask")
    views = report.section("Directions")
    orientation.show(views, directions, found.map)
    if found.particles.rotation is not None:
        views.angular_distribution(found.particles.rotation)
        orientation.sampling_figures(views, found.particles.rotation, found.symmetry)
    told = report.section("How it came to this")
    explain(told, found.history, found.reason)
    told.fsc(
        curves_of_rounds(found.curves_of_rounds),
        found.map.box,
        found.map.pixel_size_angstrom,
        "Half maps inside the mask after each round",
    )
    report.history(history, "Rounds")


SCHEMES = {
    "gold": "Two half sets of the particles were refined against two maps that never saw each other (gold "
    "standard): what the half maps have in common cannot be noise that both were aligned to.",
    "cistem": "All particles were aligned to one map (cisTEM's scheme). The halves have therefore seen each "
    "other up to the limit of the alignment in each round, which stayed behind the resolution at FSC = 0.5; "
    "only beyond the last limit is the FSC free of that.",
}
MOST_CURVES = 6


def curves_of_rounds(curves: "np.ndarray") -> "dict[str, np.ndarray]":
    """At most six of the rounds' curves, the first and the last among them."""
    import numpy as np

    chosen = np.unique(np.linspace(0, len(curves) - 1, min(MOST_CURVES, len(curves))).round().astype(int))
    return {f"round {i + 1}": curves[i] for i in chosen}


def explain(report: "Report", history: Sequence[Row], reason: str) -> None:
    """In plain words, what every round did and why there was no other."""
    rows = []
    best: float | None = None
    for row in history:
        resolution = float(row["resolution_angstrom"])
        rows.append((row["round"], did(row), gained(resolution, best), moved(row)))
        best = resolution if best is None else min(best, resolution)
    report.table(rows, heads=("round", "what it did", "what the halves agree on", "poses"))
    searching = [row for row in history if row["search"]]
    if searching and len(searching) < len(history):
        settled = float(searching[-1]["jumped_share"]) <= JUMPED
        why = (
            "it found hardly any better pose than the ones there were"
            if settled
            else "it was the last allowed"
        )
        number = searching[-1]["round"]
        report.text(f"The search ended after round {number}: {why}. What followed only refined the poses.")
    report.text(f"No further round: {reason}.")


def did(row: Row) -> str:
    """What a round did, from its row of the history."""
    search, refine = float(row["search_limit_angstrom"]), float(row["refine_limit_angstrom"])
    share = float(row.get("used_share", 1.0))
    used = "" if share >= 1 else f"; {100 * share:.0f} % of the particles in the maps"
    if row["search"]:
        part = float(row.get("searched_share", 1.0))
        whom = "" if part >= 1 else f" for {100 * part:.0f} % of the particles"
        return f"searched everywhere to {search:.1f} Å{whom}, refined the best hits to {refine:.1f} Å{used}"
    return f"refined the poses to {refine:.1f} Å{used}"


def gained(resolution: float, best: float | None) -> str:
    """The resolution of a round beside the best before it."""
    if best is None:
        return f"{resolution:.1f} Å"
    change = best - resolution
    if change > 0.05:
        return f"{resolution:.1f} Å, {change:.1f} Å finer than before"
    return f"{resolution:.1f} Å, not finer than before ({best:.1f} Å)"


def moved(row: Row) -> str:
    """How far poses moved in a round."""
    if int(row["round"]) == 1 and float(row["jumped_share"]) >= 1:
        return "found for the first time"
    said = f"half of them moved by more than {float(row['moved_deg']):.2f}°"
    if float(row["jumped_share"]) >= LEAST_SAID:
        said += f", {100 * float(row['jumped_share']):.0f} % went elsewhere"
    if float(row["moved_deg"]) < SETTLED_DEG:
        said += ": settled"
    return said
