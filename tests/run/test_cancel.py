"""Ctrl-C and a termination request end a run at its next safe point, with a record that says so."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from parhelion.errors import Cancelled
from parhelion.run.cancel import CancelFlag, signals_cancel

PROGRAM = """
import sys, time
from pathlib import Path
from parhelion.cli.main import exit_code
from parhelion.errors import ParhelionError
from parhelion.registry import Estimate, JobParams, Result, declare
from parhelion.run.display import Display
from parhelion.run.options import RunOptions
from parhelion.run.runner import run_job

def run(context, params):
    (context.checkpoints / "state").touch()
    print("ready", flush=True)
    while True:
        context.check()
        time.sleep(0.01)

job = declare("parhelion.jobs.waits", "Wait.", params=JobParams, run=run, outputs=(), computes=False,
              estimate=lambda params: Estimate(memory_bytes=1))
try:
    run_job(job, {}, RunOptions(output=Path(sys.argv[1])), Display())
except ParhelionError as error:
    print(error, file=sys.stderr)
    sys.exit(exit_code(error))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_a_run_cleanly(tmp_path: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "out")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "stopping at the next safe point" in said
    assert "Traceback" not in said
    assert json.loads((tmp_path / "out" / "job.json").read_text())["status"] == "cancelled"
    assert (tmp_path / "out" / "checkpoints" / "state").exists()


def test_killed_run_can_be_found_out(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "out")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        process.kill()
    assert json.loads((tmp_path / "out" / "job.json").read_text())["status"] == "running"


def test_handlers_are_given_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    flag = CancelFlag()
    with signals_cancel(flag, lambda message: None):
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Cancelled):
            flag.check()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) == before


def test_other_threads_leave_signals_alone() -> None:
    entered = []

    def work() -> None:
        with signals_cancel(CancelFlag(), lambda message: None):
            entered.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert entered == [signal.getsignal(signal.SIGINT)]
