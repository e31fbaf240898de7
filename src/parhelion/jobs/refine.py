"""Refine one structure automatically from particles and a starting map.

Two half sets that never see each other (gold standard) are searched exhaustively and refined by least squares
against their own maps until neither resolution nor poses improve. The starting map may have any box, pixel
size and grey scale; it is filtered to a low resolution first. The resolution is where the half maps'
correlation inside the mask, freed of what the mask itself adds, falls below 0.143. With several classes all
particles are refined together first, then told apart, and every class is refined by itself.
"""

from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from pydantic import model_validator

from parhelion.jobs import _engine_options as shared
from parhelion.jobs._inputs import MapFile, ParticlesFile, known_symmetry
from parhelion.jobs._particles import Contrast, contrast_option, particle_pixel_size_option
from parhelion.registry import CommaList, Estimate, JobParams, Output, Result, declare, option

if TYPE_CHECKING:
    from parhelion.run.context import Context

SEARCH, MASK, MAPS, CLASSES = "Search and resolution", "Mask", "Particles in the maps", "Classes"


class Params(JobParams):
    """What the job takes."""

    input: ParticlesFile = option(help="table of particles with their CTF", short="i")
    reference: MapFile = option(help="starting map, protein white; resampled if it does not fit", short="r")
    symmetry: CommaList[str] = option(
        ("C1",),
        help="point group: C1, C2 …, D2 …, T, O, I1 to I4; with --classes one for all or each: C1,D7",
    )
    classes: int = option(
        1, help="how many structures are told apart and refined", unit="classes", ge=1, le=50, short="k"
    )
    diameter: float | None = option(
        None,
        help="diameter of a sphere that holds the particle",
        unit="Å",
        gt=0,
        le=5000,
        short="d",
        default_text="from the reference",
    )
    contrast: Contrast = contrast_option()
    pixel_size: float | None = particle_pixel_size_option()
    scheme: Literal["gold", "cistem"] = option(
        "gold",
        help="gold: two half sets that never see each other; cistem: one reference, a resolution limit that "
        "stays behind what the halves agree on, few particles at first, searches by chance",
    )
    mass: float | None = option(
        None,
        help="molecular mass, for the correlation of the particle without the solvent inside the mask",
        unit="kDa",
        gt=0,
        le=1e6,
        default_text="the whole mask counts as particle",
    )
    save_rounds: bool = option(False, help="write the maps and the FSC of every round to rounds/")
    local: bool = option(
        False, help="start from the table's poses and only refine them, without a search", group=SEARCH
    )
    initial_resolution: float | None = option(
        None,
        help="filter the starting map to this resolution, against bias",
        unit="Å",
        gt=0,
        le=200,
        default_text="diameter / 4.5, 20 to 60 Å",
        group=SEARCH,
    )
    resolution_limit: float | None = option(
        None, help="use no finer detail than this", unit="Å", gt=0, default_text="Nyquist", group=SEARCH
    )
    low_resolution: float | None = option(
        None,
        help="coarser detail than this does not count in the alignment (it stays in the maps)",
        unit="Å",
        gt=0,
        le=5000,
        default_text="all of it counts",
        group=SEARCH,
    )
    shift_range: float | None = option(
        None,
        help="how far from the box's centre particles may lie in the first search",
        unit="Å",
        gt=0,
        le=500,
        default_text="a tenth of the diameter, at least 20 Å",
        group=SEARCH,
    )
    search_radius: float | None = option(
        None,
        help="radius of the circle that masks images in the search",
        unit="Å",
        gt=0,
        le=5000,
        default_text="as in the refinement, 0.575 of the diameter",
        group=SEARCH,
    )
    autocrop: bool = option(
        False,
        help="search on images cropped to their mask, where that leaves out a tenth of the box or more",
        group=SEARCH,
    )
    results_to_refine: int = option(
        12,
        help="poses of the search that are refined further, per particle",
        unit="poses",
        ge=1,
        le=100,
        group=SEARCH,
    )
    max_rounds: int = option(
        25, help="stop after this many rounds at the latest", unit="rounds", ge=1, le=200, group=SEARCH
    )
    percent: float | None = option(
        None,
        help="share of the particles that the first rounds look at; it grows when they teach nothing new",
        unit="%",
        gt=0,
        le=100,
        default_text="100; with --scheme cistem by resolution, number and symmetry",
        group=MAPS,
    )
    best_percent: float = option(
        100.0,
        help="share of the particles, those that fit best, that go into the maps",
        unit="%",
        gt=0,
        le=100,
        group=MAPS,
    )
    score_weight: float | None = option(
        None,
        help="score to weight constant: B = (score - average) x this x 0.25; 0 does not weight by scores",
        unit="Å²",
        ge=0,
        le=10,
        default_text="0; with --scheme cistem 2 once the limit is finer than 8 Å",
        group=MAPS,
    )
    blurring: bool = shared.blurring_option(MAPS)
    smoothing: float = shared.smoothing_option(MAPS)
    centre: bool = option(
        False,
        help="bring the map to the middle of its box, as far as the symmetry leaves it free",
        group=MAPS,
    )
    class_align: Literal["none", "local", "global"] = option(
        "local",
        help="while classes are told apart: keep the poses, refine them in every class, or search everywhere",
        group=CLASSES,
    )
    class_resolution: float | None = option(
        None,
        help="tell classes apart by no finer detail than this",
        unit="Å",
        gt=0,
        le=200,
        default_text="diameter / 14; with --scheme cistem 10 Å",
        group=CLASSES,
    )
    class_rounds: int = option(
        30,
        help="rounds of telling classes apart at most; with --scheme cistem nine at least where it allows",
        unit="rounds",
        ge=4,
        le=500,
        group=CLASSES,
    )
    mask: MapFile | None = option(
        None,
        help="mask (0 to 1) in the frame of the particles or of the reference",
        default_text="made automatically",
        group=MASK,
    )
    auto_mask: bool = shared.auto_mask_option(MASK)
    outer_radius: float | None = shared.outer_radius_option(MASK, of="references")
    inner_radius: float = shared.inner_radius_option(MASK)
    mask_edge: float | None = option(
        None,
        help="width of the masks' cosine edge; a given mask gets one of this width",
        unit="Å",
        ge=0,
        le=500,
        default_text="12 Å, at least 4 voxels; a given mask stays as it is",
        group=MASK,
    )
    outside_weight: float = option(
        0.0,
        help="weight of the density outside the mask, inside the sphere, in references",
        unit="1",
        ge=0,
        le=1,
        group=MASK,
    )
    outside_lowpass: float | None = option(
        None, help="low-pass what lies outside the mask", unit="Å", gt=0, default_text="no", group=MASK
    )

    @model_validator(mode="after")
    def _fit(self) -> "Params":
        given = self.model_fields_set
        for name in self.symmetry:
            known_symmetry(name)
        if len(self.symmetry) not in (1, self.classes):
            raise ValueError(
                f"--symmetry names {len(self.symmetry)} groups for {self.classes} classes; one for all, or "
                "one for each"
            )
        several = {"class_align", "class_resolution", "class_rounds"} & given
        if self.classes == 1 and several:
            raise ValueError(f"--{min(several).replace('_', '-')} is for several --classes")
        if self.mask is not None and "auto_mask" in given and self.auto_mask:
            raise ValueError("--mask gives the mask, --auto-mask makes one; choose")
        if self.mask is not None and self.centre:
            raise ValueError("--centre moves the map, which --mask would not follow; choose")
        searching = {"shift_range", "results_to_refine", "search_radius", "autocrop"} & given
        if self.local and searching:
            flags = " and ".join(f"--{name.replace('_', '-')}" for name in sorted(searching))
            raise ValueError(f"{flags} belong to the search, --local has none")
        if "smoothing" in given and not self.blurring:
            raise ValueError("--smoothing says how much likelihoods blur, --no-blurring that they do not")
        if self.outside_weight and self.mask is None and not self.auto_mask:
            raise ValueError(
                "--outside-weight is for what lies between a mask and the sphere; there is no mask"
            )
        if self.outside_lowpass is not None and not self.outside_weight:
            raise ValueError("--outside-lowpass filters what --outside-weight lets in; give it a weight")
        return self


OUTPUTS = (
    Output(
        name="map",
        file="map.mrc",
        help="map of all particles, filtered by its signal-to-noise",
        optional=True,
    ),
    Output(name="half1", file="half1.mrc", help="map of the first half set, unfiltered", optional=True),
    Output(name="half2", file="half2.mrc", help="map of the second half set, unfiltered", optional=True),
    Output(name="mask", file="mask.mrc", help="where the resolution is stated", optional=True),
    Output(
        name="fsc",
        file="fsc.star",
        help="half-map correlation per shell, with RELION's labels",
        optional=True,
    ),
    Output(
        name="statistics",
        file="statistics.txt",
        help="the same and signal-to-noise, as cisTEM writes it",
        optional=True,
    ),
    Output(
        name="orientations",
        file="orientations.star",
        help="resolution and sampling along 96 axes, and the density of views",
        optional=True,
    ),
    Output(name="particles", file="particles.star", help="poses, shifts, half sets, scores and classes"),
    Output(name="rounds", file="rounds/*.*", help="maps, FSC and statistics of every round", optional=True),
    *(
        Output(
            name=f"class_{name}", file=file, help=f"{said} of each class, the largest first", optional=True
        )
        for name, file, said in (
            ("maps", "map_*.mrc", "filtered map"),
            ("half1", "half1_*.mrc", "first half map"),
            ("half2", "half2_*.mrc", "second half map"),
            ("masks", "mask_*.mrc", "mask"),
            ("fsc", "fsc_*.star", "half-map correlation"),
            ("statistics", "statistics_*.txt", "statistics as cisTEM writes them"),
            ("orientations", "orientations_*.star", "resolution and sampling by direction"),
        )
    ),
)


SECONDS_PER_IMAGE = 1e-2
"""CPU time of an image of 64 pixels in a whole refinement (measured); it grows with the pixels."""


def estimate(params: Params) -> Estimate:
    """What ``engine.memory`` plans for the table's particles."""
    from parhelion.algorithms.refine3d import memory_plan
    from parhelion.jobs import _refine_input as made
    from parhelion.jobs._particles import size_of
    from parhelion.run.memory import available_bytes

    count, box, pixel = size_of(params.input, params.pixel_size, poses=params.local)
    plan = memory_plan(count, box, pixel, made.settings_of(params, 0), available_bytes())
    classes = params.classes
    maps = 4 * (1 if classes == 1 else classes)
    more = classes * plan.fixed_bytes // 2 if classes > 1 else 0
    rounds = 5 * 4 * box**3 * params.max_rounds if params.save_rounds else 0
    return Estimate(
        memory_bytes=plan.shared_bytes + more,
        per_thread_bytes=plan.per_thread_bytes,
        seconds=SECONDS_PER_IMAGE * count * (box / 64) ** 2 * (1 if classes == 1 else 2 + classes),
        disk_bytes=maps * 4 * box**3 + 700 * count + 2 * (4 * 6 * box**3 + 400 * count) + rounds,
    )


def run(context: "Context", params: Params) -> Result:
    """Refine, write everything and show it."""
    from parhelion.algorithms.preparation import warn_of_black
    from parhelion.io import mrc
    from parhelion.jobs import _refine as written
    from parhelion.jobs import _refine_input as made
    from parhelion.jobs._particles import first_images, read_with_images
    from parhelion.run.memory import available_bytes

    particles, source = read_with_images(
        params.input, context, contrast=params.contrast, pixel_size=params.pixel_size
    )
    reference = mrc.read_volume(params.reference)
    warn_of_black(reference, context)
    context.report.gallery(
        first_images(source), [f"particle {i + 1}" for i in range(min(12, len(source)))], "First particles"
    )
    given: dict[str, Any] = {
        "mask": made.mask_of(params, particles, source, reference),
        "executor": context.executor,
        "observer": context,
        "cancel": context,
        "device": context.device,
        "checkpoints": context.checkpoints,
        "resume": context.resume,
        "available_bytes": available_bytes(),
    }
    after = made.round_keeper(context) if params.save_rounds else None
    if params.classes > 1:
        from parhelion.algorithms.refine_classes import refine_classes
        from parhelion.jobs._refine_classes import finished

        settings = made.class_settings_of(params, context.seed)
        every = refine_classes(particles, source, reference, settings, after_round=after, **given)
        return finished(context, every, params.mass, params.save_rounds)
    from parhelion.algorithms.refine3d import refine3d

    keep = None if after is None else partial(after, "")
    found = refine3d(
        particles, source, reference, made.settings_of(params, context.seed), after_round=keep, **given
    )
    return written.finished(context, found, params.mass, params.save_rounds)


JOB = declare(__name__, __doc__, params=Params, run=run, estimate=estimate, outputs=OUTPUTS, resumable=True)
