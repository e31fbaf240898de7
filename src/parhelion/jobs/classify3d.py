"""Sort particles with poses into several structures.

All particles are one class at first, which is split along what its particles differ by most, then the class
whose split explains most, until all classes are there; or classes start from random parts of the particles,
from the classes that the input carries (set up by ``package``), or from given maps. Poses stay as they are,
are refined in each class, or are searched anew; with a focus only a sphere tells the classes apart. Each half
of the particles is compared with the maps of the other, so that no particle is drawn to a class because it
went into it; the half maps of a class have therefore seen each other. Refine a class's particles by
themselves to state its resolution. Percentages per class are written as columns parhelionOccupancy1 ….

It ends when hardly a particle changes class, or when classes that differ little would be told apart ever
less: the larger then slowly takes in the smaller. The report says which.

Where particles are told apart by the other half's maps no better than by chance, the report, the log and the
figure alike_classes say which classes are alike.
"""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from parhelion.jobs._inputs import Maps, ParticlesFile
from parhelion.jobs._particles import Contrast, contrast_option, particle_pixel_size_option
from parhelion.registry import CommaList, Estimate, JobParams, Output, Result, declare, option

if TYPE_CHECKING:
    from parhelion.algorithms.classify3d import Classification, ClassifySettings
    from parhelion.model.particles import ParticleSet
    from parhelion.run.context import Context

ALIGNMENT, FOCUS = "Alignment and resolution", "Focus"
Angstrom = Annotated[float, Field(ge=-5000, le=5000)]


class Params(JobParams):
    """What the job takes."""

    input: ParticlesFile = option(help="table of particles with CTF and poses", short="i")
    classes: int = option(
        3,
        help="how many structures are told apart; --references and --start input say it themselves",
        unit="classes",
        ge=2,
        le=50,
        short="k",
    )
    diameter: float = option(
        help="diameter of a sphere that holds the particle", unit="Å", gt=0, le=5000, short="d"
    )
    symmetry: CommaList[str] = option(
        ("C1",), help="point group of all classes, or one for each, with commas: C1,D7,C1"
    )
    references: Maps | None = option(
        None,
        help="one map per class to start from, protein white, in the frame and size of the particles",
        default_text="none, see --start",
        short="r",
    )
    start: Literal["split", "random", "input"] | None = option(
        None,
        help="where classes come from: one class that is split, random parts of the particles, or the input",
        default_text="split; random where classes differ in symmetry",
    )
    contrast: Contrast = contrast_option()
    pixel_size: float | None = particle_pixel_size_option()
    align: Literal["none", "local", "global"] = option(
        "none",
        help="keep the poses, refine them in every class, or search everywhere in every class",
        group=ALIGNMENT,
    )
    resolution_limit: float | None = option(
        None,
        help="tell classes apart by no finer detail than this",
        unit="Å",
        gt=0,
        le=200,
        default_text="diameter / 14",
        group=ALIGNMENT,
    )
    rounds: int = option(
        30,
        help="rounds with all classes there, at most; of a random start, posteriors sharpen over three "
        "quarters of them",
        unit="rounds",
        ge=4,
        le=500,
    )
    focus_centre: tuple[Angstrom, Angstrom, Angstrom] | None = option(
        None,
        help="centre x y z of the sphere that tells classes apart, from the middle of the box",
        unit="Å",
        default_text="the middle of the box",
        group=FOCUS,
    )
    focus_radius: float | None = option(
        None,
        help="radius of that sphere; outside it all classes share one map",
        unit="Å",
        gt=0,
        le=5000,
        default_text="no focus, the whole particle counts",
        group=FOCUS,
    )

    @model_validator(mode="after")
    def _fit(self) -> "Params":
        from parhelion.jobs._inputs import known_symmetry

        for name in self.symmetry:
            known_symmetry(name)
        if self.references is not None:
            if self.start is not None:
                raise ValueError("--references are what classes start from, --start says otherwise; choose")
            count = len(self.references)
            if count < 2:
                raise ValueError("--references names one map; at least 2 classes are needed")
            if "classes" in self.model_fields_set and self.classes != count:
                raise ValueError(f"--references names {count} maps and --classes says {self.classes}")
            object.__setattr__(self, "classes", count)
        counted = self.start != "input" or "classes" in self.model_fields_set
        if counted and len(self.symmetry) not in (1, self.classes):
            raise ValueError(
                f"--symmetry names {len(self.symmetry)} groups for {self.classes} classes; one for all, or "
                "one for each"
            )
        if self.start == "split" and len({name.upper() for name in self.symmetry}) > 1:
            raise ValueError(
                "--start split makes classes of one symmetry; give --references or another --start"
            )
        if self.focus_centre is not None and self.focus_radius is None:
            raise ValueError("--focus-centre needs --focus-radius, the size of the sphere")
        return self


OUTPUTS = (
    Output(
        name="maps", file="map_*.mrc", help="map of each class, filtered and masked; the largest is the first"
    ),
    Output(name="half1", file="half1_*.mrc", help="map of the first half of each class, unfiltered"),
    Output(name="half2", file="half2_*.mrc", help="map of the second half of each class, unfiltered"),
    Output(
        name="particles",
        file="particles.star",
        help="class numbers, occupancies in percent per class, probabilities, poses",
    ),
)
SECONDS_PER_EVALUATION = 5e-4
"""CPU time of one image of 64 pixels against one class at its pose (measured)."""
MORE = {"none": 1, "local": 5, "global": 12}
"""Times that for an alignment."""


def estimate(params: Params) -> Estimate:
    """What ``algorithms.classify3d`` plans for the table's particles."""
    from parhelion.algorithms.class_checkpoint import KEPT
    from parhelion.algorithms.classify3d import focus_of, memory_plan
    from parhelion.io.particles import read_particles
    from parhelion.jobs._particles import size_of
    from parhelion.run.memory import available_bytes

    count, box, pixel = size_of(params.input, params.pixel_size, poses=True)
    classes = params.classes
    if params.start == "input":
        classes = _classes(params, read_particles(params.input))
    settings = _settings(params, 0, classes)
    focus_of(settings, box, pixel)
    plan = memory_plan(count, box, pixel, settings, available_bytes())
    evaluations = count * classes * params.rounds * MORE[params.align]
    return Estimate(
        memory_bytes=plan.shared_bytes,
        per_thread_bytes=plan.per_thread_bytes,
        seconds=SECONDS_PER_EVALUATION * evaluations * (box / 64) ** 2,
        disk_bytes=classes * (3 + 7 * KEPT) * 4 * box**3 + (700 + 150 * KEPT) * count,
    )


def run(context: "Context", params: Params) -> Result:
    """Classify, write everything and show it."""
    from parhelion.algorithms.classify3d import classify3d
    from parhelion.io import mrc
    from parhelion.io.particles import write_particles
    from parhelion.jobs._particles import read_with_images, require_poses
    from parhelion.run.memory import available_bytes

    particles, source = read_with_images(
        params.input, context, contrast=params.contrast, pixel_size=params.pixel_size
    )
    require_poses(params.input, particles)
    classes = _classes(params, particles)
    found = classify3d(
        particles,
        source,
        _settings(params, context.seed, classes),
        references=None if params.references is None else [mrc.read_volume(r) for r in params.references],
        checkpoints=context.checkpoints,
        resume=context.resume,
        executor=context.executor,
        observer=context,
        cancel=context,
        device=context.device,
        available_bytes=available_bytes(),
    )
    if len(found.unusable):
        context.notice(f"{len(found.unusable)} particles have images that cannot be used and were left out")
    names = [f"{k + 1:03d}" for k in range(len(found.classes))]
    for name, one in zip(names, found.classes):
        mrc.write_volume(context.path("maps", name), one.map)
        for half, volume in zip(("half1", "half2"), one.half_maps):
            mrc.write_volume(context.path(half, name), volume)
    write_particles(context.path("particles"), found.particles)
    show(context, found)
    outputs = {name: [context.path(name, k) for k in names] for name in ("maps", "half1", "half2")}
    return Result(figures=figures_of(found), outputs={**outputs, "particles": context.path("particles")})


def _classes(params: Params, particles: "ParticleSet") -> int:
    """How many classes: as asked for, or as many as the input carries."""
    from parhelion.algorithms.class_setup import known_occupancies
    from parhelion.errors import ParameterError

    if params.start != "input":
        return params.classes
    carried = known_occupancies(particles).shape[1]
    if carried < 2:
        raise ParameterError(
            f"--start input: {params.input} carries one class; set up several with parhelion package, or "
            "choose another --start"
        )
    if "classes" in params.model_fields_set and params.classes != carried:
        raise ParameterError(
            f"--start input: {params.input} carries {carried} classes and --classes says {params.classes}"
        )
    return carried


def _settings(params: Params, seed: int, classes: int) -> "ClassifySettings":
    from parhelion.algorithms.classify3d import ClassifySettings

    focus = None
    if params.focus_radius is not None:
        focus = (*(params.focus_centre or (0.0, 0.0, 0.0)), params.focus_radius)
    return ClassifySettings(
        diameter_angstrom=params.diameter,
        classes=classes,
        symmetry=tuple(params.symmetry),
        align=params.align,
        resolution_limit_angstrom=params.resolution_limit,
        rounds=params.rounds,
        focus=focus,
        start=params.start,
        seed=seed,
    )


def figures_of(found: "Classification") -> dict[str, float | int | str | None]:
    """The key figures."""
    import numpy as np

    probability = np.asarray(found.particles.extra["rlnMaxValueProbDistribution"], dtype=np.float64)
    figures: dict[str, float | int | str | None] = {
        "used_particles": len(found.particles),
        "rounds": len(found.history),
        "mean_probability": float(probability.mean()),
        "resolution_limit_angstrom": found.limit_angstrom,
        "alike_classes": ", ".join(f"{one.first}={one.second}" for one in found.pairs if one.alike) or None,
    }
    for number, one in enumerate(found.classes, 1):
        figures[f"class_{number}_share"] = one.share
        figures[f"class_{number}_resolution_angstrom"] = one.resolution_angstrom
    return figures


def show(context: "Context", found: "Classification") -> None:
    """All classes side by side, and how they came apart."""
    from parhelion.algorithms.class_alike import verdict
    from parhelion.report.images import axis_projections

    report = context.report
    report.text(f"Stopped: {found.reason}.")
    report.table(
        [(k, one.share, one.resolution_angstrom) for k, one in enumerate(found.classes, 1)],
        heads=("class", "share of the particles", "resolution of its halves (Å)"),
    )
    report.table(
        [
            (f"{one.first} and {one.second}", one.known, one.same_angstrom, "yes" if one.alike else "no")
            for one in found.pairs
        ],
        heads=("classes", "told apart (0 to 1)", "maps are the same down to (Å)", "alike"),
    )
    if (told := verdict(found.pairs)) is not None:
        report.text(f"Note: {told}.")
    for k, one in enumerate(found.classes, 1):
        title = f"Class {k}: {100 * one.share:.0f} % of the particles, {one.resolution_angstrom:.1f} Å"
        report.gallery(axis_projections(one.map), ["along z", "along y", "along x"], title)
    first = found.classes[0].map
    report.fsc(
        {f"class {k}": one.fsc for k, one in enumerate(found.classes, 1)},
        first.box,
        first.pixel_size_angstrom,
        "Halves of each class",
    )
    report.history(context.history.get("rounds", []), "Rounds")


JOB = declare(__name__, __doc__, params=Params, run=run, estimate=estimate, outputs=OUTPUTS, resumable=True)
