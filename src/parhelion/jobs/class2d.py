"""Sort particle images into classes by how they look, and average each class.

Maximum-likelihood classification: every image is compared with every class at all in-plane angles and
shifts, and counts for each as much as it is probable (Sigworth 1998, Scheres 2005). Detail is let in
from coarse to fine. Each class is averaged in two halves of its particles, whose agreement filters the
average and gives its resolution and score; particles of classes with a good score are written as
``selected.star``.

The score (0 to 1) is the mean correlation between the two half averages, ring by ring from 30 Å (a
quarter of the diameter where that is finer) to 10 Å, times a factor that falls from 1 to 0 as the
average lies off its centre by up to a quarter of the diameter, times the share of its particles that the
averages explain better than noise alone, times a factor that falls from 1 to 0 as the ring between the
diameter and the mask's rim fills. Views of a molecule share such detail and lie in solvent; ice, carbon and
its edges do not. Classes from 0.2 on are good; where images are so noisy or few that even the best classes
(a quarter of the particles) score below 0.6, a third of what these reach is enough. Of good classes,
particles are left out that noise explains as well, and those with clearly less noise than the others: their
background holds something else.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import model_validator

from parhelion.jobs._class2d_options import (
    CLASSES,
    SELECTED,
    Select,
    check_selection,
    select_option,
    select_score_option,
    select_sigma_option,
)
from parhelion.jobs._inputs import File, ParticlesFile
from parhelion.jobs._micrographs import amplitude_contrast_option, cs_option, voltage_option
from parhelion.jobs._particles import Contrast, contrast_option, particle_pixel_size_option
from parhelion.registry import Estimate, JobParams, Output, Result, declare, option

if TYPE_CHECKING:
    import numpy as np

    from parhelion.algorithms.class2d.classify import Class2dResult
    from parhelion.algorithms.class2d.settings import Class2dSettings
    from parhelion.io.source import StackSource
    from parhelion.model.particles import ParticleSet
    from parhelion.run.context import Context

SEARCH = "Search"
SCHEDULE = "Schedule"
AVERAGES = "Averages"
MICROSCOPE = "Microscope"


class Params(JobParams):
    """What the job takes."""

    input: ParticlesFile = option(help="table of particles with their CTF", short="i")
    diameter: float = option(help="the largest dimension of the particle", unit="Å", gt=0, le=5000, short="d")
    classes: int | None = option(
        None,
        help="number of classes",
        unit="classes",
        ge=1,
        le=1000,
        default_text="from the references, else a 300th of the particles: 50, 40, 30, 20, 10 or 5",
        short="k",
    )
    references: File | None = option(
        None,
        help="stack of class averages to start from, protein white, on the particles' grid",
        default_text="averages of particles drawn at random",
    )
    contrast: Contrast = contrast_option()
    pixel_size: float | None = particle_pixel_size_option()
    exclude_edges: bool = option(False, help="leave out images with a blank edge")
    first: int = option(1, help="first particle that takes part, counted from 1", unit="particles", ge=1)
    last: int | None = option(
        None, help="last particle that takes part", unit="particles", ge=1, default_text="the last one"
    )
    partial_sums: bool = option(
        False,
        help="keep the sums of this part of the particles in a file, of which merge2d makes the classes of "
        "all; needs --references and --cycles 1",
    )
    select: Select = select_option()
    select_score: float | None = select_score_option()
    select_sigma: float = select_sigma_option()
    cycles: int = option(25, help="cycles to run", unit="cycles", ge=1, le=100, group=SCHEDULE)
    initial_resolution: float = option(
        40.0, help="resolution limit of the first cycle", unit="Å", gt=0, le=300, group=SCHEDULE
    )
    final_resolution: float = option(
        8.0,
        help="resolution limit from three quarters of the cycles on, at most Nyquist",
        unit="Å",
        gt=0,
        le=100,
        group=SCHEDULE,
    )
    low_resolution: float = option(
        300.0, help="coarser detail than this is left out", unit="Å", gt=0, le=5000, group=SCHEDULE
    )
    percent: float | None = option(
        None,
        help="share of the particles that each cycle looks at",
        unit="%",
        gt=0,
        le=100,
        default_text="300 per class at first, then 30 %, then all",
        group=SCHEDULE,
    )
    start_average: int = option(
        20,
        help="particles drawn for each class of a random start; 200 to 300 are usual elsewhere, fewer make "
        "references that differ more, and gave better classes",
        unit="particles",
        ge=1,
        group=SCHEDULE,
    )
    angular_step: float = option(
        12.0,
        help="step of the in-plane search; finer steps follow where the resolution asks for them",
        unit="°",
        ge=1,
        le=45,
        group=SEARCH,
    )
    shift_range: float | None = option(
        None,
        help="how far from the box's centre particles may lie",
        unit="Å",
        ge=0,
        le=1000,
        default_text="a fifth of the diameter",
        group=SEARCH,
    )
    shift_range_y: float | None = option(
        None,
        help="the same in y, where it differs",
        unit="Å",
        ge=0,
        le=1000,
        default_text="as in x",
        group=SEARCH,
    )
    local: bool = option(
        False,
        help="look for particles about the centres in the table, as an earlier class2d wrote it; without "
        "--references the table's classes are averaged as the start",
        group=SEARCH,
    )
    smoothing: float = option(
        1.0,
        help="below 1, classes' likelihoods count less: particles spread over more classes",
        unit="1",
        ge=0.1,
        le=1,
        group=SEARCH,
    )
    particle_sigma: bool = option(
        True, help="find how noisy each image is, beside the noise of all", group=SEARCH
    )
    particle_scale: bool = option(
        True, help="find how strong the signal of each image is, beside the mean of all", group=SEARCH
    )
    mask_radius: float | None = option(
        None,
        help="radius of the circle that masks images and averages",
        unit="Å",
        gt=0,
        le=5000,
        default_text="0.6 of the diameter",
        group=AVERAGES,
    )
    auto_mask: bool = option(False, help="mask each average where it is bright", group=AVERAGES)
    centre: bool = option(True, help="bring averages to the centre of their box", group=AVERAGES)
    padding: float = option(
        2.0,
        help="how finely averages are sampled in Fourier space, where they are turned",
        unit="1",
        ge=1,
        le=4,
        group=AVERAGES,
    )
    normalise: bool = option(
        True,
        help="bring each image's background to variance 1; otherwise it keeps its scale",
        group=AVERAGES,
    )
    voltage: float | None = voltage_option(MICROSCOPE)
    cs: float | None = cs_option(MICROSCOPE)
    amplitude_contrast: float | None = amplitude_contrast_option(MICROSCOPE)

    @model_validator(mode="after")
    def _fit(self) -> "Params":
        if self.final_resolution > self.initial_resolution:
            raise ValueError(
                f"--final-resolution {self.final_resolution:g} must be finer than --initial-resolution "
                f"{self.initial_resolution:g}"
            )
        if self.low_resolution < 2 * self.initial_resolution:
            raise ValueError(
                f"--low-resolution {self.low_resolution:g} must be at least twice --initial-resolution "
                f"{self.initial_resolution:g}"
            )
        if self.references is not None and self.classes is not None:
            raise ValueError("--references says how many classes there are; leave --classes out")
        for name, given in (("references", self.references is not None), ("local", self.local)):
            if given and "start_average" in self.model_fields_set:
                raise ValueError(f"--start-average belongs to a random start, --{name} is another start")
        if self.local and self.references is None and self.classes is not None:
            raise ValueError("--local takes the classes of the table; leave --classes out")
        check_selection(self.select, self.model_fields_set)
        if self.last is not None and self.last < self.first:
            raise ValueError(f"--last {self.last} comes before --first {self.first}")
        if self.partial_sums and (self.references is None or self.cycles != 1 or self.percent is not None):
            raise ValueError(
                "--partial-sums are those of one cycle over all particles with the same references in every "
                "part: give --references and --cycles 1, and leave --percent out"
            )
        return self


OUTPUTS = (
    CLASSES,
    Output(
        name="table",
        file="classes.star",
        help="share, resolution, members and score of each class; correlation of its halves per shell; "
        "share of particles that the last cycle used",
    ),
    Output(
        name="particles",
        file="particles.star",
        help="class, in-plane angle, shift, score of the class and probability of each particle",
    ),
    SELECTED,
    Output(name="start", file="start.mrcs", help="what each class average was before the first cycle"),
    Output(name="sums", file="sums.npz", help="sums of these particles, for merge2d", optional=True),
    Output(name="cycles", file="cycles/classes_*.mrcs", help="averages after each cycle, in no order"),
)

SECONDS_PER_IMAGE = 1.1e-3
"""CPU time of an image in a cycle at 64 pixels and 50 classes (measured)."""


def estimate(params: Params) -> Estimate:
    """Counted from the arrays of the last cycle."""
    from parhelion.algorithms.class2d.memory import planned_bytes
    from parhelion.jobs import _class2d_input
    from parhelion.jobs._particles import size_of
    from parhelion.run.memory import available_bytes

    count, box, pixel = size_of(params.input, params.pixel_size)
    classes = _class2d_input.class_count(params, count)
    settings = _class2d_input.settings_of(params, 0)
    shared, per_thread = planned_bytes(count, classes, box, pixel, settings, available_bytes())
    return Estimate(
        memory_bytes=shared,
        per_thread_bytes=per_thread,
        seconds=SECONDS_PER_IMAGE * count * params.cycles * classes / 50 * (box / 64) ** 2,
        disk_bytes=4 * box**2 * classes * (4 + params.cycles) + 1000 * count,
    )


def run(context: "Context", params: Params) -> Result:
    """Classify, judge, write and show."""
    from parhelion.algorithms.class2d.selection import judge
    from parhelion.jobs import _class2d, _class2d_input

    particles, source = _class2d_input.read(context, params)
    settings = _class2d_input.settings_of(params, context.seed)
    found = _classified(context, params, particles, source, settings)
    judged = judge(found, settings, params.select_score, params.select_sigma)
    selects = params.select == "auto"
    names = ["classes", "table", "start", *_class2d.write(context, particles, found, judged, selects)]
    names += ["sums"] if params.partial_sums else []
    _class2d.show(context, found, judged, selects)
    outputs: dict[str, Path | list[Path]] = {name: context.path(name) for name in names}
    outputs["cycles"] = [context.path("cycles", f"{i + 1:03d}") for i in range(params.cycles)]
    return Result(figures=_class2d.figures_of(found, judged), outputs=outputs)


def _classified(
    context: "Context",
    params: Params,
    particles: "ParticleSet",
    source: "StackSource",
    settings: "Class2dSettings",
) -> "Class2dResult":
    """All cycles, the averages of each written as it ends."""
    from parhelion.algorithms.class2d.classify import classify
    from parhelion.algorithms.class2d.memory import cache_bytes
    from parhelion.jobs import _class2d, _class2d_input
    from parhelion.run.memory import available_bytes

    pixel = particles.optics[0].pixel_size_angstrom

    def keep(cycle: int, averages: "np.ndarray") -> None:
        _class2d.write_stack(context.path("cycles", f"{cycle:03d}"), averages, pixel)

    return classify(
        particles,
        source,
        settings,
        references=_class2d_input.references(params, source.box),
        executor=context.executor,
        observer=context,
        cancel=context,
        device=context.device,
        checkpoints=context.checkpoints,
        resume=context.resume,
        cache_bytes=cache_bytes(available_bytes()),
        cycle_done=keep,
        partial_sums=context.path("sums") if params.partial_sums else None,
    )


JOB = declare(__name__, __doc__, params=Params, run=run, estimate=estimate, outputs=OUTPUTS, resumable=True)
