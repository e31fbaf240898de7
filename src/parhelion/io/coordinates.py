"""Coordinates of particles in micrographs: what pickers and other programs write.

RELION (one table with micrograph names, one file per micrograph, or RELION 4's list of such files), cisTEM's
text (image, x, y in Å), EMAN's ``.box`` (corner and size), SPIDER's documents (pixels count from 1) and CSV.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from parhelion.errors import FormatError, InputError, MetadataError
from parhelion.io.coordinate_texts import read_text
from parhelion.io.image_names import resolve, stated_folder
from parhelion.io.relion_micrograph_writer import stems
from parhelion.io.relion_optics import numbers
from parhelion.io.star import read_star, write_star
from parhelion.model.micrographs import Coordinates
from parhelion.model.table import Table

X, Y, MERIT = "rlnCoordinateX", "rlnCoordinateY", "rlnAutopickFigureOfMerit"
MICROGRAPH = "rlnMicrographName"
LISTED = "rlnMicrographCoordinates"
SUFFIX = "_autopick"
"""Ends the names of files per micrograph, as RELION's own picker has it."""


@dataclass
class _Found:
    """Positions of one file: the micrograph's name (or what stands for it) of each, x and y in pixels."""

    names: list[str]
    xy: np.ndarray
    merit: np.ndarray | None = None
    extra: Table = field(default_factory=lambda: Table({}))
    guessed: bool = False
    """Whether the name comes from the file's own name."""


def read_coordinates(
    paths: Sequence[Path],
    *,
    names: Sequence[str] | None = None,
    pixel_size_angstrom: float | Sequence[float] | None = None,
    notes: list[str] | None = None,
) -> Coordinates:
    """Positions in ``paths``, one file or many.

    ``names`` are the micrographs' names in their table: positions are joined to them (by name, else by file
    name without folder and suffix; a number in cisTEM's text counts the micrographs from 1), and those of
    other micrographs are left out with a note. Without it the files' own names are taken.
    ``pixel_size_angstrom`` (one, or one per name) turns cisTEM's Å into pixels. Positions that are not
    finite are left out with a note. Raises FormatError for files that hold no coordinates, MetadataError
    where none belongs to the micrographs.
    """
    notes = notes if notes is not None else []
    known = tuple(names) if names is not None else None
    found = [one for path in paths for one in _read(Path(path), known, pixel_size_angstrom)]
    if not found:
        raise MetadataError("no file of coordinates is named")
    return _joined(list(map(Path, paths)), found, known, notes)


def _read(path: Path, names: tuple[str, ...] | None, pixel: float | Sequence[float] | None) -> list[_Found]:
    if path.suffix.lower() == ".star":
        return _read_star(path)
    text = read_text(path)
    if not text.angstrom:
        labels = text.names or [path.stem] * len(text.xy)
        return [_Found(labels, text.xy, text.merit, guessed=text.names is None)]
    if pixel is None:
        raise MetadataError(
            f"{path} states positions in Å; the micrographs' pixel size is needed to use them"
        )
    labels = [_numbered(name, names) for name in text.names or []]
    if np.ndim(pixel) == 0:
        return [_Found(labels, text.xy / pixel, text.merit)]
    rows = rows_of_names(labels, names or (), guessed=False)
    sizes = np.asarray(pixel, dtype=np.float64)[np.maximum(rows, 0)]
    return [_Found(labels, text.xy / sizes[:, None], text.merit)]


def _numbered(name: str, names: tuple[str, ...] | None) -> str:
    """The name of a micrograph that cisTEM's text may call by its number."""
    if names is not None and name.isascii() and name.isdecimal() and name not in names:
        number = int(name) if len(name) < 10 else 0
        return names[number - 1] if 1 <= number <= len(names) else name
    return name


def _read_star(path: Path) -> list[_Found]:
    blocks = read_star(path)
    tables = [t for name, t in blocks.items() if X in t and Y in t and name != "optics"]
    listed = [t for t in blocks.values() if MICROGRAPH in t and LISTED in t]
    if not tables and listed:
        files = [str(name) for name in listed[0][LISTED]]
        each = [
            (str(name), one)
            for name, file in zip(listed[0][MICROGRAPH], resolve(path, files, stated_folder(path)))
            for one in _read_star(file)
        ]
        return [replace(one, names=[name] * len(one.xy), guessed=False) for name, one in each]
    if len(tables) != 1:
        labels = "; ".join(f"data_{n}: {', '.join(t) or 'nothing'}" for n, t in blocks.items())
        raise FormatError(
            f"{path} has {len(tables)} tables with {X} and {Y}, one is expected. Found {labels[:800]}"
        )
    table = tables[0]
    if table.rows == 0:
        return [_Found([], np.zeros((0, 2)))]
    xy = np.stack([numbers(path, table, label) for label in (X, Y)], axis=1)
    merit = numbers(path, table, MERIT) if MERIT in table else None
    extra = table.without(X, Y, MERIT, MICROGRAPH, "rlnOpticsGroup")
    if MICROGRAPH in table:
        return [_Found([str(name) for name in table[MICROGRAPH]], xy, merit, extra)]
    return [_Found([path.stem] * table.rows, xy, merit, extra, guessed=True)]


def _joined(
    paths: list[Path], found: list[_Found], known: tuple[str, ...] | None, notes: list[str]
) -> Coordinates:
    """All positions of all files in one table."""
    if known is None:
        labels = [name.removesuffix(SUFFIX) if one.guessed else name for one in found for name in one.names]
        known = tuple(dict.fromkeys(labels))
        place = {name: row for row, name in enumerate(known)}
        rows = np.array([place[name] for name in labels], dtype=np.int64)
    else:
        rows = np.concatenate([rows_of_names(one.names, known, guessed=one.guessed) for one in found])
    xy = np.concatenate([one.xy for one in found])
    first = paths[0].name
    finite = np.isfinite(xy).all(axis=1)
    if not finite.all():
        notes.append(f"{first}: {int((~finite).sum())} of {len(xy)} positions are not finite and left out")
    strange = finite & (rows < 0)
    if strange.any():
        labels = [name for one in found for name in one.names]
        examples = list(dict.fromkeys(labels[i] for i in np.flatnonzero(strange)))
        message = (
            f"{first}: {int(strange.sum())} of {len(xy)} positions belong to {len(examples)} micrographs "
            f"that are not in the table of micrographs (first: {examples[0]})"
        )
        if not np.any(finite & (rows >= 0)):
            raise MetadataError(f"{message}; it begins with {known[0] if known else 'nothing'}")
        notes.append(message + "; they are left out")
    kept = np.flatnonzero(finite & (rows >= 0))
    filled = [one for one in found if len(one.xy)]
    merit = None
    if filled and all(one.merit is not None for one in filled):
        merit = np.concatenate([one.merit for one in filled if one.merit is not None])[kept]
    shared = [c for c in filled[0].extra if all(c in one.extra for one in filled)] if filled else []
    extra = {label: _stacked([one.extra[label] for one in filled])[kept] for label in shared}
    return Coordinates(
        names=known, micrograph=rows[kept], xy_px=xy[kept], figure_of_merit=merit, extra=Table(extra)
    )


def _stacked(parts: list[np.ndarray]) -> np.ndarray:
    """One column of several files, as texts where one of them holds texts."""
    if any(part.dtype == object for part in parts):
        return np.concatenate([part.astype(str).astype(object) for part in parts])
    return np.concatenate(parts)


def rows_of_names(labels: Sequence[str], known: Sequence[str], *, guessed: bool = False) -> np.ndarray:
    """Row in ``known`` of each label, -1 where there is none.

    By the whole name, else by the file's name without folder and suffix; a ``guessed`` label may have an
    ending behind the micrograph's name (``one_autopick``).
    """
    exact = {name: row for row, name in reversed(list(enumerate(known)))}
    by_stem: dict[str, int] = {}
    for row, name in enumerate(known):
        stem = Path(name).stem
        # two micrographs of one name cannot be told apart by it
        by_stem[stem] = row if stem not in by_stem else -1
    written = dict(zip(stems(known), range(len(known))))

    def row_of(label: str) -> int:
        if label in exact:
            return exact[label]
        if not guessed:
            return by_stem.get(Path(label).stem, -1)
        stem = label
        while stem:
            # pickers add their own ending to the micrograph's name
            row = written.get(stem, by_stem.get(stem, -1))
            if row >= 0:
                return row
            stem = stem.rpartition("_")[0]
        return -1

    found = {label: row_of(label) for label in dict.fromkeys(labels)}
    return np.array([found[label] for label in labels], dtype=np.int64)


def write_coordinates(path: Path | str, coordinates: Coordinates) -> None:
    """Write all positions as one STAR table, whole or not at all. Raises OutputError."""
    names = np.array(coordinates.names, dtype=object)
    columns = {MICROGRAPH: names[coordinates.micrograph] if len(names) else np.empty(0, object)}
    write_star(path, {"coordinates": Table({**columns, **_columns(coordinates)})})


def write_coordinates_per_micrograph(folder: Path | str, coordinates: Coordinates) -> list[Path]:
    """Write ``<micrograph>_autopick.star`` for every micrograph into ``folder``, as RELION's picker does.

    Micrographs without positions get an empty table. Raises OutputError.
    """
    table = Table(_columns(coordinates))
    written = []
    for row, stem in enumerate(stems(coordinates.names)):
        written.append(Path(folder) / f"{stem}{SUFFIX}.star")
        write_star(written[-1], {"": table.take(coordinates.of(row))})
    return written


def _columns(coordinates: Coordinates) -> dict[str, np.ndarray]:
    columns = {X: coordinates.xy_px[:, 0], Y: coordinates.xy_px[:, 1]}
    if coordinates.figure_of_merit is not None:
        columns[MERIT] = coordinates.figure_of_merit
    own = {k: v for k, v in coordinates.extra.items() if k not in (*columns, MICROGRAPH)}
    return columns | own


def take(coordinates: Coordinates, index: np.ndarray) -> Coordinates:
    """The positions at ``index`` (integers), in that order."""
    merit = coordinates.figure_of_merit
    return replace(
        coordinates,
        micrograph=coordinates.micrograph[index],
        xy_px=coordinates.xy_px[index],
        figure_of_merit=None if merit is None else merit[index],
        extra=coordinates.extra.take(index) if len(coordinates.extra) else coordinates.extra,
    )


def without_duplicates(coordinates: Coordinates, distance_px: float) -> Coordinates:
    """Of positions in one micrograph closer than ``distance_px``, only the one of highest figure of merit.

    The first one where there are no figures of merit. The order of what is left stays. Raises InputError
    for a negative distance.
    """
    from scipy.spatial import cKDTree

    if not distance_px >= 0:
        raise InputError(f"the distance between particles is {distance_px:g} pixels, at least 0 is expected")
    merit = coordinates.figure_of_merit
    keep = np.ones(len(coordinates), bool)
    for row in np.unique(coordinates.micrograph):
        index = coordinates.of(int(row))
        order = (
            index
            if merit is None
            else index[np.argsort(-np.nan_to_num(merit[index], nan=-np.inf), kind="stable")]
        )
        near = cKDTree(coordinates.xy_px[order]).query_ball_point(coordinates.xy_px[order], distance_px)
        for place, others in enumerate(near):
            if keep[order[place]]:
                keep[[order[other] for other in others if other > place]] = False
    return take(coordinates, np.flatnonzero(keep))


def check_coordinates(path: Path) -> None:
    """Raise InputError where the file holds no coordinates."""
    read_coordinates([path], pixel_size_angstrom=1.0)


__all__ = [
    "check_coordinates",
    "read_coordinates",
    "rows_of_names",
    "take",
    "without_duplicates",
    "write_coordinates",
    "write_coordinates_per_micrograph",
]
