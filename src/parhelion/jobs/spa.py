"""Go the whole way from movies, micrographs or particles to a sharpened map.

Movies are aligned and summed (motion), the CTF of the micrographs is fitted (ctf), those with a bad fit are
left out (select), particles are found (pick) and cut (extract). They are sorted by how they look (class2d);
those of classes that show a molecule are kept and brought to the centres of their boxes. A first map is found
from them alone (abinitio), refined in two half sets that never see each other (refine), and sharpened by what
the half maps agree on (postprocess). What the user does not say is decided at each step and listed with its
reason. Each step works in a folder of its own and can be looked at; one report shows them all. What the input
already holds is not done again; with a reference the search for a first map is left out.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import model_validator

from parhelion.jobs._inputs import File, Files, MapFile, Symmetry
from parhelion.jobs._micrographs import amplitude_contrast_option, cs_option, voltage_option
from parhelion.jobs._particles import Contrast, contrast_option
from parhelion.jobs._spa_input import StartFiles, kind_of
from parhelion.registry import Estimate, JobParams, Output, Result, declare, option

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from parhelion.run.context import Context

Decision = tuple[object, object, str]
"""What was decided, its value, and how."""
MAPS, FIRST_HALF, MICROSCOPE = "Maps", "From movies or micrographs to particles", "Microscope"
FOR_MOVIES = ("gain", "gain_rotation", "gain_flip", "dose_per_frame")
FOR_MICROGRAPHS = (
    "voltage",
    "cs",
    "amplitude_contrast",
    "final_pixel_size",
    "fit_resolution",
    "coordinates",
    "min_merit",
)
"""Options that only movies, or only movies and micrographs, have a use for."""


class Params(JobParams):
    """What the job takes."""

    input: StartFiles = option(
        help="table of particles, micrographs or movies, or the movies or micrographs themselves", short="i"
    )
    symmetry: Symmetry = option("C1", help="point group: C1, C2 …, D2 …, T, O, I1 to I4")
    diameter: float | None = option(
        None,
        help="the largest dimension of the particle",
        unit="Å",
        gt=0,
        le=5000,
        short="d",
        default_text="from the reference; needed without one, and for movies and micrographs",
    )
    contrast: Contrast = contrast_option()
    pixel_size: float | None = option(
        None,
        help="pixel size of the input's images, where it is wrong or silent",
        unit="Å",
        ge=0.1,
        le=30,
        default_text="from the input",
    )
    dose_per_frame: float | None = option(
        None,
        help="electrons per area in each frame of the movies",
        unit="e⁻/Å²",
        gt=0,
        le=1000,
        default_text="from the table; movies are not weighted by dose without it",
        group=FIRST_HALF,
    )
    gain: File | None = option(
        None,
        help="gain reference of the movies",
        default_text="from the table, or the movies are corrected",
        group=FIRST_HALF,
    )
    gain_rotation: Literal["0", "90", "180", "270"] | None = option(
        None,
        help="turn the gain reference by these degrees, as in motion",
        default_text="0",
        group=FIRST_HALF,
    )
    gain_flip: Literal["none", "y", "x"] | None = option(
        None, help="then mirror it, as in motion", default_text="none", group=FIRST_HALF
    )
    fit_resolution: float | None = option(
        None,
        help="leave out micrographs whose CTF fits only to coarser detail than this",
        unit="Å",
        gt=0,
        le=200,
        default_text="those far from the others",
        group=FIRST_HALF,
    )
    coordinates: Files | None = option(
        None,
        help="positions of the particles, instead of picking",
        default_text="particles are picked",
        group=FIRST_HALF,
    )
    min_merit: float | None = option(
        None,
        help="lowest figure of merit of a pick, in standard deviations of the noise",
        unit="1",
        ge=1,
        default_text="from the merits of all picks",
        group=FIRST_HALF,
    )
    final_pixel_size: float | None = option(
        None,
        help="pixel size of the particle images",
        unit="Å",
        ge=0.3,
        le=20,
        default_text="for about 128 pixels across the box",
        group=FIRST_HALF,
    )
    voltage: float | None = voltage_option(MICROSCOPE)
    cs: float | None = cs_option(MICROSCOPE)
    amplitude_contrast: float | None = amplitude_contrast_option(MICROSCOPE)
    class2d: bool = option(
        True, help="sort particles into 2D classes, keep those of good classes and centre them", group=MAPS
    )
    reference: MapFile | None = option(
        None,
        help="starting map, protein white; leaves out the search from nothing",
        short="r",
        default_text="none, it is found from the particles",
        group=MAPS,
    )
    starts: int | None = option(
        None,
        help="independent starts of the first map, of which the best is taken",
        unit="starts",
        ge=1,
        le=50,
        default_text="3",
        group=MAPS,
    )
    rounds: int | None = option(
        None,
        help="rounds of each start of the first map",
        unit="rounds",
        ge=2,
        le=500,
        default_text="30",
        group=MAPS,
    )
    max_rounds: int = option(
        25, help="stop the refinement after this many rounds", unit="rounds", ge=1, le=200, group=MAPS
    )
    bfactor: float | None = option(
        None,
        help="B-factor to sharpen with; negative sharpens, 0 leaves the amplitudes",
        unit="Å²",
        ge=-2000,
        le=2000,
        default_text="estimated",
        group=MAPS,
    )

    @model_validator(mode="after")
    def _fit(self) -> "Params":
        start = kind_of(self.input)
        if self.diameter is None and (self.reference is None or start != "particles"):
            raise ValueError("--diameter is needed: the largest dimension of the particle in Å")
        useless = (
            ()
            if start == "movies"
            else FOR_MOVIES
            if start == "micrographs"
            else (*FOR_MOVIES, *FOR_MICROGRAPHS)
        )
        for name in useless:
            if getattr(self, name) is not None:
                raise ValueError(
                    f"--{name.replace('_', '-')} has no use here: the input is a table of {start}"
                )
        if self.reference is not None and (self.starts is not None or self.rounds is not None):
            raise ValueError("--starts and --rounds are for finding a first map, --reference gives one")
        return self


OUTPUTS = (
    Output(name="map", file="map.mrc", help="the sharpened and filtered map"),
    Output(name="masked_map", file="map_masked.mrc", help="the same inside the mask"),
    Output(name="initial_map", file="initial_map.mrc", help="the first map, symmetry imposed", optional=True),
    Output(name="classes", file="classes.mrcs", help="2D class averages", optional=True),
    Output(
        name="recentred",
        file="recentred/particles.star",
        help="particles of good classes with their images centred",
        optional=True,
    ),
    Output(name="recentred_stack", file="recentred/particles.mrcs", help="the centred images", optional=True),
    Output(name="half1", file="half1.mrc", help="map of the first half set, unfiltered"),
    Output(name="half2", file="half2.mrc", help="map of the second half set, unfiltered"),
    Output(name="mask", file="mask.mrc", help="the mask inside which the resolution is stated"),
    Output(name="fsc", file="fsc.star", help="half-map correlation per shell, with RELION's labels"),
    Output(name="particles", file="particles.star", help="poses, shifts, half sets and scores"),
)


def estimate(params: Params) -> Estimate:
    """The largest of the steps' memory, the sum of their disk space and time."""
    start = kind_of(params.input)
    planned = _planned_maps(params) if start == "particles" else _planned_whole(params, start)
    return Estimate(
        memory_bytes=max(one.memory_bytes for one in planned),
        per_thread_bytes=max(one.per_thread_bytes for one in planned),
        seconds=sum(one.seconds or 0 for one in planned) if start == "particles" else None,
        disk_bytes=sum(one.disk_bytes for one in planned),
    )


def _planned_maps(params: Params) -> list[Estimate]:
    from parhelion.jobs import load
    from parhelion.registry import validate

    table = params.input[0]
    planned = []
    if params.class2d and params.diameter is not None:
        from parhelion.jobs import _spa_classes
        from parhelion.jobs._particles import size_of

        job = load("class2d")
        values = _spa_classes.values_of(
            table, params.diameter, "auto", size_of(table, params.pixel_size)[0]
        ) | _given(pixel_size=params.pixel_size)
        planned.append(job.estimate(validate(job.params, values)))
    if params.reference is None:
        job = load("abinitio")
        planned.append(job.estimate(validate(job.params, _first_map(params, table, "auto"))))
    job = load("refine")
    # Memory depends on the particles' box: any map stands for the reference that is still to be found.
    values = _refinement(params, table, "auto", params.reference or table)
    planned.append(job.estimate(job.params.model_construct(**_completed(job.params, values))))
    return planned


def _planned_whole(params: Params, start: str) -> list[Estimate]:
    from parhelion.jobs import _spa_estimate

    return _spa_estimate.planned(params, start)


def _completed(model: type[JobParams], values: dict[str, Any]) -> dict[str, Any]:
    """Values with the defaults of everything else."""
    return {name: values.get(name, info.default) for name, info in model.model_fields.items()}


def run(context: "Context", params: Params) -> Result:
    """One step after the other; the results of the last go to the top."""
    from parhelion.jobs import load
    from parhelion.jobs._spa_classes import classify_first, particle_outputs
    from parhelion.jobs._spa_report import decisions, show_gain
    from parhelion.jobs._steps import number, place
    from parhelion.run.steps import run_step

    decided = context.report.section("What was decided")
    start = _particles(context, params)
    classes = classify_first(context, params, start)
    table, contrast = classes.table, start.contrast
    rows, figures = start.decisions + classes.decisions, start.figures | classes.figures
    first, reference = None, params.reference
    if reference is None:
        first = run_step(context, load("abinitio"), "Initial map", _first_map(params, table, contrast))
        reference = _path(first, "map")
    values = _refinement(params, table, contrast, reference)
    refined = run_step(context, load("refine"), "Refinement", values)
    halves = [_path(refined, name) for name in ("half1", "half2")]
    sharpening = {"input": halves} | _given(bfactor=params.bfactor)
    final = run_step(context, load("postprocess"), "Post-processing", sharpening)
    rows += decisions(params, first, refined, final)
    decided.table(rows, heads=("what", "value", "how"))
    if classes.kept is not None:
        figures |= show_gain(context, classes, start.contrast, refined, params.symmetry)
    outputs: dict[str, Path | list[Path]] = {}
    for name in ("map", "masked_map", "mask", "fsc"):
        outputs[name] = place(context, name, final)
    for name in ("half1", "half2"):
        outputs[name] = place(context, name, refined)
    outputs |= particle_outputs(context, classes, refined)
    if first is not None:
        outputs["initial_map"] = place(context, "initial_map", first, "map")
    return Result(
        figures={
            "resolution_angstrom": number(final, "resolution_angstrom"),
            "unmasked_resolution_angstrom": number(final, "unmasked_resolution_angstrom"),
            "bfactor_angstrom2": number(final, "bfactor_angstrom2"),
            **figures,
            "used_particles": refined.figures["used_particles"],
            "diameter_angstrom": number(refined, "diameter_angstrom"),
            "angular_uncertainty_deg": number(refined, "angular_uncertainty_deg"),
            "rounds": refined.figures["rounds"],
            "symmetry": params.symmetry.upper(),
            **({} if first is None else {"agreement_of_starts": number(first, "agreement")}),
        },
        outputs=outputs,
    )


@dataclass
class Start:
    """The table of particles, how many and how protein looks in them; what was decided, and key figures."""

    table: "Path"
    contrast: Contrast
    count: int
    decisions: list[Decision]
    figures: dict[str, Any]
    again: "Callable[[Path], Path] | None" = None
    """Cuts particles of a table out of the micrographs at their new centres."""


def _particles(context: "Context", params: Params) -> Start:
    start = kind_of(params.input)
    if start == "particles":
        contrast, count = _look(context, params)
        how = "given" if params.contrast != "auto" else "found from the images"
        rows: list[Decision] = [
            ("Particles with images", count, "of the input table"),
            ("Protein in the images", contrast, how),
        ]
        return Start(params.input[0], contrast, count, rows, {})
    from parhelion.jobs._spa_particles import prepare

    found = prepare(context, params, start)
    count = int(found.figures["picked_particles"])
    return Start(found.particles, "white", count, found.decisions, found.figures, found.again)


def _look(context: "Context", params: Params) -> tuple[Contrast, int]:
    """Whether protein is white or black, found once for all steps, and how many particles have images."""
    from parhelion.jobs._particles import read_with_images

    particles, source = read_with_images(
        params.input[0], context, contrast=params.contrast, pixel_size=params.pixel_size
    )
    return source.contrast, len(particles)


def _first_map(params: Params, table: "Path", contrast: Contrast) -> dict[str, Any]:
    """Options of abinitio."""
    return _common(params, table, contrast) | _given(starts=params.starts, rounds=params.rounds)


def _refinement(params: Params, table: "Path", contrast: Contrast, reference: "Path") -> dict[str, Any]:
    """Options of refine."""
    return _common(params, table, contrast) | {"reference": reference, "max_rounds": params.max_rounds}


def _common(params: Params, table: "Path", contrast: Contrast) -> dict[str, Any]:
    values = {"input": table, "symmetry": params.symmetry, "contrast": contrast}
    # the pixel size that was given is that of the input, not of particles made from it
    pixel_size = params.pixel_size if table == params.input[0] else None
    return values | _given(diameter=params.diameter, pixel_size=pixel_size)


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _path(step: Result, name: str) -> "Path":
    from pathlib import Path

    return Path(str(step.outputs[name]))


JOB = declare(__name__, __doc__, params=Params, run=run, estimate=estimate, outputs=OUTPUTS, resumable=True)
