"""Make a soft mask around the molecule in a map, and apply it.

Without a radius the mask follows the molecule: the map is low-passed, thresholded, freed of small parts,
extended and given a soft edge. With a radius it is a sphere, solid or hollow, about the centre of the box or
another point; with a mask it is that one. The map inside it can be written too, with what lies outside
removed, dampened or low-passed.
"""

from typing import TYPE_CHECKING

from pydantic import model_validator

from parhelion.errors import InputError
from parhelion.jobs._inputs import MapFile
from parhelion.jobs._maps import pixel_size_option, voxels
from parhelion.registry import Estimate, JobParams, Output, Result, declare, option

if TYPE_CHECKING:
    from parhelion.model.volume import Volume
    from parhelion.run.context import Context

FOLLOWING = "Mask that follows the molecule"
SPHERE, MASKED = "Sphere", "Masked map"
HALF = 0.5

HARDLY_A_MASK = 0.6
MANY_PARTS = 8


class Params(JobParams):
    """What the job takes."""

    input: MapFile = option(help="the map, protein white", short="i")
    pixel_size: float | None = pixel_size_option()
    mask: MapFile | None = option(
        None, help="use this mask (0 to 1) instead of making one", default_text="make one"
    )
    edge: float | None = option(
        None,
        help="width of the soft edge; with --mask its half-way contour gets a new edge",
        unit="Å",
        ge=0,
        le=500,
        default_text="12 Å, at least 4 voxels; with --mask as it is",
    )
    invert: bool = option(False, help="mask what the mask would keep")
    radius: float | None = option(
        None,
        help="make a sphere of this radius instead",
        unit="Å",
        gt=0,
        default_text="follow the molecule",
        group=SPHERE,
    )
    inner_radius: float = option(
        0.0, help="radius inside which the sphere is hollow", unit="Å", ge=0, le=10_000, group=SPHERE
    )
    centre: tuple[float, float, float] | None = option(
        None,
        help="x, y and z of the sphere's centre, from the centre of the box",
        unit="Å",
        default_text="the centre of the box",
        group=SPHERE,
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
    apply: bool = option(False, help="also write the map inside the mask", group=MASKED)
    outside_weight: float = option(
        0.0, help="weight of the density outside the mask", unit="1", ge=0, le=1, group=MASKED
    )
    outside_lowpass: float | None = option(
        None, help="low-pass what lies outside the mask", unit="Å", gt=0, default_text="no", group=MASKED
    )

    @model_validator(mode="after")
    def _one_kind(self) -> "Params":
        given = self.model_fields_set
        following = {"threshold", "lowpass", "extend"} & given
        if self.radius is not None and following:
            raise ValueError(f"--radius makes a sphere; --{min(following)} belongs to the other kind of mask")
        if self.mask is not None and (following or self.radius is not None):
            other = min(following) if following else "radius"
            raise ValueError(f"--mask gives a mask, --{other} makes one; choose")
        sphere = {"inner_radius", "centre"} & given
        if sphere and self.radius is None:
            raise ValueError(f"--{min(sphere).replace('_', '-')} belongs to a sphere; give --radius")
        return self

    @model_validator(mode="after")
    def _applied(self) -> "Params":
        outside = {"outside_weight", "outside_lowpass"} & self.model_fields_set
        if outside and not self.apply:
            raise ValueError(
                f"--{min(outside).replace('_', '-')} is for the masked map; ask for it with --apply"
            )
        if self.outside_lowpass is not None and self.outside_weight == 0:
            raise ValueError("--outside-lowpass filters what --outside-weight 0 removes; give a weight")
        return self


OUTPUTS = (
    Output(name="mask", file="mask.mrc", help="mask from 0 to 1 in the frame of the map"),
    Output(name="map", file="map_masked.mrc", help="the map inside the mask", optional=True),
)


def estimate(params: Params) -> Estimate:
    """The map, its transform, distances and labels."""
    count = voxels(params.input)
    return Estimate(memory_bytes=30 * count, disk_bytes=(8 if params.apply else 4) * count)


def run(context: "Context", params: Params) -> Result:
    """Make the mask, write it and show it on the map."""
    import numpy as np

    from parhelion.algorithms.masking import apply_mask
    from parhelion.io import mrc
    from parhelion.model.volume import Volume

    volume = mrc.read_volume(params.input, params.pixel_size)
    pixel = volume.pixel_size_angstrom
    mask, figures = _mask(params, volume)
    if params.invert:
        mask = Volume(data=1 - mask.data, pixel_size_angstrom=pixel)
    inside = float(mask.data.sum(dtype=np.float64))
    if inside == 0:
        raise InputError("the mask is empty: no voxel lies inside it")
    figures |= {
        "mask_volume_angstrom3": inside * pixel**3,
        "mask_fraction_percent": 100 * inside / mask.data.size,
    }
    if inside > HARDLY_A_MASK * mask.data.size:
        context.notice(
            f"the mask covers {100 * inside / mask.data.size:.0f} % of the box; it hardly excludes solvent"
        )
    if int(figures.get("components") or 0) > MANY_PARTS:
        context.notice(
            f"the mask is made of {figures['components']} separate parts, as noise has; check the threshold, "
            "and that the map shows a molecule"
        )
    mrc.write_volume(context.path("mask"), mask)
    masked = apply_mask(
        volume,
        mask.data,
        outside_weight=params.outside_weight,
        outside_lowpass_angstrom=params.outside_lowpass,
    )
    outputs = {"mask": context.path("mask")}
    if params.apply:
        mrc.write_volume(context.path("map"), masked)
        outputs["map"] = context.path("map")
    context.report.slices(mask, "Mask")
    context.report.slices(volume, "Map")
    context.report.slices(masked, "Map inside the mask")
    return Result(figures=figures, outputs=outputs)


def _mask(params: Params, volume: "Volume") -> "tuple[Volume, dict[str, float | int | str | None]]":
    """The mask, and how it came about."""
    from parhelion.algorithms.masking import shell_mask
    from parhelion.images.masks import automatic_mask
    from parhelion.model.volume import Volume

    pixel = volume.pixel_size_angstrom
    if params.mask is not None:
        return _given(params, volume), {}
    if params.radius is None:
        made = automatic_mask(
            volume,
            lowpass_angstrom=params.lowpass,
            threshold=params.threshold,
            extend_angstrom=params.extend,
            edge_angstrom=params.edge,
        )
        return made.mask, {"threshold": made.threshold, "components": made.components}
    edge = max(12.0, 4 * pixel) if params.edge is None else params.edge
    z, y, x = volume.data.shape
    centre = params.centre or (0.0, 0.0, 0.0)
    sphere = shell_mask((z, y, x), pixel, params.radius, params.inner_radius, edge, centre)
    return Volume(data=sphere, pixel_size_angstrom=pixel), {}


def _given(params: Params, volume: "Volume") -> "Volume":
    """The user's mask, with a new edge about its half-way contour where one is asked for."""
    from parhelion.images.masks import soft_dilation
    from parhelion.jobs._maps import read_mask
    from parhelion.model.volume import Volume

    if params.mask is None:
        raise InputError("no mask was given")
    mask = read_mask(params.mask, volume, params.input)
    if params.edge is None:
        return mask
    body = mask.data > HALF
    if not body.any():
        raise InputError(f"no value of {params.mask} is above {HALF}; it has no half-way contour for an edge")
    data = soft_dilation(body, volume.pixel_size_angstrom, 0.0, params.edge)
    return Volume(data=data, pixel_size_angstrom=volume.pixel_size_angstrom)


JOB = declare(__name__, __doc__, params=Params, run=run, estimate=estimate, outputs=OUTPUTS)
