"""Local resolution of a map from its half maps, and the map filtered accordingly.

The Fourier shell correlation of the half maps is taken in a window that slides over the map; where it first
falls below a threshold is the resolution at the middle of the window. The map is then low-passed everywhere
at its own resolution. Nothing coarser than the window can be judged. Of the whole map two resolutions are
stated: at 0.143, freed of what the mask adds, as in other jobs, and at the threshold of the windows.
"""

from typing import TYPE_CHECKING

from pydantic import model_validator

from parhelion.errors import InputError
from parhelion.jobs._inputs import MapFile, TwoMaps
from parhelion.jobs._maps import PIXEL_TOLERANCE, pixel_size_option, voxels
from parhelion.registry import Estimate, JobParams, Output, Result, declare, option

if TYPE_CHECKING:
    import numpy as np

    from parhelion.model.volume import Volume
    from parhelion.run.context import Context

PERCENTILES = (5, 25, 50, 75, 95)
WINDOW_OF_RESOLUTION, LEAST_WINDOW_ANGSTROM = 5.0, 20.0
BINS = 40


class Params(JobParams):
    """What the job takes."""

    input: TwoMaps = option(help="the two half maps", short="i")
    pixel_size: float | None = pixel_size_option()
    mask: MapFile | None = option(
        None, help="mask that figures are taken in", default_text="made automatically"
    )
    window: float | None = option(
        None,
        help="width of the window (full width at half maximum)",
        unit="Å",
        gt=0,
        le=1000,
        default_text="5 times the resolution, at least 20 Å",
    )
    threshold: float = option(0.5, help="correlation that counts as resolved", unit="1", gt=0, lt=1)
    filter_map: MapFile | None = option(
        None, help="map to filter, such as a sharpened one", default_text="the mean of the half maps"
    )
    bfactor: float = option(
        0.0, help="B-factor applied before filtering; negative sharpens", unit="Å²", ge=-2000, le=2000
    )

    @model_validator(mode="after")
    def _sharpened_once(self) -> "Params":
        if self.filter_map is not None and self.bfactor:
            raise ValueError("--bfactor sharpens the mean of the half maps; --filter-map is taken as it is")
        return self


OUTPUTS = (
    Output(name="resolution", file="local_resolution.mrc", help="resolution in Å at every voxel"),
    Output(name="map", file="map_filtered.mrc", help="the map, low-passed at its local resolution"),
    Output(name="mask", file="mask.mrc", help="the mask that figures were taken in"),
    Output(name="histogram", file="local_resolution.star", help="share of the molecule per resolution"),
)


def estimate(params: Params) -> Estimate:
    """Half maps, their transforms, one band, and the results."""
    count = voxels(params.input[0])
    return Estimate(memory_bytes=110 * count, disk_bytes=12 * count)


def run(context: "Context", params: Params) -> Result:
    """Measure, filter, write and show."""
    import numpy as np

    from parhelion.algorithms.postprocess.gold_standard import check_half_maps, gold_standard_fsc
    from parhelion.algorithms.postprocess.local_resolution import filtered_locally, local_resolution
    from parhelion.fourier.shells import fsc, resolution_at
    from parhelion.io import mrc
    from parhelion.jobs._maps import read_pair
    from parhelion.model.volume import Volume

    half1, half2 = read_pair(params.input, params.pixel_size)
    check_half_maps(half1, half2)
    box, pixel = half1.box, half1.pixel_size_angstrom
    mean = Volume(data=0.5 * (half1.data + half2.data), pixel_size_angstrom=pixel)
    mask = _mask(params, mean)
    whole = resolution_at(fsc(half1.data * mask.data, half2.data * mask.data), params.threshold, box, pixel)
    window = params.window or min(max(WINDOW_OF_RESOLUTION * whole, LEAST_WINDOW_ANGSTROM), box * pixel / 2)
    found = local_resolution(
        half1, half2, window_angstrom=window, threshold=params.threshold, observer=context
    )
    source = mean if params.filter_map is None else _map_to_filter(params, mean)
    filtered = filtered_locally(source, found, params.bfactor)
    inside = found.resolution.data[mask.data > 0.5]
    if not len(inside):
        raise InputError("no value of the mask is above 0.5; there is nothing to take figures of")
    mrc.write_volume(context.path("resolution"), found.resolution)
    mrc.write_volume(context.path("map"), filtered)
    mrc.write_volume(context.path("mask"), mask)
    _write_histogram(context, inside)
    shown = np.where(mask.data > 0.5, found.resolution.data, inside.max()).astype(np.float32)
    context.report.slices(Volume(data=-shown, pixel_size_angstrom=pixel), "Local resolution (fine is bright)")
    context.report.slices(mean, "Mean of the half maps")
    context.report.slices(filtered, "Locally filtered map")
    context.report.surface(filtered, "Locally filtered map")
    figures = {f"resolution_p{p}_angstrom": float(np.percentile(inside, p)) for p in PERCENTILES}
    usual = gold_standard_fsc(half1, half2, mask, seed=context.seed).resolution_angstrom
    context.report.text(
        f"The whole map: {usual:.2f} Å at an FSC of 0.143, freed of what the mask adds; {whole:.2f} Å at "
        f"{params.threshold:g}, the threshold of the windows, which is what local resolutions compare with."
    )
    figures |= {"global_resolution_angstrom": usual, "global_resolution_at_threshold_angstrom": whole}
    figures["window_angstrom"] = found.window_angstrom
    figures |= {"finest_angstrom": found.finest_angstrom, "coarsest_angstrom": found.coarsest_angstrom}
    return Result(figures=figures, outputs={o.name: context.path(o.name) for o in OUTPUTS})


def _mask(params: Params, mean: "Volume") -> "Volume":
    from parhelion.images.masks import automatic_mask
    from parhelion.jobs._maps import read_mask

    if params.mask is not None:
        return read_mask(params.mask, mean, params.input[0])
    return automatic_mask(mean).mask


def _map_to_filter(params: Params, like: "Volume") -> "Volume":
    from parhelion.io import mrc

    if params.filter_map is None:
        return like
    other = mrc.read_volume(params.filter_map, params.pixel_size)
    if other.data.shape != like.data.shape:
        raise InputError(
            f"{params.filter_map} has {other.data.shape} voxels, the half maps {like.data.shape}; "
            "filter a map "
            "of the same frame"
        )
    if abs(other.pixel_size_angstrom / like.pixel_size_angstrom - 1) > PIXEL_TOLERANCE:
        raise InputError(
            f"{params.filter_map} has {other.pixel_size_angstrom:.4g} Å per pixel, the half maps "
            f"{like.pixel_size_angstrom:.4g}; filter a map of the same frame, or give --pixel-size for all"
        )
    return other


def _write_histogram(context: "Context", inside: "np.ndarray") -> None:
    """Share of the molecule's voxels per resolution, written and drawn."""
    import numpy as np

    from parhelion.io.star_writer import write_star
    from parhelion.model.table import Table

    low, high = np.percentile(inside, [0.5, 99.5])
    edges = np.linspace(low, max(high, low * 1.001), BINS + 1)
    counts, _ = np.histogram(np.clip(inside, edges[0], edges[-1]), edges)
    centres, percent = 0.5 * (edges[1:] + edges[:-1]), 100 * counts / len(inside)
    columns = {"rlnAngstromResolution": centres, "parhelionVolumePercent": percent}
    write_star(context.path("histogram"), {"local_resolution": Table(columns)})
    context.report.curve(
        {"molecule": (centres, percent)},
        x_label="local resolution (Å)",
        y_label="share of the volume (%)",
        title="Local resolution of the molecule",
    )


JOB = declare(__name__, __doc__, params=Params, run=run, estimate=estimate, outputs=OUTPUTS)
