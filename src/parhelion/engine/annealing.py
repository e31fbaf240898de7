"""How soft an ab-initio round is: a pure rule from what posteriors told to the next temperature.

A fixed temperature is too soft for one data set and too hard for another: with it, a stack of high SNR
froze in a wrong map while a noisy one never broke its spherical symmetry. What can be prescribed for
every data set is how much a posterior should know, in nats more than a uniform one.
"""

import math
from dataclasses import dataclass, replace

FIRST_NATS, LAST_NATS = 2.0, 8.0
# Share of the rounds after which the temperature is led to 1, the likelihood as it is.
ANNEALED = 0.7
GAIN, LARGEST_STEP = 0.25, 0.5
COLDEST, HOTTEST = 0.2, 50.0


@dataclass(frozen=True, kw_only=True)
class Annealing:
    """Temperature of round ``done`` of ``rounds``."""

    rounds: int
    done: int = 0
    temperature: float = 1.0

    @property
    def progress(self) -> float:
        """0 in the first round, 1 in the last."""
        return self.done / max(self.rounds - 1, 1)

    @property
    def target_nats(self) -> float:
        """What a posterior should know in this round."""
        return FIRST_NATS + (LAST_NATS - FIRST_NATS) * self.progress

    def after(self, information_nats: float) -> "Annealing":
        """The next round, given the mean information of this round's posteriors.

        Too much information asks for a higher temperature; near the end it falls to 1 whatever is told.
        """
        if self.progress < ANNEALED:
            step = GAIN * (information_nats - self.target_nats)
            step = min(max(step, -LARGEST_STEP), LARGEST_STEP)
            warmer = min(max(self.temperature * math.exp(step), COLDEST), HOTTEST)
        else:
            warmer = max(1.0, 0.7 * self.temperature)
        return replace(self, done=self.done + 1, temperature=warmer)
