"""How much memory there is, and whether a job fits."""

import contextlib
import ctypes
import resource
import sys
from pathlib import Path
from typing import ClassVar

from parhelion.errors import ResourceError

PROGRAM_BYTES = 350_000_000
"""Memory of Python with torch, NumPy and Numba loaded, before a job allocates anything (measured)."""

M_TRIM, M_MMAP_MAX, M_ARENAS = -1, -4, -8
CGROUP = Path("/sys/fs/cgroup")
MEMINFO = Path("/proc/meminfo")
STATUS = Path("/proc/self/status")
CLEAR = Path("/proc/self/clear_refs")


def show_bytes(count: float) -> str:
    """``12.3 GB`` or ``460 MB``."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def available_bytes(cgroup: Path = CGROUP, meminfo: Path = MEMINFO) -> int | None:
    """Memory that this process can still take: the machine's or its container's, whichever is less.

    None where the system tells neither. Page cache that the container could give back counts as free.
    """
    limits = [_machine(meminfo), _container(cgroup / "memory.max", cgroup / "memory.current", cgroup)]
    version_1 = cgroup / "memory"
    limits.append(
        _container(version_1 / "memory.limit_in_bytes", version_1 / "memory.usage_in_bytes", version_1)
    )
    known = [limit for limit in limits if limit is not None]
    return min(known) if known else None


def _machine(meminfo: Path) -> int | None:
    if not meminfo.is_file():
        return None
    for line in meminfo.read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _container(limit_file: Path, usage_file: Path, folder: Path) -> int | None:
    if not (limit_file.is_file() and usage_file.is_file()):
        return None
    limit = limit_file.read_text().strip()
    if not limit.isdigit() or int(limit) >= 2**60:
        return None
    cache = 0
    stat = folder / "memory.stat"
    if stat.is_file():
        fields = dict(line.split() for line in stat.read_text().splitlines() if len(line.split()) == 2)
        cache = int(fields.get("total_inactive_file", fields.get("inactive_file", 0)))
    return int(limit) - int(usage_file.read_text()) + cache


class PeakMeter:
    """The largest resident memory of this process since the meter was made.

    Linux keeps one high-water mark per process, which can be set back; meters that run inside each other
    (a job and its steps) tell each other what they read before they do so. Elsewhere the mark is that of
    the whole process.
    """

    _running: ClassVar[list["PeakMeter"]] = []

    def __init__(self) -> None:
        self._peak = 0
        self._share()
        with contextlib.suppress(OSError):
            CLEAR.write_text("5")
        self._running.append(self)

    def stop(self) -> int:
        """The peak in bytes; a second call gives the same."""
        if self in self._running:
            self._share()
            self._running.remove(self)
        return self._peak

    @classmethod
    def _share(cls) -> None:
        mark = high_water_bytes()
        for meter in cls._running:
            meter._peak = max(meter._peak, mark)


def high_water_bytes() -> int:
    """The process's high-water mark of resident memory."""
    if STATUS.is_file():
        for line in STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def require(job: str, needed: int, available: int | None) -> None:
    """Raise ResourceError where ``needed`` bytes are more than there are."""
    if available is not None and needed > available:
        raise ResourceError(
            f"{job} needs about {show_bytes(needed)} of memory here and {show_bytes(available)} are "
            "available; use fewer threads, a smaller box, or a machine with more memory"
        )


def keep_freed_memory() -> bool:
    """Let the C library keep what large arrays leave behind, for the next ones; whether it could be told to.

    Movies of one size follow each other. Memory that goes back to the system after each must be cleared by it
    page by page, which for large frames takes a third of the time of motion correction. Only glibc can be
    told; the peak hardly changes, but memory stays with the process until it ends.
    """
    try:
        tell = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return False
    # numbers of malloc.h; one arena, since those of threads could not grow beyond 64 MB
    return all(tell(option, value) for option, value in ((M_MMAP_MAX, 0), (M_TRIM, 2**31 - 1), (M_ARENAS, 1)))
