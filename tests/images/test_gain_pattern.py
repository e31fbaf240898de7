"""Whether a gain belongs to frames, and lies as they do."""

import numpy as np
import pytest

from parhelion.images.gain_pattern import fit_gain

RNG = np.random.default_rng(8)
SHAPE = (160, 200)
NONE = np.zeros(SHAPE, bool)


def exposed(gain: np.ndarray, dose: float = 40) -> np.ndarray:
    """The mean of uncorrected frames, with ice of uneven thickness."""
    y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in gain.shape), indexing="ij")
    return RNG.poisson(dose * (1 + 0.3 * x + 0.2 * y * y) / gain) / 20


@pytest.fixture(scope="module")
def gain() -> np.ndarray:
    return RNG.normal(1, 0.05, SHAPE).astype(np.float32)


def test_the_right_gain_is_silent(gain: np.ndarray) -> None:
    bad = NONE.copy()
    bad[3, 4] = True
    frames = exposed(gain)
    frames[3, 4] = 1e6
    fit = fit_gain(frames, gain, bad)
    assert fit.finding() is None
    assert fit.correlation[0, 0] == pytest.approx(fit.expected, rel=0.2)


@pytest.mark.parametrize(
    ("rotation", "flip", "width"),
    [(r, f, SHAPE[0]) for r in range(4) for f in (0, 1) if r or f] + [(0, 1, 200), (2, 0, 200), (2, 1, 200)],
)
def test_a_turned_gain_is_turned_back(gain: np.ndarray, rotation: int, flip: int, width: int) -> None:
    gain = gain[:, :width]
    frames = exposed(np.rot90(gain, -rotation)[:: -1 if flip else 1])
    fit = fit_gain(frames, gain, np.zeros(gain.shape, bool))
    assert max(fit.correlation, key=lambda key: fit.correlation[key]) == (rotation, flip)
    assert "does not lie as the frames do" in str(fit.finding())


def test_reciprocal_gain(gain: np.ndarray) -> None:
    assert "reciprocal" in str(fit_gain(exposed(gain), 1 / gain, NONE).finding())


def test_frames_without_the_pattern(gain: np.ndarray) -> None:
    said = str(fit_gain(exposed(np.ones(SHAPE)), gain, NONE).finding())
    assert "gain-corrected already" in said


def test_nothing_is_said_about_what_cannot_be_seen() -> None:
    """A flat gain, a movie without dose, and frames of one value."""
    flat = np.ones(SHAPE, np.float32)
    assert fit_gain(exposed(flat), flat, NONE).finding() is None
    faint = RNG.normal(1, 0.002, SHAPE).astype(np.float32)
    assert fit_gain(exposed(faint, 1), faint, NONE).finding() is None
    assert fit_gain(np.zeros(SHAPE), faint, NONE).finding() is None
