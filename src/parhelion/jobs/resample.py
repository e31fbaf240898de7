"""Bring a map to another box or pixel size.

The centre of the box stays where it is. Give a pixel size, a box, or both; with only one the extent of the
map is kept. The new map is a cube; of a map that is none, the longest edge counts.
"""

from typing import TYPE_CHECKING

from pydantic import model_validator

from parhelion.errors import MetadataError, ParameterError
from parhelion.jobs._inputs import MapFile
from parhelion.jobs._maps import voxels
from parhelion.registry import Estimate, JobParams, Output, Result, declare, option

if TYPE_CHECKING:
    from parhelion.run.context import Context

LARGEST_BOX = 2048


class Params(JobParams):
    """What the job takes."""

    input: MapFile = option(help="the map", short="i")
    pixel_size: float | None = option(
        None, help="new pixel size", unit="Å", ge=0.1, le=30, default_text="such that the extent is kept"
    )
    box: int | None = option(
        None,
        help="new edge length",
        unit="pixels",
        ge=8,
        le=LARGEST_BOX,
        default_text="such that the extent is kept",
    )
    input_pixel_size: float | None = option(
        None,
        help="pixel size of the input, where its header is wrong",
        unit="Å",
        ge=0.1,
        le=30,
        default_text="from the header",
    )

    @model_validator(mode="after")
    def _something(self) -> "Params":
        if self.pixel_size is None and self.box is None:
            raise ValueError("give --pixel-size, --box or both")
        return self


OUTPUTS = (Output(name="map", file="map.mrc", help="the map on its new grid"),)


def estimate(params: Params) -> Estimate:
    """Both maps and one on the way."""
    box, _ = _grid(params)
    return Estimate(memory_bytes=12 * max(voxels(params.input), box**3), disk_bytes=4 * box**3)


def _grid(params: Params) -> tuple[int, float]:
    """Box and pixel size (Å) of the new map, from the header of the old one.

    Raises MetadataError where nothing says the old pixel size, ParameterError for a box that is too large.
    """
    from parhelion.io import mrc

    header = mrc.read_header(params.input)
    old = params.input_pixel_size or header.pixel_size_angstrom
    if not old:
        raise MetadataError(f"{params.input} does not say its pixel size; give it with --input-pixel-size")
    extent = max(header.shape) * old
    box = params.box or max(8, 2 * round(extent / (params.pixel_size or old) / 2))
    if box > LARGEST_BOX:
        raise ParameterError(
            f"--pixel-size {params.pixel_size:g}: the map's {extent:g} Å would take {box} pixels, "
            f"{LARGEST_BOX} are possible; choose a larger pixel size, or give --box as well"
        )
    return box, params.pixel_size or extent / box


def run(context: "Context", params: Params) -> Result:
    """Interpolate the map and write it."""
    from parhelion.fourier.resample import resample_volume
    from parhelion.io import mrc

    volume = mrc.read_volume(params.input, params.input_pixel_size)
    box, pixel = _grid(params)
    made = resample_volume(volume, box, pixel)
    mrc.write_volume(context.path("map"), made)
    context.report.slices(volume, "Before")
    context.report.slices(made, "After")
    return Result(figures={"box": box, "pixel_size_angstrom": pixel}, outputs={"map": context.path("map")})


JOB = declare(__name__, __doc__, params=Params, run=run, estimate=estimate, outputs=OUTPUTS)
