"""When a classification ends because a class is being drained."""

import pytest

from parhelion.algorithms.class_schedule import draining
from parhelion.algorithms.class_settings import ClassifySettings

SETTINGS = ClassifySettings(diameter_angstrom=100.0, classes=3)


def rounds(*known: float) -> list[dict[str, float | int]]:
    """Two rounds with two classes, which know 0.5 nats, then one with three for each number."""
    before = [{"classes": 2, "information_nats": 0.5}] * 2
    return [*before, *({"classes": 3, "information_nats": value} for value in known)]


@pytest.mark.parametrize(
    ("known", "ends"),
    [
        ((0.68, 0.67, 0.66, 0.65), True),
        ((0.68, 0.67, 0.66, 0.66), False),  # at rest
        ((0.60, 0.62, 0.66, 0.68), False),  # still coming apart
        ((0.68, 0.67, 0.66), False),  # too early to say
        ((0.68, 0.53, 0.51, 0.505), False),  # one structure, whose parts are becoming one again
        ((0.60, 0.68, 0.67, 0.66, 0.65), True),
    ],
)
def test_a_slow_loss_ends_it_and_a_sudden_one_does_not(known: tuple[float, ...], ends: bool) -> None:
    assert draining(SETTINGS, rounds(*known)) is ends


def test_what_fewer_classes_knew_says_nothing() -> None:
    falling = [{"classes": 2, "information_nats": value} for value in (0.6, 0.5, 0.4, 0.3)]
    assert not draining(SETTINGS, falling)


def test_rounds_that_a_scheme_asks_for_are_done() -> None:
    patient = ClassifySettings(diameter_angstrom=100.0, classes=3, least_rounds=9)
    assert not draining(patient, rounds(0.68, 0.67, 0.66, 0.65, 0.64))
    assert draining(patient, rounds(*[0.7 - 0.01 * k for k in range(10)]))
