"""One pass over a movie: sum, dead frames, what is wrong."""

import threading

import numpy as np
import pytest

from parhelion.images.frame_survey import survey_frames

RNG = np.random.default_rng(3)


class Frames:
    """Frames in memory that count how often they are read."""

    def __init__(self, frames: np.ndarray) -> None:
        self._frames = frames
        self.count, self.shape = len(frames), frames.shape[1:]
        self.read: list[int] = []
        self._lock = threading.Lock()

    def frame(self, index: int) -> np.ndarray:
        with self._lock:
            self.read.append(index)
        return self._frames[index].astype(np.float32)


@pytest.mark.parametrize("workers", [1, 3])
def test_sum_and_dead_frames(workers: int) -> None:
    frames = RNG.poisson(2.0, (9, 30, 40)).astype(np.float32)
    frames[0] = 0
    frames[4] = 7
    frames[7] = 0
    frames[7, 3, 4] = 1
    frames[8] = np.nan
    found = survey_frames(Frames(frames), workers=workers)
    assert found.dead == (0, 4, 7, 8) and found.live == 5
    np.testing.assert_array_equal(found.total, frames[[1, 2, 3, 5, 6]].sum(axis=0))
    assert "4 of 9 frames are empty and left out: 1, 5, 8, 9" in found.findings()[0]


def test_a_sound_movie_has_no_findings() -> None:
    found = survey_frames(Frames(RNG.poisson(2.0, (4, 64, 64))))
    assert found.findings() == [] and found.kept == {}


def test_findings() -> None:
    frames = RNG.poisson(2.0, (3, 64, 64)).astype(np.float32)
    frames[0, 0, :3] = (np.nan, np.inf, -4)
    frames[1, :2] = 255
    said = " | ".join(survey_frames(Frames(frames)).findings())
    assert "1 frames hold values that are not finite (NaN or infinity), 2 in all" in said
    assert "1 frames hold negative values, 1 in all" in said
    assert "the detector is saturated: up to 3.1 %" in said


def test_a_few_pixels_at_the_ceiling_are_no_saturation() -> None:
    frames = RNG.poisson(2.0, (2, 128, 128)).astype(np.float32)
    frames[:, 5, 5] = 255
    assert survey_frames(Frames(frames)).findings() == []


@pytest.mark.parametrize("limit", [15, 20, 27])
def test_counts_cut_at_any_value_are_saturation(limit: int) -> None:
    frames = np.minimum(RNG.poisson(20.0, (2, 128, 128)), limit).astype(np.float32)
    (said,) = survey_frames(Frames(frames)).findings()
    assert said.startswith("the detector is saturated: up to") and "2 frames" in said


@pytest.mark.parametrize("mean", [0.02, 0.5, 5.0, 40.0])
def test_the_tail_of_counts_is_no_saturation(mean: float) -> None:
    assert survey_frames(Frames(RNG.poisson(mean, (3, 256, 256)))).findings() == []


@pytest.mark.parametrize(("top", "kind"), [(200, np.uint8), (60_000, np.uint16)])
def test_whole_numbers_are_kept(top: int, kind: type) -> None:
    frames = RNG.poisson(2.0, (3, 16, 16)).astype(np.float32)
    frames[:, 3, 3] = top
    size = np.dtype(kind).itemsize * 256
    found = survey_frames(Frames(frames), keep_bytes=3 * size)
    assert sorted(found.kept) == [0, 1, 2] and found.kept[1].dtype == kind
    np.testing.assert_array_equal(found.kept[1], frames[1])
    assert survey_frames(Frames(frames), keep_bytes=3 * size - 1).kept == {}
    assert survey_frames(Frames(frames + 0.5), keep_bytes=9999).kept == {}
