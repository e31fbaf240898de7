"""Reconstruct a map from particles whose poses are known.

Every particle is inserted at its pose, weighted by its CTF and the noise power of the images' background.
By default the particles are divided into two half sets (the table's own where it has them), whose maps give
the resolution and the filter of the map of all particles.
"""

from typing import TYPE_CHECKING

from pydantic import model_validator

from parhelion.jobs._inputs import MapFile, ParticlesFile
from parhelion.jobs._particles import Contrast, contrast_option, particle_pixel_size_option
from parhelion.registry import Estimate, JobParams, Output, Result, declare, option

if TYPE_CHECKING:
    from pathlib import Path

    from parhelion.algorithms.reconstruct import ReconstructResult, ReconstructSettings
    from parhelion.model.volume import Volume
    from parhelion.run.context import Context

HALVES = "Half sets"


class Params(JobParams):
    """What the job takes."""

    input: ParticlesFile = option(help="table of particles with CTF and poses", short="i")
    symmetry: str = option("C1", help="point group: C1, C2 …, D2 …, T, O, I1 to I4")
    contrast: Contrast = contrast_option()
    pixel_size: float | None = particle_pixel_size_option()
    diameter: float | None = option(
        None,
        help="diameter of a circle to which images are masked",
        unit="Å",
        gt=0,
        le=5000,
        short="d",
        default_text="the box",
    )
    resolution_limit: float | None = option(
        None, help="use no finer detail than this", unit="Å", gt=0, default_text="Nyquist"
    )
    halves: bool = option(True, help="make half maps and state a resolution", group=HALVES)
    mask: MapFile | None = option(
        None,
        help="mask (0 to 1) in the frame of the particles, for the FSC",
        default_text="made automatically",
        group=HALVES,
    )
    auto_mask: bool = option(
        True, help="follow the molecule by a generous mask; otherwise a sphere is used", group=HALVES
    )

    @model_validator(mode="after")
    def _fit(self) -> "Params":
        if not self.halves and (self.mask is not None or "auto_mask" in self.model_fields_set):
            raise ValueError("--mask and --auto-mask serve the comparison of half maps, --no-halves has none")
        if self.mask is not None and "auto_mask" in self.model_fields_set and self.auto_mask:
            raise ValueError("--mask gives the mask, --auto-mask makes one; choose")
        return self


OUTPUTS = (
    Output(name="map", file="map.mrc", help="map of all particles"),
    Output(name="half1", file="half1.mrc", help="map of the first half set, unfiltered", optional=True),
    Output(name="half2", file="half2.mrc", help="map of the second half set, unfiltered", optional=True),
    Output(name="mask", file="mask.mrc", help="the mask of the stated resolution", optional=True),
    Output(name="fsc", file="fsc.star", help="half-map correlation per shell", optional=True),
)


def estimate(params: Params) -> Estimate:
    """What ``engine.memory`` plans for the table's particles."""
    from parhelion.algorithms.reconstruct import memory_plan
    from parhelion.jobs._particles import size_of

    count, box, pixel = size_of(params.input, params.pixel_size)
    plan = memory_plan(count, box, pixel, _settings(params, 0), None)
    return Estimate(
        memory_bytes=plan.fixed_bytes,
        per_thread_bytes=plan.per_thread_bytes,
        disk_bytes=4 * box**3 * (4 if params.halves else 1),
    )


def run(context: "Context", params: Params) -> Result:
    """Reconstruct, write and show."""
    from parhelion.algorithms.reconstruct import reconstruct
    from parhelion.jobs._particles import read_with_images, require_poses

    particles, source = read_with_images(
        params.input, context, contrast=params.contrast, pixel_size=params.pixel_size
    )
    require_poses(params.input, particles)
    found = reconstruct(
        particles,
        source,
        _settings(params, context.seed),
        mask=_mask(params, source.box, particles.optics[0].pixel_size_angstrom),
        executor=context.executor,
        observer=context,
        cancel=context,
        device=context.device,
    )
    outputs = _write(context, found)
    _show(context, found)
    if particles.rotation is not None:
        context.report.angular_distribution(particles.rotation)
    figures: dict[str, float | int | str | None] = {"used_particles": len(particles) - len(found.unusable)}
    if found.curves is not None:
        figures |= {
            "resolution_angstrom": found.curves.resolution_angstrom,
            "unmasked_resolution_angstrom": found.curves.unmasked_resolution_angstrom,
        }
    return Result(figures=figures, outputs=outputs)


def _settings(params: Params, seed: int) -> "ReconstructSettings":
    from parhelion.algorithms.reconstruct import ReconstructSettings

    return ReconstructSettings(
        symmetry=params.symmetry,
        diameter_angstrom=params.diameter,
        resolution_limit_angstrom=params.resolution_limit,
        halves=params.halves,
        automatic_mask=params.auto_mask,
        seed=seed,
    )


def _mask(params: Params, box: int, pixel_size_angstrom: float) -> "Volume | None":
    import numpy as np

    from parhelion.jobs._maps import read_mask
    from parhelion.model.volume import Volume

    if params.mask is None:
        return None
    frame = Volume(data=np.empty((box,) * 3, np.float32), pixel_size_angstrom=pixel_size_angstrom)
    return read_mask(params.mask, frame, params.input)


def _write(context: "Context", found: "ReconstructResult") -> "dict[str, Path | list[Path]]":
    from parhelion.io import mrc
    from parhelion.jobs._fsc import curves_by_kind, write_fsc

    volumes = {"map": found.map}
    if found.half_maps is not None and found.mask is not None:
        volumes |= {"half1": found.half_maps[0], "half2": found.half_maps[1], "mask": found.mask}
    for name, volume in volumes.items():
        mrc.write_volume(context.path(name), volume)
    outputs: dict[str, Path | list[Path]] = {name: context.path(name) for name in volumes}
    if found.curves is not None:
        curves = curves_by_kind(found.curves)
        write_fsc(context.path("fsc"), curves, found.map.box, found.map.pixel_size_angstrom)
        outputs["fsc"] = context.path("fsc")
    return outputs


def _show(context: "Context", found: "ReconstructResult") -> None:
    from parhelion.jobs._fsc import curves_by_kind

    report = context.report
    if found.curves is not None:
        report.fsc(curves_by_kind(found.curves), found.map.box, found.map.pixel_size_angstrom, "Half maps")
    report.surface(found.map, "Map")
    report.slices(found.map, "Central slices")
    report.projections(found.map, "Projections")
    if found.mask is not None:
        report.slices(found.mask, "Mask")


JOB = declare(__name__, __doc__, params=Params, run=run, estimate=estimate, outputs=OUTPUTS)
