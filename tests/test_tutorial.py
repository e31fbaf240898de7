"""The commands of the tutorials, run one after another on a small simulated set."""

import contextlib
import io
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from parhelion.algorithms.simulate.demo_molecule import demo_molecule
from parhelion.cli.main import main
from parhelion.geometry.symmetry import symmetry_group
from parhelion.io.mrc import read_volume, write_volume
from parhelion.io.particles import read_particles

pytestmark = pytest.mark.long
PAGES = [
    Path(__file__).parents[1] / "docs" / name for name in ("tutorial-first-map.md", "tutorial-going-on.md")
]
BLOCKS = [
    block
    for page in PAGES
    for block in re.findall(r"^```(sh|python)\n(.*?)^```", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)
]
COUNT, BOX, PIXEL = 60, 36, 5.0
SMALLER = {
    "spa": "--starts 1 --rounds 3 --max-rounds 2",
    "refine": "--max-rounds 2",
    "fsc": "",
    "mask": "",
    "flip-hand": "",
    "postprocess": "",
    "simulate": "",
    "info": "",
    "class2d": "--classes 3 --cycles 2",
    "select": "",
    "classify3d": "--rounds 4",
    "refine-ctf": "",
    "refine-manual": "",
    "reconstruct": "",
    "convert": "",
}
"""Added to the page's commands, so that the test is fast."""


def command(line: str) -> int:
    words = shlex.split(line)
    assert words[0] == "parhelion"
    return main([*words[1:], *SMALLER[words[1]].split(), "--device", "cpu", "--threads", "1"])


def simulate(folder: Path) -> None:
    truth = demo_molecule(BOX, PIXEL, symmetry=symmetry_group("D2"), diameter_angstrom=150.0, seed=1)
    write_volume(folder / "molecule.mrc", truth)
    line = f"parhelion simulate particles --model molecule.mrc --count {COUNT} --snr 0.5 --output made"
    assert command(line) == 0
    for name in ("particles.star", "particles.mrcs"):
        (folder / "made" / name).rename(folder / name)


def test_the_tutorials_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    simulate(tmp_path)
    said = io.StringIO()
    assert len(BLOCKS) > 14
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        for language, block in BLOCKS:
            if language == "python":
                exec(compile(block, "tutorial", "exec"), {})
                continue
            for line in block.splitlines():
                assert command(line) == 0, said.getvalue()
                if "--dry-run" in line:
                    assert not (tmp_path / "first-map").exists()
    assert "finished already" in said.getvalue()
    assert re.search(r"^finished \d+", said.getvalue(), re.MULTILINE)
    report = (tmp_path / "first-map" / "report.html").read_text("utf-8")
    for section in re.findall(r"^- \*\*(.*)\*\*:", PAGES[0].read_text("utf-8"), re.MULTILINE):
        assert section in report
    assert len(read_particles(tmp_path / "second-map" / "particles.star")) == COUNT
    first, other = (read_volume(tmp_path / name / "map.mrc").data for name in ("first-map", "other-hand"))
    np.testing.assert_array_equal(first[:, :, 1:], other[:, :, :0:-1])
    for folder in ("first-map", "other-hand", "sharper", "wider-mask", "second-map", "first-against-second"):
        assert (tmp_path / folder / "report.html").is_file()
