"""The options of ``refine-manual``, in the groups of cisTEM's panel."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from parhelion.jobs import _engine_options as engine
from parhelion.jobs._inputs import File, MapFile, Maps, ParticlesFile
from parhelion.jobs._particles import Contrast, contrast_option, particle_pixel_size_option
from parhelion.registry import CommaList, JobParams, option

GENERAL, GLOBAL, CLASSES = "General refinement", "Global search", "Classification"
CTF, MAPS, MASKS = "CTF refinement", "Reconstruction", "Masking"
IMAGES, REFERENCE = "Particles", "References"
Angstrom = Annotated[float, Field(ge=-5000, le=5000)]
SEARCHING = {
    *("search_radius", "results_to_refine", "refine_input", "search_limit", "angular_step"),
    *("shift_range", "shift_range_y"),
}
"""Options of a global search."""
Parameter = Literal["psi", "theta", "phi", "x", "y"]


class AlignmentParams(JobParams):
    """Particles and references, and how one is compared with the other."""

    input: ParticlesFile = option(
        help="table of particles with their CTF, and poses unless searched", short="i"
    )
    references: Maps | None = option(
        None,
        help="starting map of every class, protein white",
        default_text="made from the particles' poses and occupancies",
        short="r",
    )
    classes: int | None = option(
        None,
        help="how many classes there are",
        unit="classes",
        ge=1,
        le=50,
        short="k",
        default_text="one for each reference, 1 without any",
    )
    class_particles: Annotated[tuple[ParticlesFile, ...], Field(min_length=1)] | None = option(
        None,
        help="tables of the same particles with the poses of each class, as an earlier run wrote them",
        default_text="all classes start from the poses of --input",
    )
    diameter: float | None = option(
        None,
        help="the largest dimension of the particle, from which radii and limits follow",
        unit="Å",
        gt=0,
        le=5000,
        short="d",
        default_text="from the first reference",
    )
    symmetry: CommaList[str] = option(
        ("C1",), help="point group of all classes, or one for each, with commas: C1,D7,C1"
    )
    align: Literal["none", "local", "global"] | None = option(
        None,
        help="keep the poses and only find scores, occupancies and maps; refine them; or search everywhere",
        default_text="local where the particles have poses, else global",
    )
    cycles: int = option(
        1,
        help="cycles to run: 1 of a global search, 3 to 5 local ones with one class, 30 to 50 with several",
        unit="cycles",
        ge=1,
        le=100,
    )
    resolution_limit: float = option(
        30.0,
        help="high-resolution limit: align with no finer detail than this; keep it well below the resolution",
        unit="Å",
        gt=0,
        le=300,
    )
    refine_parameters: CommaList[Parameter] = option(
        ("psi", "theta", "phi", "x", "y"),
        help="which of psi (in the plane), theta (out of it), phi (around the map's z axis), x and y move",
    )
    half_sets: Literal["gold", "cistem"] = option(
        "gold",
        help="gold: two references that never see each other's particles (those of several classes share "
        "what is coarser than 40 Å); cistem: one for all, whose limit must stay below its resolution",
    )
    start_poses: Literal["input", "random"] = option(
        "input", help="start from the poses of the table or from random orientations"
    )
    contrast: Contrast = contrast_option()
    pixel_size: float | None = particle_pixel_size_option()
    low_resolution: float | None = option(
        None,
        help="low-resolution limit: coarser detail than this does not count",
        unit="Å",
        gt=0,
        le=5000,
        default_text="1.5 diameters, at most 300 Å",
        group=GENERAL,
    )
    outer_radius: float | None = option(
        None,
        help="radius of the circle that masks images, and of the sphere that references lie in",
        unit="Å",
        gt=0,
        le=5000,
        default_text="0.65 of the diameter",
        group=GENERAL,
    )
    inner_radius: float = engine.inner_radius_option(GENERAL)
    signed_limit: float = option(
        0.0,
        help="beyond this resolution a shell's correlation counts without its sign, against overfitting; "
        "0 takes the sign everywhere",
        unit="Å",
        ge=0,
        le=300,
        group=GENERAL,
    )
    percent: float = option(
        100.0,
        help="share of the particles that a cycle uses, drawn anew",
        unit="%",
        gt=0,
        le=100,
        group=GENERAL,
    )
    search_radius: float | None = option(
        None,
        help="radius of the circle that masks images in a global search",
        unit="Å",
        gt=0,
        le=5000,
        default_text="0.8 of the diameter",
        group=GLOBAL,
    )
    results_to_refine: int = option(
        20,
        help="poses of the search that are refined further, per particle",
        unit="poses",
        ge=1,
        le=100,
        group=GLOBAL,
    )
    refine_input: bool = option(
        True, help="refine the pose of the table as well; without, against overfitting", group=GLOBAL
    )
    search_limit: float | None = option(
        None,
        help="search with no finer detail than this",
        unit="Å",
        gt=0,
        le=300,
        default_text="20 Å, or --resolution-limit where that is coarser",
        group=GLOBAL,
    )
    angular_step: float | None = option(
        None,
        help="step of the search grid",
        unit="°",
        ge=0.5,
        le=60,
        default_text="360 x limit / (pi x outer radius), at most 15",
        group=GLOBAL,
    )
    shift_range: float | None = option(
        None,
        help="how far from the box's centre particles may lie in the search, in x and y",
        unit="Å",
        ge=0,
        le=500,
        default_text="0.15 of the diameter",
        group=GLOBAL,
    )
    shift_range_y: float | None = option(
        None,
        help="the same in y, where it differs",
        unit="Å",
        ge=0,
        le=500,
        default_text="as in x",
        group=GLOBAL,
    )
    class_resolution: float | None = option(
        None,
        help="tell classes apart by no finer detail than this, which cannot exceed --resolution-limit",
        unit="Å",
        gt=0,
        le=300,
        default_text="as --resolution-limit",
        group=CLASSES,
    )
    focus_centre: tuple[Angstrom, Angstrom, Angstrom] | None = option(
        None,
        help="centre x y z of the sphere that tells classes apart, from the middle of the box",
        unit="Å",
        default_text="the middle of the box",
        group=CLASSES,
    )
    focus_radius: float | None = option(
        None,
        help="radius of that sphere: only the part of the images that it projects to counts",
        unit="Å",
        gt=0,
        le=5000,
        default_text="no focus, the whole particle counts",
        group=CLASSES,
    )
    refine_defocus: bool = option(
        False,
        help="search each particle's defocus; for maps better than 4 Å of particles from 500 kDa on",
        group=CTF,
    )
    defocus_range: float = option(
        500.0, help="change of both defoci that is tried, up and down", unit="Å", gt=0, le=50_000, group=CTF
    )
    defocus_step: float = option(50.0, help="step of that search", unit="Å", gt=0, le=10_000, group=CTF)


class ManualParams(AlignmentParams):
    """All options: also what goes into maps, and how they are masked."""

    score_weight: float = option(
        2.0,
        help="score to weight constant: B = (score - average) x this x 0.25; 0 does not weight by scores",
        unit="Å²",
        ge=0,
        le=10,
        group=MAPS,
    )
    adjust_scores: bool = option(
        True, help="take out how scores depend on defocus before they are used", group=MAPS
    )
    score_threshold: float = option(
        0.0,
        help="up to 1: use this share of the particles, those of the best scores; above 1: use particles of "
        "at least this score; 0: all",
        unit="1",
        ge=0,
        le=100,
        group=MAPS,
    )
    map_limit: float | None = option(
        None,
        help="reconstruct no finer detail than this: faster",
        unit="Å",
        gt=0,
        le=300,
        default_text="Nyquist",
        group=MAPS,
    )
    autocrop: bool = option(
        False, help="crop images to what the outer radius needs: faster, not for the last cycle", group=MAPS
    )
    blurring: bool = option(
        False,
        help="insert each particle at several in-plane angles and shifts, by their likelihood",
        group=MAPS,
    )
    smoothing: float = option(
        1.0, help="weight of that likelihood; less blurs more", unit="1", ge=0.1, le=1, group=MAPS
    )
    mass: float | None = option(
        None,
        help="molecular mass, from which filter and statistics find the particle's share of the mask",
        unit="kDa",
        gt=0,
        le=1e6,
        default_text="the particle fills the mask",
        group=MAPS,
    )
    filter_constant: float = option(
        1.0,
        help="factor on the noise that references are filtered by; more filters more",
        unit="1",
        gt=0,
        le=100,
        group=MAPS,
    )
    padding: float = option(
        2.0, help="how finely references are sampled in Fourier space", unit="1", ge=1, le=4, group=MAPS
    )
    mask: MapFile | None = option(
        None,
        help="map whose densities above 0 are inside the mask",
        default_text="made automatically",
        group=MASKS,
    )
    auto_mask: bool = engine.auto_mask_option(MASKS)
    mask_edge: float = option(
        10.0, help="width of the soft edge that a given mask gets", unit="Å", ge=0, le=500, group=MASKS
    )
    outside_weight: float = option(
        0.0, help="weight of the density outside the mask in references", unit="1", ge=0, le=1, group=MASKS
    )
    outside_lowpass: float | None = option(
        None,
        help="low-pass that density to this, 20 Å for a micelle",
        unit="Å",
        gt=0,
        le=300,
        default_text="no",
        group=MASKS,
    )
    first: int = option(1, help="first particle, counted from 1", unit="particles", ge=1, group=IMAGES)
    last: int | None = option(
        None, help="last particle", unit="particles", ge=1, default_text="the last there is", group=IMAGES
    )
    exclude_edges: bool = option(True, help="leave out images with a blank edge", group=IMAGES)
    normalise: bool = option(
        True, help="bring each image's background to variance 1; otherwise it keeps its scale", group=IMAGES
    )
    matching_projections: bool = option(
        False, help="write the projection that each particle was found to be", group=IMAGES
    )
    statistics: File | None = option(
        None,
        help="FSC of the references (fsc.star or cisTEM's statistics), which weights them at the start",
        default_text="references count as they are",
        group=REFERENCE,
    )
    normalise_reference: bool = option(
        True, help="bring the references to the particles' grey scale", group=REFERENCE
    )
    threshold_reference: bool = option(
        False, help="raise densities below minus 0.3 of the highest to that", group=REFERENCE
    )

    @model_validator(mode="after")
    def _classes_fit(self) -> "ManualParams":
        from parhelion.jobs._inputs import known_symmetry

        for name in self.symmetry:
            known_symmetry(name)
        for name, given in (("references", self.references), ("class-particles", self.class_particles)):
            if given is not None and self.classes is not None and len(given) != self.classes:
                raise ValueError(
                    f"--{name} gives {len(given)} files for {self.classes} classes; one for each"
                )
        if len(self.symmetry) not in (1, self.number):
            raise ValueError(
                f"--symmetry names {len(self.symmetry)} groups for {self.number} classes; one for all, or "
                "one for each"
            )
        if self.class_particles is not None and len(self.class_particles) != self.number:
            raise ValueError(
                f"--class-particles gives {len(self.class_particles)} tables for {self.number} classes; "
                "one for each"
            )
        if self.number == 1 and {"class_resolution", "focus_radius"} & self.model_fields_set:
            raise ValueError(
                "--class-resolution and --focus-radius tell classes apart and there is one; "
                "give several --references, or --classes"
            )
        return self

    @model_validator(mode="after")
    def _options_fit(self) -> "ManualParams":
        given = self.model_fields_set
        for needed, names, wanted in (
            (self.focus_radius is not None, {"focus_centre"}, "--focus-radius"),
            (self.refine_defocus, {"defocus_range", "defocus_step"}, "--refine-defocus"),
            (self.blurring, {"smoothing"}, "--blurring"),
            (self.mask is not None, {"mask_edge"}, "--mask"),
            (self.outside_weight > 0, {"outside_lowpass"}, "--outside-weight"),
            (self.score_weight > 0 or self.score_threshold > 0, {"adjust_scores"}, "--score-weight"),
            # without --align the poses of the table decide (``_refine_manual_work.mode_of``)
            (self.align in (None, "global"), SEARCHING, "--align global"),
            (self.align != "none", {"refine_parameters"}, "--align local or global"),
            (
                self.references is not None,
                {"statistics", "normalise_reference", "threshold_reference"},
                "--references",
            ),
        ):
            if not needed and names & given:
                raise ValueError(f"--{min(names & given).replace('_', '-')} does nothing without {wanted}")
        if self.mask is not None and "auto_mask" in given and self.auto_mask:
            raise ValueError("--mask gives the mask, --auto-mask makes one; choose")
        if self.outside_weight and self.mask is None and not self.auto_mask:
            raise ValueError("--outside-weight is for what lies outside a mask, and there is none")
        if self.last is not None and self.last < self.first:
            raise ValueError(f"--last {self.last} comes before --first {self.first}")
        if self.class_particles is not None and self.start_poses == "random":
            raise ValueError("--class-particles gives poses, --start-poses random takes none; choose")
        return self

    @property
    def number(self) -> int:
        """How many classes there are."""
        files = self.references or self.class_particles
        return self.classes or (len(files) if files else 1)
