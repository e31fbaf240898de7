"""Sharpen a single map by B-factors, flattening, figures of merit and masks.

Up to the resolution where flattening begins, amplitudes keep their shape under one B-factor; from there on
they are made flat and fall with another. Shells are weighted by their figure of merit, from an FSC or from
the mass of the molecule. For two half maps, postprocess finds resolution and B-factor by itself.
"""

from typing import TYPE_CHECKING, Literal

from pydantic import model_validator

from parhelion.errors import InputError
from parhelion.jobs._inputs import File, MapFile
from parhelion.jobs._maps import pixel_size_option, voxels
from parhelion.registry import Estimate, JobParams, Output, Result, declare, option

if TYPE_CHECKING:
    import numpy as np

    from parhelion.algorithms.postprocess.flatten import FlattenedMap
    from parhelion.model.volume import Volume
    from parhelion.run.context import Context

AMPLITUDES, MERIT, MASK = "Amplitudes", "Figures of merit", "Mask"


class Params(JobParams):
    """What the job takes."""

    input: MapFile = option(help="the map, protein white", short="i")
    pixel_size: float | None = pixel_size_option()
    invert_hand: bool = option(False, help="write the other hand")
    gridding_correction: bool = option(
        False,
        help="divide out the envelope of trilinear interpolation, which other programs may leave in a map "
        "(parhelion's have none)",
    )
    sigma: float = option(
        0.03, help="standard deviation of the sharpened map; 0 leaves its scale", unit="1", ge=0, le=1e6
    )
    flatten_from: float = option(
        8.0,
        help="resolution from which amplitudes are made flat (8 to 10 is usual); 0 flattens nothing",
        unit="Å",
        ge=0,
        le=100,
        group=AMPLITUDES,
    )
    pre_bfactor: float = option(
        -90.0,
        help="B-factor up to there; negative sharpens",
        unit="Å²",
        ge=-2000,
        le=2000,
        group=AMPLITUDES,
    )
    post_bfactor: float = option(
        0.0,
        help="B-factor of the flattened part; 0 to 25 is usual",
        unit="Å²",
        ge=-2000,
        le=2000,
        group=AMPLITUDES,
    )
    cutoff: float | None = option(
        None,
        help="low-pass the map here; 0 does not",
        unit="Å",
        ge=0,
        le=200,
        default_text="where the FSC falls below 0.143, none without --fsc",
        group=AMPLITUDES,
    )
    filter_edge: float = option(
        20.0,
        help="width of the low-pass's cosine edge, as one over this",
        unit="Å",
        ge=1,
        le=1000,
        group=AMPLITUDES,
    )
    fom_weighting: bool = option(
        True, help="weight shells by SSNR / (1 + SSNR), where --fsc or --mass is given", group=MERIT
    )
    fsc: File | None = option(
        None, help="FSC of the half maps: fsc.star or cisTEM's statistics", default_text="none", group=MERIT
    )
    mass: float | None = option(
        None,
        help="molecular mass: stands in for an FSC, or gives the particle's share of the mask with one",
        unit="kDa",
        gt=0,
        le=1e6,
        default_text="not used",
        group=MERIT,
    )
    ssnr_scale: float = option(
        1.0, help="multiply the signal-to-noise ratios by this", unit="1", gt=0, le=1000, group=MERIT
    )
    statistics_scale: float = option(
        1.0,
        help="stretch the curves of --fsc over frequency by this: above 1 their resolution is finer",
        unit="1",
        ge=0.5,
        le=1.5,
        group=MERIT,
    )
    mask: MapFile | None = option(
        None, help="mask (0 to 1) in the frame of the map", default_text="see --mask-kind", group=MASK
    )
    mask_kind: Literal["automatic", "sphere", "none"] = option(
        "automatic",
        help="the mask without --mask: it follows the molecule, is a sphere, or there is none",
        group=MASK,
    )
    outer_radius: float = option(100.0, help="radius of the sphere", unit="Å", gt=0, le=10_000, group=MASK)
    inner_radius: float = option(
        0.0, help="radius inside which the sphere is hollow", unit="Å", ge=0, le=10_000, group=MASK
    )
    mask_edge: float = option(
        10.0, help="width of the sphere's cosine edge", unit="Å", ge=0, le=500, group=MASK
    )
    outside_weight: float = option(
        0.0, help="weight of the density outside the mask", unit="1", ge=0, le=1, group=MASK
    )
    outside_lowpass: float | None = option(
        None, help="low-pass what lies outside the mask", unit="Å", gt=0, default_text="no", group=MASK
    )

    @model_validator(mode="after")
    def _fit(self) -> "Params":
        given = self.model_fields_set
        if self.mask is not None and "mask_kind" in given:
            raise ValueError("--mask gives a mask, --mask-kind says how to make one; choose")
        sphere = given & {"outer_radius", "inner_radius", "mask_edge"}
        if sphere and (self.mask is not None or self.mask_kind != "sphere"):
            raise ValueError(f"--{min(sphere).replace('_', '-')} belongs to --mask-kind sphere")
        outside = given & {"outside_weight", "outside_lowpass"}
        if outside and self.mask is None and self.mask_kind == "none":
            raise ValueError(f"--{min(outside).replace('_', '-')} needs a mask")
        if self.outside_lowpass is not None and self.outside_weight == 0:
            raise ValueError("--outside-lowpass filters what --outside-weight 0 removes; give a weight")
        if "ssnr_scale" in given and not self.fom_weighting:
            raise ValueError("--no-fom-weighting leaves --ssnr-scale without effect")
        if "ssnr_scale" in given and self.fsc is None and self.mass is None:
            raise ValueError("--ssnr-scale needs signal-to-noise ratios: give --fsc or --mass")
        if "statistics_scale" in given and self.fsc is None:
            raise ValueError("--statistics-scale stretches the curves of --fsc, which is not given")
        return self


OUTPUTS = (
    Output(name="map", file="map_sharpened.mrc", help="the sharpened map, inside the mask if there is one"),
    Output(name="mask", file="mask.mrc", help="the mask that was used", optional=True),
    Output(name="spectrum", file="spectrum.star", help="amplitudes before and after, and weights per shell"),
)


def estimate(params: Params) -> Estimate:
    """Map, mask, gain and transforms."""
    count = voxels(params.input)
    return Estimate(memory_bytes=70 * count, disk_bytes=8 * count)


def run(context: "Context", params: Params) -> Result:
    """Sharpen, mask, write and show."""
    from parhelion.algorithms.masking import undo_gridding
    from parhelion.algorithms.postprocess.flatten import FlattenSettings, flattened
    from parhelion.io import mrc

    volume = mrc.read_volume(params.input, params.pixel_size)
    if params.gridding_correction:
        volume = undo_gridding(volume)
    mask = _mask(params, volume)
    merit, cutoff = _merit(context, params, volume, mask)
    _say_what_does_nothing(context, params, volume)
    settings = FlattenSettings(
        flatten_from_angstrom=params.flatten_from or None,
        pre_bfactor_angstrom2=params.pre_bfactor,
        post_bfactor_angstrom2=params.post_bfactor,
        cutoff_angstrom=cutoff,
        edge_angstrom=params.filter_edge,
    )
    found = flattened(volume, None if mask is None else mask.data, settings, merit)
    result, mask = _finished(params, found.map, mask)
    outputs = {"map": context.path("map"), "spectrum": context.path("spectrum")}
    mrc.write_volume(context.path("map"), result)
    if mask is not None:
        mrc.write_volume(context.path("mask"), mask)
        outputs["mask"] = context.path("mask")
        context.report.slices(mask, "Mask")
    _write_spectrum(context, found)
    _show(context, found, volume, result)
    figures: dict[str, float | int | str | None] = {"sigma": float(result.data.std())}
    if cutoff is not None:
        figures = {"cutoff_angstrom": cutoff, **figures}
    return Result(figures=figures, outputs=outputs)


def _say_what_does_nothing(context: "Context", params: Params, volume: "Volume") -> None:
    """Notices for resolutions that the map's pixels do not reach."""
    nyquist = 2 * volume.pixel_size_angstrom
    for name, value in (("--cutoff", params.cutoff), ("--flatten-from", params.flatten_from)):
        if value and value < nyquist:
            context.notice(f"{name} {value:g} does nothing: the pixels end at {nyquist:.4g} Å (Nyquist)")


def _finished(params: Params, volume: "Volume", mask: "Volume | None") -> "tuple[Volume, Volume | None]":
    """The sharpened map inside the mask, at its scale and hand, and the mask in the same hand."""
    from parhelion.algorithms.hand import mirror_x
    from parhelion.algorithms.masking import apply_mask
    from parhelion.model.volume import Volume

    if mask is not None:
        volume = apply_mask(
            volume,
            mask.data,
            outside_weight=params.outside_weight,
            outside_lowpass_angstrom=params.outside_lowpass,
        )
    deviation = float(volume.data.std(dtype="float64"))
    if params.sigma and deviation > 0:
        scaled = (volume.data * (params.sigma / deviation)).astype("float32")
        volume = Volume(data=scaled, pixel_size_angstrom=volume.pixel_size_angstrom)
    if not params.invert_hand:
        return volume, mask
    return mirror_x(volume), None if mask is None else mirror_x(mask)


def _mask(params: Params, volume: "Volume") -> "Volume | None":
    from parhelion.algorithms.masking import shell_mask
    from parhelion.images.masks import automatic_mask
    from parhelion.jobs._maps import read_mask
    from parhelion.model.volume import Volume

    if params.mask is not None:
        return read_mask(params.mask, volume, params.input)
    if params.mask_kind == "none":
        return None
    if params.mask_kind == "automatic":
        return automatic_mask(volume).mask
    z, y, x = volume.data.shape
    pixel = volume.pixel_size_angstrom
    sphere = shell_mask((z, y, x), pixel, params.outer_radius, params.inner_radius, params.mask_edge)
    return Volume(data=sphere, pixel_size_angstrom=pixel)


def _merit(
    context: "Context", params: Params, volume: "Volume", mask: "Volume | None"
) -> "tuple[np.ndarray | None, float | None]":
    """Figures of merit per shell, and the resolution of the low-pass; None for none."""
    import numpy as np

    from parhelion.algorithms.postprocess import statistics as st
    from parhelion.fourier.shells import resolution_at
    from parhelion.io.statistics import read_statistics
    from parhelion.jobs._fsc import particle_share

    box, pixel = volume.box, volume.pixel_size_angstrom
    frequency = np.arange(box // 2 + 1) / (box * pixel)
    resolution = np.divide(1, frequency, out=np.full(len(frequency), np.inf), where=frequency > 0)
    ssnr, cutoff = None, params.cutoff or None
    if params.fsc is not None:
        table = read_statistics(params.fsc)
        at = params.statistics_scale / table.resolution_angstrom
        # before the first shell of the table maps agree, beyond its last nothing is known
        curve = np.interp(frequency, at, table.fsc, left=1.0, right=0.0)
        if params.cutoff is None:
            cutoff = resolution_at(curve, 0.143, box, pixel)
            if cutoff >= 0.999 * box * pixel:
                raise InputError(
                    f"the FSC of {params.fsc} is below 0.143 from the first shell on, which leaves nothing "
                    "of the map; give another one, or say with --cutoff where to low-pass"
                )
        if params.mass is not None:
            curve = st.particle_fsc(curve, particle_share(params.mass, volume, mask))
        ssnr = st.ssnr_of_fsc(curve)
        if table.part_ssnr is not None and params.mass is None:
            ssnr = np.interp(frequency, at, table.part_ssnr, left=float(table.part_ssnr[0]), right=0.0)
    elif params.mass is not None:
        with np.errstate(divide="ignore"):
            ssnr = st.default_ssnr(params.mass, np.maximum(resolution, 1e-6))
    if ssnr is None and params.fom_weighting:
        context.notice("without --fsc or --mass the shells are not weighted by their signal-to-noise ratio")
    weighted = ssnr is not None and params.fom_weighting
    return (st.figure_of_merit(ssnr, params.ssnr_scale) if weighted and ssnr is not None else None), cutoff


def _write_spectrum(context: "Context", found: "FlattenedMap") -> None:
    import numpy as np

    from parhelion.io.star_writer import write_star
    from parhelion.model.table import Table

    shells = np.arange(len(found.frequency))
    merit = np.ones(len(shells)) if found.figure_of_merit is None else found.figure_of_merit
    columns = {
        "rlnSpectralIndex": shells,
        "rlnResolution": found.frequency,
        "rlnAngstromResolution": np.where(shells > 0, 1 / np.maximum(found.frequency, 1e-12), 999.0),
        "parhelionAmplitudeBefore": found.before,
        "parhelionAmplitudeAfter": found.after,
        "parhelionFigureOfMerit": merit,
    }
    write_star(context.path("spectrum"), {"spectrum": Table(columns)})


def _show(context: "Context", found: "FlattenedMap", volume: "Volume", result: "Volume") -> None:
    """Relative log amplitudes of both maps, weights, and the maps."""
    import numpy as np

    x = found.frequency[1:] ** 2
    lines = {}
    for name, curve in (("original", found.before), ("sharpened", found.after)):
        relative = curve[1:] / max(float(curve[1]), 1e-30)
        lines[name] = (x, np.log(np.maximum(relative, 1e-12)))
    context.report.curve(
        lines, x_label="1 / resolution² (Å⁻²)", y_label="relative log amplitude", title="Amplitudes"
    )
    if found.figure_of_merit is not None:
        merit = {"figure of merit": (found.frequency, found.figure_of_merit)}
        context.report.curve(merit, x_label="1 / resolution (Å⁻¹)", y_label="weight", title="Weights")
    context.report.slices(volume, "Original map")
    context.report.slices(result, "Sharpened map")
    context.report.surface(result, "Sharpened map")


JOB = declare(__name__, __doc__, params=Params, run=run, estimate=estimate, outputs=OUTPUTS)
