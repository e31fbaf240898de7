"""The detector's references as the options of a job name them: gain, dark reference and defects."""

import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from parhelion.io.movie_file import MovieFile


@dataclass(frozen=True, kw_only=True)
class References:
    """Where references are and how they lie; ``read`` gives those of a movie.

    ``rotation`` and ``flip`` as in ``io.gain.read_gain``. What was read is remembered for movies of one size.
    """

    dark: Path | None = None
    defects: Path | None = None
    rotation: int = 0
    flip: int = 0
    _found: "dict[tuple[str, Path, tuple[int, int], str], np.ndarray]" = field(
        default_factory=dict, repr=False
    )
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def read(
        self, movie: "MovieFile", gain: Path | None, notes: list[str]
    ) -> "tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]":
        """Gain, dark reference and defects ``(y, x)`` for this movie, None for what is not given.

        ``notes`` receives what is worth telling, once for each file and size. Raises InputError where a file
        cannot be read or does not fit the movie.
        """
        # movies that are worked on beside each other wait: a file is read once
        with self._lock:
            return (
                self._one("gain", gain, movie, notes),
                self._one("dark", self.dark, movie, notes),
                self._one("defects", self.defects, movie, notes),
            )

    def _one(self, kind: str, path: Path | None, movie: "MovieFile", notes: list[str]) -> "np.ndarray | None":
        from parhelion.io.defects import read_defects
        from parhelion.io.eer import EerMovie
        from parhelion.io.gain import read_dark, read_gain

        if path is None:
            return None
        key = (kind, path, movie.shape, type(movie).__name__)
        if key not in self._found:
            turned = {"rotation": self.rotation, "flip": self.flip}
            if kind == "gain":
                eer = isinstance(movie, EerMovie)
                found = read_gain(path, notes, shape=movie.shape, eer_movie=eer, **turned)
            elif kind == "dark":
                found = read_dark(path, shape=movie.shape, **turned)
            else:
                top = movie.rows_from_top
                found = read_defects(path, movie.shape, rows_from_top=top, notes=notes, **turned)
            self._found[key] = found
        return self._found[key]
