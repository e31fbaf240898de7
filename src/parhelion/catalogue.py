"""A catalogue of things that are looked up by name: formats, kernels, schemes."""

from collections.abc import Iterator, Mapping
from typing import TypeVar

from parhelion.errors import ParameterError

T = TypeVar("T")


class Registry(Mapping[str, T]):
    """Name → object, in the order of registration.

    ``kind`` says in messages what is catalogued ("format"). Registering a name twice raises ValueError,
    a defect of the program; looking up an unknown name raises ParameterError, a user's mistake, with the
    list of what exists.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._items: dict[str, T] = {}

    def register(self, name: str, item: T) -> T:
        """Add ``item`` under ``name`` and return it."""
        if name in self._items:
            raise ValueError(f"the {self.kind} {name!r} is already registered")
        self._items[name] = item
        return item

    def __getitem__(self, name: str) -> T:
        if name not in self._items:
            known = ", ".join(self._items) or "none"
            raise ParameterError(f"unknown {self.kind} {name!r}; known are: {known}")
        return self._items[name]

    def __contains__(self, name: object) -> bool:
        return name in self._items

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)
