"""What a running job gets: its folder, devices, workers, a report, and someone to talk to.

``Context`` is also the ``Observer`` and the ``Cancel`` that algorithms are given.
"""

import json
import threading
from pathlib import Path

from parhelion.errors import OutputError
from parhelion.registry import Job, JobParams
from parhelion.report import Report
from parhelion.report.rows import naming_columns
from parhelion.run.cancel import CancelFlag
from parhelion.run.devices import describe, resolve
from parhelion.run.display import Display
from parhelion.run.executor import ThreadExecutor
from parhelion.run.files import write_json
from parhelion.run.folder import CHECKPOINTS, HISTORY
from parhelion.run.log import RunLog
from parhelion.run.options import RunOptions

Row = dict[str, float | int | str]


class Services:
    """What a run and all its steps share."""

    def __init__(self, options: RunOptions, display: Display, log: RunLog) -> None:
        self.options = options
        self.display = display
        self.log = log
        self.cancel = CancelFlag()
        self.executor = ThreadExecutor(options.workers(), self.cancel)
        self.devices: tuple[str, ...] = ("cpu",)
        self.device_text = "CPU"

    def choose_devices(self) -> None:
        """Find the devices that the user asked for, say so, and give torch the threads it may use."""
        import torch

        self.devices = resolve(self.options.device)
        torch.set_num_threads(self.options.workers())
        text = describe(self.devices, self.options.workers())
        if text != self.device_text:
            self.device_text = text
            self.log.write(f"computing on {text}")
            self.display.say(f"computing on {text}")


class Context:
    """The surroundings of one running job (or one step of a job that is made of others)."""

    def __init__(
        self, job: Job, params: JobParams, folder: Path, services: Services, *, resume: bool
    ) -> None:
        self.job = job
        self.params = params
        self.folder = folder
        self.services = services
        self.resume = resume
        self.report = Report(job.summary)
        self.notices: list[str] = []
        self.steps: list[str] = []
        self._lock = threading.RLock()
        self._stage = ""
        self.history: dict[str, list[Row]] = self._load_history() if resume else {}

    @property
    def seed(self) -> int:
        """Seed of this run's random numbers."""
        return self.services.options.seed

    @property
    def threads(self) -> int:
        """CPU threads this run may use."""
        return self.services.options.workers()

    @property
    def executor(self) -> ThreadExecutor:
        """Maps chunks of work over the run's threads, in order."""
        return self.services.executor

    @property
    def devices(self) -> tuple[str, ...]:
        """Torch names of the devices to compute on (``("cpu",)``, ``("cuda:0", "cuda:1")``)."""
        return self.services.devices

    @property
    def device(self) -> str:
        """The first device."""
        return self.devices[0]

    @property
    def checkpoints(self) -> Path:
        """Folder for what a resumed run needs; made when first asked for, removed by --overwrite."""
        folder = self.folder / CHECKPOINTS
        folder.mkdir(exist_ok=True)
        return folder

    def path(self, output: str, *parts: object) -> Path:
        """Where the declared output of this name goes; ``parts`` fill the stars of a pattern.

        ``context.path("maps", "001")`` with ``file="map_*.mrc"`` is ``map_001.mrc``.
        """
        declared = next(o for o in self.job.outputs if o.name == output)
        name = declared.file
        for part in parts:
            name = name.replace("*", str(part), 1)
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def check(self) -> None:
        """Raise Cancelled if the user asked the run to stop."""
        self.services.cancel.check()

    def notice(self, message: str) -> None:
        """A fact the user should know: shown, logged and kept for the report."""
        with self._lock:
            if message in self.notices:
                return
            self.notices.append(message)
        self.services.log.write(f"note: {message}")
        self.services.display.notice(message)

    def log(self, message: str) -> None:
        """A detail for ``log.txt`` only."""
        self.services.log.write(message)

    def progress(self, stage: str, done: float, total: float) -> None:
        """``done`` of ``total`` units of ``stage`` are finished."""
        with self._lock:
            changed, self._stage = stage != self._stage, stage
        if changed:
            self.services.log.write(stage)
        self.services.display.progress(stage, done, total)

    def record(self, table: str, **values: float | int | str) -> None:
        """One row of a history table, kept in ``history.json`` and in the report.

        A leading whole number names the row, with further ones called start, class, round … (see
        ``report.rows``): a run that was resumed before that round replaces the row instead of writing it
        twice.
        """
        row = {key: v.item() if hasattr(v, "item") else v for key, v in values.items()}
        with self._lock:
            rows = self.history.setdefault(table, [])
            key = _name(row)
            same = [i for i, other in enumerate(rows) if key and _name(other) == key]
            if same:
                rows[same[0]] = row
            else:
                rows.append(row)
            write_json(self.folder / HISTORY, self.history)
        self.services.log.write(f"{table}: " + ", ".join(f"{k} {_short(v)}" for k, v in row.items()))

    def _load_history(self) -> dict[str, list[Row]]:
        path = self.folder / HISTORY
        if not path.is_file():
            return {}
        try:
            return dict(json.loads(path.read_text(encoding="utf-8")))
        except ValueError as error:
            raise OutputError(f"{path} is damaged ({error}); start again with --overwrite") from None


def _name(row: Row) -> tuple[tuple[str, object], ...]:
    return tuple((column, row[column]) for column in naming_columns([row]))


def _short(value: object) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)
