"""docs/acceptance.md names only commands, options and tests that exist, and each item once."""

import re
from pathlib import Path

import pytest

from parhelion import jobs
from parhelion.run.options import RunOptions

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "acceptance.md").read_text("utf-8")
ITEMS = {"CT": 288, "IM": 45, "RM": 66, "ST": 65, "SP": 74, "C": 25}
ITEM = re.compile(r"(CT|IM|RM|ST|SP|C)-?(\d+)")
TESTS = sorted(set(re.findall(r"`(tests/[^`]+)`", PAGE)))
QUOTED = set(re.findall(r"`([^`]+)`", PAGE))
COMMANDS = sorted(
    text for text in QUOTED if re.fullmatch(r"[a-z-]+( [a-z]+)?( --[a-z-]+)?", text) and text != "pip install"
)


def items(cell: str) -> list[tuple[str, int]]:
    """Every item of a first column such as ``CT-002 to CT-004, CT-006``."""
    found = []
    for part in cell.split(", "):
        ends = ITEM.findall(part)
        for number in range(int(ends[0][1]), int(ends[-1][1]) + 1):
            found.append((ends[0][0], number))
    return found


def test_every_item_is_listed_once() -> None:
    cells = re.findall(r"^\| ((?:CT|IM|RM|ST|SP|C)-?\d+[^|]*) \|", PAGE, re.MULTILINE)
    listed = [item for cell in cells for item in items(cell)]
    expected = [(name, number) for name, count in ITEMS.items() for number in range(1, count + 1)]
    assert sorted(listed) == sorted(expected)


@pytest.mark.parametrize("name", TESTS)
def test_the_test_exists(name: str) -> None:
    file, _, function = name.partition("::")
    assert (ROOT / file).is_file()
    if function:
        assert re.search(rf"^def {function}\(", (ROOT / file).read_text("utf-8"), re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_command_exists(command: str) -> None:
    name, _, option = command.partition(" --")
    job = jobs.load(name)
    if option and option not in ("help", "version"):
        assert option.replace("-", "_") in {*job.params.model_fields, *RunOptions.model_fields}


def test_there_is_something_to_check() -> None:
    assert len(TESTS) > 20
    assert {"refine", "abinitio", "refine-manual --align"} <= set(COMMANDS)
