"""Fourier shell correlation of two maps.

The two maps must have the same box and pixel size. With a mask, the curve inside it is given as well.
"""

from typing import TYPE_CHECKING

from parhelion.errors import InputError
from parhelion.jobs._inputs import MapFile, TwoMaps
from parhelion.registry import Estimate, JobParams, Output, Result, declare, option

if TYPE_CHECKING:
    from parhelion.run.context import Context


class Params(JobParams):
    """What the job takes."""

    input: TwoMaps = option(help="the two maps", short="i")
    mask: MapFile | None = option(None, help="mask (0 to 1) in the frame of the maps", default_text="none")
    pixel_size: float | None = option(
        None,
        help="pixel size of the maps, where their headers are wrong",
        unit="Å",
        ge=0.1,
        le=30,
        default_text="from the header",
    )


OUTPUTS = (Output(name="fsc", file="fsc.star", help="correlation per shell, with RELION's labels"),)


def estimate(params: Params) -> Estimate:
    """Three maps and two transforms in memory."""
    from parhelion.io import mrc

    z, y, x = mrc.read_header(params.input[0]).shape
    return Estimate(memory_bytes=40 * z * y * x, disk_bytes=100_000)


def run(context: "Context", params: Params) -> Result:
    """Compute the curves, write them and plot them."""
    from parhelion.fourier import shells
    from parhelion.io import mrc
    from parhelion.jobs._fsc import write_fsc

    first, second = (mrc.read_volume(path, params.pixel_size) for path in params.input)
    box, pixel = first.box, first.pixel_size_angstrom
    if abs(second.pixel_size_angstrom / pixel - 1) > 0.001:
        raise InputError(
            f"{params.input[0]} has {pixel:.4f} Å per pixel, {params.input[1]} "
            f"{second.pixel_size_angstrom:.4f} Å; resample one, or give --pixel-size where a header is wrong"
        )
    curves = {"unmasked": shells.fsc(first.data, second.data)}
    if params.mask is not None:
        mask = mrc.read_volume(params.mask, pixel).data
        if mask.shape != first.data.shape:
            raise InputError(f"mask {params.mask} has shape {mask.shape}, the maps have {first.data.shape}")
        curves["masked"] = shells.fsc(first.data * mask, second.data * mask)
    best = curves.get("masked", curves["unmasked"])
    write_fsc(context.path("fsc"), curves, box, pixel)
    context.report.fsc(curves, box, pixel)
    context.report.slices(first, f"Central slices of {params.input[0].name}")
    context.report.slices(second, f"Central slices of {params.input[1].name}")
    figures = {
        "resolution_angstrom": shells.resolution_at(best, 0.143, box, pixel),
        "resolution_half_angstrom": shells.resolution_at(best, 0.5, box, pixel),
        "curve": "masked" if params.mask else "unmasked",
    }
    return Result(figures=figures, outputs={"fsc": context.path("fsc")})


JOB = declare(__name__, __doc__, params=Params, run=run, estimate=estimate, outputs=OUTPUTS)
