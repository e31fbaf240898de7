"""What a user decides in a manual refinement: the parameters of cisTEM's panel, with its meaning of each."""

import math
from dataclasses import dataclass

from parhelion.errors import ParameterError

PARAMETERS = ("psi", "theta", "phi", "x", "y")
"""In-plane angle, tilt of the view, rotation about the map's z axis, and the two shifts."""
MODES = ("local", "global")
HALF_SETS = ("gold", "cistem")
COARSEST_STEP_DEG, FINEST_STEP_DEG = 15.0, 0.5
SEARCH_LIMIT_ANGSTROM = 20.0
COARSEST_LOW_LIMIT_ANGSTROM = 300.0


@dataclass(frozen=True, kw_only=True)
class Focus:
    """A sphere inside the particle: centre from the middle of the box, x, y, z, and radius, all in Å."""

    centre_xyz_angstrom: tuple[float, float, float]
    radius_angstrom: float


@dataclass(frozen=True, kw_only=True)
class ManualSettings:
    """Limits and ranges in Å unless a name says otherwise; None is the default that ``completed`` explains.

    ``half_sets`` "gold" keeps two references that never see each other's particles, "cistem" compares all
    particles with one reference. ``signed_limit_angstrom`` 0 takes the sign of the correlation everywhere.
    ``mass_kda`` says how much of the mask is particle, None that all of it is.
    ``fom`` are resolutions in Å and figures of merit that weight a given reference.
    ``score_threshold`` up to 1 is the share of particles that are kept, above it a score.
    """

    outer_radius_angstrom: float
    symmetry: tuple[str, ...] = ("C1",)
    mode: str = "local"
    cycles: int = 1
    parameters: tuple[str, ...] = PARAMETERS
    high_limit_angstrom: float = 30.0
    low_limit_angstrom: float = COARSEST_LOW_LIMIT_ANGSTROM
    inner_radius_angstrom: float = 0.0
    signed_limit_angstrom: float = 0.0
    percent_used: float = 100.0
    global_radius_angstrom: float | None = None
    top: int = 20
    refine_input: bool = True
    search_limit_angstrom: float | None = None
    angular_step_deg: float | None = None
    shift_range_xy_angstrom: tuple[float, float] | None = None
    class_limit_angstrom: float | None = None
    focus: Focus | None = None
    refine_defocus: bool = False
    defocus_range_angstrom: float = 500.0
    defocus_step_angstrom: float = 50.0
    score_constant_angstrom2: float = 2.0
    adjust_for_defocus: bool = True
    score_threshold: float = 0.0
    map_limit_angstrom: float | None = None
    blurring: bool = False
    smoothing: float = 1.0
    automatic_mask: bool = True
    mask_edge_angstrom: float = 10.0
    outside_weight: float = 0.0
    outside_lowpass_angstrom: float | None = None
    half_sets: str = "gold"
    random_poses: bool = False
    normalise_images: bool = True
    normalise_reference: bool = True
    threshold_reference: bool = False
    fom: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    padding: float = 2.0
    filter_constant: float = 1.0
    mass_kda: float | None = None
    seed: int = 1

    def __post_init__(self) -> None:
        _check_choices(self)
        _check_limits(self)

    @property
    def classes(self) -> int:
        """How many references there are."""
        return len(self.symmetry)

    @property
    def global_radius(self) -> float:
        """Radius of the circle that masks images during a search."""
        return self.global_radius_angstrom or self.outer_radius_angstrom

    @property
    def search_limit(self) -> float:
        """Finest detail of a search: 20 Å, never finer than what is refined with."""
        return max(self.search_limit_angstrom or SEARCH_LIMIT_ANGSTROM, self.high_limit_angstrom)

    @property
    def angular_step(self) -> float:
        """Step of the search grid in degrees: cisTEM's 360 · limit / (π · radius), at most 15°."""
        if self.angular_step_deg is not None:
            return self.angular_step_deg
        step = 360 * self.search_limit / (math.pi * self.outer_radius_angstrom)
        return min(max(step, FINEST_STEP_DEG), COARSEST_STEP_DEG)

    @property
    def shift_range(self) -> tuple[float, float]:
        """How far the search looks in x and y: as asked, or half the outer radius."""
        return self.shift_range_xy_angstrom or (0.5 * self.outer_radius_angstrom,) * 2

    @property
    def class_limit(self) -> float:
        """Finest detail that classes are told apart by."""
        return self.class_limit_angstrom or self.high_limit_angstrom


def _check_choices(settings: ManualSettings) -> None:
    for name, value, known in (
        ("mode", settings.mode, MODES),
        ("half sets", settings.half_sets, HALF_SETS),
        *(("parameter to refine", name, PARAMETERS) for name in settings.parameters),
    ):
        if value not in known:
            raise ParameterError(f"{name} {value!r} is none of {', '.join(known)}")
    held = [name for name in PARAMETERS[:3] if name not in settings.parameters]
    if settings.mode == "global" and held:
        raise ParameterError(
            f"a global search looks at all orientations and cannot keep {', '.join(held)}; "
            "refine locally, or let all three angles go"
        )
    if not settings.symmetry:
        raise ParameterError("every class has a symmetry, C1 if none; there are none")


def _check_band(settings: ManualSettings) -> None:
    """Whatever particles are compared by must be finer than what does not count."""
    low = settings.low_limit_angstrom
    compared = [("classification limit", settings.class_limit)]
    if settings.mode == "global":
        compared += [("limit of the search", settings.search_limit)]
        compared += [
            ("limit of the signed correlation, which is that of a search", settings.signed_limit_angstrom)
        ]
    for name, limit in compared:
        if limit >= low:
            raise ParameterError(
                f"the {name} ({limit:g} Å) must be finer than the low-resolution limit ({low:g} Å): nothing "
                "would be left to compare"
            )


def _check_limits(settings: ManualSettings) -> None:
    high = settings.high_limit_angstrom
    if settings.low_limit_angstrom <= high:
        raise ParameterError(
            f"the low-resolution limit ({settings.low_limit_angstrom:g} Å) must be coarser than the "
            f"high-resolution limit ({high:g} Å)"
        )
    if settings.class_limit_angstrom is not None and settings.class_limit_angstrom < high:
        raise ParameterError(
            f"the classification limit ({settings.class_limit_angstrom:g} Å) cannot be finer than the "
            f"high-resolution limit of the refinement ({high:g} Å)"
        )
    _check_band(settings)
    if settings.map_limit_angstrom is not None and settings.map_limit_angstrom > high:
        raise ParameterError(
            f"the reconstruction's limit ({settings.map_limit_angstrom:g} Å) is coarser than the "
            f"high-resolution limit of the refinement ({high:g} Å): the next cycle would lack that detail"
        )
    if not 0 <= settings.inner_radius_angstrom < settings.outer_radius_angstrom:
        raise ParameterError(
            f"the inner mask radius ({settings.inner_radius_angstrom:g} Å) must be smaller than the outer "
            f"one ({settings.outer_radius_angstrom:g} Å)"
        )
    if settings.refine_defocus and not (
        0 < settings.defocus_step_angstrom <= settings.defocus_range_angstrom
    ):
        raise ParameterError(
            f"the defocus step ({settings.defocus_step_angstrom:g} Å) must lie between 0 and the range "
            f"({settings.defocus_range_angstrom:g} Å)"
        )
