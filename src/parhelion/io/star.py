"""STAR tables as RELION, cisTEM and their tools write them (Hall 1991, J. Chem. Inf. Comput. Sci. 31).

A file holds named blocks, a block one table: a loop with any number of rows, or a list of single values.
Rows go through the C parser of pandas; rows with quotes or comments between them are split here.
"""

import io
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from parhelion.errors import FormatError, InputError
from parhelion.io.star_writer import write_star
from parhelion.model.table import Table

__all__ = ["read_star", "write_star"]

TOKEN = re.compile(r"'((?:[^']|'(?=\S))*)'(?=\s|$)|\"((?:[^\"]|\"(?=\S))*)\"(?=\s|$)|(\S+)")
EMPTY = "\x01"
"""Stands for an empty quoted text while rows are parsed."""
NEXT_BLOCK = (b"\ndata_", b"\nloop_")


def read_star(path: Path | str) -> dict[str, Table]:
    """The tables of a STAR file by block name (``data_particles`` → ``particles``, ``data_`` → ``""``).

    Column names lose their leading underscore. A column is int64 or float64 where all its values are
    numbers, else str (object array); columns whose name ends in ``Name`` are always str. Raises InputError
    where the file cannot be opened, FormatError, with the line, where it is not STAR.
    """
    path = Path(path)
    text = _text(path)
    blocks: dict[str, Table] = {}
    for name, table in _Parser(path, text).blocks():
        if name in blocks:
            raise FormatError(f"{path} holds the block data_{name} twice")
        blocks[name] = table
    if not blocks:
        raise FormatError(f"{path} is no STAR file: it holds no data_ block")
    return blocks


def _text(path: Path) -> bytes:
    """The file's bytes with Unix line ends, checked to be text."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    if b"\0" in text:
        raise FormatError(f"{path} is no STAR file: it holds binary data")
    if not text.isascii():
        try:
            text.decode()
        except UnicodeDecodeError as error:
            raise FormatError(f"{path} is no UTF-8 text (byte {error.start}); is it a STAR file?") from error
    return text.replace(b"\r\n", b"\n").replace(b"\r", b"\n") if b"\r" in text else text


class _Parser:
    """Walks over the lines of a file; loops are handed to the row reader as a whole."""

    def __init__(self, path: Path, text: bytes) -> None:
        self.path, self.text, self.at = path, text, 0

    def blocks(self) -> Iterator[tuple[str, Table]]:
        """Name and table of each block."""
        name: str | None = None
        table: Table | None = None
        values: dict[str, str] = {}
        for line in self._lines():
            if line.startswith("data_"):
                if name is not None:
                    yield name, self._merged(name, table, values)
                name, table, values = line.split()[0][5:], None, {}
            elif name is None:
                raise self._error(f"found {line[:60]!r} before any data_ block; is it a STAR file?")
            elif line.startswith("loop_"):
                if table is not None:
                    raise self._error(f"data_{name} holds a second loop_; a table has one")
                table = self._loop()
            elif line.startswith("_"):
                tokens = _tokens(line)
                if len(tokens) != 2:
                    raise self._error(f"{tokens[0]} is followed by {len(tokens) - 1} values, one is expected")
                if tokens[0][1:] in values:
                    raise self._error(f"{tokens[0]} appears twice in data_{name}")
                values[tokens[0][1:]] = tokens[1]
            else:
                raise self._error(f"found {line[:60]!r}, expected data_, loop_ or a _label")
        if name is not None:
            yield name, self._merged(name, table, values)

    def _merged(self, name: str, table: Table | None, values: dict[str, str]) -> Table:
        if table is not None and values:
            raise self._error(f"data_{name} holds a loop_ and single values; a table is one or the other")
        return table if table is not None else Table({k: _typed(k, [v]) for k, v in values.items()})

    def _lines(self) -> Iterator[str]:
        """Stripped lines from where the parser stands that are neither blank nor comments."""
        while self.at < len(self.text):
            end = self.text.find(b"\n", self.at)
            end = len(self.text) if end < 0 else end
            line = self.text[self.at : end].decode().strip()
            self.at = end + 1
            if line and not line.startswith("#"):
                yield line

    def _loop(self) -> Table:
        labels: list[str] = []
        start = self.at
        for line in self._lines():
            if not line.startswith("_"):
                break
            start = self.at
            labels.append(line.split()[0][1:])
        if not labels:
            raise self._error("loop_ is not followed by _labels")
        if len(set(labels)) < len(labels):
            twice = next(label for label in labels if labels.count(label) > 1)
            raise self._error(f"_{twice} appears twice in one loop_")
        # step back to the newline that ends the last label, so that a block may follow at once
        start = min(start, len(self.text))
        ends = [end for mark in NEXT_BLOCK if (end := self.text.find(mark, max(start - 1, 0))) >= 0]
        end = min(ends, default=len(self.text))
        self.at = end
        return self._rows(labels, start, max(start, end))

    def _rows(self, labels: list[str], start: int, end: int) -> Table:
        # blank lines and comments at the end belong to the next block
        while end > start:
            line = self.text.rfind(b"\n", start, end - 1) + 1 or start
            content = self.text[line:end].strip()
            if content and not content.startswith(b"#"):
                break
            end = line
        rows = self.text[start:end]
        if not rows:
            return Table({label: np.empty(0, object) for label in labels})
        marks = _marks(rows)
        table = _fast_rows(labels, rows, quoted=bool(marks)) if marks <= {b"'"} else None
        return table if table is not None else self._slow_rows(labels, start, rows)

    def _slow_rows(self, labels: list[str], start: int, rows: bytes) -> Table:
        """Rows line by line: quotes, comments, and the number of the line that is wrong."""
        columns: list[list[str]] = [[] for _ in labels]
        for number, line in enumerate(rows.decode().split("\n")):
            tokens = _tokens(line)
            if not tokens:
                continue
            if len(tokens) != len(labels):
                self.at = start
                raise self._error(
                    f"found {len(tokens)} values for {len(labels)} columns: {line[:80]!r}", number
                )
            for column, token in zip(columns, tokens):
                column.append(token)
        return Table({label: _typed(label, column) for label, column in zip(labels, columns)})

    def _error(self, what: str, further: int = -1) -> FormatError:
        line = self.text.count(b"\n", 0, min(self.at, len(self.text))) + 1 + further
        return FormatError(f"{self.path}, line {max(line, 1)}: {what}")


def _tokens(line: str) -> list[str]:
    """Values of a line; a quoted value may hold blanks, a ``#`` that begins a word begins a comment."""
    if not any(mark in line for mark in "'\"#"):
        return line.split()
    tokens = []
    for match in TOKEN.finditer(line):
        if match.group(3) is not None and match.group(3).startswith("#"):
            break
        tokens.append(next(group for group in match.groups() if group is not None))
    return tokens


def _marks(rows: bytes) -> set[bytes]:
    """Marks that begin a word, a quote or a comment, and blanks that are neither a space nor a tab."""
    found = {blank for blank in (b"\x0b", b"\x0c") if blank in rows}
    for mark in (b"#", b"'", b'"'):
        if mark in rows and (
            rows.startswith(mark) or any(before + mark in rows for before in (b"\n", b" ", b"\t"))
        ):
            found.add(mark)
    return found


def _fast_rows(labels: list[str], rows: bytes, *, quoted: bool) -> Table | None:
    """Rows by the C parser; None where they do not all have one value per label.

    ``quoted`` allows values in single quotes, as cisTEM writes names.
    """
    import csv

    import pandas as pd

    if quoted:
        if EMPTY.encode() in rows:
            return None
        # the parser cannot tell an empty text from a value that is missing
        rows = rows.replace(b"''", EMPTY.encode())
    try:
        frame = pd.read_csv(
            io.BytesIO(rows),
            sep=r"\s+",
            header=None,
            na_filter=False,
            quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
            quotechar="'",
            low_memory=False,
            dtype={i: object for i, label in enumerate(labels) if label.endswith("Name")},
        )
    except (ValueError, OverflowError):
        return None
    if frame.shape[1] != len(labels):
        return None
    # a quote that is never closed makes the parser take lines together
    if quoted and len(frame) != sum(1 for line in rows.split(b"\n") if line.strip()):
        return None
    columns = {}
    for position, label in enumerate(labels):
        column = frame[position].to_numpy()
        if column.dtype not in (np.int64, np.float64):
            named = label.endswith("Name")
            # integers beyond int64 and words like True stay texts
            column = (frame[position] if named else frame[position].astype(str)).to_numpy(object)
            # the parser fills what is missing at the end of a short row with an empty string
            if (column == "").any():
                return None
            if quoted:
                column = np.array(
                    ["" if value == EMPTY else value.replace(EMPTY, "''") for value in column], dtype=object
                )
            column = column if named else _numbers(column)
        columns[label] = column
    return Table(columns)


def _typed(label: str, values: list[str]) -> np.ndarray:
    column = np.array(values, dtype=object)
    if label.endswith("Name") or any("_" in value for value in values):
        return column
    try:
        return np.array([int(value) for value in values], dtype=np.int64)
    except (ValueError, OverflowError):
        return _numbers(column)


def _numbers(column: np.ndarray) -> np.ndarray:
    """float64 where every value is a number (nan and inf are), else the column as it is.

    Integers that float64 cannot hold stay texts, so that identifiers keep their digits; so do words that
    only Python takes for numbers (1_000).
    """
    try:
        float(column[0])
        numbers = column.astype(np.float64)
    except ValueError:
        return column
    kept = np.abs(numbers) >= 2.0**53
    if any("_" in value for value in column) or any(str(v).lstrip("+-").isdigit() for v in column[kept]):
        return column
    return numbers
