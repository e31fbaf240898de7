"""Fixtures and rules that all tests share.

Real recordings and files of other programs are not part of the repository. The environment variable
``PARHELION_TEST_DATA`` names the folder that holds them (``scripts/test`` sets it where it finds one).
Without it the tests that need real data are skipped; with it a skip of such a test is a failure, so
that a missing file cannot pass unseen.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import pytest
import torch

matplotlib.use("Agg")
# Tests run beside each other: waiting threads of torch would take the cores from the others.
torch.set_num_threads(1)

VARIABLE = "PARHELION_TEST_DATA"


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Folder of real data; skips where the variable is not set, fails where it names no folder."""
    named = os.environ.get(VARIABLE)
    if not named:
        pytest.skip(f"real data needed: set {VARIABLE} to the folder that holds it")
    folder = Path(named).resolve()
    if not folder.is_dir():
        pytest.fail(f"{VARIABLE} is {named}, which is not a folder")
    return folder


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo) -> Iterator[None]:
    """Where real data is there, a test that asks for it must run: its skip becomes a failure."""
    report = yield
    needs_data = "test_data" in getattr(item, "fixturenames", ())
    if report.skipped and needs_data and os.environ.get(VARIABLE) and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped although {VARIABLE} is set: {reason}"
    return report
