"""Fourier shell correlation of two maps.

The two maps must have the same box and pixel size. With a mask, the curve inside it is corrected for what
the mask itself adds, by randomising phases, as for half maps; with the mass of the molecule also for the
solvent inside the mask. Curves in cones about many axes tell whether the map is resolved alike in all
directions.
"""

from typing import TYPE_CHECKING

from pydantic import model_validator

from parhelion.errors import InputError
from parhelion.jobs._inputs import MapFile, ParticlesFile, Symmetry, TwoMaps
from parhelion.jobs._maps import pixel_size_option, voxels
from parhelion.registry import Estimate, JobParams, Output, Result, declare, option

if TYPE_CHECKING:
    import numpy as np

    from parhelion.model.volume import Volume
    from parhelion.run.context import Context

MASK, DIRECTIONS = "Mask", "Directions"
SPHERE_EDGE_ANGSTROM = 10.0


class Params(JobParams):
    """What the job takes."""

    input: TwoMaps = option(help="the two maps", short="i")
    pixel_size: float | None = pixel_size_option()
    mask: MapFile | None = option(
        None, help="mask (0 to 1) in the frame of the maps", default_text="none", group=MASK
    )
    outer_radius: float | None = option(
        None, help="radius of a spherical mask", unit="Å", gt=0, le=10_000, default_text="none", group=MASK
    )
    inner_radius: float = option(
        0.0, help="radius inside which the sphere is hollow", unit="Å", ge=0, le=10_000, group=MASK
    )
    mass: float | None = option(
        None,
        help="molecular mass, for the correlation of the particle without the solvent inside the mask",
        unit="kDa",
        gt=0,
        le=1e6,
        default_text="the whole mask counts as particle",
        group=MASK,
    )
    smooth: bool = option(
        False, help="smooth the curves of the statistics (Savitzky-Golay, 11 shells, third order)"
    )
    directional: bool = option(False, help="also in cones about 96 axes", group=DIRECTIONS)
    cone: float = option(20.0, help="half angle of the cones", unit="degrees", ge=5, le=60, group=DIRECTIONS)
    particles: ParticlesFile | None = option(
        None,
        help="the particles' views, for how evenly they cover Fourier space",
        default_text="none",
        group=DIRECTIONS,
    )
    symmetry: Symmetry = option("C1", help="point group of the particles' views", group=DIRECTIONS)

    @model_validator(mode="after")
    def _fit(self) -> "Params":
        given = self.model_fields_set
        if self.mask is not None and self.outer_radius is not None:
            raise ValueError("--mask gives a mask, --outer-radius makes one; choose")
        if self.inner_radius and self.outer_radius is None:
            raise ValueError("--inner-radius makes a sphere hollow; give --outer-radius")
        if self.outer_radius is not None and self.inner_radius >= self.outer_radius:
            raise ValueError(
                f"the inner radius ({self.inner_radius:g} Å) must be smaller than the outer one "
                f"({self.outer_radius:g} Å)"
            )
        if "cone" in given and not self.directional:
            raise ValueError("--cone belongs to --directional")
        if "symmetry" in given and self.particles is None:
            raise ValueError("--symmetry is that of --particles, which is missing")
        return self


OUTPUTS = (
    Output(name="fsc", file="fsc.star", help="correlation per shell, with RELION's labels"),
    Output(
        name="statistics", file="statistics.txt", help="the same and signal-to-noise, as cisTEM writes it"
    ),
    Output(name="directional", file="directional.star", help="resolution along each axis", optional=True),
)


def estimate(params: Params) -> Estimate:
    """Maps and transforms in memory, twice as many with a mask, and coordinates for the cones."""
    masked = params.mask is not None or params.outer_radius is not None
    per_voxel = (70 if masked else 40) + (60 if params.directional else 0)
    return Estimate(memory_bytes=per_voxel * voxels(params.input[0]), disk_bytes=200_000)


def run(context: "Context", params: Params) -> Result:
    """Compute the curves, write them and plot them."""
    from parhelion.fourier import shells
    from parhelion.jobs._fsc import write_fsc
    from parhelion.jobs._maps import read_pair

    first, second = read_pair(params.input, params.pixel_size)
    box, pixel = first.box, first.pixel_size_angstrom
    mask = _mask(params, first)
    curves = _curves(context, params, first, second, mask)
    best = next(iter(curves.values()))
    write_fsc(context.path("fsc"), curves, box, pixel)
    figures: dict[str, float | int | str | None] = {
        "resolution_angstrom": shells.resolution_at(best, 0.143, box, pixel),
        "resolution_half_angstrom": shells.resolution_at(best, 0.5, box, pixel),
        "curve": next(iter(curves)),
    }
    figures |= _statistics(context, params, first, mask, best)
    context.report.fsc(curves, box, pixel)
    outputs = {"fsc": context.path("fsc"), "statistics": context.path("statistics")}
    if params.directional:
        figures |= _directional(context, params, first, second, mask)
        outputs["directional"] = context.path("directional")
    if params.particles is not None:
        figures |= _views(context, params)
    for path, volume in zip(params.input, (first, second), strict=True):
        context.report.slices(volume, f"Central slices of {path.name}")
    return Result(figures=figures, outputs=outputs)


def _mask(params: Params, like: "Volume") -> "Volume | None":
    from parhelion.algorithms.masking import shell_mask
    from parhelion.errors import ParameterError
    from parhelion.jobs._maps import read_mask
    from parhelion.model.volume import Volume

    if params.mask is not None:
        return read_mask(params.mask, like, params.input[0])
    if params.outer_radius is None:
        return None
    z, y, x = like.data.shape
    pixel = like.pixel_size_angstrom
    sphere = shell_mask((z, y, x), pixel, params.outer_radius, params.inner_radius, SPHERE_EDGE_ANGSTROM)
    if not (sphere > 0).any():
        raise ParameterError(
            f"--inner-radius {params.inner_radius:g} leaves nothing of the box, whose edge is "
            f"{x * pixel:.0f} Å"
        )
    return Volume(data=sphere, pixel_size_angstrom=pixel)


def _curves(
    context: "Context", params: Params, first: "Volume", second: "Volume", mask: "Volume | None"
) -> dict[str, "np.ndarray"]:
    """The curves by kind, the one that counts first; what is odd about them is told."""
    import numpy as np

    from parhelion.algorithms.postprocess.gold_standard import (
        gold_standard_fsc,
        notes_on_curves,
        notes_on_disagreement,
    )
    from parhelion.fourier import shells
    from parhelion.jobs._fsc import curves_by_kind

    for path, volume in zip(params.input, (first, second), strict=True):
        if not np.ptp(volume.data):
            raise InputError(f"{path} has the same density everywhere; there is nothing to compare")
    if mask is None:
        curve = shells.fsc(first.data, second.data)
        notes = notes_on_disagreement(curve)
        curves = {"unmasked": curve}
    else:
        found = gold_standard_fsc(first, second, mask, seed=context.seed)
        notes, curves = notes_on_curves(found, mask), curves_by_kind(found)
    for note in notes:
        context.notice(note)
    return curves


def _statistics(
    context: "Context", params: Params, like: "Volume", mask: "Volume | None", best: "np.ndarray"
) -> dict[str, float | int | str | None]:
    """Write cisTEM's statistics; the resolution of the particle alone where its mass is known."""
    from parhelion.fourier.shells import resolution_at
    from parhelion.jobs._fsc import particle_share, write_cistem_statistics

    share = particle_share(params.mass, like, mask)
    found = write_cistem_statistics(
        context.path("statistics"), best, like, share, masked=mask is not None, smooth=params.smooth
    )
    if params.mass is None:
        return {}
    box, pixel = like.box, like.pixel_size_angstrom
    context.report.fsc({"corrected": found.part_fsc}, box, pixel, "Particle without solvent")
    return {"particle_resolution_angstrom": resolution_at(found.part_fsc, 0.143, box, pixel)}


def _directional(
    context: "Context", params: Params, first: "Volume", second: "Volume", mask: "Volume | None"
) -> dict[str, float | int | str | None]:
    """Curves in cones: written, drawn, and what they say in a few figures."""
    from parhelion.io.star_writer import write_star
    from parhelion.jobs import _orientation as orientation

    found = orientation.directions_of(first, second, mask, params.cone)
    write_star(context.path("directional"), {"directions": orientation.table_of(found)})
    orientation.show(context.report, found, first)
    return orientation.figures_of(found)


def _views(context: "Context", params: Params) -> dict[str, float | int | str | None]:
    """How evenly the particles' views cover Fourier space."""
    from parhelion.io.particles import read_particles
    from parhelion.jobs._orientation import sampling_figures
    from parhelion.jobs._particles import require_poses

    if params.particles is None:
        return {}
    particles = read_particles(params.particles)
    require_poses(params.particles, particles)
    if particles.rotation is None:
        return {}
    context.report.angular_distribution(particles.rotation)
    return sampling_figures(context.report, particles.rotation, params.symmetry)


JOB = declare(__name__, __doc__, params=Params, run=run, estimate=estimate, outputs=OUTPUTS)
