"""Fit the CTF of micrographs, movies or power spectra.

Defocus, astigmatism and, if asked, a phase shift are searched exhaustively on a grid and then refined on
every Fourier pixel; the spectrum's background and the fall-off of its rings are fitted along. Of movies, sums
of a few frames are transformed and their powers averaged, so that drift does not blur the rings. Each
micrograph gets a diagnostic picture, its curves, and the spacing up to which the rings were found. What
cannot be read or fitted is left out and named; what is fitted but doubtful is marked.
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
from parhelion.jobs._micrographs import (
    MicrographFiles,
    amplitude_contrast_option,
    cs_option,
    pixel_size_option,
    voltage_option,
)
from parhelion.registry import Estimate, JobParams, Output, Result, declare, option

if TYPE_CHECKING:
    from parhelion.jobs._ctf_fit import Plan
    from parhelion.run.context import Context

MICROSCOPE, SPECTRUM, SEARCH, MOVIES = "Microscope", "Spectrum", "Search", "Movies"
Turns = Literal["0", "90", "180", "270"]
Angstrom = Annotated[float, Field(ge=-10_000, le=100_000)]
Degrees = Annotated[float, Field(ge=-180, le=360)]


class Params(JobParams):
    """What the job takes."""

    input: MicrographFiles = option(
        help="table of micrographs or movies (STAR), or the files themselves", short="i"
    )
    estimate_from: Literal["auto", "movies", "micrographs"] = option(
        "auto", help="which of both to use where a table names both; auto takes the micrographs"
    )
    power_spectra: bool = option(
        False,
        help="the files are power spectra (zero frequency in the middle); of a table, those of its column "
        "rlnCtfPowerSpectrum",
    )
    spectra_hold: Literal["amplitudes", "powers"] = option(
        "amplitudes", help="what the pixels of given power spectra are"
    )
    defocus_plane: bool = option(
        False, help="fit a plane to the defocus across each micrograph (tilted or uneven specimens)"
    )
    thickness: bool = option(
        False, help="estimate the specimen's thickness from nodes, where rings fade and return reversed"
    )
    pictures: bool = option(True, help="write a PNG with picture and curves of every micrograph")
    pixel_size: float | None = pixel_size_option(MICROSCOPE)
    voltage: float | None = voltage_option(MICROSCOPE)
    cs: float | None = cs_option(MICROSCOPE)
    amplitude_contrast: float | None = amplitude_contrast_option(MICROSCOPE)
    spectrum_size: int = option(
        512,
        help="edge of the amplitude spectrum; an even number",
        unit="pixels",
        ge=128,
        le=4096,
        group=SPECTRUM,
    )
    min_resolution: float = option(
        30.0, help="spacing from which on the fit uses the spectrum", unit="Å", gt=0, le=200, group=SPECTRUM
    )
    max_resolution: float = option(
        5.0, help="spacing up to which the fit uses the spectrum", unit="Å", ge=1, le=50, group=SPECTRUM
    )
    resample: bool = option(
        True, help="crop spectra of pixels smaller than 1.4 Å to about 1.4 Å", group=SPECTRUM
    )
    defocus_range: tuple[Angstrom, Angstrom] = option(
        (5000.0, 50000.0), help="defoci that are searched, underfocus positive", unit="Å", group=SEARCH
    )
    defocus_step: float = option(
        100.0, help="step of the defocus search", unit="Å", ge=10, le=2000, group=SEARCH
    )
    exhaustive: bool = option(
        False,
        help="search astigmatism up to 10,000 Å instead of 1,600 Å, and refine ten starts instead of five",
        group=SEARCH,
    )
    tolerated_astigmatism: float | None = option(
        None,
        help="restrain astigmatism: its expected size, the standard deviation of a Gaussian prior",
        unit="Å",
        gt=0,
        le=20_000,
        default_text="no restraint",
        group=SEARCH,
    )
    known_astigmatism: float | None = option(
        None,
        help="astigmatism (difference of both defoci) that is known and kept",
        unit="Å",
        ge=0,
        le=20_000,
        default_text="it is fitted",
        group=SEARCH,
    )
    known_astigmatism_angle: float = option(
        0.0, help="its angle, from +x towards +y", unit="degrees", ge=-180, le=360, group=SEARCH
    )
    phase_shift_range: tuple[Degrees, Degrees] | None = option(
        None,
        help="fit a phase shift in this range (0 180 for an unknown one); two equal numbers fix it",
        unit="degrees",
        default_text="no phase shift",
        group=SEARCH,
    )
    phase_shift_step: float = option(
        10.0, help="step of the search for a phase shift", unit="degrees", ge=1, le=90, group=SEARCH
    )
    frames_to_average: int = option(
        3, help="frames of each sum: as many as have 4 to 5 e⁻/Å²", unit="frames", ge=1, le=1000, group=MOVIES
    )
    gain: File | None = gain_option(MOVIES)
    gain_rotation: Turns = gain_rotation_option(MOVIES)
    gain_flip: Literal["none", "y", "x"] = gain_flip_option(MOVIES)
    gain_corrected: bool = gain_corrected_option(MOVIES)
    dark: File | None = dark_option(MOVIES)
    defects: File | None = defects_option(MOVIES)
    magnification: tuple[float, float, float] | None = magnification_option(MOVIES)

    def _effective(self) -> None:
        """Refuse options that others leave without effect."""
        given = self.model_fields_set
        without = [
            ("known_astigmatism_angle", self.known_astigmatism is None, "--known-astigmatism"),
            ("phase_shift_step", self.phase_shift_range is None, "--phase-shift-range"),
            ("spectra_hold", not self.power_spectra, "--power-spectra"),
        ]
        for name, lacking, needed in without:
            if name in given and lacking:
                raise ValueError(f"--{name.replace('_', '-')} has no effect without {needed}")
        if self.known_astigmatism is not None and self.tolerated_astigmatism is not None:
            raise ValueError("--tolerated-astigmatism restrains what --known-astigmatism fixes; choose")
        if "frames_to_average" in given and self.power_spectra:
            raise ValueError("--frames-to-average is for movies, --power-spectra are summed already")
        turned = bool(given & {"gain_rotation", "gain_flip"})
        if turned and self.gain_corrected and self.dark is None and self.defects is None:
            raise ValueError("--gain-corrected leaves nothing for --gain-rotation and --gain-flip to turn")

    @model_validator(mode="after")
    def _ranges(self) -> "Params":
        if self.max_resolution >= self.min_resolution:
            raise ValueError("--max-resolution must be a smaller spacing than --min-resolution")
        if self.spectrum_size % 2:
            raise ValueError("--spectrum-size must be even")
        self._effective()
        for name in ("defocus_range", "phase_shift_range"):
            pair = getattr(self, name)
            if pair is not None and pair[0] > pair[1]:
                raise ValueError(f"--{name.replace('_', '-')} runs from a lower to a higher value")
        if self.gain_corrected and self.gain is not None:
            raise ValueError("--gain names a reference, --gain-corrected forbids one; choose")
        if self.power_spectra and self.defocus_plane:
            raise ValueError("--defocus-plane needs micrographs: a power spectrum does not know where")
        if self.power_spectra and self.estimate_from == "movies":
            raise ValueError("--power-spectra and --estimate-from movies exclude each other")
        return self


OUTPUTS = (
    Output(name="micrographs", file="micrographs.star", help="the input's table with the fitted CTF"),
    Output(
        name="pictures", file="*_ctf.mrc", help="spectrum, model in the lower left quadrant, dashed zeros"
    ),
    Output(name="curves", file="*_avrot.txt", help="one-dimensional curves, CTFFIND's six lines"),
    Output(name="values", file="*_ctf.txt", help="the fit in CTFFIND's seven columns"),
    Output(name="plots", file="*_ctf.png", help="picture and curves", optional=True),
)


def estimate(params: Params) -> Estimate:
    """A few copies of an image per thread; pictures and curves on disk."""
    from parhelion.jobs._ctf_input import estimate_of

    return estimate_of(params)


def plan_of(params: Params) -> "Plan":
    """The choices of the parameters that all micrographs share."""
    from parhelion.algorithms.ctf_fit.settings import FitSettings
    from parhelion.jobs._ctf_fit import Plan
    from parhelion.jobs._references import References

    amount, angle = params.known_astigmatism, params.known_astigmatism_angle
    known = None if amount is None else (amount, angle)
    return Plan(
        settings=FitSettings(
            min_resolution_angstrom=params.min_resolution,
            max_resolution_angstrom=params.max_resolution,
            defocus_range_angstrom=params.defocus_range,
            defocus_step_angstrom=params.defocus_step,
            exhaustive=params.exhaustive,
            astigmatism_tolerance_angstrom=params.tolerated_astigmatism,
            phase_shift_range_deg=params.phase_shift_range,
            phase_shift_step_deg=params.phase_shift_step,
            known_astigmatism=known,
            thickness=params.thickness,
        ),
        size=params.spectrum_size,
        resample=params.resample,
        frames_to_average=params.frames_to_average,
        plane=params.defocus_plane,
        powers=params.spectra_hold == "powers",
        references=References(
            dark=params.dark,
            defects=params.defects,
            rotation=int(params.gain_rotation) // 90,
            flip=("none", "y", "x").index(params.gain_flip),
        ),
        magnification=params.magnification,
        pictures=params.pictures,
    )


def run(context: "Context", params: Params) -> Result:
    """Fit every micrograph, write the table, and report."""
    from parhelion.io.relion_micrographs import write_micrographs
    from parhelion.jobs._ctf_fit import fit_one
    from parhelion.jobs._ctf_input import sources_of
    from parhelion.jobs._ctf_report import figures, report, tell
    from parhelion.jobs._ctf_table import with_fits
    from parhelion.jobs._micrographs import each

    micrographs, sources = sources_of(context, params)
    plan = plan_of(params)
    outcome = each(
        context,
        [source.name for source in sources],
        lambda i: fit_one(context, sources[i], plan),
        "Fitting CTFs",
    )
    rows = outcome.done()
    kept = [sources[i] for i in outcome.kept]
    fitted = with_fits(micrographs.take(outcome.kept), rows)
    write_micrographs(context.path("micrographs"), fitted)
    tell(
        context,
        [source.name for source in kept],
        rows,
        params.spectrum_size,
        params.max_resolution,
        params.defocus_range,
    )
    report(context, [source.name for source in kept], rows)
    names = ("pictures", "curves", "values", *(("plots",) if params.pictures else ()))
    outputs: dict[str, Path | list[Path]] = {
        name: [context.path(name, source.stem) for source in kept] for name in names
    }
    return Result(
        figures={**outcome.figures(), **figures(rows)},
        outputs={"micrographs": context.path("micrographs"), **outputs},
    )


JOB = declare(__name__, __doc__, params=Params, run=run, estimate=estimate, outputs=OUTPUTS, resumable=True)
