"""``job.json``: what was run, on which inputs, with which versions, where, how long and with what end."""

import hashlib
import importlib.metadata
import os
import platform
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from parhelion.registry import Job, JobParams, Result, input_files
from parhelion.run.files import write_json
from parhelion.run.memory import PeakMeter

HEADER_BYTES = 64 * 1024
FULL_CHECKSUM_BELOW_BYTES = 64 * 2**20
FILE = "job.json"


def describe_input(option: str, path: Path, *, checksum: bool) -> dict[str, Any]:
    """Identity of an input file: size, time, hash of its first 64 KiB, and of all of it if small or asked."""
    info = path.stat()
    with path.open("rb") as file:
        header = file.read(HEADER_BYTES)
        described = {
            "option": option,
            "path": str(path),
            "absolute_path": str(path.resolve()),
            "size_bytes": info.st_size,
            "modified": datetime.fromtimestamp(info.st_mtime, UTC).isoformat(timespec="seconds"),
            "header_sha256": hashlib.sha256(header).hexdigest(),
        }
        if checksum or info.st_size <= FULL_CHECKSUM_BELOW_BYTES:
            file.seek(0)
            described["sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
    return described


def versions() -> dict[str, str]:
    """Versions of what the result depends on, without importing it."""
    found = {"python": platform.python_version(), "system": platform.platform()}
    for package in ("parhelion", "torch", "numpy", "scipy", "numba"):
        found[package] = importlib.metadata.version(package)
    return found


class JobRecord:
    """The content of a ``job.json``, written in one step whenever it changes."""

    def __init__(self, folder: Path, content: dict[str, Any]) -> None:
        self.folder = folder
        self.content = content
        self._start = time.monotonic()
        self._cpu_start = _cpu_seconds()
        self._memory = PeakMeter()

    @classmethod
    def begin(cls, job: Job, params: JobParams, options: Mapping[str, Any], folder: Path) -> "JobRecord":
        """Record that ``job`` starts now, in its folder."""
        checksum = bool(options.get("checksum"))
        inputs = [describe_input(name, path, checksum=checksum) for name, path, _ in input_files(params)]
        record = cls(
            folder,
            {
                "job": job.name,
                "status": "running",
                "parameters": params.model_dump(mode="json"),
                "options": dict(options),
                "inputs": inputs,
                "versions": versions(),
                "command": sys.argv,
                "working_folder": str(Path.cwd()),
                "host": platform.node(),
                "process": os.getpid(),
                "started": _now(),
            },
        )
        record.write()
        return record

    def update(self, **values: Any) -> None:
        """Change the record and write it."""
        self.content.update(values)
        self.write()

    def finish(self, status: str, result: Result | None = None, **values: Any) -> None:
        """Record how the job ended."""
        if result is not None:
            values["figures"] = dict(result.figures)
            values["outputs"] = {name: relative(found, self.folder) for name, found in result.outputs.items()}
            values["notices"] = list(result.notices)
        self.update(
            status=status,
            finished=_now(),
            wall_seconds=round(time.monotonic() - self._start, 3),
            cpu_seconds=round(_cpu_seconds() - self._cpu_start, 3),
            peak_memory_bytes=self._memory.stop(),
            **values,
        )

    def write(self) -> None:
        """Write the file."""
        write_json(self.folder / FILE, self.content)


def relative(found: Path | list[Path], folder: Path) -> str | list[str]:
    """Output paths as they are recorded: relative to the output folder, so that it can be moved."""
    if isinstance(found, list):
        return [str(path.relative_to(folder)) for path in found]
    return str(found.relative_to(folder))


def recorded_result(content: Mapping[str, Any], folder: Path) -> Result:
    """The result of a finished job from its record."""
    outputs: dict[str, Path | list[Path]] = {
        name: [folder / one for one in found] if isinstance(found, list) else folder / found
        for name, found in content["outputs"].items()
    }
    return Result(
        figures=content["figures"], outputs=outputs, folder=folder, notices=tuple(content["notices"])
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _cpu_seconds() -> float:
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system
