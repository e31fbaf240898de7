"""A columnar table: named NumPy arrays of one length. What files hold and jobs pass on."""

from collections.abc import Iterator, Mapping

import numpy as np

from parhelion.errors import MetadataError


class Table(Mapping[str, np.ndarray]):
    """Immutable mapping from column name to an array whose first axis has the table's length."""

    def __init__(self, columns: Mapping[str, np.ndarray], *, length: int | None = None) -> None:
        self._columns = {name: np.asarray(values) for name, values in columns.items()}
        lengths = {name: len(values) for name, values in self._columns.items()}
        if length is None:
            length = next(iter(lengths.values()), 0)
        for name, found in lengths.items():
            if found != length:
                raise MetadataError(f"column {name} has {found} rows, the table has {length}")
        self.rows = length

    def __getitem__(self, name: str) -> np.ndarray:
        return self._columns[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)

    def take(self, index: np.ndarray) -> "Table":
        """Rows at ``index`` (integers or a boolean mask), in that order."""
        rows = int(np.count_nonzero(index)) if index.dtype == bool else len(index)
        return Table({name: values[index] for name, values in self.items()}, length=rows)

    def with_columns(self, columns: Mapping[str, np.ndarray]) -> "Table":
        """A table with these columns added or replaced."""
        return Table({**self._columns, **columns}, length=self.rows if len(self) else None)

    def without(self, *names: str) -> "Table":
        """A table that lacks these columns."""
        return Table({n: v for n, v in self.items() if n not in names}, length=self.rows)
