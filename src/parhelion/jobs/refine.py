"""Refine one structure automatically from particles and a starting map.

Two half sets that never see each other (gold standard) are searched exhaustively and refined by least squares
against their own maps until neither resolution nor poses improve. The starting map may have any box, pixel
size and grey scale; it is filtered to a low resolution first. The resolution is where the half maps'
correlation inside the mask, freed of what the mask itself adds, falls below 0.143.
"""

from typing import TYPE_CHECKING

from pydantic import model_validator

from parhelion.jobs._inputs import MapFile, ParticlesFile
from parhelion.jobs._particles import Contrast, contrast_option, particle_pixel_size_option
from parhelion.registry import Estimate, JobParams, Output, Result, declare, option

if TYPE_CHECKING:
    from parhelion.algorithms.refine3d import RefineResult, RefineSettings
    from parhelion.io.source import StackSource
    from parhelion.model.particles import ParticleSet
    from parhelion.model.volume import Volume
    from parhelion.run.context import Context

SEARCH, MASK = "Search and resolution", "Mask"


class Params(JobParams):
    """What the job takes."""

    input: ParticlesFile = option(help="table of particles with their CTF", short="i")
    reference: MapFile = option(help="starting map, protein white; resampled if it does not fit", short="r")
    symmetry: str = option("C1", help="point group: C1, C2 …, D2 …, T, O, I1 to I4")
    diameter: float | None = option(
        None,
        help="diameter of a sphere that holds the particle",
        unit="Å",
        gt=0,
        le=5000,
        short="d",
        default_text="from the reference",
    )
    contrast: Contrast = contrast_option()
    pixel_size: float | None = particle_pixel_size_option()
    local: bool = option(
        False, help="start from the table's poses and only refine them, without a search", group=SEARCH
    )
    initial_resolution: float | None = option(
        None,
        help="filter the starting map to this resolution, against bias",
        unit="Å",
        gt=0,
        le=200,
        default_text="diameter / 4.5, 20 to 60 Å",
        group=SEARCH,
    )
    resolution_limit: float | None = option(
        None, help="use no finer detail than this", unit="Å", gt=0, default_text="Nyquist", group=SEARCH
    )
    shift_range: float | None = option(
        None,
        help="how far from the box's centre particles may lie in the first search",
        unit="Å",
        gt=0,
        le=500,
        default_text="a tenth of the diameter, at least 20 Å",
        group=SEARCH,
    )
    results_to_refine: int = option(
        12,
        help="poses of the search that are refined further, per particle",
        unit="poses",
        ge=1,
        le=100,
        group=SEARCH,
    )
    max_rounds: int = option(
        25, help="stop after this many rounds at the latest", unit="rounds", ge=1, le=200, group=SEARCH
    )
    mask: MapFile | None = option(
        None,
        help="mask (0 to 1) in the frame of the particles or of the reference",
        default_text="made automatically",
        group=MASK,
    )
    auto_mask: bool = option(
        True, help="follow the molecule by a generous mask; otherwise a sphere is used", group=MASK
    )

    @model_validator(mode="after")
    def _fit(self) -> "Params":
        if self.mask is not None and "auto_mask" in self.model_fields_set and self.auto_mask:
            raise ValueError("--mask gives the mask, --auto-mask makes one; choose")
        if self.local and {"shift_range", "results_to_refine"} & self.model_fields_set:
            raise ValueError("--shift-range and --results-to-refine belong to the search, --local has none")
        return self


OUTPUTS = (
    Output(name="map", file="map.mrc", help="map of all particles, filtered by its signal-to-noise ratio"),
    Output(name="half1", file="half1.mrc", help="map of the first half set, unfiltered"),
    Output(name="half2", file="half2.mrc", help="map of the second half set, unfiltered"),
    Output(name="mask", file="mask.mrc", help="the mask inside which the resolution is stated"),
    Output(name="fsc", file="fsc.star", help="half-map correlation per shell, with RELION's labels"),
    Output(name="particles", file="particles.star", help="poses, shifts, half sets and scores"),
)


SECONDS_PER_IMAGE = 1e-2
"""CPU time of an image of 64 pixels in a whole refinement (measured); it grows with the pixels."""


def estimate(params: Params) -> Estimate:
    """What ``engine.memory`` plans for the table's particles."""
    from parhelion.algorithms.refine3d import memory_plan
    from parhelion.jobs._particles import size_of
    from parhelion.run.memory import available_bytes

    count, box, pixel = size_of(params.input, params.pixel_size)
    plan = memory_plan(count, box, pixel, _settings(params, 0), available_bytes())
    return Estimate(
        memory_bytes=plan.shared_bytes,
        per_thread_bytes=plan.per_thread_bytes,
        seconds=SECONDS_PER_IMAGE * count * (box / 64) ** 2,
        disk_bytes=4 * 4 * box**3 + 700 * count + 2 * (4 * 6 * box**3 + 400 * count),
    )


def run(context: "Context", params: Params) -> Result:
    """Refine, write everything and show it."""
    from parhelion.algorithms.refine3d import refine3d
    from parhelion.io import mrc
    from parhelion.jobs._particles import first_images, read_with_images
    from parhelion.run.memory import available_bytes

    particles, source = read_with_images(
        params.input, context, contrast=params.contrast, pixel_size=params.pixel_size
    )
    reference = mrc.read_volume(params.reference)
    context.report.gallery(
        first_images(source), [f"particle {i + 1}" for i in range(min(12, len(source)))], "First particles"
    )
    found = refine3d(
        particles,
        source,
        reference,
        _settings(params, context.seed),
        mask=_mask(params, particles, source, reference),
        executor=context.executor,
        observer=context,
        cancel=context,
        device=context.device,
        checkpoints=context.checkpoints,
        resume=context.resume,
        available_bytes=available_bytes(),
    )
    write(context, found)
    show(context, found)
    return Result(figures=figures_of(found), outputs={o.name: context.path(o.name) for o in OUTPUTS})


def _settings(params: Params, seed: int) -> "RefineSettings":
    from parhelion.algorithms.refine3d import RefineSettings

    return RefineSettings(
        symmetry=params.symmetry,
        diameter_angstrom=params.diameter,
        initial_resolution_angstrom=params.initial_resolution,
        resolution_limit_angstrom=params.resolution_limit,
        shift_angstrom=params.shift_range,
        automatic_mask=params.auto_mask,
        local=params.local,
        most_rounds=params.max_rounds,
        top=params.results_to_refine,
        seed=seed,
    )


def _mask(
    params: Params, particles: "ParticleSet", source: "StackSource", reference: "Volume"
) -> "Volume | None":
    """The given mask, in the frame of the particles or of the reference."""
    import numpy as np

    from parhelion.io import mrc
    from parhelion.jobs._maps import read_mask
    from parhelion.model.volume import Volume

    if params.mask is None:
        return None
    box = source.box
    if reference.data.shape != (box,) * 3 and tuple(mrc.read_header(params.mask).shape) == (box,) * 3:
        frame = Volume(
            data=np.empty((box,) * 3, np.float32),
            pixel_size_angstrom=particles.optics[0].pixel_size_angstrom,
        )
        return read_mask(params.mask, frame, params.input)
    return read_mask(params.mask, reference, params.reference)


def write(context: "Context", found: "RefineResult") -> None:
    """All declared outputs."""
    from parhelion.io import mrc
    from parhelion.io.particles import write_particles
    from parhelion.jobs._fsc import curves_by_kind, write_fsc

    half1, half2 = found.half_maps
    for name, volume in (("map", found.map), ("half1", half1), ("half2", half2), ("mask", found.mask)):
        mrc.write_volume(context.path(name), volume)
    write_fsc(context.path("fsc"), curves_by_kind(found.curves), found.map.box, found.map.pixel_size_angstrom)
    write_particles(context.path("particles"), found.particles)


def figures_of(found: "RefineResult") -> dict[str, float | int | str | None]:
    """The key figures."""
    import numpy as np

    mask = found.mask
    return {
        "resolution_angstrom": found.resolution_angstrom,
        "unmasked_resolution_angstrom": found.curves.unmasked_resolution_angstrom,
        "used_particles": len(found.particles),
        "rounds": len(found.history),
        "angular_uncertainty_deg": float(np.median(found.uncertainty_deg)),
        "diameter_angstrom": found.diameter_angstrom,
        "mask_volume_angstrom3": float(mask.data.sum(dtype=np.float64)) * mask.pixel_size_angstrom**3,
    }


def show(context: "Context", found: "RefineResult") -> None:
    """Curves, map, angles and rounds."""
    from parhelion.jobs._fsc import curves_by_kind
    from parhelion.model.volume import Volume

    report = context.report
    masked = Volume(data=found.map.data * found.mask.data, pixel_size_angstrom=found.map.pixel_size_angstrom)
    report.text(f"Stopped: {found.reason}.")
    curves = curves_by_kind(found.curves)
    report.fsc(curves, found.map.box, found.map.pixel_size_angstrom, "Half maps")
    report.surface(masked, "Map")
    report.slices(found.map, "Central slices")
    report.projections(masked, "Projections")
    report.slices(found.mask, "Mask")
    if found.particles.rotation is not None:
        report.angular_distribution(found.particles.rotation)
    report.history(context.history.get("rounds", []), "Rounds")


JOB = declare(__name__, __doc__, params=Params, run=run, estimate=estimate, outputs=OUTPUTS, resumable=True)
