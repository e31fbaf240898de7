"""Available memory is the machine's or the container's, whichever is less."""

import mmap
import subprocess
import sys
from pathlib import Path

import pytest

from parhelion.errors import ResourceError
from parhelion.run.memory import (
    STATUS,
    PeakMeter,
    available_bytes,
    high_water_bytes,
    require,
    show_bytes,
)

GB = 10**9


@pytest.fixture
def meminfo(tmp_path: Path) -> Path:
    path = tmp_path / "meminfo"
    path.write_text("MemTotal:       16000000 kB\nMemAvailable:    8000000 kB\n")
    return path


def test_machine_without_limits(tmp_path: Path, meminfo: Path) -> None:
    assert available_bytes(tmp_path / "none", meminfo) == 8000000 * 1024


def test_container_of_version_2_counts_cache_as_free(tmp_path: Path, meminfo: Path) -> None:
    (tmp_path / "memory.max").write_text(f"{4 * GB}\n")
    (tmp_path / "memory.current").write_text(f"{3 * GB}\n")
    (tmp_path / "memory.stat").write_text(f"anon 5\ninactive_file {GB}\n")
    assert available_bytes(tmp_path, meminfo) == 2 * GB


def test_container_without_a_limit(tmp_path: Path, meminfo: Path) -> None:
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text(f"{3 * GB}\n")
    assert available_bytes(tmp_path, meminfo) == 8000000 * 1024


def test_container_of_version_1(tmp_path: Path, meminfo: Path) -> None:
    folder = tmp_path / "memory"
    folder.mkdir()
    (folder / "memory.limit_in_bytes").write_text(f"{2 * GB}\n")
    (folder / "memory.usage_in_bytes").write_text(f"{GB}\n")
    assert available_bytes(tmp_path, meminfo) == GB


def test_unknown_memory_refuses_nothing(tmp_path: Path) -> None:
    assert available_bytes(tmp_path, tmp_path / "none") is None
    require("job", 10**18, None)


def test_refusal_says_both_numbers() -> None:
    with pytest.raises(ResourceError, match=r"refine needs about 12\.0 GB.*8\.0 GB are available"):
        require("refine", 12 * GB, 8 * GB)


def take(count: int) -> None:
    """Touch this many bytes and give them back; to the system, which the heap need not do."""
    with mmap.mmap(-1, count) as held:
        for page in range(0, count, mmap.PAGESIZE):
            held[page] = 1


@pytest.mark.skipif(not STATUS.is_file(), reason="only Linux keeps a mark that can be set back")
def test_each_meter_sees_its_own_time_and_an_outer_one_all() -> None:
    outer = PeakMeter()
    before = high_water_bytes()
    take(300_000_000)
    inner = PeakMeter()
    take(100_000_000)
    assert before + 50_000_000 < inner.stop() < before + 200_000_000
    later = PeakMeter()
    assert later.stop() < before + 50_000_000
    assert outer.stop() > before + 200_000_000


@pytest.mark.parametrize(("count", "shown"), [(12.34e9, "12.3 GB"), (4.6e8, "460 MB")])
def test_bytes_are_readable(count: float, shown: str) -> None:
    assert show_bytes(count) == shown


def test_freed_memory_is_kept() -> None:
    """In a process of its own: after the call, arrays of a size seen before cost no new pages."""
    program = """
import resource, sys
import numpy as np
from parhelion.run.memory import keep_freed_memory
told = keep_freed_memory()
np.ones(40_000_000, np.uint8)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    np.ones(40_000_000, np.uint8)
print(int(told), resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    told, faults = map(int, found.stdout.split())
    if not told:
        pytest.skip("the C library is not glibc")
    # with the largest pages there are, each array would cost twenty
    assert faults < 100
