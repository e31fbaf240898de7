"""Writing of tables of movies and micrographs that RELION 3.1 and later read."""

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from parhelion.errors import MetadataError
from parhelion.io.image_names import FOLDER_COMMENT, resolve
from parhelion.io.relion import OPTICS_PREFIX
from parhelion.io.relion_optics import optics_table
from parhelion.io.star import write_star
from parhelion.model.micrographs import Micrographs
from parhelion.model.particles import OpticsGroup
from parhelion.model.table import Table

ORIGINAL = "rlnMicrographOriginalPixelSize"
MOVIE_LABELS = ("rlnMicrographGainName", "rlnMicrographDoseRate", "rlnMicrographPreExposure")
CTF_LABELS = {
    "rlnDefocusU": "defocus_u_angstrom",
    "rlnDefocusV": "defocus_v_angstrom",
    "rlnDefocusAngle": "defocus_angle_deg",
    "rlnPhaseShift": "phase_shift_deg",
    "rlnCtfFigureOfMerit": "figure_of_merit",
    "rlnCtfMaxResolution": "max_resolution_angstrom",
}
"""Column of RELION's tables → field of ``MicrographCtf``."""


def write_micrographs(path: Path | str, micrographs: Micrographs) -> None:
    """Write ``data_optics`` and ``data_movies`` or ``data_micrographs``, whole or not at all.

    Names are kept where they still lead to the same files (a comment says from which folder, if not from
    the table's own); else they are relative to the table's folder, absolute outside it. Values that nobody
    stated are left out. Raises MetadataError where there is nothing to write, OutputError where the file
    cannot be written.
    """
    path = Path(path)
    if not len(micrographs):
        raise MetadataError(f"there are no micrographs to write to {path}")
    used, group = np.unique(micrographs.optics_group, return_inverse=True)
    groups = tuple(micrographs.optics[i] for i in used)
    names, folder = names_in(path, micrographs.name, micrographs.path)
    own = {k: v for k, v in micrographs.extra.items() if not k.startswith(OPTICS_PREFIX)}
    columns: dict[str, np.ndarray] = {}
    label = "rlnMicrographMovieName" if micrographs.movies else "rlnMicrographName"
    columns[label] = np.array(names, dtype=object)
    columns |= {k: v for k, v in own.items() if k != label}
    columns |= _movie_columns(path, micrographs)
    if micrographs.ctf is not None:
        columns |= _ctf_columns(micrographs)
    columns["rlnOpticsGroup"] = group + 1
    first = np.unique(group, return_index=True)[1]
    others = {
        k.removeprefix(OPTICS_PREFIX): v[first]
        for k, v in micrographs.extra.items()
        if k.startswith(OPTICS_PREFIX)
    }
    blocks = {
        "optics": _optics(groups, others, micrographs.movies),
        "movies" if micrographs.movies else "micrographs": Table(columns),
    }
    write_star(path, blocks, comments=(f"{FOLDER_COMMENT}{folder}",) if folder else ())


def names_in(table: Path, given: Sequence[str], paths: Sequence[Path]) -> tuple[list[str], Path | None]:
    """Names for ``paths`` in ``table``, and the folder to state there, if one is needed."""
    whole = [path.absolute() for path in paths]
    strange = [i for i, (a, b) in enumerate(zip(resolve(table, given), whole)) if a != b]
    fits = all(str(whole[i]).endswith("/" + given[i]) for i in strange)
    bases = {str(whole[i])[: -len(given[i])] for i in strange} if fits else set()
    if fits and len(bases) <= 1:
        return list(given), Path(bases.pop()) if bases else None
    folder = table.absolute().parent
    return [str(p.relative_to(folder)) if p.is_relative_to(folder) else str(p) for p in whole], None


def _movie_columns(path: Path, micrographs: Micrographs) -> dict[str, np.ndarray]:
    if not micrographs.movies:
        return {}
    columns: dict[str, np.ndarray] = {}
    if micrographs.gain is not None:
        folder = path.absolute().parent
        gains = [g.absolute() if g is not None else None for g in micrographs.gain]
        texts = [
            "None" if g is None else str(g.relative_to(folder)) if g.is_relative_to(folder) else str(g)
            for g in gains
        ]
        columns["rlnMicrographGainName"] = np.array(texts, dtype=object)
    if micrographs.dose_per_frame is not None:
        columns["rlnMicrographDoseRate"] = micrographs.dose_per_frame
    if micrographs.pre_exposure is not None:
        columns["rlnMicrographPreExposure"] = micrographs.pre_exposure
    return columns


def _ctf_columns(micrographs: Micrographs) -> dict[str, np.ndarray]:
    columns = {label: getattr(micrographs.ctf, field) for label, field in CTF_LABELS.items()}
    if not np.any(columns["rlnPhaseShift"]):
        # RELION takes the column for a phase plate that is to be refined
        del columns["rlnPhaseShift"]
    return {label: values for label, values in columns.items() if not np.isnan(values).all()}


def _optics(groups: tuple[OpticsGroup, ...], others: dict[str, np.ndarray], movies: bool) -> Table:
    described = optics_table(groups)
    pixel = np.array([g.pixel_size_angstrom for g in groups])
    columns = {
        label: values
        for label, values in described.items()
        if label not in ("rlnImagePixelSize", "rlnImageSize", "rlnImageDimensionality")
        and not (values.dtype.kind == "f" and np.isnan(values).any())
    }
    known = all(math.isfinite(size) for size in pixel)
    if known:
        columns[ORIGINAL] = pixel
        if not movies:
            columns["rlnMicrographPixelSize"] = pixel
            stated = others.get(ORIGINAL)
            # a damaged table has text in this column, which comes back as no pixel size
            if stated is not None and stated.dtype.kind in "iuf" and np.isfinite(stated).all():
                columns[ORIGINAL] = stated
    kept = {label: values for label, values in others.items() if label not in (*columns, ORIGINAL)}
    return Table({**kept, **columns}, length=len(groups))


def stems(names: Sequence[str]) -> list[str]:
    """A name for the files made of each movie or micrograph: without folder and suffix, each different.

    Where two files of different folders are called the same, their folders are put in front; where that
    does not tell them apart either, a number follows.
    """
    plain = [Path(name).stem or "micrograph" for name in names]
    counts = Counter(plain)
    used: set[str] = set()
    out = []
    for name, stem in zip(names, plain):
        parent = Path(name).parent.name
        chosen = first = f"{parent}_{stem}" if counts[stem] > 1 and parent else stem
        number = 2
        while chosen in used:
            chosen, number = f"{first}_{number}", number + 1
        used.add(chosen)
        out.append(chosen)
    return out
