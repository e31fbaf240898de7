"""Help is complete and loads nothing heavy."""

import subprocess
import sys

import pytest

from parhelion import jobs
from parhelion.cli.main import main

HEAVY = ("torch", "pandas", "numpy", "scipy", "matplotlib", "numba")
PROBE = """
import sys
from parhelion.cli.main import main
code = main({words!r})
print("LOADED", *sorted(set(m.split(".")[0] for m in sys.modules) & set({heavy!r})), file=sys.stderr)
sys.exit(code)
"""


@pytest.mark.parametrize(
    "words", [["--help"], ["--version"], ["fsc", "--help"], ["simulate", "particles", "-h"]]
)
def test_help_loads_nothing_heavy(words: list[str]) -> None:
    program = PROBE.format(words=words, heavy=HEAVY)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "LOADED"


def test_importing_the_package_and_listing_its_functions_is_light() -> None:
    program = (
        "import sys, parhelion; assert 'fsc' in dir(parhelion); parhelion.fsc;"
        f"print(*set(sys.modules) & set({HEAVY!r}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_overview_lists_every_job(capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert main([]) == 0
    shown = capsys.readouterr().out
    for name, summary in jobs.summaries().items():
        assert name in shown
        assert summary in shown


def test_summaries_are_those_of_the_declarations() -> None:
    for name, summary in jobs.summaries().items():
        assert jobs.load(name).summary == summary


def test_job_help_tells_how_to_type_an_option(capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["refine-manual", "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "--align WORD" in shown and "one of none, local, global" in shown
    assert "any of psi, theta, phi, x, y, default: psi,theta,phi,x,y" in shown
    assert "default: yes, --no-auto-mask turns it off" in shown


def test_options_without_a_heading_come_first(capsys) -> None:
    for name in ("reconstruct", "merge3d"):
        assert main([name, "--help"]) == 0
        shown = capsys.readouterr().out
        assert shown.index("\nOptions\n") < shown.index("\nMaps and their mask\n")


def test_schema_is_json(capsys) -> None:
    import json

    assert main(["fsc", "--schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert schema["properties"]["pixel_size"]["unit"] == "Å"
