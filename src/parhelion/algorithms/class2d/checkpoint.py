"""What a classification leaves behind after every cycle, so that it can go on after a kill."""

import json
import zipfile
from dataclasses import fields
from pathlib import Path

import numpy as np

from parhelion.algorithms.class2d.problem import ClassState
from parhelion.contracts import Observer
from parhelion.engine.archive import write_archive
from parhelion.errors import ParameterError

KEPT = 2


def save(folder: Path, state: ClassState, mark: str) -> None:
    """Write ``state`` whole or not at all, and drop all but the last two. Raises OutputError."""
    path = folder / f"cycle_{state.cycle:03d}.npz"
    header = {"fingerprint": mark, "cycle": state.cycle, "shift_sigma": state.shift_sigma_angstrom}
    arrays = {f.name: getattr(state, f.name) for f in fields(state) if f.name not in _SCALARS}
    write_archive(path, header, arrays)
    for old in _files(folder)[:-KEPT]:
        old.unlink(missing_ok=True)


def load_last(folder: Path, mark: str, observer: Observer) -> ClassState | None:
    """The newest whole state, None where there is none; damaged files are passed over with a notice.

    Raises ParameterError where it was made from other particles or parameters.
    """
    for path in reversed(_files(folder)):
        try:
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
            header = json.loads(arrays.pop("header").tobytes())
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            observer.notice(f"checkpoint {path.name} is damaged ({error}); an earlier one is used instead")
            continue
        if header["fingerprint"] != mark:
            raise ParameterError(
                f"{path} was made from other particles, other references or other parameters; "
                "start again with --overwrite"
            )
        observer.notice(f"going on after cycle {header['cycle']}")
        return ClassState(cycle=header["cycle"], shift_sigma_angstrom=header["shift_sigma"], **arrays)
    return None


_SCALARS = ("cycle", "shift_sigma_angstrom")


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("cycle_*.npz"))
