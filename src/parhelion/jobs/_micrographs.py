"""What jobs on movies and micrographs share: options, the typed input, and one piece of work per file.

``each`` runs a function for every micrograph: with progress, on all threads, going on where an earlier run
stopped, and leaving out files that fail, which are named at the end.
"""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, BeforeValidator

from parhelion.errors import Cancelled, InputError, OutputError, ParhelionError, ResourceError
from parhelion.jobs._inputs import check_exists, expand, expand_one
from parhelion.registry import FileKind, option

if TYPE_CHECKING:
    import numpy as np

    from parhelion.contracts import Observer
    from parhelion.model.micrographs import Micrographs
    from parhelion.run.context import Context

Row = dict[str, Any]
SHOWN_FAILURES = 100
NAMED_FAILURES = 10


def pixel_size_option(group: str | None = None) -> Any:
    """``--pixel-size`` of the stored pixels, for input that lacks it or is wrong."""
    return option(
        None,
        help="pixel size of the movies or micrographs as they are stored, where the input is wrong or silent",
        unit="Å",
        ge=0.1,
        le=30,
        default_text="from the table or the files' headers",
        group=group,
    )


def voltage_option(group: str | None = None) -> Any:
    """``--voltage``."""
    return option(
        None,
        help="acceleration voltage",
        unit="kV",
        ge=60,
        le=400,
        default_text="from the table",
        group=group,
    )


def cs_option(group: str | None = None) -> Any:
    """``--cs``."""
    return option(
        None,
        help="spherical aberration",
        unit="mm",
        ge=0,
        le=10,
        default_text="from the table",
        group=group,
    )


def amplitude_contrast_option(group: str | None = None) -> Any:
    """``--amplitude-contrast``."""
    return option(
        None, help="amplitude contrast", unit="1", ge=0, le=1, default_text="from the table", group=group
    )


def one_kind(paths: tuple[Path, ...]) -> tuple[Path, ...]:
    """InputError unless it is one STAR file of micrographs or movies, or image files one of which is one.

    A file in a long list may be damaged: it is left out and named when its turn comes.
    """
    from parhelion.io.relion_micrographs import read_micrographs

    if any(path.suffix.lower() == ".star" for path in paths):
        read_micrographs(paths, needs=())
        return paths
    problems = []
    for path in paths:
        problem = _problem(path)
        if problem is None:
            return paths
        problems.append(problem)
    raise problems[0]


def _problem(path: Path) -> InputError | None:
    """Why a file holds no image, as far as its first bytes tell."""
    from parhelion.io.formats import format_of

    if path.suffix.lower() == ".eer":
        return None
    try:
        known = format_of(path, kind="stack")
        with path.open("rb") as stream:
            head = stream.read(16_384)
    except (InputError, OSError) as error:
        return InputError(str(error)) if isinstance(error, OSError) else error
    if known.sniff(head) or (known.name == "mrcs" and len(head) >= 1024):
        # early MRC files lack the stamp; opening them says whether their header makes sense
        return None
    return InputError(f"{path} is no image file: it begins with neither an MRC, a TIFF nor a SPIDER header")


MicrographFile = Annotated[Path, BeforeValidator(expand_one), FileKind("movies or micrographs", check_exists)]
MicrographFiles = Annotated[tuple[MicrographFile, ...], BeforeValidator(expand), AfterValidator(one_kind)]
"""One STAR file of movies or micrographs, or any number of image files or quoted patterns."""


def read(
    observer: "Observer",
    paths: Sequence[Path],
    *,
    pixel_size: float | None = None,
    voltage: float | None = None,
    cs: float | None = None,
    amplitude_contrast: float | None = None,
    movies: bool | None = None,
    needs: Sequence[str] | None = None,
) -> "Micrographs":
    """Movies or micrographs of ``paths``; what was assumed goes to ``observer`` as notices.

    Arguments and errors as ``parhelion.io.relion_micrographs.read_micrographs``; ``needs`` None is all.
    """
    from parhelion.io.relion_micrographs import NEEDS, read_micrographs

    notes: list[str] = []
    found = read_micrographs(
        paths,
        pixel_size_angstrom=pixel_size,
        voltage_kv=voltage,
        spherical_aberration_mm=cs,
        amplitude_contrast=amplitude_contrast,
        movies=movies,
        notes=notes,
        needs=NEEDS if needs is None else needs,
    )
    for note in notes:
        observer.notice(note)
    return found


def largest_shape(paths: Sequence[Path]) -> tuple[int, int, int]:
    """Frames, rows and columns of the file with the most pixels per frame, from headers only.

    Files that cannot be opened are passed over. Raises the InputError of the first where none can.
    """
    from parhelion.io.formats import open_images

    shapes, problems = [], []
    for path in paths:
        try:
            shapes.append(open_images(path).shape)
        except InputError as error:
            problems.append(error)
    if not shapes:
        raise problems[0] if problems else InputError("no movie or micrograph is named")
    return max(shapes, key=lambda shape: shape[1] * shape[2])


@dataclass(frozen=True)
class Outcome:
    """What became of each micrograph: its row, or the reason why it has none."""

    rows: list[Row | None]
    failed: dict[int, str] = field(default_factory=dict)
    names: tuple[str, ...] = ()

    @property
    def kept(self) -> "np.ndarray":
        """Numbers of the micrographs that have a row."""
        import numpy as np

        return np.array([i for i, row in enumerate(self.rows) if row is not None], dtype=np.int64)

    def done(self) -> list[Row]:
        """The rows there are, in order."""
        return [row for row in self.rows if row is not None]

    def figures(self) -> dict[str, float | int | str | None]:
        """How many were done, how many failed, and which."""
        found: dict[str, float | int | str | None] = {"micrographs": len(self.done())}
        if self.failed:
            found["failed_micrographs"] = len(self.failed)
            found["failed"] = named(self.names[i] for i in self.failed)
        return found


def named(names: "Any") -> str:
    """Names as one text, the first few of many."""
    names = list(names)
    shown = ", ".join(names[:NAMED_FAILURES])
    return shown if len(names) <= NAMED_FAILURES else f"{shown} … ({len(names)} in all)"


def each(
    context: "Context",
    names: Sequence[str],
    work: Callable[[int], Row],
    stage: str,
    parallel: bool = True,
) -> Outcome:
    """Run ``work(i)`` for every micrograph; it returns a row of values that JSON can hold.

    A micrograph whose work fails with an InputError or an error of the file system is left out, told by a
    notice and listed in the report. A finished row is kept under ``context.checkpoints``: a resumed run
    does not repeat it. ``parallel`` gives each thread a micrograph; else they come one by one, and ``work``
    may use all threads. Raises InputError where all fail; a full disk, a lack of memory and the user's
    wish to stop end the run at once.
    """
    names = tuple(names)
    keeper = _Keeper(context, names, stage)
    rows: list[Row | None] = [keeper.earlier(i) for i in range(len(names))]
    todo = [i for i, row in enumerate(rows) if row is None]
    before = len(names) - len(todo)
    if before:
        context.log(f"{stage}: {before} of {len(names)} were finished in an earlier run")

    def attempt(i: int) -> Row | str:
        context.check()
        try:
            row = work(i)
        except (Cancelled, ResourceError):
            raise
        except (ParhelionError, OSError) as error:
            _raise_where_nothing_can_be_written(context, error)
            return str(error)
        keeper.keep(i, row)
        return row

    failed: dict[int, str] = {}
    context.progress(stage, before, len(names))
    results = context.executor.map(attempt, todo) if parallel else map(attempt, todo)
    for number, (i, result) in enumerate(zip(todo, results, strict=True), before + 1):
        if isinstance(result, str):
            failed[i] = result
            context.notice(f"{names[i]} is left out: {result}")
        else:
            rows[i] = result
        context.progress(stage, number, len(names))
    _report(context, names, failed, stage)
    return Outcome(rows, failed, names)


def _raise_where_nothing_can_be_written(context: "Context", error: Exception) -> None:
    """OutputError for a full disk and for files of the output folder that cannot be written.

    An OutputError without such a cause is about the values of one file.
    """
    from parhelion.run.files import FULL, output_error

    if isinstance(error, OutputError) and isinstance(error.__cause__, OSError):
        raise error
    if not isinstance(error, OSError):
        return

    inside = str(error.filename or "").startswith(str(context.folder))
    told = output_error(error, context.folder)
    if told is not None and (inside or error.errno in FULL or error.errno is None):
        raise told from error


def _report(context: "Context", names: tuple[str, ...], failed: dict[int, str], stage: str) -> None:
    if not failed:
        return
    if len(failed) == len(names):
        first = next(iter(failed))
        raise InputError(
            f"{stage}: all {len(names)} files failed; the first, {names[first]}: {failed[first]}"
        )
    section = context.report.section("Left out")
    section.table([(names[i], why) for i, why in list(failed.items())[:SHOWN_FAILURES]], ("file", "why"))
    if len(failed) > SHOWN_FAILURES:
        section.text(f"{len(failed) - SHOWN_FAILURES} more are named in log.txt.")
    context.notice(f"{len(failed)} of {len(names)} files failed: {named(names[i] for i in failed)}")


class _Keeper:
    """Rows of finished micrographs as files, one each, so that a run that is cut short loses none."""

    def __init__(self, context: "Context", names: tuple[str, ...], stage: str) -> None:
        slug = "".join(c if c.isalnum() else "_" for c in stage.lower())
        self._folder = context.checkpoints / f"rows_{slug}"
        self._names = names
        if not context.resume and self._folder.is_dir():
            # a step that starts anew in a folder of an earlier one
            shutil.rmtree(self._folder)
        self._folder.mkdir(exist_ok=True)

    def _path(self, i: int) -> Path:
        return self._folder / f"{i:06d}.json"

    def earlier(self, i: int) -> Row | None:
        """The row of an earlier run; None where there is none that can be used."""
        try:
            kept = json.loads(self._path(i).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        same = isinstance(kept, dict) and kept.get("name") == self._names[i]
        return kept["row"] if same and isinstance(kept.get("row"), dict) else None

    def keep(self, i: int, row: Row) -> None:
        """Write a finished row, whole or not at all."""
        from parhelion.run.files import write_json

        write_json(self._path(i), {"name": self._names[i], "row": row})
