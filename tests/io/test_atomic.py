"""Files that are written whole or not at all, and the catalogue."""

import os
from pathlib import Path

import pytest

from parhelion.catalogue import Registry
from parhelion.errors import OutputError, ParameterError
from parhelion.io.atomic import atomic_path, write_bytes, write_text


def test_written_whole(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "Å")
    assert (tmp_path / "a.txt").read_bytes() == "Å".encode()
    write_bytes(tmp_path / "a.txt", b"new")
    assert (tmp_path / "a.txt").read_bytes() == b"new"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
    mask = os.umask(0)
    os.umask(mask)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o666 & ~mask


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_failure_keeps_what_was_there(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(error), atomic_path(path) as partial:
        partial.write_text("half")
        raise error
    assert path.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "target")
    write_text(tmp_path / "link", "x")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "target").read_text() == "x"


def test_file_system_errors_name_the_file(tmp_path: Path) -> None:
    with (
        pytest.raises(OutputError, match=r"cannot write .*a\.txt: No such file"),
        atomic_path(tmp_path / "a.txt"),
    ):
        pass
    with pytest.raises(OutputError, match="it is a folder"):
        write_text(tmp_path, "x")
    with pytest.raises(OutputError, match="does not exist"):
        write_text(tmp_path / "none" / "a.txt", "x")


def test_registry() -> None:
    registry: Registry[int] = Registry("number")
    registry.register("one", 1)
    registry.register("two", 2)
    assert (registry["two"], list(registry), len(registry), "one" in registry) == (2, ["one", "two"], 2, True)
    with pytest.raises(ParameterError, match="unknown number 'three'; known are: one, two"):
        registry["three"]
    with pytest.raises(ValueError, match="already registered"):
        registry.register("one", 3)
