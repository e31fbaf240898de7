"""Partial sums of a reconstruction as a file: named arrays and a header, in NumPy's ``.npz``.

Nothing in such a file is ever run: arrays of numbers and one text in JSON.
"""

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from parhelion.errors import FormatError, InputError
from parhelion.io.atomic import atomic_path

FORMAT = "parhelion partial sums 1"
HEADER = "header"


def write_partial_sums(path: Path | str, header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Write ``arrays`` and a ``header`` of JSON's types, whole or not at all. Raises OutputError."""
    text = json.dumps({"format": FORMAT, **header})
    with atomic_path(path) as partial, partial.open("xb") as stream:
        np.savez(stream, **{HEADER: np.array(text)}, **arrays)  # type: ignore[arg-type]


def read_partial_sums(path: Path | str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Header and arrays. Raises InputError where the file cannot be read, FormatError where it is another."""
    return _read(Path(path), arrays=True)


def read_header(path: Path | str) -> dict[str, Any]:
    """The header alone; errors as read_partial_sums."""
    return _read(Path(path), arrays=False)[0]


def _read(path: Path, arrays: bool) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as content:
            header = json.loads(str(content[HEADER]))
            names = [name for name in content.files if arrays and name != HEADER]
            found = {name: content[name] for name in names}
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, KeyError, AttributeError, TypeError, zipfile.BadZipFile, EOFError) as error:
        raise FormatError(
            f"{path} holds no partial sums of a reconstruction, or is truncated; expected a file that "
            "reconstruct --partial-sums wrote (sums of class2d are for merge2d)"
        ) from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise FormatError(f"{path} holds no partial sums that this version reads; reconstruct writes them")
    return header, found
