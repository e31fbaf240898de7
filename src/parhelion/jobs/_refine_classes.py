"""What a refinement of several classes leaves."""

from pathlib import Path
from typing import TYPE_CHECKING

from parhelion.jobs import _refine as single
from parhelion.registry import Result

if TYPE_CHECKING:
    from parhelion.algorithms.refine_classes import RefinedClass, RefinedClasses
    from parhelion.report.document import Report
    from parhelion.run.context import Context

NAMES = {
    "map": "class_maps",
    "half1": "class_half1",
    "half2": "class_half2",
    "mask": "class_masks",
    "fsc": "class_fsc",
    "statistics": "class_statistics",
    "orientations": "class_orientations",
}
"""The files of a class under the names of their outputs."""
EXPLAINED = (
    "First all particles were refined together, so that they have poses to be compared by. Then they were "
    "told apart by classes that came from the particles alone, each half of them compared with the maps of "
    "the other. Then each class was refined on its own particles, in two half sets "
    "that did not see each other's poses or maps; which class a particle belongs to was decided before, with "
    "both halves agreeing on coarse features."
)


def finished(context: "Context", found: "RefinedClasses", mass: float | None, rounds: bool) -> Result:
    """Write, show, and what to tell."""
    from parhelion.io.particles import write_particles

    outputs: dict[str, Path | list[Path]] = {"particles": context.path("particles")}
    lists: dict[str, list[Path]] = {name: [] for name in NAMES.values()}
    figures: single.Figures = {
        "resolution_angstrom": _resolution(found.classes[0]),
        "used_particles": len(found.particles),
        "classes": len(found.classes),
        "diameter_angstrom": found.together.diameter_angstrom,
    }
    context.report.text(EXPLAINED)
    _overview(context.report, found)
    for one in found.classes:
        figures |= _class_figures(one, len(found.particles))
        for name, path in _write_class(context, one, mass).items():
            lists[NAMES[name]].append(path)
    _history(context, found)
    write_particles(context.path("particles"), found.particles)
    outputs |= {name: paths for name, paths in lists.items() if paths}
    if rounds:
        outputs["rounds"] = single.files_of_rounds(context)
    return Result(figures=figures, outputs=outputs)


def _resolution(one: "RefinedClass") -> float:
    """Of the class's own refinement; of the classification's half maps where there was none."""
    return one.classified.resolution_angstrom if one.refined is None else one.refined.resolution_angstrom


def _class_figures(one: "RefinedClass", count: int) -> single.Figures:
    name = f"class_{one.number}"
    figures: single.Figures = {
        f"{name}_particles": one.members,
        f"{name}_share": one.members / max(count, 1),
        f"{name}_resolution_angstrom": _resolution(one),
    }
    return figures


def _write_class(context: "Context", one: "RefinedClass", mass: float | None) -> dict[str, Path]:
    """The files of a class; those of a small one are the classification's."""
    from parhelion.io import mrc

    number = f"{one.number:03d}"
    paths = {name: context.path(output, number) for name, output in NAMES.items()}
    section = context.report.section(
        f"Class {one.number}", f"{one.members} particles, {one.classified.symmetry}", folded=True
    )
    if one.refined is not None:
        directions, _ = single.write(context, paths, one.refined, mass)
        single.show(section, one.refined, directions, one.refined.history)
        return paths
    made = one.classified
    volumes = {"map": made.map, "half1": made.half_maps[0], "half2": made.half_maps[1], "mask": made.mask}
    for name, volume in volumes.items():
        mrc.write_volume(paths[name], volume)
    section.warning("Too few particles for a refinement: this is the map of the classification.")
    section.slices(made.map)
    return {name: paths[name] for name in volumes}


def _overview(report: "Report", found: "RefinedClasses") -> None:
    from parhelion.report.images import axis_projections

    rows = [
        (
            one.number,
            one.classified.symmetry,
            one.members,
            one.members / max(len(found.particles), 1),
            _resolution(one),
            "too few to be refined" if one.refined is None else one.refined.reason,
        )
        for one in found.classes
    ]
    heads = ("class", "symmetry", "particles", "share", "resolution (Å)", "why it stopped")
    report.table(rows, heads=heads)
    for one in found.classes:
        shown = one.classified.map if one.refined is None else one.refined.map
        title = f"Class {one.number}: {one.members} particles, {_resolution(one):.1f} Å"
        report.gallery(axis_projections(shown), ["along z", "along y", "along x"], title)
    first = found.together.map
    curves = {
        f"class {one.number}": one.classified.fsc if one.refined is None else one.refined.curves.corrected
        for one in found.classes
    }
    curves["all together"] = found.together.curves.corrected
    report.fsc(curves, first.box, first.pixel_size_angstrom, "Half maps of each class")


def _history(context: "Context", found: "RefinedClasses") -> None:
    """How all particles were refined together, and how the classes came apart."""
    section = context.report.section("All particles together", folded=True)
    single.explain(section, found.together.history, found.together.reason)
    context.report.history(list(found.classification.history), "Telling classes apart")
