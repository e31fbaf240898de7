"""What a user decides about a search from nothing, and what it gives."""

from dataclasses import dataclass

from parhelion.errors import ParameterError
from parhelion.model.particles import ParticleSet
from parhelion.model.volume import Volume

BEGINNINGS = ("random", "previous")
SCHEDULES = ("rising", "resets")
IMPOSITIONS = ("auto", "always", "later")


@dataclass(frozen=True, kw_only=True)
class AbInitioSettings:
    """What a user decides. Resolutions, radii and shifts in Å; None means from the diameter.

    ``starts`` starts of ``rounds`` rounds with ``classes`` maps each; every start begins at random, or with
    the maps that the previous one ended with. A round uses up to ``batch`` particles per class, or
    ``percent`` of all (first and last round), or as many as have ``asymmetric_units`` per class; of those it
    looks at the best ``best_percent`` make the map. ``schedule`` "resets" goes back to the first resolution
    limit time and again. ``impose`` says from when on symmetry counts. Posteriors are flattened by
    ``smoothing`` below 1; without ``blurring`` only the best pose of each particle counts. With
    ``images_per_class`` averages of so many particles of one 2D class take the place of particles.
    """

    diameter_angstrom: float
    symmetry: str = "C1"
    classes: int = 1
    starts: int = 3
    start_from: str = "random"
    rounds: int = 30
    initial_resolution_angstrom: float | None = None
    final_resolution_angstrom: float | None = None
    schedule: str = "rising"
    batch: int = 1000
    percent: tuple[float, float] | None = None
    asymmetric_units: tuple[float, float] | None = None
    best_percent: float = 100.0
    impose: str = "auto"
    angular_step_deg: float | None = None
    shift_range_angstrom: float | None = None
    smoothing: float = 1.0
    blurring: bool = True
    automatic_mask: bool = True
    mask_radius_angstrom: float | None = None
    inner_radius_angstrom: float = 0.0
    images_per_class: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for value, known, name in (
            (self.start_from, BEGINNINGS, "what a start begins from"),
            (self.schedule, SCHEDULES, "the schedule of resolution"),
            (self.impose, IMPOSITIONS, "when symmetry is imposed"),
        ):
            if value not in known:
                raise ParameterError(f"{name}: {value!r} is none of {', '.join(known)}")
        if self.percent is not None and self.asymmetric_units is not None:
            raise ParameterError("particles per round are given in percent or in asymmetric units, not both")
        if self.inner_radius_angstrom >= self.outer_radius_angstrom:
            raise ParameterError(
                f"an inner radius of {self.inner_radius_angstrom:g} Å leaves nothing within the outer radius "
                f"of {self.outer_radius_angstrom:g} Å"
            )

    @property
    def outer_radius_angstrom(self) -> float:
        """Of the sphere that maps are masked with: 10 % wider than the particle unless given."""
        return self.mask_radius_angstrom or 0.55 * self.diameter_angstrom


@dataclass(frozen=True, kw_only=True)
class Start:
    """One start's maps, its evidence (nats per held-out particle) and its mean FSC with the chosen one.

    ``volume`` is the first class; ``volumes`` are all, in the order of the chosen start's classes.
    """

    seed: int
    evidence: float
    volume: Volume
    agreement: float
    volumes: tuple[Volume, ...] = ()


@dataclass(frozen=True, kw_only=True)
class AbInitioResult:
    """The chosen maps on the particles' grid, in the symmetry's frame, and all starts.

    ``volume`` is the largest class; ``volumes`` all, with their ``shares`` of the particles.
    ``particles`` are those whose images can be used, with best poses, classes and probabilities.
    """

    volume: Volume
    chosen: int
    starts: tuple[Start, ...]
    symmetry: str
    symmetry_correlation: float | None
    resolution_limit_angstrom: float
    notes: tuple[str, ...]
    volumes: tuple[Volume, ...] = ()
    shares: tuple[float, ...] = (1.0,)
    particles: ParticleSet | None = None
