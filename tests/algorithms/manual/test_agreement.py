"""References that do not belong to the particles' poses are found out before anything is refined."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from manual_data import BOX, PIXEL, Data, Never
from parhelion.algorithms.manual.agreement import Agreement
from parhelion.algorithms.manual.problem import make_problem
from parhelion.algorithms.manual.settings import ManualSettings
from parhelion.algorithms.manual.start import start_state
from parhelion.algorithms.preparation import on_grid_of, with_noise_groups
from parhelion.contracts import SerialExecutor, SilentObserver
from parhelion.errors import InputError
from parhelion.model.volume import Volume

LIMITS = {
    "outer_radius_angstrom": 52.0,
    "high_limit_angstrom": 12.0,
    "low_limit_angstrom": 150.0,
    "shift_range_xy_angstrom": (12.0, 12.0),
}


class Listening(SilentObserver):
    def __init__(self) -> None:
        self.heard: list[str] = []

    def notice(self, message: str) -> None:
        self.heard.append(message)


def told(data: Data, *references: Volume, **settings: object) -> list[str]:
    """What is told of references before the first cycle."""
    observer = Listening()
    chosen = ManualSettings(**({**LIMITS, "symmetry": ("C1",) * len(references)} | settings))
    particles = with_noise_groups(data.near())
    fitted = tuple(on_grid_of(one, BOX, PIXEL, SilentObserver(), "reference") for one in references)
    problem = make_problem(
        particles,
        data.images,
        chosen,
        None,
        executor=SerialExecutor(),
        observer=observer,
        cancel=Never(),
        device=torch.device("cpu"),
        available_bytes=None,
    )
    start_state(problem, particles, fitted, ())
    return [text for text in observer.heard if text.startswith("reference ")]


def mirrored(volume: Volume) -> Volume:
    return replace(volume, data=np.roll(volume.data[::-1], 1, axis=0).copy())


def another(volume: Volume) -> Volume:
    """A molecule of the same extent and grey scale."""
    z, y, x = np.indices(volume.data.shape) - volume.box // 2
    data = np.zeros(volume.data.shape)
    for cz, cy, cx in np.random.default_rng(77).uniform(-6, 6, (10, 3)):
        data += np.exp(-((z - cz) ** 2 + (y - cy) ** 2 + (x - cx) ** 2) / (2 * 1.2**2))
    return replace(volume, data=data.astype(np.float32))


def test_the_right_reference_is_taken_without_a_word(data) -> None:
    assert told(data, data.truth) == []
    assert told(data, data.truth, normalise_reference=False, high_limit_angstrom=30.0) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (mirrored, "fit its mirror image better"),
        (another, "hardly agree with it better"),
        (lambda v: replace(v, data=-v.data), "of opposite contrast"),
    ],
)
def test_wrong_references_are_refused(data, change, said) -> None:
    wrong = change(data.truth)
    scaled = "contrast" not in said  # a scale is found for what has one
    with pytest.raises(InputError, match=said):
        told(data, wrong, normalise_reference=scaled)
    # scores at the given poses may be asked for of any reference
    assert said in told(data, wrong, normalise_reference=scaled, parameters=())[0]


def test_one_of_several_is_told_and_goes_on(data) -> None:
    (text,) = told(data, data.truth, another(data.truth))
    assert text.startswith("reference 2") and "hardly agree" in text


def test_another_pixel_size_is_told(data) -> None:
    (text,) = told(data, replace(data.truth, pixel_size_angstrom=0.9 * PIXEL))
    assert "as if its pixel size were 1.1 times" in text


def test_who_has_no_poses_to_compare_at_is_not_asked(data) -> None:
    assert told(data, mirrored(data.truth), random_poses=True) == []


def test_what_fits_little_better_by_chance_is_no_explanation() -> None:
    """The numbers of a spike among ribosomes: hardly anything fits, one magnification a little better."""
    found = Agreement(given=10.0, turned=11.0, mirrored=9.0, magnified={0.9: 9.0, 1.25: 19.0}, expected=118.0)
    assert not found.better(19.0)
    assert found.better(11.0 + 0.31 * 118)
    assert not replace(found, given=45.0).better(11.0 + 0.31 * 118)
