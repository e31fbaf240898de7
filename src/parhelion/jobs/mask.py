"""Make a soft mask around the molecule in a map.

Without a radius the mask follows the molecule: the map is low-passed, thresholded, freed of small parts,
extended and given a soft edge. With a radius it is a sphere about the centre of the box.
"""

from typing import TYPE_CHECKING

from pydantic import model_validator

from parhelion.jobs._inputs import MapFile
from parhelion.jobs._maps import pixel_size_option, voxels
from parhelion.registry import Estimate, JobParams, Output, Result, declare, option

if TYPE_CHECKING:
    from parhelion.run.context import Context

FOLLOWING = "Mask that follows the molecule"


class Params(JobParams):
    """What the job takes."""

    input: MapFile = option(help="the map, protein white", short="i")
    pixel_size: float | None = pixel_size_option()
    edge: float | None = option(
        None, help="width of the soft edge", unit="Å", ge=0, le=500, default_text="12 Å, at least 4 voxels"
    )
    radius: float | None = option(
        None, help="make a sphere of this radius instead", unit="Å", gt=0, default_text="follow the molecule"
    )
    threshold: float | None = option(
        None,
        help="density that separates molecule and solvent in the low-passed map",
        unit="1",
        default_text="found automatically",
        group=FOLLOWING,
    )
    lowpass: float = option(
        15.0, help="low-pass the map before thresholding", unit="Å", gt=0, le=200, group=FOLLOWING
    )
    extend: float | None = option(
        None,
        help="grow the thresholded molecule by this much",
        unit="Å",
        ge=0,
        le=500,
        default_text="6 Å, at least 2 voxels",
        group=FOLLOWING,
    )

    @model_validator(mode="after")
    def _one_kind(self) -> "Params":
        following = {"threshold", "lowpass", "extend"} & self.model_fields_set
        if self.radius is not None and following:
            raise ValueError(f"--radius makes a sphere; --{min(following)} belongs to the other kind of mask")
        return self


OUTPUTS = (Output(name="mask", file="mask.mrc", help="mask from 0 to 1 in the frame of the map"),)


def estimate(params: Params) -> Estimate:
    """The map, its transform, distances and labels."""
    count = voxels(params.input)
    return Estimate(memory_bytes=30 * count, disk_bytes=4 * count)


def run(context: "Context", params: Params) -> Result:
    """Make the mask, write it and show it on the map."""
    import numpy as np

    from parhelion.images.masks import automatic_mask, spherical_mask
    from parhelion.io import mrc
    from parhelion.model.volume import Volume

    volume = mrc.read_volume(params.input, params.pixel_size)
    pixel = volume.pixel_size_angstrom
    figures: dict[str, float | int | str | None] = {}
    if params.radius is not None:
        edge = max(12.0, 4 * pixel) if params.edge is None else params.edge
        mask = Volume(data=spherical_mask(volume.box, pixel, params.radius, edge), pixel_size_angstrom=pixel)
    else:
        made = automatic_mask(
            volume,
            lowpass_angstrom=params.lowpass,
            threshold=params.threshold,
            extend_angstrom=params.extend,
            edge_angstrom=params.edge,
        )
        mask = made.mask
        figures = {"threshold": made.threshold, "components": made.components}
    inside = float(mask.data.sum(dtype=np.float64))
    figures |= {
        "mask_volume_angstrom3": inside * pixel**3,
        "mask_fraction_percent": 100 * inside / mask.data.size,
    }
    mrc.write_volume(context.path("mask"), mask)
    context.report.slices(mask, "Mask")
    context.report.slices(volume, "Map")
    masked = Volume(data=volume.data * mask.data, pixel_size_angstrom=pixel)
    context.report.slices(masked, "Map inside the mask")
    return Result(figures=figures, outputs={"mask": context.path("mask")})


JOB = declare(__name__, __doc__, params=Params, run=run, estimate=estimate, outputs=OUTPUTS)
