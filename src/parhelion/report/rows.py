"""Rows of history tables: which columns name a row, which are measured."""

from collections.abc import Mapping, Sequence

Row = Mapping[str, float | int | str]
NAMING = ("start", "class", "half", "group", "stage", "round", "cycle", "iteration")


def naming_columns(rows: Sequence[Row]) -> list[str]:
    """The leading whole-number columns that say which row it is: the first, and further ones of NAMING.

    ``start=1, round=3, particles=600, …`` is named by start and round.
    """
    names: list[str] = []
    for name in rows[0] if rows else ():
        whole = all(isinstance(row.get(name), int) and not isinstance(row.get(name), bool) for row in rows)
        if not whole or (names and name not in NAMING):
            break
        names.append(name)
    return names
