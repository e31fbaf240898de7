"""``log.txt``: everything a run said, with times; also the lock of the output folder."""

import fcntl
import threading
from datetime import datetime
from pathlib import Path
from typing import TextIO

from parhelion.errors import OutputError


class RunLog:
    """Appends lines to a file and holds its lock: two runs in one folder would spoil each other."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._guard = threading.Lock()
        self._file: TextIO = path.open("a", encoding="utf-8")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise OutputError(
                f"another parhelion job is writing to {path.parent}; wait for it or choose another folder"
            ) from None
        except OSError:
            # Some network file systems know no locks: then nobody watches, and the run goes on.
            self.write("this file system has no locks; do not start a second run in this folder")

    def clear(self) -> None:
        """Forget what earlier runs said."""
        with self._guard:
            self._file.truncate(0)

    def write(self, message: str) -> None:
        """One entry; continuation lines are indented."""
        stamp = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S")
        with self._guard:
            self._file.write(f"{stamp}  {message.replace(chr(10), chr(10) + ' ' * 21)}\n")
            self._file.flush()

    def close(self) -> None:
        """Close the file and release the lock."""
        self._file.close()
