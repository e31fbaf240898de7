"""Movies and micrographs, and the coordinates of particles in them."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from parhelion.model.particles import OpticsGroup
from parhelion.model.table import Table


@dataclass(frozen=True, kw_only=True)
class MicrographCtf:
    """The fitted CTF of each micrograph, ``n`` rows."""

    defocus_u_angstrom: np.ndarray
    defocus_v_angstrom: np.ndarray
    defocus_angle_deg: np.ndarray
    phase_shift_deg: np.ndarray
    figure_of_merit: np.ndarray
    max_resolution_angstrom: np.ndarray

    def take(self, index: np.ndarray) -> "MicrographCtf":
        """The rows at ``index``, in that order."""
        return MicrographCtf(**{name: getattr(self, name)[index] for name in self.__dataclass_fields__})


@dataclass(frozen=True, kw_only=True)
class Micrographs:
    """``n`` movies or micrographs.

    ``path`` says where the pixels are, ``name`` what the input table calls them (it comes back in the output
    and joins coordinates and particles to their micrograph). ``optics_group`` is the row in ``optics``,
    whose pixel size is that of the stored pixels. ``dose_per_frame`` (e⁻/Å²) and ``pre_exposure`` are given
    for movies where the input states them. ``extra`` holds the input's other columns.
    """

    optics: tuple[OpticsGroup, ...]
    path: tuple[Path, ...]
    name: tuple[str, ...]
    optics_group: np.ndarray
    movies: bool = False
    gain: tuple[Path | None, ...] | None = None
    dose_per_frame: np.ndarray | None = None
    pre_exposure: np.ndarray | None = None
    ctf: MicrographCtf | None = None
    extra: Table = field(default_factory=lambda: Table({}))

    def __len__(self) -> int:
        return len(self.path)

    def optics_of(self, row: int) -> OpticsGroup:
        """The optics group of one micrograph."""
        return self.optics[int(self.optics_group[row])]

    def take(self, index: np.ndarray) -> "Micrographs":
        """The micrographs at ``index`` (integers), in that order."""
        index = np.asarray(index, dtype=np.int64)

        def rows(values: np.ndarray | None) -> np.ndarray | None:
            return None if values is None else values[index]

        changed: dict[str, Any] = {
            "path": tuple(self.path[i] for i in index),
            "name": tuple(self.name[i] for i in index),
            "gain": None if self.gain is None else tuple(self.gain[i] for i in index),
            "ctf": None if self.ctf is None else self.ctf.take(index),
            "extra": self.extra.take(index) if len(self.extra) else self.extra,
        }
        for column in ("optics_group", "dose_per_frame", "pre_exposure"):
            changed[column] = rows(getattr(self, column))
        return replace(self, **changed)


@dataclass(frozen=True, kw_only=True)
class Coordinates:
    """Particle positions, ``n`` rows.

    ``micrograph`` is the row in ``names``; ``xy_px`` ``(n, 2)`` counts in pixels of that micrograph from the
    middle of its first pixel, x along the fast axis, so that whole numbers are pixels. ``extra`` holds the
    input's other columns.
    """

    names: tuple[str, ...]
    micrograph: np.ndarray
    xy_px: np.ndarray
    figure_of_merit: np.ndarray | None = None
    extra: Table = field(default_factory=lambda: Table({}))

    def __len__(self) -> int:
        return len(self.micrograph)

    def of(self, row: int) -> np.ndarray:
        """Indices of the positions in micrograph ``row`` of ``names``."""
        return np.flatnonzero(self.micrograph == row)
