"""What the modules ``test_bad_*`` share: a case of bad input, its run through the command line, its section
of a documentation page."""

import contextlib
import hashlib
import io
import json
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from parhelion.cli.main import main
from parhelion.model.volume import Volume

DOCS = Path(__file__).parents[1] / "docs"
OUTDATED = "the page is out of date: scripts/docs writes it"


@dataclass(frozen=True)
class Case:
    """One thing that is wrong: how it comes about, the command, and what must be said."""

    title: str
    command: str
    said: tuple[str, ...]
    code: int = 2
    prepare: Callable[[Path], None] = lambda folder: None
    before: str = ""
    """A command that is run first."""
    used: int | None = None
    """Particles, or micrographs, that must be in the resulting table, for cases that go on with a notice."""
    remark: str = ""
    ends: str = ""
    """How the run ends, where the exit code does not say it."""

    @property
    def name(self) -> str:
        return re.sub(r"\W+", "-", self.title.lower()).strip("-")


def table(change: Callable[[str], str], name: str = "particles.star") -> Callable[[Path], None]:
    """Rewrites a table."""

    def prepare(folder: Path) -> None:
        text = (folder / name).read_text("utf-8")
        changed = change(text)
        assert changed != text
        (folder / name).write_text(changed, "utf-8")

    return prepare


def cut(name: str, length: int) -> Callable[[Path], None]:
    """Leaves the first ``length`` bytes of a file."""

    def prepare(folder: Path) -> None:
        content = (folder / name).read_bytes()
        assert len(content) > length
        (folder / name).write_bytes(content[:length])

    return prepare


def blobs(box: int, pixel_size_angstrom: float, *, width: float, spread: float, count: int) -> Volume:
    """A molecule of a few blobs of variance ``width`` (pixels²), up to ``spread`` pixels from the axes."""
    rng = np.random.default_rng(5)
    z, y, x = np.indices((box,) * 3) - box // 2
    data = np.zeros((box,) * 3)
    for centre in rng.uniform(-spread, spread, (count, 3)):
        square = (z - centre[0]) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2
        data += np.exp(-square / (2 * width))
    return Volume(data=data.astype(np.float32), pixel_size_angstrom=pixel_size_angstrom)


def command(line: str, quick: Mapping[str, str]) -> list[str]:
    """The words of a command, with the options of ``quick`` for its job, on one thread."""
    words = shlex.split(line)
    return [*words, *quick.get(words[0], "").split(), "--device", "cpu", "--threads", "1"]


def silently(line: str, quick: Mapping[str, str]) -> None:
    """Run a command that must succeed."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as heard:
        assert main(command(line, quick)) == 0, heard.getvalue()


def answer(folder: Path, case: Case, quick: Mapping[str, str]) -> tuple[int, str]:
    """Exit code of a case in ``folder``, and what was said: notices and errors, then the closing summary."""
    case.prepare(folder)
    with contextlib.chdir(folder):
        if case.before:
            silently(case.before, quick)
        before = checksums(folder)
        with (
            contextlib.redirect_stdout(io.StringIO()) as summary,
            contextlib.redirect_stderr(io.StringIO()) as heard,
        ):
            code = main(command(case.command, quick))
    after = checksums(folder)
    assert {name: after.get(name) for name in before} == before, "a file was lost or changed"
    said = heard.getvalue() + summary.getvalue()
    assert "Traceback" not in said
    return code, said.replace(f"{folder}/", "")


def checksums(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def shown(case: Case, code: int, heard: str) -> str:
    """The case's section of the page."""
    lines = [line for line in heard.splitlines() if any(re.search(said, line) for said in case.said)]
    parts = [f"## {case.title}", case.remark, "```", f"$ parhelion {case.command}", *lines, "```"]
    ends = "the run goes on" if code == 0 else "nothing is computed" if code == 2 else "the run ends"
    ends = case.ends or ends
    text = "\n".join(part for part in (parts[0], "", *([parts[1], ""] if case.remark else []), *parts[2:]))
    return f"{text}\n\nExit code {code}: {ends}.\n"


def check_said(case: Case, code: int, heard: str, page: Path, *, numbers: bool = True) -> None:
    """Exit code and words are those of the case, and the page shows them; without ``numbers`` only the words,
    for cases whose numbers follow from a simulation."""
    assert code == case.code, heard
    for said in case.said:
        assert re.search(said, heard, re.MULTILINE), heard
    section, whole = shown(case, code, heard), page.read_text("utf-8")
    if not numbers:
        section, whole = (re.sub(r"-?\d[\d,.]*", "#", text) for text in (section, whole))
    assert section in whole, OUTDATED


def check_whole(folder: Path, case: Case, code: int, results: tuple[str, ...]) -> None:
    """Nothing is half written; a good run is finished, a failed one leaves a record of it or nothing.

    ``results`` are the patterns of files that a failed run must not leave at the top of its folder.
    """
    result = folder / "result"
    assert not [path.name for path in folder.rglob("*") if ".part" in path.name]
    if code == 0:
        assert json.loads((result / "job.json").read_text("utf-8"))["status"] == "finished"
        assert (result / "report.html").is_file()
    elif result.exists():
        record = json.loads((result / "job.json").read_text("utf-8"))
        assert record["status"] == "failed"
        assert record["error"]
        assert not [path for pattern in results for path in result.glob(pattern)]
