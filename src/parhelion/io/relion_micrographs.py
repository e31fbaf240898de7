"""Tables of movies and micrographs: RELION's STAR files (3.0 to 5), or image files without a table.

A group's pixel size is that of the stored pixels: ``rlnMicrographOriginalPixelSize`` of movies,
``rlnMicrographPixelSize`` of micrographs. The original one is kept among the other columns, so that it comes
back when micrographs made of movies are written. A file that is missing stays in the table: only whoever
reads its pixels finds out.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from parhelion.errors import MetadataError
from parhelion.io import ranges
from parhelion.io.image_names import resolve, stated_folder
from parhelion.io.micrograph_files import contradiction, is_movie, pixel_sizes_of
from parhelion.io.relion import OPTICS_PREFIX
from parhelion.io.relion_micrograph_writer import CTF_LABELS, MOVIE_LABELS, ORIGINAL, stems, write_micrographs
from parhelion.io.relion_optics import (
    GROUP_COLUMNS,
    REQUIRED,
    groups_from_rows,
    groups_from_table,
    numbers,
    require,
)
from parhelion.io.star import read_star
from parhelion.model.micrographs import MicrographCtf, Micrographs
from parhelion.model.particles import OpticsGroup
from parhelion.model.table import Table

__all__ = ["NEEDS", "read_micrographs", "stems", "write_micrographs"]

NEEDS = ("pixel_size", "voltage", "cs", "amplitude_contrast")
"""What a job may need to know, by the names of its options."""

OPTICS = "optics"
NAME = {True: "rlnMicrographMovieName", False: "rlnMicrographName"}
MICROGRAPH_PIXEL = ("rlnMicrographPixelSize", "rlnMicrographOriginalPixelSize", "rlnPixelSize")
MOVIE_PIXEL = ("rlnMicrographOriginalPixelSize", "rlnPixelSize", "rlnMicrographPixelSize")
STAND_IN = {"rlnVoltage": 300.0, "rlnSphericalAberration": 2.7, "rlnAmplitudeContrast": 0.1}
"""What passes the checks in place of a value that nobody needs; it becomes NaN afterwards."""


@dataclass(frozen=True, kw_only=True)
class _Given:
    """Values that overrule the table (None: not given), and what the caller cannot do without."""

    pixel_size: float | None
    voltage: float | None
    cs: float | None
    amplitude_contrast: float | None
    needs: frozenset[str]

    def optics(self) -> dict[str, tuple[str, float | None]]:
        """Label of the column → name of the option and given value."""
        values = (("voltage", self.voltage), ("cs", self.cs), ("amplitude_contrast", self.amplitude_contrast))
        return dict(zip(REQUIRED, values))


def read_micrographs(
    paths: Sequence[Path],
    *,
    pixel_size_angstrom: float | None = None,
    voltage_kv: float | None = None,
    spherical_aberration_mm: float | None = None,
    amplitude_contrast: float | None = None,
    movies: bool | None = None,
    notes: list[str] | None = None,
    needs: Sequence[str] = NEEDS,
) -> Micrographs:
    """Movies or micrographs of one STAR file, or of any number of image files.

    Given values overrule the table; ``needs`` names those that must be known (pixel_size, voltage, cs,
    amplitude_contrast), others are NaN where nobody states them. ``movies`` says what is expected; None
    takes what the table or the first file holds. ``notes`` collects what was assumed, unusual or left out;
    a file named twice counts once. Raises MetadataError, naming the option, where a needed value is
    missing, and where the table is not one of movies or micrographs.
    """
    given = _Given(
        pixel_size=pixel_size_angstrom,
        voltage=voltage_kv,
        cs=spherical_aberration_mm,
        amplitude_contrast=amplitude_contrast,
        needs=frozenset(needs),
    )
    notes = notes if notes is not None else []
    paths = [Path(path) for path in paths]
    if not paths:
        raise MetadataError("no movie or micrograph is named; give a STAR file or image files")
    tables = [path for path in paths if path.suffix.lower() == ".star"]
    if tables and len(paths) > 1:
        raise MetadataError(
            f"{tables[0]} is one of {len(paths)} inputs; give one STAR file, or image files without tables"
        )
    found = (
        _from_table(tables[0], given, movies, notes) if tables else _from_files(paths, given, movies, notes)
    )
    found = _distinct(paths[0] if tables else None, found, notes)
    pixel = np.array([group.pixel_size_angstrom for group in found.optics])[found.optics_group]
    if (tables or pixel_size_angstrom is not None) and np.isfinite(pixel).all():
        told = contradiction(found.path, pixel)
        notes += [told] if told else []
    return found


def _from_table(path: Path, given: _Given, movies: bool | None, notes: list[str]) -> Micrographs:
    blocks = read_star(path)
    rows, movies = _rows(path, blocks, movies)
    if rows.rows == 0:
        raise MetadataError(f"{path} lists no files: its table has no rows; check the step that wrote it")
    optics = blocks[OPTICS] if OPTICS in blocks and blocks[OPTICS].rows else None
    groups, group, rows = _groups(path, optics, rows, given, movies, notes)
    names = [str(name) for name in rows[NAME[movies]]]
    stated = stated_folder(path)
    used = (NAME[movies], "rlnOpticsGroup", *CTF_LABELS, *(MOVIE_LABELS if movies else ()))
    original = np.array([g.pixel_size_angstrom for g in groups])[group]
    extra = rows.without(*used, *(() if optics is not None else (*GROUP_COLUMNS, *MOVIE_PIXEL)))
    if OPTICS_PREFIX + ORIGINAL not in extra:
        extra = extra.with_columns({OPTICS_PREFIX + ORIGINAL: original})
    return Micrographs(
        optics=groups,
        path=resolve(path, names, stated),
        name=tuple(names),
        optics_group=group,
        movies=movies,
        gain=_gains(path, rows, stated) if movies else None,
        dose_per_frame=_dose(path, rows, "rlnMicrographDoseRate", notes) if movies else None,
        pre_exposure=_dose(path, rows, "rlnMicrographPreExposure", notes) if movies else None,
        ctf=_ctf(path, rows, notes),
        extra=extra,
    )


def _rows(path: Path, blocks: Mapping[str, Table], movies: bool | None) -> tuple[Table, bool]:
    """The table of files, and whether they are movies."""
    for name, table in sorted(blocks.items(), key=lambda item: item[0] not in ("movies", "micrographs", "")):
        if name == OPTICS:
            continue
        kinds = [kind for kind in (True, False) if NAME[kind] in table]
        if "rlnCoordinateX" in table or "rlnImageName" in table:
            kinds = []
        if not kinds:
            continue
        if movies is not None and movies not in kinds:
            raise MetadataError(
                f"{path} lists {'micrographs' if movies else 'movies'} (data_{name} has "
                f"{NAME[kinds[0]]}), {'movies' if movies else 'micrographs'} are expected"
            )
        # a table of micrographs may name the movies that they were made of
        return table, movies if movies is not None else kinds == [True]
    found = "; ".join(f"data_{n}: {', '.join(t) or 'nothing'}" for n, t in blocks.items())
    raise MetadataError(
        f"{path} lists neither movies nor micrographs: no table has rlnMicrographMovieName or "
        f"rlnMicrographName (tables of particles and coordinates aside). Found {found[:1000]}"
    )


def _groups(
    path: Path, optics: Table | None, rows: Table, given: _Given, movies: bool, notes: list[str]
) -> tuple[tuple[OpticsGroup, ...], np.ndarray, Table]:
    """Optics groups, the group of each row, and the rows with the optics columns that are not used."""
    filled, missing = _filled(path, rows if optics is None else optics, given, movies, notes)
    if optics is not None:
        groups = groups_from_table(path, filled, None, notes)
        group = _group_of_rows(path, optics, rows, notes)
        others = [
            label
            for label in optics
            if label
            not in (*GROUP_COLUMNS, "rlnOpticsGroup", "rlnImageDimensionality", *MICROGRAPH_PIXEL[:1])
            and not (movies and label == ORIGINAL)
        ]
        rows = rows.with_columns({OPTICS_PREFIX + label: optics[label][group] for label in others})
    else:
        groups, group = groups_from_rows(path, filled, None, notes)
    return tuple(_unknown(g, missing) for g in groups), group, rows


def _filled(
    path: Path, described: Table, given: _Given, movies: bool, notes: list[str]
) -> tuple[Table, set[str]]:
    """The optics columns with given values put in, and the names of those that nobody states."""
    columns: dict[str, np.ndarray] = {}
    missing = set()
    pixel = _pixel(path, described, given, movies, notes)
    if pixel is None:
        missing.add("pixel_size")
    columns["rlnImagePixelSize"] = pixel if pixel is not None else np.ones(described.rows)
    for label, (name, value) in given.optics().items():
        stated = numbers(path, described, label) if label in described else None
        if value is not None:
            if stated is not None and not np.allclose(stated, value, rtol=1e-3):
                notes.append(f"{path.name} says {label} {stated[0]:g}; {value:g} is used as given")
            columns[label] = np.full(described.rows, float(value))
        elif stated is None:
            if name in given.needs:
                raise _lacking(f"{path} lacks {label}", name)
            missing.add(name)
            columns[label] = np.full(described.rows, STAND_IN[label])
    return described.without("rlnPixelSize").with_columns(columns), missing


def _pixel(path: Path, described: Table, given: _Given, movies: bool, notes: list[str]) -> np.ndarray | None:
    """Å per stored pixel of each row of ``described``."""
    label = next((one for one in (MOVIE_PIXEL if movies else MICROGRAPH_PIXEL) if one in described), None)
    stated = numbers(path, described, label) if label else None
    if label is None and {"rlnDetectorPixelSize", "rlnMagnification"} <= set(described):
        magnification = numbers(path, described, "rlnMagnification")
        if np.all(magnification > 0):
            # micrometres on the detector
            stated = numbers(path, described, "rlnDetectorPixelSize") * 1e4 / magnification
    if given.pixel_size is not None:
        if stated is not None and not np.allclose(stated, given.pixel_size, rtol=1e-3):
            notes.append(
                f"{path.name} says {stated[0]:g} Å per pixel; {given.pixel_size:g} Å is used as given"
            )
        return np.full(described.rows, float(given.pixel_size))
    if stated is None and "pixel_size" in given.needs:
        raise _lacking(f"{path} lacks the pixel size ({', '.join(MICROGRAPH_PIXEL[:2])})", "pixel_size")
    return stated


def _lacking(what: str, option: str) -> MetadataError:
    return MetadataError(f"{what}; give it with --{option.replace('_', '-')}")


def _unknown(group: OpticsGroup, missing: set[str]) -> OpticsGroup:
    """The group with NaN for what nobody states."""
    fields = {
        "pixel_size": "pixel_size_angstrom",
        "voltage": "voltage_kv",
        "cs": "spherical_aberration_mm",
        "amplitude_contrast": "amplitude_contrast",
    }
    values: dict[str, float] = {fields[name]: math.nan for name in missing}
    return replace(group, box=None, **values)  # type: ignore[arg-type]


def _group_of_rows(path: Path, optics: Table, rows: Table, notes: list[str]) -> np.ndarray:
    """Row of the optics table for each file."""
    if "rlnOpticsGroup" not in rows or "rlnOpticsGroup" not in optics:
        if optics.rows > 1:
            raise MetadataError(
                f"{path} has {optics.rows} optics groups but rlnOpticsGroup is missing in a table"
            )
        notes.append(f"{path.name}: rlnOpticsGroup is missing; all files belong to the one group")
        return np.zeros(rows.rows, dtype=np.int64)
    known, wanted = (numbers(path, table, "rlnOpticsGroup") for table in (optics, rows))
    group = np.argmax(wanted[:, None] == known[None, :], axis=1)
    strange = np.flatnonzero(known[group] != wanted)
    if len(strange):
        raise MetadataError(
            f"{path}: row {strange[0] + 1} belongs to optics group {rows['rlnOpticsGroup'][strange[0]]} "
            f"({len(strange)} such rows); the optics table has {', '.join(f'{one:g}' for one in known)}"
        )
    return group.astype(np.int64)


def _gains(path: Path, rows: Table, stated: Path | None) -> tuple[Path | None, ...] | None:
    if "rlnMicrographGainName" not in rows:
        return None
    names = [str(name).strip() for name in rows["rlnMicrographGainName"]]
    paths = resolve(path, names, stated)
    return tuple(p if name not in ("", "None", "none") else None for name, p in zip(names, paths))


def _dose(path: Path, rows: Table, label: str, notes: list[str]) -> np.ndarray | None:
    """A column in e⁻/Å²; None where it is missing, or holds nothing sensible."""
    if label not in rows:
        return None
    values = numbers(path, rows, label)
    if not np.all(values >= 0):
        bad = int(np.flatnonzero(~(values >= 0))[0])
        notes.append(f"{path.name}: {label} is {values[bad]:g} in row {bad + 1}; the column is not used")
        return None
    return values


def _ctf(path: Path, rows: Table, notes: list[str]) -> MicrographCtf | None:
    """The fitted CTF, NaN in rows where the fit failed; None where the table has none."""
    if "rlnDefocusU" not in rows:
        return None
    require(path, rows, ("rlnDefocusV", "rlnDefocusAngle"))
    values = {
        field: numbers(path, rows, label)
        if label in rows
        else np.full(rows.rows, 0.0 if label == "rlnPhaseShift" else np.nan)
        for label, field in CTF_LABELS.items()
    }
    sound = np.isfinite(
        [values[name] for name in ("defocus_u_angstrom", "defocus_v_angstrom", "defocus_angle_deg")]
    ).all(axis=0)
    for label in ("rlnDefocusU", "rlnDefocusV"):
        ranges.check_range(path, label, values[CTF_LABELS[label]][sound], ranges.DEFOCUS, notes)
    if not sound.all():
        first = int(np.flatnonzero(~sound)[0])
        notes.append(
            f"{path.name}: {int((~sound).sum())} of {rows.rows} rows have no finite defocus (first: row "
            f"{first + 1})"
        )
    return MicrographCtf(**values)


def _from_files(paths: list[Path], given: _Given, movies: bool | None, notes: list[str]) -> Micrographs:
    for label, (name, value) in given.optics().items():
        if value is None and name in given.needs:
            raise _lacking(f"image files do not say {label.removeprefix('rln')} ({paths[0].name} …)", name)
    movies = is_movie(paths) if movies is None else movies
    if given.pixel_size is not None:
        pixel = np.full(len(paths), float(given.pixel_size))
    else:
        pixel = pixel_sizes_of(paths, notes)
        if np.isnan(pixel).any() and "pixel_size" in given.needs:
            raise _lacking(f"{paths[0]} does not say its pixel size", "pixel_size")
    for label, values, limits in (
        ("pixel size", pixel[np.isfinite(pixel)], ranges.PIXEL_SIZE),
        ("voltage", _known(given.voltage), ranges.VOLTAGE),
        ("spherical aberration", _known(given.cs), ranges.SPHERICAL_ABERRATION),
        ("amplitude contrast", _known(given.amplitude_contrast), ranges.AMPLITUDE_CONTRAST),
    ):
        ranges.check_range(paths[0], label, values, limits, notes)
    sizes, group = np.unique(pixel, return_inverse=True)
    voltage, cs, amplitude = (
        math.nan if value is None else value for value in (given.voltage, given.cs, given.amplitude_contrast)
    )
    groups = tuple(
        OpticsGroup(
            name=f"opticsGroup{number + 1}",
            pixel_size_angstrom=float(size),
            voltage_kv=voltage,
            spherical_aberration_mm=cs,
            amplitude_contrast=amplitude,
        )
        for number, size in enumerate(sizes)
    )
    return Micrographs(
        optics=groups,
        path=tuple(path.absolute() for path in paths),
        name=tuple(str(path) for path in paths),
        optics_group=group.astype(np.int64),
        movies=movies,
        extra=Table({OPTICS_PREFIX + ORIGINAL: pixel}),
    )


def _known(value: float | None) -> np.ndarray:
    return np.array([] if value is None else [value])


def _distinct(table: Path | None, found: Micrographs, notes: list[str]) -> Micrographs:
    """Each file once, the first of equal names kept."""
    first: dict[Path, int] = {}
    for row, path in enumerate(found.path):
        first.setdefault(path, row)
    if len(first) == len(found):
        return found
    again = next(row for row, path in enumerate(found.path) if first[path] != row)
    where = f"{table.name}: " if table else ""
    notes.append(
        f"{where}{len(found) - len(first)} of {len(found)} entries name a file again (first: entry "
        f"{again + 1}, {found.name[again]}); each file is used once"
    )
    return found.take(np.array(sorted(first.values())))
