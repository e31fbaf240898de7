"""What does not change from round to round of a refinement."""

from dataclasses import dataclass
from types import ModuleType

from parhelion.contracts import Cancel, Executor, Observer
from parhelion.engine import cistem_schedule, schedule
from parhelion.engine.loader import ParticleLoader
from parhelion.engine.schedule import ScheduleSettings
from parhelion.engine.search_view import SearchView
from parhelion.engine.solvent import Solvent
from parhelion.geometry.symmetry import SymmetryGroup


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What does not change during a refinement.

    ``top`` hits of the search are refined, at most
    ``kept`` poses per particle survive; ``chunk`` particles are processed at a time. ``view`` is how the
    search sees the particles, if not as the refinement does; neither looks at what is coarser than
    ``low_shell``. ``blurring`` and ``smoothing`` weigh poses in the maps (``blurring``), ``centre`` brings
    maps to the middle of their box.
    """

    loader: ParticleLoader
    schedule: ScheduleSettings
    symmetry: SymmetryGroup
    solvent: Solvent
    executor: Executor
    observer: Observer
    cancel: Cancel
    seed: int
    top: int = 12
    kept: int = 4
    chunk: int = 64
    view: SearchView | None = None
    low_shell: float = 0.0
    blurring: bool = True
    smoothing: float = 1.0
    centre: bool = False

    @property
    def together(self) -> bool:
        """Whether both halves are aligned to one map."""
        return self.schedule.scheme == "cistem"

    @property
    def rules(self) -> ModuleType:
        """The state machine that plans the rounds."""
        return cistem_schedule if self.together else schedule
