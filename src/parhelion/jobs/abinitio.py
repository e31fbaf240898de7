"""Find first maps from particles alone, from nothing.

Several independent starts from random orientations are annealed from coarse to finer detail, without
symmetry (for D6, T, O, I and larger every second start has it imposed); each is judged by how well it
explains particles that it has never seen. The best is turned to the axes of the symmetry, averaged over it,
and shown beside the others: a map that several starts agree on can be trusted, one that stands alone
cannot. With several classes a particle belongs to each with a probability, and different molecules come
apart. All particles get their class and their best pose, from which a refinement can go on. The hand is
arbitrary, as images do not show it.

Particles that 2D classes have cleared of junk, with 1.5 µm of underfocus or more, are easiest. Where a
related structure is known, refine from it instead. Where a symmetry does not come out, look without one, or
run again with another --seed. More particles per round make maps less noisy, fewer let rounds differ more,
which can lead out of a wrong map.

Views of a nearly spherical particle differ only by what is inside. cisTEM's document advises limits of 15
and 6 Å for them (apoferritin); the default limits find apoferritin at a signal-to-noise ratio of 0.05 and a
ball without symmetry at 0.1, in 1,000 images of particles of 140 Å. At 0.05 the ball is not found, with finer
limits neither: what helps is more signal. Half of --final-resolution makes the last rounds nearly a hundred
times as long.

With --class-averages the maps are found with averages of a few particles that a 2D classification has laid
on top of each other. Each counts with the CTF and the noise of its members, so that nothing is lost but what
the classification got wrong; images too noisy to tell their views one by one gain most.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from parhelion.errors import FormatError
from parhelion.jobs import _engine_options as shared
from parhelion.jobs._inputs import Maps, ParticlesFile, Symmetry
from parhelion.jobs._particles import Contrast, contrast_option, particle_pixel_size_option
from parhelion.registry import Estimate, JobParams, Output, Result, declare, option

if TYPE_CHECKING:
    from parhelion.algorithms.ab_initio import AbInitioSettings
    from parhelion.run.context import Context

AVERAGES, SEARCH, ROUNDS, POSES, MASK = "Class averages", "Search", "Rounds", "Poses", "Masks"
Percent = Annotated[float, Field(gt=0, le=100)]
Units = Annotated[float, Field(ge=20, le=1e9)]
STAR_HEAD = 16_384
FEW = 300
"""Particles below which a start from nothing rarely succeeds."""


class Params(JobParams):
    """What the job takes."""

    input: ParticlesFile = option(help="table of particles with their CTF", short="i")
    symmetry: Symmetry = option("C1", help="point group: C1, C2 …, D2 …, T, O, I1 to I4")
    diameter: float = option(help="the largest dimension of the particle", unit="Å", gt=0, le=5000, short="d")
    contrast: Contrast = contrast_option()
    pixel_size: float | None = particle_pixel_size_option()
    classes: int | None = option(
        None,
        help="how many different structures are looked for",
        unit="classes",
        ge=1,
        le=50,
        short="k",
        default_text="1, or one for each of --references",
    )
    class_averages: bool = option(
        False,
        help="find the maps with averages of a few particles of one 2D class instead of particles; the input "
        "is the particles.star or selected.star of class2d",
        group=AVERAGES,
    )
    images_per_class: int = option(
        5,
        help="particles in each of the averages; a class gives as many averages as it has particles for",
        unit="particles",
        ge=1,
        le=1000,
        group=AVERAGES,
    )
    starts: int = option(
        3, help="starts, of which the best is taken", unit="starts", ge=1, le=1000, group=SEARCH
    )
    start_from: Literal["random", "previous"] = option(
        "random",
        help="every start begins at random (or with --references), or with what the previous one found",
        group=SEARCH,
    )
    references: Maps | None = option(
        None,
        help="maps to begin with instead of random ones, such as an earlier result; one for each class",
        default_text="random",
        group=SEARCH,
    )
    apply_symmetry: Literal["auto", "always", "later"] = option(
        "auto",
        help="from the first round, or found in the finished map and then imposed; auto: later, but from the "
        "first round in every second start of groups with 12 operators or more",
        group=SEARCH,
    )
    rounds: int = option(30, help="rounds of each start", unit="rounds", ge=2, le=500, group=SEARCH)
    initial_resolution: float | None = option(
        None,
        help="coarsest detail, of the first rounds (cisTEM advises 15 for near-spheres)",
        unit="Å",
        gt=0,
        le=300,
        default_text="diameter / 4.5",
        group=ROUNDS,
    )
    final_resolution: float | None = option(
        None,
        help="finest detail, of the last rounds (cisTEM advises 6 for near-spheres)",
        unit="Å",
        gt=0,
        le=200,
        default_text="diameter / 9, at least Nyquist",
        group=ROUNDS,
    )
    resolution_schedule: Literal["rising", "resets"] = option(
        "rising",
        help="from the first limit evenly to the last, or as cisTEM back to the first in two of every ten "
        "parts of the first 65 % of the rounds",
        group=ROUNDS,
    )
    batch: int = option(
        1000, help="particles per class in a start's last round", unit="particles", ge=20, group=ROUNDS
    )
    percent: tuple[Percent, Percent] | None = option(
        None,
        help="share of the particles that the first and the last round use, instead of --batch",
        unit="%",
        default_text="300 particles per class at first, --batch at last",
        group=ROUNDS,
    )
    asymmetric_units: tuple[Units, Units] | None = option(
        None,
        help="asymmetric units per class in the first and the last round, instead of --batch; cisTEM has "
        "2500 10000",
        unit="units",
        default_text="as --percent",
        group=ROUNDS,
    )
    best_percent: float = option(
        100.0,
        help="share of the particles a round looks at, those that fit best, that goes into the maps",
        unit="%",
        gt=0,
        le=100,
        group=ROUNDS,
    )
    keep_every: int | None = option(
        None,
        help="maps of the first, the last and every so many rounds are written and shown; 0: none",
        unit="rounds",
        ge=0,
        default_text="a third of the rounds",
        group=ROUNDS,
    )
    angular_step: float | None = option(
        None,
        help="step of the grid of orientations",
        unit="°",
        ge=3,
        le=30,
        default_text="15, finer where --final-resolution is beyond diameter / 9",
        group=POSES,
    )
    shift_range: float | None = option(
        None,
        help="how far from the box's centre particles may lie",
        unit="Å",
        gt=0,
        le=500,
        default_text="diameter / 10, at least 10 Å",
        group=POSES,
    )
    blurring: bool = shared.blurring_option(POSES)
    smoothing: float = shared.smoothing_option(POSES)
    auto_mask: bool = shared.auto_mask_option(MASK)
    outer_radius: float | None = shared.outer_radius_option(MASK, of="maps")
    inner_radius: float = shared.inner_radius_option(MASK)

    @field_validator("input", mode="before")
    @classmethod
    def _averages_are_made_here(cls, value: Any) -> Any:
        """FormatError for averages themselves, whose members' CTF and noise are not known any more."""
        if isinstance(value, str | Path) and Path(value).is_file() and holds_averages(Path(value)):
            beside = [Path(value).with_name(name) for name in ("selected.star", "particles.star")]
            such = next((f", such as {path}" for path in beside if path.is_file()), "")
            raise FormatError(
                f"{value} holds images without a table of their CTF, or class averages; give the table of "
                f"the particles{such} (with --class-averages, averages are made of them)"
            )
        return value

    @model_validator(mode="after")
    def _fit(self) -> "Params":
        first, last = self.initial_resolution, self.final_resolution
        given = self.model_fields_set
        if first is not None and last is not None and last > first:
            raise ValueError(f"--final-resolution {last:g} must be finer than --initial-resolution {first:g}")
        if self.references is not None and self.classes not in (None, len(self.references)):
            raise ValueError(
                f"--classes {self.classes} and {len(self.references)} maps as --references; one map is "
                "needed for each class"
            )
        ways = [name for name in ("batch", "percent", "asymmetric_units") if name in given]
        if len(ways) > 1:
            flags = " and ".join(f"--{name.replace('_', '-')}" for name in ways)
            raise ValueError(f"{flags} both say how many particles a round uses; choose one")
        if "images_per_class" in given and not self.class_averages:
            raise ValueError("--images-per-class says how many particles make one of --class-averages")
        if "smoothing" in given and not self.blurring:
            raise ValueError("--smoothing says how much likelihoods blur, --no-blurring that they do not")
        if self.start_from == "previous" and self.starts == 1:
            raise ValueError("--start-from previous needs more than one of --starts")
        if self.apply_symmetry != "auto" and self.symmetry.upper() == "C1":
            raise ValueError(f"--apply-symmetry {self.apply_symmetry} needs a --symmetry other than C1")
        radius = self.outer_radius or 0.55 * self.diameter
        if self.inner_radius >= radius:
            raise ValueError(
                f"--inner-radius {self.inner_radius:g} leaves nothing within the outer radius of {radius:g} Å"
            )
        return self

    @property
    def class_count(self) -> int:
        """How many maps are looked for."""
        return self.classes or (1 if self.references is None else len(self.references))


def holds_averages(path: Path) -> bool:
    """Whether a file is a stack of images or a table of classes instead of one of particles."""
    if path.suffix.lower() == ".star":
        with path.open("rb") as stream:
            return b"data_model_classes" in stream.read(STAR_HEAD)
    return path.suffix.lower() in (".mrcs", ".mrc", ".st", ".hdf", ".tif", ".tiff")


OUTPUTS = (
    Output(name="map", file="map_001.mrc", help="the chosen start, symmetry imposed; the largest class"),
    Output(name="maps", file="map_*.mrc", help="all classes of the chosen start, the largest first"),
    Output(
        name="particles",
        file="particles.star",
        help="best pose, class and probabilities of all particles whose images can be used",
    ),
    Output(name="starts", file="start_*.mrc", help="every start as it ended, before the axes were sought"),
    Output(name="rounds", file="rounds/start_*.mrc", help="maps after some of the rounds, on a smaller grid"),
)

SECONDS_PER_IMAGE = 1e-3
"""CPU time of an image in a round at 64 pixels (measured)."""


def estimate(params: Params) -> Estimate:
    """What ``algorithms.ab_initio`` plans for the table's particles."""
    from parhelion.algorithms.ab_initio import planned_bytes
    from parhelion.algorithms.ab_initio_schedule import wanted_particles
    from parhelion.jobs._particles import size_of
    from parhelion.run.memory import available_bytes

    count, box, pixel = size_of(params.input, params.pixel_size)
    settings = _settings(params, 0)
    seen = count if settings.images_per_class is None else -(-count // settings.images_per_class)
    per_round: float = min(wanted_particles(settings, 1.0, seen, 1), seen)
    if settings.best_percent < 100:  # to look at a particle is half of the work
        per_round += 0.5 * min(seen, 100 * per_round / settings.best_percent)
    shared, per_thread = planned_bytes(count, box, pixel, settings, available_bytes())
    kept = params.starts * (1 + len(kept_rounds(params))) + 1
    return Estimate(
        memory_bytes=shared,
        per_thread_bytes=per_thread,
        seconds=SECONDS_PER_IMAGE * settings.classes * (params.starts * params.rounds * per_round + count),
        disk_bytes=4 * box**3 * kept * settings.classes + 700 * count,
    )


def run(context: "Context", params: Params) -> Result:
    """Search, write and show."""
    from parhelion.algorithms.ab_initio import ab_initio
    from parhelion.io import mrc
    from parhelion.io.particles import write_particles
    from parhelion.jobs import _abinitio
    from parhelion.jobs._particles import first_images, read_with_images
    from parhelion.run.memory import available_bytes

    particles, source = read_with_images(
        params.input, context, contrast=params.contrast, pixel_size=params.pixel_size
    )
    if len(particles) < FEW:
        context.notice(f"{len(particles)} particles are few for a start from nothing: look at the map")
    context.report.gallery(
        first_images(source), [f"particle {i + 1}" for i in range(min(12, len(source)))], "First particles"
    )
    rounds = _abinitio.RoundKeeper(context, kept_rounds(params), params.class_count)
    found = ab_initio(
        particles,
        source,
        _settings(params, context.seed),
        executor=context.executor,
        observer=context,
        cancel=context,
        device=context.device,
        available_bytes=available_bytes(),
        references=[mrc.read_volume(path) for path in params.references or ()],
        round_done=rounds,
        start_kept=rounds.written_before,
        checkpoints=context.checkpoints,
        resume=context.resume,
    )
    for note in (*found.notes, *_abinitio.doubts(found)):
        context.notice(note)
    outputs = _abinitio.write_maps(context, found)
    if found.particles is not None:
        write_particles(context.path("particles"), found.particles)
    _abinitio.show(context, found, rounds)
    figures = _abinitio.figures_of(found) | {"particles": len(particles)}
    outputs |= {name: context.path(name) for name in ("map", "particles")}
    return Result(figures=figures, outputs=outputs | {"rounds": rounds.paths})


def kept_rounds(params: Params) -> tuple[int, ...]:
    """Rounds, from 1, whose maps are kept."""
    every = -(-params.rounds // 3) if params.keep_every is None else params.keep_every
    if not every:
        return ()
    return tuple(sorted({1, params.rounds, *range(every, params.rounds + 1, every)}))


def _settings(params: Params, seed: int) -> "AbInitioSettings":
    from parhelion.algorithms.ab_initio import AbInitioSettings

    return AbInitioSettings(
        diameter_angstrom=params.diameter,
        symmetry=params.symmetry,
        classes=params.class_count,
        starts=params.starts,
        start_from=params.start_from,
        rounds=params.rounds,
        initial_resolution_angstrom=params.initial_resolution,
        final_resolution_angstrom=params.final_resolution,
        schedule=params.resolution_schedule,
        batch=params.batch,
        percent=params.percent,
        asymmetric_units=params.asymmetric_units,
        best_percent=params.best_percent,
        impose=params.apply_symmetry,
        angular_step_deg=params.angular_step,
        shift_range_angstrom=params.shift_range,
        smoothing=params.smoothing,
        blurring=params.blurring,
        automatic_mask=params.auto_mask,
        mask_radius_angstrom=params.outer_radius,
        inner_radius_angstrom=params.inner_radius,
        images_per_class=params.images_per_class if params.class_averages else None,
        seed=seed,
    )


JOB = declare(__name__, __doc__, params=Params, run=run, estimate=estimate, outputs=OUTPUTS, resumable=True)
