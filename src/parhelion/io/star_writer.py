"""Writing of STAR tables, a million rows in seconds."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np

from parhelion.errors import OutputError
from parhelion.io.atomic import atomic_path
from parhelion.model.table import Table

ROWS_AT_ONCE = 200_000
RELION_31 = 30001


def write_star(
    path: Path | str,
    blocks: Mapping[str, Table],
    *,
    comments: tuple[str, ...] = (),
    version: int | None = RELION_31,
) -> None:
    """Write ``blocks`` (name → table), each as a loop, whole or not at all; ``comments`` go on top.

    RELION takes a table for one of its own 3.1 or later by the comment ``# version 30001``, and for one of
    3.0 without it (``version=None``).
    Numbers are written with as many digits as they need to come back the same. Raises OutputError where
    the file cannot be written or a value cannot be put into a STAR file.
    """
    with atomic_path(path) as partial, partial.open("xb") as stream:
        for comment in comments:
            stream.write(f"# {comment}\n".encode())
        for name, table in blocks.items():
            if version is not None:
                stream.write(f"\n# version {version}\n".encode())
            stream.write(f"\ndata_{name}\n\nloop_\n".encode())
            stream.writelines(f"_{label} #{i}\n".encode() for i, label in enumerate(table, 1))
            for start in range(0, table.rows, ROWS_AT_ONCE):
                rows = slice(start, start + ROWS_AT_ONCE)
                _write_rows(path, stream, {label: column[rows] for label, column in table.items()})
            stream.write(b"\n\n")


def _write_rows(path: Path | str, stream: BinaryIO, columns: dict[str, np.ndarray]) -> None:
    import pyarrow as pa
    from pyarrow import csv

    arrays = [_arrow(path, label, column) for label, column in columns.items()]
    # written to memory first: Arrow closes a stream that it was given when an error occurs
    buffer = io.BytesIO()
    csv.write_csv(
        pa.table(arrays, names=list(columns)),
        buffer,
        csv.WriteOptions(include_header=False, delimiter="\t", quoting_style="none"),
    )
    stream.write(buffer.getbuffer())


def _arrow(path: Path | str, label: str, column: np.ndarray) -> object:
    """A column as an Arrow array, texts quoted where they hold blanks."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if column.ndim != 1:
        raise OutputError(
            f"cannot write {path}: column {label} has shape {column.shape}, one value per row fits"
        )
    if column.dtype.kind in "iuf":
        return pa.array(column)
    if column.dtype.kind == "b":
        return pa.array(column.astype(np.int8))
    texts = pa.array([str(value) for value in column], type=pa.string())
    special = pc.match_substring_regex(texts, r"""^$|[\s"]|^['#;_]|^(?i:data_|loop_)""")
    if not pc.any(special).as_py():
        return texts
    return pa.array([_quoted(path, label, text) for text in texts.to_pylist()], type=pa.string())


def _quoted(path: Path | str, label: str, text: str) -> str:
    if any(c in text for c in '\n\r\t"\0'):
        raise OutputError(f"cannot write {path}: {label} holds {text!r}, which does not fit into a STAR file")
    needs = not text or " " in text or text[0] in "'#;_" or text[:5].lower() in ("data_", "loop_")
    return f"'{text}'" if needs else text
