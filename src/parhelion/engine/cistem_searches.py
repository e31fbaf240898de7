"""Which particles a round of cisTEM's scheme searches everywhere for: by chance, from each one's own past.

    p = d² (d' - d) / (1000 max(1, (n - ⌊r / 3⌋)²))

``d`` is the limit of the alignment in Å, ``d'`` that of the particle's last search, ``n`` how many searches
it had and ``r`` the rounds since the last of them. A particle that was searched for often, or at much the
same resolution, is hardly searched for again (cisTEM, automatic refinement).
"""

from dataclasses import dataclass

import numpy as np

NO_SEARCH_ANGSTROM = 4.0
"""With a finer limit nothing is searched for any more by chance."""
SEARCHED_FINELY_ANGSTROM = 5.0
"""Nor is what was once searched for with such a limit."""
RESOLVED_ANGSTROM, FINE_ANGSTROM, COARSE_ANGSTROM, FIRST_FORCED = 5.0, 8.0, 9.0, 3
"""A map this good, with a limit this fine, is shown once to particles whose last search was this coarse, from
that many rounds on."""


@dataclass(frozen=True, kw_only=True)
class Searches:
    """Of every particle ``(n,)``: how many searches it had, rounds since the last one, and its limit in Å."""

    number: np.ndarray
    since: np.ndarray
    limit_angstrom: np.ndarray

    @staticmethod
    def none(count: int) -> "Searches":
        """Before the first round."""
        zeros = np.zeros(count, np.int64)
        return Searches(number=zeros, since=zeros, limit_angstrom=np.full(count, np.inf))

    def after(self, searched: np.ndarray, limit_angstrom: float) -> "Searches":
        """After a round with this limit that searched for some, ``searched`` ``(n,)`` bool."""
        return Searches(
            number=self.number + searched,
            since=np.where(searched, 0, self.since + 1),
            limit_angstrom=np.where(searched, limit_angstrom, self.limit_angstrom),
        )


def chances(searches: Searches, limit_angstrom: float) -> np.ndarray:
    """The chance ``(n,)`` of each particle to be searched for in a round with this limit."""
    if limit_angstrom < NO_SEARCH_ANGSTROM:
        return np.zeros(len(searches.number))
    adjust = np.maximum(1, (searches.number - searches.since // 3) ** 2)
    finer = np.maximum(searches.limit_angstrom - limit_angstrom, 0)
    chance = np.minimum(1.0, limit_angstrom**2 * finer / (1000.0 * adjust))
    return np.where(searches.limit_angstrom <= SEARCHED_FINELY_ANGSTROM, 0.0, chance)


def forced(
    searches: Searches, limit_angstrom: float, resolution_angstrom: float, rounds: int, whole: bool
) -> np.ndarray:
    """Particles ``(n,)`` that are searched for whatever their chance.

    ``resolution_angstrom`` is that of the map after ``rounds`` rounds, ``whole`` says that all particles went
    into it.
    """
    good = resolution_angstrom < RESOLVED_ANGSTROM and limit_angstrom <= FINE_ANGSTROM
    return (searches.limit_angstrom > COARSE_ANGSTROM) & bool(good and whole and rounds >= FIRST_FORCED)


def drawn(
    searches: Searches, limit_angstrom: float, history: tuple[dict[str, float | int], ...], draw: np.ndarray
) -> np.ndarray:
    """Which particles ``(n,)`` are searched for, by uniform numbers ``draw`` ``(n,)``; never one of those
    that were in the round before. ``history`` holds the rounds so far (``engine.loop``)."""
    last = history[-1] if history else {"resolution_angstrom": np.inf, "used_share": 0.0}
    must = forced(
        searches, limit_angstrom, last["resolution_angstrom"], len(history), last["used_share"] >= 1
    )
    fresh = (searches.since == 0) & (searches.number > 0)
    return (must | (draw < chances(searches, limit_angstrom))) & ~fresh
