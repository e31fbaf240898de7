"""The record of a job names its inputs so that a changed file is noticed."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from parhelion.run import provenance
from parhelion.run.files import write_json


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "stack.mrcs"
    path.write_bytes(bytes(range(256)) * 1024)
    return path


def test_small_input_has_both_checksums(file: Path) -> None:
    found = provenance.describe_input("input", file, checksum=False)
    content = file.read_bytes()
    assert found["header_sha256"] == hashlib.sha256(content[: 64 * 1024]).hexdigest()
    assert found["sha256"] == hashlib.sha256(content).hexdigest()
    assert (found["option"], found["size_bytes"]) == ("input", 256 * 1024)


def test_large_input_is_read_whole_only_when_asked(file: Path, monkeypatch) -> None:
    monkeypatch.setattr(provenance, "FULL_CHECKSUM_BELOW_BYTES", 1000)
    assert "sha256" not in provenance.describe_input("input", file, checksum=False)
    assert "sha256" in provenance.describe_input("input", file, checksum=True)


def test_versions_name_what_results_depend_on() -> None:
    assert {"python", "parhelion", "torch", "numpy"} <= set(provenance.versions())


def test_numpy_values_and_paths_can_be_recorded(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"a": np.float32(0.5), "b": np.arange(2), "c": Path("d"), "e": "Å"})
    text = (tmp_path / "x.json").read_text(encoding="utf-8")
    assert json.loads(text) == {"a": 0.5, "b": [0, 1], "c": "d", "e": "Å"}
    assert "Å" in text


def test_what_json_cannot_hold_is_a_defect(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="object cannot be written"):
        write_json(tmp_path / "x.json", {"a": object()})
