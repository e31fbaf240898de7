"""Fourier shell correlation of two maps.

The two maps must have the same box and pixel size. With a mask, the curve inside it is corrected for what
the mask itself adds, by randomising phases, as for half maps.
"""

from typing import TYPE_CHECKING

from parhelion.jobs._inputs import MapFile, TwoMaps
from parhelion.jobs._maps import pixel_size_option, voxels
from parhelion.registry import Estimate, JobParams, Output, Result, declare, option

if TYPE_CHECKING:
    from parhelion.run.context import Context


class Params(JobParams):
    """What the job takes."""

    input: TwoMaps = option(help="the two maps", short="i")
    mask: MapFile | None = option(None, help="mask (0 to 1) in the frame of the maps", default_text="none")
    pixel_size: float | None = pixel_size_option()


OUTPUTS = (Output(name="fsc", file="fsc.star", help="correlation per shell, with RELION's labels"),)


def estimate(params: Params) -> Estimate:
    """Maps and transforms in memory, twice as many with a mask."""
    return Estimate(memory_bytes=(70 if params.mask else 40) * voxels(params.input[0]), disk_bytes=100_000)


def run(context: "Context", params: Params) -> Result:
    """Compute the curves, write them and plot them."""
    from parhelion.algorithms.postprocess.gold_standard import gold_standard_fsc
    from parhelion.fourier import shells
    from parhelion.jobs._fsc import write_fsc
    from parhelion.jobs._maps import read_mask, read_pair

    first, second = read_pair(params.input, params.pixel_size)
    box, pixel = first.box, first.pixel_size_angstrom
    if params.mask is None:
        best = shells.fsc(first.data, second.data)
        curves = {"unmasked": best}
    else:
        mask = read_mask(params.mask, first, params.input[0])
        found = gold_standard_fsc(first, second, mask, seed=context.seed)
        best = found.corrected
        curves = {
            "corrected": found.corrected,
            "unmasked": found.unmasked,
            "masked": found.masked,
            "randomised": found.randomised,
        }
    write_fsc(context.path("fsc"), curves, box, pixel)
    context.report.fsc(curves, box, pixel)
    for path, volume in zip(params.input, (first, second), strict=True):
        context.report.slices(volume, f"Central slices of {path.name}")
    return Result(
        figures={
            "resolution_angstrom": shells.resolution_at(best, 0.143, box, pixel),
            "resolution_half_angstrom": shells.resolution_at(best, 0.5, box, pixel),
            "curve": next(iter(curves)),
        },
        outputs={"fsc": context.path("fsc")},
    )


JOB = declare(__name__, __doc__, params=Params, run=run, estimate=estimate, outputs=OUTPUTS)
