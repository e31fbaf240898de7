"""What a user decides in an automatic refinement."""

from dataclasses import dataclass

from parhelion.errors import ParameterError

SCHEMES = ("gold", "cistem")


@dataclass(frozen=True, kw_only=True)
class RefineSettings:
    """What a user decides. None means: found from the reference and the particles.

    ``local`` starts from the particles' poses and never searches; ``shift_angstrom`` is the radius of the
    first shift search; ``top`` poses of the search are refined per particle.

    What is coarser than ``low_resolution_angstrom`` does not count in the alignment. References are masked by
    a sphere between the two radii, images in the search by a circle of ``search_radius_angstrom``, cropped to
    it with ``autocrop``. With ``blurring`` poses enter the maps with their posteriors to the power
    ``smoothing``. ``percent`` of the particles take part in the first rounds, ``best_percent`` of those, the
    ones that fit best, go into the maps, with ``score_weight`` (Å²) weighted by their scores. The scheme
    "gold" keeps two references that never see each other; "cistem" has one and a limit that stays behind its
    resolution (``engine.cistem_schedule``).
    """

    symmetry: str = "C1"
    diameter_angstrom: float | None = None
    initial_resolution_angstrom: float | None = None
    resolution_limit_angstrom: float | None = None
    shift_angstrom: float | None = None
    automatic_mask: bool = True
    local: bool = False
    most_rounds: int = 25
    top: int = 12
    seed: int = 1
    low_resolution_angstrom: float | None = None
    outer_radius_angstrom: float | None = None
    inner_radius_angstrom: float = 0.0
    search_radius_angstrom: float | None = None
    autocrop: bool = False
    mask_edge_angstrom: float | None = None
    outside_weight: float = 0.0
    outside_lowpass_angstrom: float | None = None
    centre: bool = False
    blurring: bool = True
    smoothing: float = 1.0
    percent: float | None = None
    best_percent: float = 100.0
    score_weight: float | None = None
    scheme: str = "gold"

    def __post_init__(self) -> None:
        if self.scheme not in SCHEMES:
            raise ParameterError(f"scheme {self.scheme!r} is none of {', '.join(SCHEMES)}")
        for name, low in (("percent", 0), ("best_percent", 0), ("smoothing", 0)):
            value = getattr(self, name)
            most = 1 if name == "smoothing" else 100
            if value is not None and not low < value <= most:
                raise ParameterError(f"{name.replace('_', ' ')} is {value:g}; above 0 and at most {most}")
