"""Runs that are cut short, through the command line: a full disk and a kill; ``--resume`` goes on."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from parhelion.cli.main import main
from parhelion.io.mrc import read_volume, write_volume
from parhelion.model.volume import Volume

pytestmark = pytest.mark.long
BOX, COUNT = 32, 40
MAP_BYTES = 4 * BOX**3
HERE = ["--device", "cpu", "--threads", "1", "--quiet"]
REFINE = [
    *("refine", "--input", "particles.star", "--reference", "reference.mrc", "--diameter", "90"),
    *("--max-rounds", "3", "--results-to-refine", "2", "--initial-resolution", "20"),
    *HERE,
]
PROGRAM = "import sys; from parhelion.cli.main import main; sys.exit(main())"
KILL_IN_ROUND_TWO = """
import os, signal, sys
from parhelion.cli.main import main
from parhelion.run.context import Context

heard = Context.progress

def progress(self, stage, done, total):
    if stage.startswith("round 2, half 2"):
        os.kill(os.getpid(), signal.SIGKILL)
    heard(self, stage, done, total)

Context.progress = progress
sys.exit(main())
"""


def run(folder: Path, words: list[str], program: str = PROGRAM, limit: int | None = None) -> tuple[int, str]:
    """Exit code and standard error of the program in a process of its own.

    ``limit``: no file may become larger than this many bytes, as with a quota that is reached.
    """

    def limit_files() -> None:
        if limit is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    done = subprocess.run(
        [sys.executable, "-c", program, *words],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=limit_files,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    return done.returncode, done.stderr


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Particles, and a refinement of them that nothing interrupted, in ``whole``."""
    folder = tmp_path_factory.mktemp("simulated")
    rng = np.random.default_rng(5)
    z, y, x = np.indices((BOX,) * 3) - BOX // 2
    data = np.zeros((BOX,) * 3)
    for centre in rng.uniform(-6, 6, (9, 3)):
        data += np.exp(-((z - centre[0]) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2) / 4.5)
    write_volume(folder / "molecule.mrc", Volume(data=data.astype(np.float32), pixel_size_angstrom=4.0))
    words = f"simulate particles --model {folder}/molecule.mrc --count {COUNT} --snr 1 --output {folder}/made"
    assert main([*words.split(), *HERE]) == 0
    for name in ("particles.mrcs", "particles.star", "reference.mrc"):
        shutil.move(folder / "made" / name, folder / name)
    code, said = run(folder, [*REFINE, "--output", "whole"])
    assert code == 0, said
    return folder


def assert_same_result(folder: Path, output: str) -> None:
    for name in ("map", "half1", "half2", "mask"):
        expected, found = (read_volume(folder / out / f"{name}.mrc").data for out in ("whole", output))
        np.testing.assert_array_equal(found, expected)
    assert json.loads((folder / output / "job.json").read_text("utf-8"))["status"] == "finished"


@pytest.mark.parametrize("limit", [MAP_BYTES // 2, 2 * MAP_BYTES], ids=["maps", "checkpoints"])
def test_a_full_disk_ends_the_run_and_resume_goes_on(simulated: Path, limit: int) -> None:
    output = f"full_{limit}"
    code, said = run(simulated, [*REFINE, "--output", output], limit=limit)
    assert code == 1, said
    assert f"{output}/" in said
    assert "--resume" in said
    assert "Traceback" not in said
    result = simulated / output
    assert not [path.name for path in result.rglob("*") if ".part" in path.name]
    assert not list(result.glob("*.mrc"))
    record = json.loads((result / "job.json").read_text("utf-8"))
    assert record["status"] == "failed"
    assert record["error"] in said
    code, said = run(simulated, [*REFINE, "--output", output, "--resume"])
    assert code == 0, said
    assert_same_result(simulated, output)


def test_a_full_disk_leaves_no_half_mask(simulated: Path) -> None:
    words = ["mask", "--input", "reference.mrc", "--output", "mask", *HERE]
    code, said = run(simulated, words, limit=MAP_BYTES // 2)
    assert code == 1
    assert "mask/mask.mrc" in said
    assert "free space" in said
    assert sorted(path.name for path in (simulated / "mask").iterdir()) == [
        "job.json",
        "log.txt",
        "report.html",
    ]
    assert run(simulated, [*words, "--overwrite"])[0] == 0
    assert read_volume(simulated / "mask" / "mask.mrc").data.shape == (BOX,) * 3


def test_a_kill_in_the_middle_of_a_round_loses_that_round_only(simulated: Path) -> None:
    code, said = run(simulated, [*REFINE, "--output", "killed"], KILL_IN_ROUND_TWO)
    assert code == -signal.SIGKILL, said
    result = simulated / "killed"
    assert [path.name for path in (result / "checkpoints").iterdir()] == ["round_001.npz"]
    assert not list(result.glob("*.mrc"))
    code, said = run(simulated, [*REFINE, "--output", "killed"])
    assert code == 1
    assert "--resume goes on with it" in said
    code, said = run(simulated, [*REFINE, "--output", "killed", "--resume"])
    assert code == 0, said
    assert_same_result(simulated, "killed")
    history = json.loads((result / "history.json").read_text("utf-8"))
    assert [row["round"] for row in history["rounds"]] == [1, 2, 3]
    assert "going on after round 1" in (result / "log.txt").read_text("utf-8")
