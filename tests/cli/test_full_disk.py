"""A disk that is full in the middle of a run: one message, no traceback, nothing half written."""

import json
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from parhelion.io.mrc import write_volume
from parhelion.model.volume import Volume

LIMIT_BYTES = 400_000


def limit_files() -> None:
    """No file of the program may become larger than this: what a quota does, without a disk to fill."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT_BYTES, LIMIT_BYTES))


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    data = np.random.default_rng(1).normal(size=(24, 24, 24)).astype(np.float32)
    write_volume(tmp_path / "a.mrc", Volume(data=data, pixel_size_angstrom=4.0))
    return tmp_path / "a.mrc"


def test_message_and_record_but_no_half_file(volume: Path, tmp_path: Path) -> None:
    words = ["simulate", "particles", "-m", str(volume), "--count", "400", "-o", str(tmp_path / "out")]
    done = subprocess.run(
        [sys.executable, "-m", "parhelion.cli.main", *words, "--device", "cpu", "--quiet"],
        capture_output=True,
        text=True,
        preexec_fn=limit_files,
        check=False,
    )
    assert done.returncode == 1
    assert "particles.mrcs" in done.stderr
    assert "Traceback" not in done.stderr
    left = {path.name for path in (tmp_path / "out").iterdir()}
    assert "particles.mrcs" not in left
    assert not [name for name in left if ".part" in name]
    assert json.loads((tmp_path / "out" / "job.json").read_text())["status"] == "failed"
    assert (tmp_path / "out" / "reference.mrc").is_file()
