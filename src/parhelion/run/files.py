"""JSON files that are never half written, and what a failed write means."""

import errno
import json
import shutil
from pathlib import Path
from typing import Any

from parhelion.errors import OutputError
from parhelion.io.atomic import write_text

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}
NEARLY_NOTHING_BYTES = 2**20


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file in one step; paths become text, NumPy values plain ones. Raises OutputError."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, default=plain) + "\n")


def plain(value: Any) -> Any:
    """A value that JSON does not know, as one that it does."""
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def output_error(error: OSError, folder: Path) -> OutputError | None:
    """The user's message for an operating-system error while writing to ``folder``; None if it is no such.

    Libraries that write arrays report a short write without an error number; a disk with nothing left
    tells them apart from other errors.
    """
    existing = next(p for p in [folder, *folder.absolute().parents] if p.exists())
    free = shutil.disk_usage(existing).free
    if error.errno in FULL or (error.errno is None and free < NEARLY_NOTHING_BYTES):
        return OutputError(
            f"{error.filename or folder}: the disk is full or a quota is reached ({free / 1e6:.0f} MB free); "
            "what was finished before is kept; make room and run again with --resume"
        )
    if error.errno in FORBIDDEN:
        return OutputError(f"{error.filename or folder} cannot be opened or written: {error.strerror}")
    return None
