"""Files that are either written whole or not at all.

A file is written under a temporary name in its own folder and renamed when it is complete, so that a
reader never meets half a file and a failure leaves what was there before.
"""

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from parhelion.errors import OutputError


@contextlib.contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it to ``path`` when the block ends well.

    When the block fails, or is interrupted, the temporary file is removed and ``path`` is untouched.
    Raises OutputError, naming ``path``, for every failure of the file system.
    """
    final = Path(os.path.realpath(path))
    if final.is_dir():
        raise OutputError(f"cannot write {path}: it is a folder")
    if not final.parent.is_dir():
        raise OutputError(f"cannot write {path}: the folder {final.parent} does not exist")
    # the suffix stays last because some libraries choose a format by it
    partial = final.with_name(f".{final.stem[:100]}.{secrets.token_hex(4)}.part{final.suffix}")
    try:
        yield partial
        with partial.open("rb+") as stream:
            os.fsync(stream.fileno())
        os.replace(partial, final)
    except OSError as error:
        raise output_error(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def output_error(path: Path | str, error: OSError) -> OutputError:
    """What a failed write means to the user."""
    reason = error.strerror or str(error)
    return OutputError(f"cannot write {path}: {reason}; free space or choose another output folder")


def write_bytes(path: Path | str, content: bytes) -> None:
    """Write ``content`` to ``path``, whole or not at all. Raises OutputError."""
    with atomic_path(path) as partial:
        partial.write_bytes(content)


def write_text(path: Path | str, text: str) -> None:
    """Write ``text`` as UTF-8 to ``path``, whole or not at all. Raises OutputError."""
    write_bytes(path, text.encode())
