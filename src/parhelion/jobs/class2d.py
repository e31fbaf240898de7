"""Sort particle images into classes by how they look, and average each class.

Maximum-likelihood classification: every image is compared with every class at all in-plane angles and
shifts, and counts for each as much as it is probable (Sigworth 1998, Scheres 2005). Detail is let in
from coarse to fine. Each class is averaged in two halves of its particles, whose agreement filters the
average and gives its resolution and score; particles of classes with a good score are written as
``selected.star``.

The score (0 to 1) is the mean correlation between the two half averages, ring by ring from 30 Å (a
quarter of the diameter where that is finer) to 10 Å, times a factor that falls from 1 to 0 as the
average lies off its centre by up to a quarter of the diameter, times the share of its particles that the
averages explain better than noise alone. Views of a molecule share such detail,
ice and carbon do not. Classes from 0.2 on are good; where images are so noisy or few that even the best
classes (a quarter of the particles) score below 0.6, a third of what these reach is enough.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import model_validator

from parhelion.jobs._inputs import File, ParticlesFile
from parhelion.jobs._particles import Contrast, contrast_option, particle_pixel_size_option
from parhelion.registry import Estimate, JobParams, Output, Result, declare, option

if TYPE_CHECKING:
    import numpy as np

    from parhelion.algorithms.class2d.settings import Class2dSettings
    from parhelion.run.context import Context

SEARCH = "Search"
SCHEDULE = "Schedule"
AVERAGES = "Averages"


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
    select: Literal["auto", "none"] = option(
        "auto", help="auto writes the particles of good classes to selected.star"
    )
    select_score: float | None = option(
        None,
        help="score from which on a class counts as good",
        unit="1",
        ge=0,
        le=1,
        default_text="0.2, or a third of what the best classes reach where that is less",
    )
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
        if self.references is not None and "start_average" in self.model_fields_set:
            raise ValueError("--start-average belongs to a random start, --references is another start")
        if self.select == "none" and "select_score" in self.model_fields_set:
            raise ValueError("--select-score belongs to --select auto")
        if self.last is not None and self.last < self.first:
            raise ValueError(f"--last {self.last} comes before --first {self.first}")
        if self.partial_sums and (self.references is None or self.cycles != 1 or self.percent is not None):
            raise ValueError(
                "--partial-sums are those of one cycle over all particles with the same references in every "
                "part: give --references and --cycles 1, and leave --percent out"
            )
        return self


OUTPUTS = (
    Output(name="classes", file="classes.mrcs", help="class averages, the largest class first"),
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
    Output(name="selected", file="selected.star", help="particles of good classes", optional=True),
    Output(name="start", file="start.mrcs", help="what each class average was before the first cycle"),
    Output(name="sums", file="sums.npz", help="sums of these particles, for merge2d", optional=True),
    Output(name="cycles", file="cycles/classes_*.mrcs", help="averages after each cycle, in no order"),
)

SECONDS_PER_IMAGE = 1.1e-3
"""CPU time of an image in a cycle at 64 pixels and 50 classes (measured)."""


def estimate(params: Params) -> Estimate:
    """Counted from the arrays of the last cycle."""
    from parhelion.algorithms.class2d.memory import planned_bytes
    from parhelion.algorithms.class2d.settings import classes_for
    from parhelion.jobs._particles import size_of
    from parhelion.run.memory import available_bytes

    count, box, pixel = size_of(params.input, params.pixel_size)
    classes = params.classes or classes_for(count)
    if params.references is not None:
        classes = _stack_shape(params.references)[0]
    shared, per_thread = planned_bytes(count, classes, box, pixel, _settings(params, 0), available_bytes())
    return Estimate(
        memory_bytes=shared,
        per_thread_bytes=per_thread,
        seconds=SECONDS_PER_IMAGE * count * params.cycles * classes / 50 * (box / 64) ** 2,
        disk_bytes=4 * box**2 * classes * (4 + params.cycles) + 1000 * count,
    )


def run(context: "Context", params: Params) -> Result:
    """Classify, write and show."""
    import numpy as np

    from parhelion.algorithms.class2d.classify import classify
    from parhelion.algorithms.class2d.memory import cache_bytes
    from parhelion.algorithms.class2d.selection import (
        class_quality,
        explained_share,
        good_classes,
        score_threshold,
    )
    from parhelion.jobs import _class2d
    from parhelion.jobs._particles import first_images, read_with_images
    from parhelion.run.memory import available_bytes

    particles, source = read_with_images(
        params.input, context, contrast=params.contrast, pixel_size=params.pixel_size
    )
    pixel = particles.optics[0].pixel_size_angstrom
    context.report.gallery(
        first_images(source), [f"particle {i + 1}" for i in range(min(12, len(source)))], "First particles"
    )

    def keep(cycle: int, averages: "np.ndarray") -> None:
        _class2d.write_stack(context.path("cycles", f"{cycle:03d}"), averages, pixel)

    settings = _settings(params, context.seed)
    found = classify(
        particles,
        source,
        settings,
        references=_references(params, source.box),
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
    quality = class_quality(
        found.averages,
        found.frc,
        found.extent_angstrom,
        params.diameter,
        settings.final_resolution_angstrom,
        explained_share(found.category, found.evidence, len(found.averages)),
    )
    members = np.bincount(found.category, minlength=len(found.averages))
    threshold = params.select_score
    if threshold is None:
        threshold = score_threshold(quality.score, members)
    good = good_classes(quality.score, threshold) & (members > 0)
    names = ["classes", "table", "start"]
    names += _class2d.write(
        context, particles, found, quality, members, good, threshold if params.select == "auto" else None
    )
    names += ["sums"] if params.partial_sums else []
    _class2d.show(context, found, quality, members, good, params.select == "auto")
    outputs: dict[str, Path | list[Path]] = {name: context.path(name) for name in names}
    outputs["cycles"] = [context.path("cycles", f"{i + 1:03d}") for i in range(params.cycles)]
    return Result(
        figures=_class2d.figures_of(found, quality, members, good) | {"score_threshold": threshold},
        outputs=outputs,
    )


def _settings(params: Params, seed: int) -> "Class2dSettings":
    from parhelion.algorithms.class2d.settings import Class2dSettings

    return Class2dSettings(
        diameter_angstrom=params.diameter,
        classes=params.classes,
        cycles=params.cycles,
        mask_radius_angstrom=params.mask_radius,
        low_resolution_angstrom=params.low_resolution,
        initial_resolution_angstrom=params.initial_resolution,
        final_resolution_angstrom=params.final_resolution,
        angular_step_deg=params.angular_step,
        shift_range_angstrom=params.shift_range,
        smoothing=params.smoothing,
        percent=params.percent,
        exclude_edges=params.exclude_edges,
        automatic_mask=params.auto_mask,
        centre=params.centre,
        start_average=params.start_average,
        own_sigma=params.particle_sigma,
        own_scale=params.particle_scale,
        least_percent=percent_of(params.references),
        first=params.first,
        last=params.last,
        seed=seed,
    )


def percent_of(references: Path | None) -> float:
    """The share of particles (%) in the last cycle of the classification that made ``references``.

    It is in the table beside them; 0 where there is none.
    """
    from parhelion.io.star import read_star

    table = None if references is None else references.with_name("classes.star")
    if table is None or not table.is_file():
        return 0.0
    blocks = read_star(table)
    column = "parhelionPercentUsed"
    known = [block[column][0] for block in blocks.values() if column in block and block.rows]
    return float(known[0]) if known else 0.0


def _stack_shape(path: Path) -> tuple[int, int, int]:
    from parhelion.io.formats import open_images

    count, height, width = open_images(path).shape
    return int(count), int(height), int(width)


def _references(params: Params, box: int) -> "np.ndarray | None":
    """The given class averages ``(c, box, box)``; InputError where they do not fit the particles."""
    import numpy as np

    from parhelion.errors import InputError
    from parhelion.io.formats import open_images

    if params.references is None:
        return None
    count, height, width = _stack_shape(params.references)
    if (height, width) != (box, box):
        raise InputError(
            f"the references in {params.references} have {width} x {height} pixels, the particles "
            f"{box} x {box}; use class averages of these particles, or bring both to one box"
        )
    images = np.asarray(open_images(params.references).read(np.arange(count)), np.float32)
    if not np.isfinite(images).all():
        raise InputError(f"{params.references} holds values that are not finite (NaN or infinity)")
    return images


JOB = declare(__name__, __doc__, params=Params, run=run, estimate=estimate, outputs=OUTPUTS, resumable=True)
