"""Files of named arrays and a header, written whole or not at all. Nothing in them is ever run."""

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from parhelion.errors import OutputError

__all__ = ["write_archive"]


def write_archive(
    path: Path,
    header: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    *,
    what: str = "checkpoint",
    name: str = "header",
) -> None:
    """Write ``arrays`` and, as array ``name``, a ``header`` of JSON's types to an ``.npz`` file.

    Raises OutputError, which calls the file a ``what``; what was there before stays.
    """
    partial = path.with_name(f".{path.stem}.{os.getpid()}.part")
    text = {name: np.frombuffer(json.dumps(header).encode(), np.uint8)}
    try:
        with partial.open("wb") as stream:
            np.savez(stream, allow_pickle=False, **text, **arrays)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, path)
    except OSError as error:
        raise OutputError(
            f"the {what} {path} cannot be written ({error.strerror or error}); what was finished before "
            "is kept: make room and run again with --resume"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
