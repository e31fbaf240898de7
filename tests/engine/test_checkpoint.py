"""Checkpoints: everything comes back, damage falls back, other inputs are refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from parhelion.contracts import SilentObserver
from parhelion.engine import checkpoint
from parhelion.engine.candidates import Candidates
from parhelion.engine.cistem_searches import Searches
from parhelion.engine.schedule import Plan, Progress
from parhelion.engine.state import RefineState
from parhelion.errors import OutputError, ParameterError


class Listening(SilentObserver):
    def __init__(self) -> None:
        self.heard: list[str] = []

    def notice(self, message: str) -> None:
        self.heard.append(message)


def state(rounds: int = 2, finished: str = "") -> RefineState:
    generator = torch.Generator().manual_seed(rounds)
    maps = tuple(torch.randn((6, 6, 6), generator=generator) for _ in range(5))
    return RefineState(
        maps=maps[:2],
        kept=Candidates(
            particle=torch.tensor([0, 0, 2]),
            rotation=torch.randn((3, 3, 3), generator=generator, dtype=torch.float64),
            shift=torch.randn((3, 3), generator=generator, dtype=torch.float64),
            weight=torch.tensor([0.4, 0.6, 1.0], dtype=torch.float64),
        ),
        noise=torch.rand((2, 4), generator=generator, dtype=torch.float64),
        half=np.array([1, 2, 1], np.int8),
        plan=Plan(
            round=rounds,
            search=True,
            grid_step_deg=15.0,
            search_shell=5.5,
            refine_shell=7.25,
            shift_radius_angstrom=12.0,
            shift_step_angstrom=0.1 + 0.2,
        ),
        progress=Progress(best_shell=7.0, stale=1, searches=2, local_rounds=0),
        fsc=np.linspace(1, 0, 4),
        history=tuple({"round": r + 1, "moved_deg": 1 / 3} for r in range(rounds)),
        unfiltered=(maps[2], maps[3]),
        mask=maps[4],
        log_likelihood=np.array([1.0, np.nan, 3.0]),
        uncertainty_deg=np.array([1.0, np.nan, 3.0]),
        combined=maps[0] if finished else None,
        searches=Searches.none(3).after(np.array([True, False, True]), 12.5),
        finished=finished,
    )


def assert_same(a: RefineState, b: RefineState) -> None:
    for one, other in zip((*a.maps, *a.unfiltered, a.mask), (*b.maps, *b.unfiltered, b.mask)):
        assert torch.equal(one, other)
    for field in ("particle", "rotation", "shift", "weight"):
        assert torch.equal(getattr(a.kept, field), getattr(b.kept, field))
    assert torch.equal(a.noise, b.noise)
    assert a.plan == b.plan
    assert a.progress == b.progress
    assert a.history == b.history
    assert a.finished == b.finished
    assert (a.combined is None) == (b.combined is None)
    for field in ("half", "fsc", "log_likelihood", "uncertainty_deg"):
        np.testing.assert_array_equal(getattr(a, field), getattr(b, field))
    for field in ("number", "since", "limit_angstrom"):
        np.testing.assert_array_equal(getattr(a.searches, field), getattr(b.searches, field))


@pytest.mark.parametrize("finished", ["", "no better resolution"])
def test_everything_comes_back_bit_by_bit(tmp_path, finished) -> None:
    before = state(finished=finished)
    checkpoint.save(tmp_path, before, "mark")
    assert_same(checkpoint.load_last(tmp_path, "mark", SilentObserver()), before)


def test_a_state_before_the_first_round_comes_back(tmp_path) -> None:
    first = replace(
        state(0), unfiltered=None, mask=None, log_likelihood=None, uncertainty_deg=None, fsc=np.zeros(0)
    )
    checkpoint.save(tmp_path, first, "mark")
    again = checkpoint.load_last(tmp_path, "mark", SilentObserver())
    assert again.unfiltered is None
    assert again.mask is None
    assert again.log_likelihood is None


def test_the_last_two_are_kept(tmp_path) -> None:
    for rounds in (1, 2, 3, 4):
        checkpoint.save(tmp_path, state(rounds), "mark")
    assert [p.name for p in checkpoint.checkpoints(tmp_path)] == ["round_003.npz", "round_004.npz"]
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("left", [0, 10, 0.5, 0.98])
def test_a_truncated_checkpoint_falls_back_to_the_one_before(tmp_path, left) -> None:
    checkpoint.save(tmp_path, state(1), "mark")
    last = checkpoint.save(tmp_path, state(2), "mark")
    content = last.read_bytes()
    last.write_bytes(content[: int(left * len(content)) if left < 1 else left])
    observer = Listening()
    assert_same(checkpoint.load_last(tmp_path, "mark", observer), state(1))
    assert "round_002.npz is damaged" in observer.heard[0]


def test_changed_bytes_are_found_by_the_archives_checksums(tmp_path) -> None:
    checkpoint.save(tmp_path, state(1), "mark")
    last = checkpoint.save(tmp_path, state(2), "mark")
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 0x55
    last.write_bytes(content)
    assert len(checkpoint.load_last(tmp_path, "mark", SilentObserver()).history) == 1


def test_nothing_to_go_on_with(tmp_path) -> None:
    assert checkpoint.load_last(tmp_path, "mark", SilentObserver()) is None
    (tmp_path / "round_001.npz").write_bytes(b"")
    observer = Listening()
    assert checkpoint.load_last(tmp_path, "mark", observer) is None
    assert "damaged" in observer.heard[0]


def test_other_inputs_are_refused(tmp_path) -> None:
    checkpoint.save(tmp_path, state(1), "mark")
    with pytest.raises(ParameterError, match="other particles, another reference"):
        checkpoint.load_last(tmp_path, "another", SilentObserver())


def test_a_pickle_is_not_opened(tmp_path) -> None:
    np.savez(tmp_path / "round_001.npz", header=np.array([{"version": 1}], dtype=object))
    observer = Listening()
    assert checkpoint.load_last(tmp_path, "mark", observer) is None
    assert "damaged" in observer.heard[0]


def test_a_failed_write_leaves_what_was_there(tmp_path, monkeypatch) -> None:
    checkpoint.save(tmp_path, state(1), "mark")

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint.np, "savez", full)
    with pytest.raises(OutputError, match=r"No space left on device.*--resume"):
        checkpoint.save(tmp_path, state(2), "mark")
    assert [p.name for p in tmp_path.iterdir()] == ["round_001.npz"]


def test_fingerprints_tell_values_types_and_names_apart() -> None:
    one = checkpoint.fingerprint({"a": np.arange(3), "b": 1.0})
    assert one == checkpoint.fingerprint({"b": 1.0, "a": np.arange(3)})
    others = [
        {"a": np.arange(3.0), "b": 1.0},
        {"a": np.arange(3).reshape(3, 1), "b": 1.0},
        {"a": np.arange(3), "b": 2.0},
        {"a": np.arange(3), "c": 1.0},
        {"a": np.array([0, 1, 3]), "b": 1.0},
    ]
    assert one not in {checkpoint.fingerprint(other) for other in others}
