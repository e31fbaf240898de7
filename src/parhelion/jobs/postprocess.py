"""Sharpen and filter a map from its two half maps.

The resolution is where the half maps' Fourier shell correlation inside a soft mask, corrected for the mask by
randomising phases, falls below 0.143. The averaged map is weighted by that correlation, sharpened by a
B-factor (estimated from the fall of its amplitudes, or given) and low-passed at the resolution.
"""

from typing import TYPE_CHECKING

from pydantic import model_validator

from parhelion.jobs._inputs import File, MapFile, TwoMaps
from parhelion.jobs._maps import pixel_size_option, voxels
from parhelion.registry import Estimate, JobParams, Output, Result, declare, option

if TYPE_CHECKING:
    import numpy as np

    from parhelion.algorithms.postprocess.half_maps import PostprocessResult
    from parhelion.algorithms.postprocess.sharpen import DetectorMtf
    from parhelion.report import Report
    from parhelion.run.context import Context

MASK, SHARPEN = "Mask", "Sharpening"


class Params(JobParams):
    """What the job takes."""

    input: TwoMaps = option(help="the two half maps", short="i")
    pixel_size: float | None = pixel_size_option()
    mask: MapFile | None = option(
        None, help="mask (0 to 1) in the frame of the maps", default_text="made automatically", group=MASK
    )
    mask_threshold: float | None = option(
        None,
        help="density that separates molecule and solvent for the automatic mask",
        unit="1",
        default_text="found automatically",
        group=MASK,
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
    bfactor: float | None = option(
        None,
        help="B-factor to apply; negative sharpens, 0 leaves the amplitudes",
        unit="Å²",
        ge=-2000,
        le=2000,
        default_text="estimated",
        group=SHARPEN,
    )
    fit_from: float = option(
        10.0,
        help="coarse end of the range that the B-factor is estimated from",
        unit="Å",
        gt=0,
        group=SHARPEN,
    )
    fit_to: float | None = option(
        None, help="fine end of that range", unit="Å", gt=0, default_text="the resolution", group=SHARPEN
    )
    lowpass: float | None = option(
        None, help="low-pass the map here", unit="Å", gt=0, default_text="the resolution", group=SHARPEN
    )
    weight_by_fsc: bool = option(True, help="weight each shell by its expected correlation", group=SHARPEN)
    mtf: File | None = option(
        None,
        help="detector's transfer curve (STAR with rlnResolutionInversePixel and rlnMtfValue)",
        default_text="none",
        group=SHARPEN,
    )
    mtf_pixel_size: float | None = option(
        None,
        help="pixel size of the detector on the specimen, before binning",
        unit="Å",
        ge=0.1,
        le=30,
        default_text="that of the maps",
        group=SHARPEN,
    )

    @model_validator(mode="after")
    def _fit(self) -> "Params":
        if self.mask is not None and self.mask_threshold is not None:
            raise ValueError("--mask-threshold is for the automatic mask, --mask gives one; choose")
        if self.mtf_pixel_size is not None and self.mtf is None:
            raise ValueError("--mtf-pixel-size says how to read --mtf, which is missing")
        if self.fit_to is not None and self.fit_to >= self.fit_from:
            raise ValueError(f"--fit-to {self.fit_to:g} must be finer than --fit-from {self.fit_from:g}")
        return self


OUTPUTS = (
    Output(name="map", file="map.mrc", help="sharpened and filtered map"),
    Output(name="masked_map", file="map_masked.mrc", help="the same inside the mask"),
    Output(name="mask", file="mask.mrc", help="the mask that was used"),
    Output(name="fsc", file="fsc.star", help="half-map correlation per shell, with RELION's labels"),
    Output(
        name="statistics", file="statistics.txt", help="the same and signal-to-noise, as cisTEM writes it"
    ),
)


def estimate(params: Params) -> Estimate:
    """Half maps, mask, results and transforms."""
    count = voxels(params.input[0])
    return Estimate(memory_bytes=75 * count, disk_bytes=12 * count)


def run(context: "Context", params: Params) -> Result:
    """Post-process the half maps, write everything and show it."""
    from parhelion.algorithms.postprocess.half_maps import postprocess
    from parhelion.fourier.shells import resolution_at
    from parhelion.io import mrc
    from parhelion.jobs._fsc import particle_share, write_cistem_statistics, write_fsc
    from parhelion.jobs._maps import read_mask, read_pair

    half1, half2 = read_pair(params.input, params.pixel_size)
    mask = read_mask(params.mask, half1, params.input[0]) if params.mask else None
    found = postprocess(
        half1,
        half2,
        mask,
        bfactor_angstrom2=params.bfactor,
        fit_from_angstrom=params.fit_from,
        fit_to_angstrom=params.fit_to,
        lowpass_angstrom=params.lowpass,
        weight_by_fsc=params.weight_by_fsc,
        mtf=_read_mtf(params, half1.pixel_size_angstrom),
        mask_threshold=params.mask_threshold,
        seed=context.seed,
    )
    for note in found.notes:
        context.notice(note)
    for name, volume in (("map", found.map), ("masked_map", found.masked_map), ("mask", found.mask)):
        mrc.write_volume(context.path(name), volume)
    write_fsc(context.path("fsc"), fsc_curves(found), half1.box, half1.pixel_size_angstrom)
    share = particle_share(params.mass, half1, found.mask)
    statistics = write_cistem_statistics(context.path("statistics"), found.curves.corrected, half1, share)
    show(context.report, found)
    figures = figures_of(found)
    if params.mass is not None:
        box, pixel = half1.box, half1.pixel_size_angstrom
        context.report.fsc({"corrected": statistics.part_fsc}, box, pixel, "Particle without solvent")
        figures["particle_resolution_angstrom"] = resolution_at(statistics.part_fsc, 0.143, box, pixel)
    return Result(figures=figures, outputs={o.name: context.path(o.name) for o in OUTPUTS})


def figures_of(found: "PostprocessResult") -> dict[str, float | int | str | None]:
    """The key figures."""
    return {
        "resolution_angstrom": found.resolution_angstrom,
        "unmasked_resolution_angstrom": found.curves.unmasked_resolution_angstrom,
        "bfactor_angstrom2": found.bfactor_angstrom2,
        "lowpass_angstrom": found.lowpass_angstrom,
        "mask_volume_angstrom3": found.mask_volume_angstrom3,
    }


def fsc_curves(found: "PostprocessResult") -> dict[str, "np.ndarray"]:
    """The curves by kind."""
    curves = found.curves
    return {
        "corrected": curves.corrected,
        "unmasked": curves.unmasked,
        "masked": curves.masked,
        "randomised": curves.randomised,
    }


def show(report: "Report", found: "PostprocessResult") -> None:
    """Curves, map, mask and Guinier plot."""
    report.fsc(fsc_curves(found), found.map.box, found.map.pixel_size_angstrom, "Half maps")
    report.surface(found.masked_map, "Sharpened map")
    report.slices(found.map, "Central slices")
    report.slices(found.mask, "Mask")
    if found.guinier is not None:
        fit = found.guinier
        x = fit.inverse_resolution_squared
        curves = {"map": (x, fit.log_amplitude), "fit": (x, fit.fitted)}
        report.curve(curves, x_label="1 / resolution² (Å⁻²)", y_label="ln amplitude", title="Guinier plot")


def _read_mtf(params: Params, pixel_size_angstrom: float) -> "DetectorMtf | None":
    from parhelion.algorithms.postprocess.sharpen import DetectorMtf
    from parhelion.errors import MetadataError
    from parhelion.io.star import read_star

    if params.mtf is None:
        return None
    needed = ("rlnResolutionInversePixel", "rlnMtfValue")
    for table in read_star(params.mtf).values():
        if all(name in table for name in needed):
            frequency, value = (table[name].astype(float) for name in needed)
            pixel = params.mtf_pixel_size or pixel_size_angstrom
            return DetectorMtf(frequency_inverse_pixel=frequency, value=value, pixel_size_angstrom=pixel)
    raise MetadataError(f"{params.mtf} has no table with {' and '.join(needed)}")


JOB = declare(__name__, __doc__, params=Params, run=run, estimate=estimate, outputs=OUTPUTS)
