"""Align the frames of movies and sum them to micrographs.

All pairs of frames are compared at once, in a model that knows the specimen, how fast it is damaged, the
noise, and a fixed pattern that an imperfect gain reference leaves: the track of whole frames is the most
likely one. Then a smooth model of local motion is fitted to all patches together; where it gains nothing the
frames are moved as a whole, and the report says so. Sums are weighted by what signal each frame still
carries. A movie that cannot be read is left out and named.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from parhelion.jobs._detector import (
    dark_option,
    defects_option,
    gain_corrected_option,
    gain_flip_option,
    gain_option,
    gain_rotation_option,
    magnification_option,
)
from parhelion.jobs._inputs import File
from parhelion.jobs._micrographs import MicrographFiles, pixel_size_option, voltage_option
from parhelion.registry import Estimate, JobParams, Output, Result, declare, option

if TYPE_CHECKING:
    from parhelion.run.context import Context

EXPOSURE, DETECTOR, ALIGN, SUMS = "Exposure", "Detector", "Alignment", "Sums"
Turns = Literal["0", "90", "180", "270"]
PatchCount = Annotated[int, Field(ge=2, le=16)]


class Params(JobParams):
    """What the job takes."""

    input: MicrographFiles = option(help="table of movies (STAR), or the movies themselves", short="i")
    pixel_size: float | None = pixel_size_option()
    voltage: float | None = voltage_option(EXPOSURE)
    dose_per_frame: float | None = option(
        None,
        help="electrons per area in each frame",
        unit="e⁻/Å²",
        gt=0,
        le=1000,
        default_text="from the table",
        group=EXPOSURE,
    )
    pre_exposure: float | None = option(
        None,
        help="electrons that the specimen received before the first frame",
        unit="e⁻/Å²",
        ge=0,
        le=1000,
        default_text="from the table, else 0",
        group=EXPOSURE,
    )
    gain: File | None = gain_option(DETECTOR)
    gain_rotation: Turns = gain_rotation_option(DETECTOR)
    gain_flip: Literal["none", "y", "x"] = gain_flip_option(DETECTOR)
    gain_corrected: bool = gain_corrected_option(DETECTOR)
    dark: File | None = dark_option(DETECTOR)
    defects: File | None = defects_option(DETECTOR)
    magnification: tuple[float, float, float] | None = magnification_option(DETECTOR)
    binning: float = option(
        1.0,
        help="make the pixels so many times larger, in Fourier space",
        unit="1",
        ge=1,
        le=16,
        group=DETECTOR,
    )
    output_pixel_size: float | None = option(
        None,
        help="bin to this pixel size instead",
        unit="Å",
        gt=0,
        le=30,
        default_text="by --binning",
        group=DETECTOR,
    )
    eer_upsampling: Literal["1", "2", "4"] = option(
        "1",
        help="grid on which the electrons of EER movies are placed, relative to the detector's pixels, "
        "whose size --pixel-size is",
        group=DETECTOR,
    )
    eer_grouping: int | None = option(
        None,
        help="raw frames of EER movies that make one frame",
        unit="frames",
        ge=1,
        le=10_000,
        default_text="as many as give about 40 frames",
        group=DETECTOR,
    )
    min_shift: float = option(
        2.0,
        help="in the first search, shifts smaller than this are not trusted to be motion",
        unit="Å",
        ge=0,
        le=100,
        group=ALIGN,
    )
    max_shift: float = option(
        80.0,
        help="the most that a frame is moved in one round of the search",
        unit="Å",
        gt=0,
        le=1000,
        group=ALIGN,
    )
    termination_threshold: float = option(
        0.1, help="refinement ends when no frame moves further", unit="Å", gt=0, le=100, group=ALIGN
    )
    max_iterations: int = option(
        20, help="most rounds of each refinement", unit="rounds", ge=1, le=50, group=ALIGN
    )
    b_factor: float = option(
        1500.0,
        help="damping of fine detail in the first search; refinement weighs detail by its measured signal",
        unit="Å²",
        ge=0,
        le=5000,
        group=ALIGN,
    )
    mask_cross: bool = option(
        True,
        help="leave the central cross of the transforms out, where the frames' borders show",
        group=ALIGN,
    )
    horizontal_mask: int = option(
        1, help="half width of its horizontal bar", unit="pixels", ge=0, le=10, group=ALIGN
    )
    vertical_mask: int = option(
        1, help="half width of its vertical bar", unit="pixels", ge=0, le=10, group=ALIGN
    )
    alignment_resolution: float = option(
        5.0, help="finest detail that frames are aligned by", unit="Å", ge=2, le=50, group=ALIGN
    )
    smooth: bool = option(True, help="smooth the track as far as its own steadiness warrants", group=ALIGN)
    local: bool = option(True, help="find and undo local motion", group=ALIGN)
    patches: tuple[PatchCount, PatchCount] | None = option(
        None,
        help="columns and rows of patches for local motion",
        unit="patches",
        default_text="one per 450 Å, 2 to 8 along each edge",
        group=ALIGN,
    )
    exposure_filter: bool = option(
        True, help="weight frames by the signal that damage has left (Grant and Grigorieff)", group=SUMS
    )
    restore_power: bool = option(
        True, help="with the exposure filter, keep the noise power of a plain sum", group=SUMS
    )
    first_frame: int = option(1, help="first frame to sum", unit="frames", ge=1, le=100_000, group=SUMS)
    last_frame: int = option(
        0, help="last frame to sum, 0 for the last there is", unit="frames", ge=0, le=100_000, group=SUMS
    )
    unweighted: bool = option(False, help="also write the sum without exposure filter", group=SUMS)
    even_odd: bool = option(False, help="also write sums of the even and of the odd frames", group=SUMS)
    scaled_sum: bool = option(True, help="also write the sum at a size for screens", group=SUMS)
    spectrum_dose: float = option(
        4.0,
        help="electrons per area in each power spectrum that is averaged; 0 writes no spectrum",
        unit="e⁻/Å²",
        ge=0,
        le=1000,
        group=SUMS,
    )
    low_memory: bool = option(
        False, help="read each movie again for the sums instead of keeping all frames' transforms"
    )

    @model_validator(mode="after")
    def _fit(self) -> "Params":
        given = self.model_fields_set
        if self.output_pixel_size is not None and "binning" in given:
            raise ValueError("--output-pixel-size and --binning both set the pixel size; give one")
        if self.gain_corrected and self.gain is not None:
            raise ValueError("--gain names a reference, --gain-corrected forbids one; choose")
        turned = bool(given & {"gain_rotation", "gain_flip"})
        if turned and self.gain_corrected and self.dark is None and self.defects is None:
            raise ValueError("--gain-corrected leaves nothing for --gain-rotation and --gain-flip to turn")
        if self.last_frame and self.last_frame < self.first_frame:
            raise ValueError(f"--last-frame {self.last_frame} comes before --first-frame {self.first_frame}")
        if not self.mask_cross and given & {"horizontal_mask", "vertical_mask"}:
            raise ValueError("--no-mask-cross leaves --horizontal-mask and --vertical-mask without effect")
        if not self.local and self.patches is not None:
            raise ValueError("--no-local leaves --patches without effect")
        if not self.exposure_filter and self.restore_power and "restore_power" in given:
            raise ValueError("--no-exposure-filter leaves --restore-power without effect")
        if self.min_shift >= self.max_shift:
            raise ValueError("--min-shift must be less than --max-shift")
        return self


OUTPUTS = (
    Output(name="micrographs", file="micrographs.star", help="table of the micrographs"),
    Output(name="sum", file="micrographs/*.mrc", help="sum of each movie"),
    Output(name="shifts", file="micrographs/*_shifts.star", help="motion of each movie, as RELION reads it"),
    Output(
        name="unweighted",
        file="micrographs/*_noDW.mrc",
        help="sum without exposure filter",
        optional=True,
    ),
    Output(name="even", file="micrographs/*_EVN.mrc", help="sum of the even frames", optional=True),
    Output(
        name="gain",
        file="micrographs/*_gain.mrc",
        help="gain reference as it lies on the frames, where it was turned or flipped",
        optional=True,
    ),
    Output(name="odd", file="micrographs/*_ODD.mrc", help="sum of the odd frames", optional=True),
    Output(name="scaled", file="micrographs/*_scaled.mrc", help="sum at a size for screens", optional=True),
    Output(
        name="spectrum",
        file="micrographs/*_PS.mrc",
        help="amplitude spectrum averaged over groups of frames, for the CTF",
        optional=True,
    ),
)


def estimate(params: Params) -> Estimate:
    """Transforms of all frames and their band in memory; frames in work on each thread."""
    from parhelion.jobs._motion_input import plan_of

    return plan_of(params).estimate()


def run(context: "Context", params: Params) -> Result:
    """Align and sum each movie, then write the table and the report."""
    from parhelion.jobs._micrographs import each
    from parhelion.jobs._motion import MovieWork
    from parhelion.jobs._motion_report import report_motion, table_of

    work = MovieWork(context, params)
    outcome = each(context, work.names, work, "align movies", parallel=False)
    micrographs = table_of(context, work.movies, outcome)
    report_motion(context, outcome)
    rows = outcome.done()
    outputs: dict[str, Path | list[Path]] = {"micrographs": micrographs}
    for name in ("sum", "shifts", "unweighted", "even", "odd", "scaled", "spectrum"):
        found = [context.folder / row["files"][name] for row in rows if name in row["files"]]
        if found:
            outputs[name] = found
    totals = sorted(row["motion_angstrom"][0] for row in rows)
    errors = sorted(row["error_angstrom"] for row in rows if row["error_angstrom"] is not None)
    figures = outcome.figures() | {
        "median_motion_angstrom": totals[len(totals) // 2],
        "largest_motion_angstrom": totals[-1],
        "median_error_angstrom": errors[len(errors) // 2] if errors else None,
        "with_local_motion": sum(row["local"] is not None for row in rows),
    }
    return Result(figures=figures, outputs=outputs)


JOB = declare(__name__, __doc__, params=Params, run=run, estimate=estimate, outputs=OUTPUTS, resumable=True)
