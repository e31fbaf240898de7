"""How alike a map is resolved in all directions, and how evenly it was seen: written, drawn, in figures."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from parhelion.algorithms.postprocess.directional import DirectionalFsc
    from parhelion.model.table import Table
    from parhelion.model.volume import Volume
    from parhelion.report.document import Report

Figures = dict[str, float | int | str | None]
CONE_DEG = 20.0
UNEVEN = 0.8
"""A sphericity from which on the report warns."""


def directions_of(
    first: "Volume", second: "Volume", mask: "Volume | None", cone_deg: float = CONE_DEG
) -> "DirectionalFsc":
    """The FSC of two half maps inside ``mask`` in cones about 96 axes."""
    from parhelion.algorithms.postprocess.directional import directional_fsc

    weight = 1.0 if mask is None else mask.data
    return directional_fsc(
        first.data * weight, second.data * weight, first.pixel_size_angstrom, cone_deg=cone_deg
    )


def table_of(found: "DirectionalFsc", sampling: "np.ndarray | None" = None) -> "Table":
    """One row per axis: where it points, its resolution at 0.143 and 0.5, how often slices pass it."""
    from parhelion.model.table import Table

    columns = dict(zip(("parhelionAxisX", "parhelionAxisY", "parhelionAxisZ"), found.directions.T))
    columns["rlnAngstromResolution"] = found.resolution_angstrom
    columns["parhelionHalfResolution"] = found.half_angstrom
    if sampling is not None:
        columns["parhelionSampling"] = sampling
    return Table(columns)


def figures_of(found: "DirectionalFsc") -> Figures:
    """What the directions say in a few numbers."""
    return {
        "sphericity": found.sphericity,
        "finest_to_coarsest_axis": found.best_to_worst,
        "conical_area_ratio": found.area_ratio,
        "finest_axis_angstrom": float(found.resolution_angstrom.min()),
        "coarsest_axis_angstrom": float(found.resolution_angstrom.max()),
    }


def show(report: "Report", found: "DirectionalFsc", like: "Volume") -> None:
    """Curves of the cones, the resolution of every axis, and a sentence."""
    import numpy as np

    from parhelion.algorithms.postprocess.directional import picture_of_directions

    x = np.arange(found.fsc.shape[1]) / (like.box * like.pixel_size_angstrom)
    spread = found.fsc.std(axis=0)
    mean = found.fsc.mean(axis=0)
    names = {
        "best cone": found.fsc.max(axis=0),
        "mean": mean,
        "mean + deviation": mean + spread,
        "mean − deviation": mean - spread,
        "worst cone": found.fsc.min(axis=0),
    }
    report.curve(
        {name: (x, curve) for name, curve in names.items()},
        x_label="1 / resolution (Å⁻¹)",
        y_label="FSC in cones",
        title="Directional FSC",
    )
    picture = picture_of_directions(found.directions, -found.resolution_angstrom)
    report.gallery([picture], ["fine is bright; z in the middle, x to the right"], "Resolution by axis")
    best, worst = found.resolution_angstrom.min(), found.resolution_angstrom.max()
    said = (
        f"Sphericity {found.sphericity:.2f} (1 is even); along its best axis the map is resolved to "
        f"{best:.1f} Å, along its worst to {worst:.1f} Å."
    )
    if found.sphericity < UNEVEN:
        report.warning(f"{said} The map is resolved unevenly: views are missing, or particles moved apart.")
    else:
        report.text(said)


def sampling_figures(report: "Report", rotation: "np.ndarray", symmetry: str) -> Figures:
    """How evenly views cover Fourier space, drawn and in figures."""
    from parhelion.algorithms.orientations import fourier_sampling, sampling_compensation
    from parhelion.algorithms.postprocess.directional import picture_of_directions
    from parhelion.geometry.symmetry import symmetry_group

    directions, sampling = fourier_sampling(rotation, symmetry_group(symmetry))
    picture = picture_of_directions(directions, sampling)
    report.gallery([picture], ["often is bright; z in the middle, x to the right"], "Fourier sampling")
    return {
        "sampling_compensation": sampling_compensation(sampling),
        "least_sampling": float(sampling.min()),
    }


def write_orientations(path: Path, found: "DirectionalFsc", rotation: "np.ndarray", symmetry: str) -> None:
    """``orientations.star``: axes with their resolution and sampling, and the density of views."""
    from parhelion.algorithms.orientations import fourier_sampling, view_density
    from parhelion.geometry.symmetry import symmetry_group
    from parhelion.io.star_writer import write_star
    from parhelion.model.table import Table

    group = symmetry_group(symmetry)
    sampling = fourier_sampling(rotation, group, found.directions)[1]
    seen, density = view_density(rotation, group)
    views = dict(zip(("parhelionViewX", "parhelionViewY", "parhelionViewZ"), seen.T))
    views["parhelionParticlesRelativeToMean"] = density
    write_star(path, {"directions": table_of(found, sampling), "views": Table(views)})
