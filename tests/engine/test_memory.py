"""Planned memory grows with what needs it, and what is kept between rounds fits."""

import pytest

from parhelion.engine.memory import LEAST_CHUNK, MOST_CHUNK, MemoryPlan, plan_memory, transform_bytes
from parhelion.engine.points import FourierPoints


def plan(**changes) -> MemoryPlan:
    values = {"particles": 1000, "box": 64, "max_shell": 30, "search_points": 265}
    return plan_memory(**{**values, **changes})


def test_a_transform_is_its_points() -> None:
    assert transform_bytes(64, 30) == 8 * len(FourierPoints(64, 30))


@pytest.mark.parametrize(
    "more", [{"particles": 100_000}, {"box": 128, "max_shell": 62}, {"search_points": 4000}, {"views": 5}]
)
def test_more_of_anything_needs_more(more) -> None:
    small, large = plan(), plan(**more)
    assert large.shared_bytes + large.per_thread_bytes > small.shared_bytes + small.per_thread_bytes


def test_symmetry_and_no_search_need_less() -> None:
    assert plan(operators=4).fixed_bytes < plan().fixed_bytes
    assert plan(search_points=0).per_thread_bytes < plan().per_thread_bytes


def test_chunks_are_smaller_for_large_images() -> None:
    assert plan().chunk == MOST_CHUNK
    large = plan(box=512, max_shell=254).chunk
    assert LEAST_CHUNK <= large < MOST_CHUNK


def test_the_cache_holds_everything_or_what_fits() -> None:
    everything = plan(particles=10**6)
    assert everything.cache_bytes >= 10**6 * transform_bytes(64, 30)
    tight = plan(particles=10**6, available_bytes=6 * 10**9)
    assert tight.cache_bytes < everything.cache_bytes
    assert tight.shared_bytes + tight.per_thread_bytes <= 6 * 10**9
    assert plan(available_bytes=10**6).cache_bytes == 0


def test_the_chunk_does_not_depend_on_the_memory_at_hand() -> None:
    """A resumed run on a smaller machine must go through the same sums."""
    assert plan(available_bytes=10**7).chunk == plan().chunk


def test_images_that_are_read_once_are_not_kept() -> None:
    assert plan(refines=False).cache_bytes == 0
